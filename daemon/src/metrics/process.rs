//! What the kernel knows of this process, read when somebody asks: the standard `process_*` metrics, and the time.

use crate::telemetry::{self, trace};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// USER_HZ: what the kernel counts CPU time in towards user space; 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads /proc on each scrape. What cannot be read is left out: an absent series is true, a zero is not.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| -> fmt::Result {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge(
            "konsul_node_time_seconds",
            "This host's clock at the scrape, in seconds since 1970; away from the time of the scrape, or of other nodes, means that a clock is wrong.",
            SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64()),
        )?;
        let stat = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text));
        let start = stat.as_ref().and_then(|stat| Some(boot_time()? + stat.start_ticks / TICKS_PER_SECOND));
        gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", start)?;
        gauge(
            "process_resident_memory_bytes",
            "Memory in RAM; includes the pages of the LMDB map in use.",
            resident_bytes(),
        )?;
        gauge(
            "process_virtual_memory_bytes",
            "Address space; includes the whole LMDB map.",
            stat.as_ref().map(|s| s.virtual_bytes),
        )?;
        gauge("process_open_fds", "Open file descriptors; near process_max_fds connections fail.", open_fds())?;
        gauge("process_max_fds", "Limit of open file descriptors.", max_fds())?;
        let dropped = ConstCounter::new(telemetry::dropped_lines());
        let help = "Log lines dropped because the journal took none; any rise means that it hangs.";
        dropped.encode(encoder.encode_descriptor("konsul_log_dropped_lines", help, None, dropped.metric_type())?)?;
        let spans = [
            (
                "konsul_otlp_spans_dropped",
                "Spans that nobody received; a rise means that the collector is down or refuses them, or that too much is sampled.",
                trace::dropped_spans(),
            ),
            (
                "konsul_otlp_spans_sent",
                "Spans that the collector took; none means that nothing is sampled, or telemetry.otlp_endpoint not set.",
                trace::sent_spans(),
            ),
        ];
        for (name, help, count) in spans {
            let count = ConstCounter::new(count);
            count.encode(encoder.encode_descriptor(name, help, None, count.metric_type())?)?;
        }
        if let Some(stat) = stat {
            let cpu = ConstCounter::new(stat.cpu_ticks / TICKS_PER_SECOND);
            let help = "CPU time, user and system.";
            cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        }
        Ok(())
    }
}

/// The fields we need of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
}

impl Stat {
    /// The second field is the name in parentheses, which may hold spaces and parentheses: count behind its end.
    fn parse(text: &str) -> Option<Stat> {
        let (_, behind_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
        // proc(5) counts from 1 and the first field behind the name is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Stat { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)?, virtual_bytes: field(23)? })
    }
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_fds() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // The listing itself holds one.
    Some(f64::from(u32::try_from(count.saturating_sub(1)).ok()?))
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 4096000 300 0\n";
        let expected = Stat { cpu_ticks: 300.0, start_ticks: 12345.0, virtual_bytes: 4_096_000.0 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_seen() {
        assert!(boot_time().unwrap() > 0.0);
        assert!(resident_bytes().unwrap() > 100_000.0);
        assert!(open_fds().unwrap() >= 3.0 && max_fds().unwrap() >= open_fds().unwrap());
    }
}
