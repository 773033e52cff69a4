//! The host and the process on it: the clock, the limits of the kernel, the sandbox.

use super::finding::{Finding, ok, problem, unknown, warning};
use super::net;
use super::settings::Settings;
use std::fs;
use std::process::Command;

/// Files beside the connections: the data, the other nodes, blocking queries.
const FILES_BESIDE: u64 = 1024;
/// Connections that wait to be accepted while the service restarts.
const BACKLOG_MIN: u64 = 1024;

/// The daemon on this host, as the kernel sees it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    status: String,
    limits: String,
}

impl Process {
    /// The one that listens where the configuration says, else the one of this host's unit.
    pub(super) fn find(settings: &Settings) -> Option<Process> {
        let of_unit = || -> Option<u32> {
            let said =
                Command::new("systemctl").args(["show", "--property=MainPID", "--value", "konsul.service"]).output();
            String::from_utf8_lossy(&said.ok()?.stdout).trim().parse().ok().filter(|pid| *pid != 0)
        };
        let holders = settings.listens().into_iter().find_map(|(_, address)| net::holder_of(address));
        let pid = holders.filter(|(_, name)| name == "konsuld").map(|(pid, _)| pid).or_else(of_unit)?;
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        Some(Process { pid, status: read("status"), limits: read("limits") })
    }

    /// A line of /proc/PID/status.
    fn field(&self, name: &str) -> Option<&str> {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()
    }

    /// The soft limit, `None` if there is none.
    fn open_files_max(&self) -> Option<u64> {
        let line = self.limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

pub(super) fn look(settings: &Settings, process: Option<&Process>) -> Vec<Finding> {
    let mut findings = vec![clock(), backlog()];
    match process {
        Some(process) => findings.extend([open_files(settings, process), sandbox(process)]),
        None => {
            let remedy = "start it: systemctl start konsul";
            findings.push(unknown("sandbox", "konsuld does not run on this host", remedy));
        }
    }
    findings
}

/// The cluster keeps no time by wall clocks, but certificates, tokens and the audit do.
fn clock() -> Finding {
    const CHECK: &str = "clock";
    let remedy = "run chrony or systemd-timesyncd";
    let said = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    match said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()) {
        Ok(said) if said == "yes" => ok(CHECK, "synchronised"),
        Ok(said) if said == "no" => warning(CHECK, "not synchronised with any other", remedy),
        Ok(_) | Err(_) => unknown(CHECK, "nobody tells whether it is synchronised (timedatectl)", remedy),
    }
}

fn backlog() -> Finding {
    const CHECK: &str = "backlog";
    const FILE: &str = "/proc/sys/net/core/somaxconn";
    let Some(most) = fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<u64>().ok()) else {
        return unknown(CHECK, format!("cannot read {FILE}"), "mount /proc");
    };
    let found = format!("{most} connections may wait while the service restarts");
    if most < BACKLOG_MIN {
        return warning(CHECK, found, "sysctl net.core.somaxconn=4096, and a file in /etc/sysctl.d that says so");
    }
    ok(CHECK, found)
}

fn open_files(settings: &Settings, process: &Process) -> Finding {
    const CHECK: &str = "open files";
    let wanted = settings.connections_max() + FILES_BESIDE;
    match process.open_files_max() {
        Some(most) if most < wanted => problem(
            CHECK,
            format!("konsuld may open {most} files, and http.connections_max wants {wanted}"),
            "LimitNOFILE=1048576 in the unit, as it was shipped, or a lower http.connections_max",
        ),
        Some(most) => ok(CHECK, format!("konsuld may open {most} files")),
        None if process.limits.is_empty() => unknown(CHECK, "cannot read the limits of konsuld", "run it as root"),
        None => ok(CHECK, "konsuld may open any number of files"),
    }
}

/// What the process may do is asked of the kernel, not of the unit: a drop-in or another way of starting it counts.
fn sandbox(process: &Process) -> Finding {
    const CHECK: &str = "sandbox";
    let is = |name: &str, wanted: &str| process.field(name).is_some_and(|found| found == wanted);
    if process.status.is_empty() {
        return unknown(CHECK, "cannot read what konsuld may do", "run it as root");
    }
    let holes: Vec<&str> = [
        (is("Uid", "0"), "it runs as root"),
        (!is("CapEff", "0000000000000000"), "it has capabilities"),
        (!is("NoNewPrivs", "1"), "it may gain privileges"),
        (!is("Seccomp", "2"), "it may use every system call"),
    ]
    .into_iter()
    .filter_map(|(hole, text)| hole.then_some(text))
    .collect();
    if holes.is_empty() {
        return ok(CHECK, format!("konsuld (process {}) is confined", process.pid));
    }
    let found = format!("konsuld (process {}) is not confined: {}", process.pid, holes.join(", "));
    warning(CHECK, found, "run it by the unit, and see `systemctl cat konsul` for drop-ins that weaken it")
}
