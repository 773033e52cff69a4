//! What the service manager hears of this node, and when the node is ready.

use crate::cluster::lobby::Lobby;
use crate::cluster::turn;
use crate::metrics::{Metrics, RuntimeLabel, SecondsGauge, StorageMetrics, SupervisionMetrics, ThreadLabel};
use crate::raft::{Consensus, Consistency};
use crate::systemd::{Description, Latch, Supervisor, Verdict};
use crate::telemetry::{self, events};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between two questions whether this node has caught up, where the answer came at once.
const LOOK: Duration = Duration::from_millis(100);

/// A nap, and how many of them make ten seconds.
const NAP: Duration = Duration::from_millis(100);
const NAPS: u32 = 100;

/// What has to be so before the node is ready.
pub(super) struct Conditions {
    pub(super) storage_verified: Latch,
    pub(super) listening: Latch,
    pub(super) member: Latch,
    pub(super) caught_up: Latch,
}

/// What the node describes itself from, as far as it is there.
#[derive(Clone, Default)]
pub(super) struct Sight {
    lobby: Arc<OnceLock<Lobby>>,
    consensus: Arc<OnceLock<Consensus>>,
}

pub(super) fn start() -> io::Result<(Supervisor, Conditions)> {
    let names = ["storage verified", "listening", "member of a cluster", "caught up with the leader"];
    let (supervisor, [storage_verified, listening, member, caught_up]) = Supervisor::start(names)?;
    Ok((supervisor, Conditions { storage_verified, listening, member, caught_up }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alive,
    Slow,
    Stalled,
}

fn kind(verdict: Verdict) -> Kind {
    match verdict {
        Verdict::Alive => Kind::Alive,
        Verdict::Slow { .. } => Kind::Slow,
        Verdict::Stalled { .. } => Kind::Stalled,
    }
}

/// Each change once.
fn log(thread: &'static str, before: Kind, verdict: Verdict) {
    match (before, verdict) {
        (Kind::Alive | Kind::Slow, Verdict::Stalled { since }) => {
            let (message_id, waiting_s) = (events::STALLED, since.as_secs());
            tracing::error!(message_id, thread, waiting_s, "a thread makes no progress; only a restart helps");
            // The watchdog ends the process next.
            telemetry::flush();
        }
        (Kind::Alive | Kind::Stalled, Verdict::Slow { since }) => {
            let (message_id, waiting_s) = (events::DISK_SLOW, since.as_secs());
            tracing::warn!(message_id, thread, waiting_s, "the disk is slow: a flush or a read takes seconds");
        }
        (Kind::Slow | Kind::Stalled, Verdict::Alive) => tracing::info!(thread, "the thread makes progress again"),
        (Kind::Alive, Verdict::Alive) | (Kind::Slow, Verdict::Slow { .. }) => {}
        (Kind::Stalled, Verdict::Stalled { .. }) => {}
    }
}

impl Sight {
    /// From now on the supervisor tells what this sees.
    pub(super) fn tell(&self, supervisor: &Supervisor, metrics: &Metrics) {
        let (sight, storage, of_threads) = (self.clone(), metrics.storage.clone(), metrics.supervision.clone());
        supervisor.describe(move || sight.describe(&storage));
        let mut told = BTreeMap::new();
        supervisor.observe(move |thread, verdict| {
            let before = told.insert(thread, kind(verdict)).unwrap_or(Kind::Alive);
            log(thread, before, verdict);
            let waiting = match verdict {
                Verdict::Alive => Duration::ZERO,
                Verdict::Slow { since } | Verdict::Stalled { since } => since,
            };
            of_threads.waiting_seconds.get_or_create(&ThreadLabel { thread }).set(waiting.as_secs_f64());
        });
    }

    pub(super) fn lobby(&self, lobby: &Lobby) {
        self.lobby.get_or_init(|| lobby.clone());
    }

    pub(super) fn member(&self, consensus: &Consensus) {
        self.consensus.get_or_init(|| consensus.clone());
    }

    fn describe(&self, storage: &StorageMetrics) -> Description {
        let (read, expected) = storage.recovered();
        let status = match (self.consensus.get(), self.lobby.get()) {
            _ if read < expected => format!("recovering: {} of {} MB", read >> 20, expected >> 20),
            (Some(consensus), _) => consensus.status().in_words(),
            (None, Some(lobby)) => format!("in no cluster yet: {}", lobby.doing().what),
            (None, None) => "starting".to_owned(),
        };
        // A fenced node is waited for by nobody: people have to act.
        let waits_for_others = match self.consensus.get() {
            Some(consensus) => consensus.fenced().is_some(),
            None => self.lobby.get().is_some(),
        };
        Description { status, progress: read, waits_for_others }
    }
}

/// Meets the latch when this node has applied what the leader says is committed.
pub(super) async fn catch_up(consensus: Consensus, latch: Latch, stop: CancellationToken) {
    loop {
        let permit = stop.run_until_cancelled(consensus.permit(Consistency::Leader)).await;
        match permit {
            None => return,
            Some(Ok(_)) => break,
            Some(Err(error)) => tracing::debug!(%error, "not caught up yet"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
    latch.met();
    tracing::info!(message_id = events::NODE_READY, "ready: a member that has caught up with its leader");
    if let Some(Err(error)) = stop.run_until_cancelled(turn::give_back(&consensus)).await {
        let error = telemetry::chain(&error);
        tracing::warn!(%error, "others wait a moment longer for their turn to restart: this node could not tell that it is back");
    }
}

/// Shows how late the two runtimes wake their tasks: the one that this is called on, and that of HTTP.
pub(super) fn feel_runtimes(
    tasks: &TaskTracker,
    http: &Handle,
    metrics: &SupervisionMetrics,
    stop: &CancellationToken,
) {
    tasks.spawn(feel_lag(metrics.clone(), "raft", stop.clone()));
    tasks.spawn_on(feel_lag(metrics.clone(), "http", stop.clone()), http);
}

/// Shows how late the runtime that this runs on wakes its tasks: the worst of this window and of the one before, so that no
/// scrape misses it.
async fn feel_lag(metrics: SupervisionMetrics, runtime: &'static str, stop: CancellationToken) {
    let shown: SecondsGauge = metrics.runtime_lag_seconds.get_or_create_owned(&RuntimeLabel { runtime });
    let mut before = Duration::ZERO;
    loop {
        let mut worst = Duration::ZERO;
        for _ in 0..NAPS {
            let asleep = Instant::now();
            if stop.run_until_cancelled(tokio::time::sleep(NAP)).await.is_none() {
                return;
            }
            worst = worst.max(asleep.elapsed().saturating_sub(NAP));
            shown.set(worst.max(before).as_secs_f64());
        }
        before = worst;
    }
}

/// From now on people read what the stop waits for.
pub(super) fn stopping(supervisor: &Supervisor, step: &'static str) {
    supervisor.describe(move || Description { status: format!("stopping: {step}"), ..Description::default() });
}
