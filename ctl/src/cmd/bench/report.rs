//! What was measured: how often, how long, what failed.

use super::work::Failure;
use crate::output;
use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// Anything slower is counted as this slow.
const MICROS_MAX: u64 = 600_000_000;

/// Counts operations.
pub(super) struct Recorder {
    micros: Histogram<u64>,
    errors: BTreeMap<Failure, u64>,
}

impl Recorder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let micros = Histogram::new_with_bounds(1, MICROS_MAX, 3).context("make a histogram")?;
        Ok(Self { micros, errors: BTreeMap::new() })
    }

    pub(super) fn record(&mut self, took: Duration, outcome: Result<(), Failure>) {
        match outcome {
            Ok(()) => self.micros.saturating_record(u64::try_from(took.as_micros()).unwrap_or(MICROS_MAX)),
            Err(failure) => *self.errors.entry(failure).or_default() += 1,
        }
    }

    /// Value at a quantile, in microseconds.
    pub(super) fn micros_at(&self, quantile: f64) -> u64 {
        if self.micros.is_empty() { 0 } else { self.micros.value_at_quantile(quantile) }
    }

    pub(super) fn report(&self, op: &'static str, mode: Option<&'static str>, run: &Run) -> Report {
        let ops = self.micros.len();
        Report {
            op,
            mode,
            clients: run.clients,
            value_size: run.value_size,
            keys: run.keys,
            seconds: (run.took.as_secs_f64() * 1000.0).round() / 1000.0,
            ops,
            ops_per_s: per_second(ops, run.took),
            errors: self.errors.iter().map(|(failure, n)| (failure.to_string(), *n)).collect(),
            p50_us: self.micros_at(0.5),
            p90_us: self.micros_at(0.9),
            p99_us: self.micros_at(0.99),
            p999_us: self.micros_at(0.999),
            max_us: if self.micros.is_empty() { 0 } else { self.micros.max() },
            longest_gap_ms: None,
            watchers: None,
        }
    }
}

/// Whole operations a second.
fn per_second(ops: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(ops) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// The circumstances of a run.
pub(super) struct Run {
    pub(super) clients: u32,
    pub(super) value_size: u32,
    pub(super) keys: u64,
    pub(super) took: Duration,
}

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    op: &'static str,
    mode: Option<&'static str>,
    clients: u32,
    value_size: u32,
    keys: u64,
    seconds: f64,
    ops: u64,
    ops_per_s: u64,
    errors: BTreeMap<String, u64>,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
    /// Of the closed loops: the longest time in which nothing succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) longest_gap_ms: Option<u64>,
    /// Of `bench watch`: each watcher's own time.
    #[serde(flatten)]
    pub(super) watchers: Option<Watchers>,
}

/// The times of single watchers, where the report's own are those of the last one of each round.
#[derive(Debug, Serialize)]
pub(super) struct Watchers {
    pub(super) watchers: u32,
    pub(super) each_p50_us: u64,
    pub(super) each_p99_us: u64,
}

impl Report {
    pub(super) fn ops(&self) -> u64 {
        self.ops
    }

    pub(super) fn in_words(&self) -> String {
        let errors: Vec<String> = self.errors.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        let mode = self.mode.map_or_else(String::new, |mode| format!(", {mode} reads"));
        let mut pairs = vec![
            (
                "Run",
                format!(
                    "{}{mode}: {} clients, {} keys, values of {} bytes, {} s",
                    self.op, self.clients, self.keys, self.value_size, self.seconds
                ),
            ),
            ("Done", format!("{} ({} per second)", self.ops, self.ops_per_s)),
            ("Errors", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") }),
        ];
        if let Some(gap) = self.longest_gap_ms {
            pairs.push(("Longest gap", format!("{gap} ms")));
        }
        if let Some(watchers) = &self.watchers {
            let (p50, p99) = (millis(watchers.each_p50_us), millis(watchers.each_p99_us));
            pairs.push(("Watchers", format!("{}, each p50 {p50} ms, p99 {p99} ms", watchers.watchers)));
        }
        let latencies = [self.p50_us, self.p90_us, self.p99_us, self.p999_us, self.max_us].map(millis).to_vec();
        let table = output::table(&["P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS"], [latencies]);
        format!("{}\n\n{table}", output::fields(&pairs))
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{:03}", micros / 1000, micros % 1000)
}
