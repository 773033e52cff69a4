//! Closed-loop clients: each sends its next request when it has the last one's reply.

use super::{
    acked::Acked,
    link::Link,
    report::{Recorder, Report, Run},
    work::{Failure, Work},
};
use crate::server::Server;
use anyhow::{Context as _, bail};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// When a run is over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    Time(Duration),
    Requests(u64),
}

/// How a run goes.
pub(super) struct Plan {
    pub(super) servers: Arc<[Server]>,
    /// Client n starts with server n, not all with the first.
    pub(super) spread: bool,
    pub(super) timeout: Duration,
    /// Not counted.
    pub(super) warmup: Duration,
    pub(super) limit: Limit,
}

struct Shared {
    /// Operations before are warm-up.
    begin: Instant,
    end: Option<Instant>,
    remaining: AtomicU64,
    tally: Mutex<Tally>,
}

/// What the clients write down together.
struct Tally {
    recorder: Recorder,
    acked: Option<Acked>,
    /// When an operation last succeeded; the beginning, before the first did.
    last: Instant,
    longest_gap: Duration,
}

/// What came of a run.
pub(super) struct Measured {
    recorder: Recorder,
    pub(super) took: Duration,
    /// The longest time in which no operation succeeded.
    longest_gap: Duration,
}

impl Measured {
    pub(super) fn report(&self, op: &'static str, mode: Option<&'static str>, run: &Run) -> Report {
        let mut report = self.recorder.report(op, mode, run);
        report.longest_gap_ms = Some(u64::try_from(self.longest_gap.as_millis()).unwrap_or(u64::MAX));
        report
    }
}

impl Tally {
    /// Time passes without a success until `now`.
    fn gap_until(&mut self, now: Instant) {
        self.longest_gap = self.longest_gap.max(now.saturating_duration_since(self.last));
    }
}

impl Shared {
    /// Whether another operation shall begin; `Some(true)`: and be counted.
    fn next(&self, now: Instant) -> Option<bool> {
        if now < self.begin {
            return Some(false);
        }
        match self.end {
            Some(end) => (now < end).then_some(true),
            None => {
                let taken = self.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                taken.is_ok().then_some(true)
            }
        }
    }

    /// Keeps an operation that took from `begun` to `now`.
    fn record(&self, begun: Instant, now: Instant, outcome: Result<(), Failure>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.recorder.record(now - begun, outcome);
        if outcome.is_ok() {
            tally.gap_until(self.in_time(now));
            tally.last = tally.last.max(now);
        }
    }

    /// After the end most clients have stopped: that nothing succeeds then is no gap.
    fn in_time(&self, now: Instant) -> Instant {
        self.end.map_or(now, |end| now.min(end))
    }

    /// Keeps an acknowledged key, where that was asked for.
    fn acknowledge(&self, work: &Work) -> anyhow::Result<()> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.acked.as_mut().map_or(Ok(()), |acked| acked.add(&work.key()))
    }
}

/// Runs the clients, in the warm-up and then measured; each key they write goes to `acked` when it is acknowledged.
pub(super) async fn run(plan: &Plan, works: Vec<Work>, acked: Option<Acked>) -> anyhow::Result<Measured> {
    let links = connect(plan, works.len()).await?;
    let begin = Instant::now() + plan.warmup;
    let (end, remaining) = match plan.limit {
        Limit::Time(time) => (Some(begin + time), 0),
        Limit::Requests(requests) => (None, requests),
    };
    let tally = Tally { recorder: Recorder::new()?, acked, last: begin, longest_gap: Duration::ZERO };
    let shared = Arc::new(Shared { begin, end, remaining: AtomicU64::new(remaining), tally: Mutex::new(tally) });
    let mut clients = JoinSet::new();
    for (work, link) in works.into_iter().zip(links) {
        clients.spawn(client(work, link, shared.clone()));
    }
    while let Some(ended) = clients.join_next().await {
        ended.context("a client of the benchmark failed")??;
    }
    let now = Instant::now();
    let shared = Arc::into_inner(shared).context("a client is left")?;
    let stopped = shared.in_time(now);
    let mut tally = shared.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.gap_until(stopped);
    Ok(Measured {
        recorder: tally.recorder,
        took: now.saturating_duration_since(begin),
        longest_gap: tally.longest_gap,
    })
}

/// Opens every connection before the clock starts.
pub(super) async fn connect(plan: &Plan, count: usize) -> anyhow::Result<Vec<Link>> {
    let mut links = Vec::with_capacity(count);
    for n in 0..count {
        let first = if plan.spread { n } else { 0 };
        let mut link = Link::new(plan.servers.clone(), first, plan.timeout);
        let mut tries = plan.servers.len();
        while let Err(e) = link.open().await {
            tries -= 1;
            if tries == 0 {
                let servers: Vec<String> = plan.servers.iter().map(ToString::to_string).collect();
                bail!(
                    "no connection for client {n} of {count} to {} ({e}); is konsuld running there?",
                    servers.join(", ")
                );
            }
        }
        links.push(link);
    }
    Ok(links)
}

async fn client(mut work: Work, mut link: Link, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut now = Instant::now();
    while let Some(counts) = shared.next(now) {
        let begun = now;
        let outcome = work.step(&mut link).await;
        now = Instant::now();
        if outcome.is_ok() {
            shared.acknowledge(&work)?;
        }
        if counts {
            shared.record(begun, now, outcome);
        }
    }
    Ok(())
}
