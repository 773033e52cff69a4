//! What only the leader does, while it leads.  Knows nothing about: HTTP.
//!
//! A term of leadership is a [`LeaderTerm`]: duties are started with it, and when it ends they are told, and waited for,
//! before those of another term begin. So a duty never asks whether its node still leads; what it does when it is no
//! longer so, consensus refuses.

mod autopilot;
mod ca;
mod comparison;

pub use autopilot::{Report, ServerReport};

use crate::clock::Clock;
use crate::cluster::audit::Audit;
use crate::cluster::identity::Authority;
use crate::metrics::Metrics;
use crate::raft::Consensus;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What duties work with.
#[derive(Clone)]
pub struct LeaderDeps {
    pub consensus: Consensus,
    pub metrics: Metrics,
    pub audit: Audit,
    pub clock: Clock,
    /// Voters that the configuration names; 0: none.
    pub seats: usize,
    /// How often the states of the members are compared; `None`: only when somebody asks for it.
    pub compare_every: Option<Duration>,
    /// The cluster's own authority; `None`: its nodes use certificates that people bring, or none.
    pub authority: Option<Authority>,
}

/// One term in which this node leads.
pub(crate) struct LeaderTerm {
    pub(crate) deps: LeaderDeps,
    pub(crate) term: u64,
    /// Cancelled when the term ends.
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
}

/// Leadership is looked at this often, beside being told of its changes: it also ends when the majority falls silent.
const LOOK: Duration = Duration::from_millis(100);

impl LeaderTerm {
    fn begin(deps: LeaderDeps, term: u64) -> LeaderTerm {
        let term = LeaderTerm { deps, term, stop: CancellationToken::new(), tasks: TaskTracker::new() };
        tracing::info!(term = term.term, "this node leads: its duties begin");
        term.tasks.spawn(autopilot::run(term.deps.clone(), term.term, term.stop.clone()));
        term.tasks.spawn(comparison::run(term.deps.clone(), term.stop.clone()));
        if let Some(authority) = term.deps.authority.clone() {
            term.tasks.spawn(ca::run(authority, term.stop.clone()));
        }
        term
    }

    /// Returns when no duty is left.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!(term = self.term, "this node leads no more: its duties have ended");
    }
}

/// Begins and ends terms until `stop`.
pub async fn run(deps: LeaderDeps, stop: CancellationToken) {
    let mut leading: Option<LeaderTerm> = None;
    loop {
        let term = deps.consensus.leading_term();
        if leading.as_ref().map(|leading| leading.term) != term {
            if let Some(over) = leading.take() {
                over.end().await;
            }
            leading = term.map(|term| LeaderTerm::begin(deps.clone(), term));
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
            () = deps.consensus.leadership_changed() => {}
        }
    }
    if let Some(over) = leading.take() {
        over.end().await;
    }
}
