//! While it leads, a node has the states of all members compared now and then, at once for a member that waits for it,
//! and writes into the audit what came of it.

use super::LeaderDeps;
use crate::cluster::audit::{Event, Outcome, event};
use crate::raft::{CompareError, Comparison};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two looks at how the members are.
const LOOK: Duration = Duration::from_secs(1);
/// The first comparison of a term comes sooner than the others: a cluster whose leaders do not last is compared as well.
const FIRST: Duration = Duration::from_secs(60);
/// Whoever waits to be compared is compared again after this time, if nothing came of it.
const ASKED_AGAIN: Duration = Duration::from_secs(15);

/// Until `stop`, the end of the term.
pub(super) async fn run(deps: LeaderDeps, stop: CancellationToken) {
    let mut duty = Duty { compared: deps.consensus.comparisons(), deps, told: None };
    duty.compared.mark_unchanged();
    stop.run_until_cancelled(duty.go_on()).await;
}

struct Duty {
    deps: LeaderDeps,
    compared: tokio::sync::watch::Receiver<Option<Comparison>>,
    /// Why the last comparison failed: only news are logged.
    told: Option<String>,
}

impl Duty {
    async fn go_on(&mut self) {
        let every = self.deps.compare_every;
        let began = Instant::now();
        let mut due = every.map(|every| began + every.min(FIRST));
        let mut not_before = began;
        loop {
            let asked = self.deps.consensus.look_at_states().await && Instant::now() >= not_before;
            if asked || due.is_some_and(|due| Instant::now() >= due) {
                self.compare().await;
                due = every.map(|every| Instant::now() + every);
                not_before = Instant::now() + ASKED_AGAIN;
            }
            tokio::select! {
                // Its sender lives as long as this node's consensus.
                _ = self.compared.changed() => self.audit(),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn compare(&mut self) {
        let failed = match self.deps.consensus.compare().await {
            // A cluster that is not upgraded yet, or a leader that is none any more, is no failure.
            Ok(_) | Err(CompareError::Version { .. } | CompareError::NoLeader) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed.as_ref().filter(|_| failed != self.told) {
            tracing::warn!(error, "the states of the members were not compared");
        }
        self.told = failed;
    }

    fn audit(&mut self) {
        let Some(comparison) = self.compared.borrow_and_update().clone() else { return };
        if !comparison.differs() {
            return;
        }
        let who = || self.deps.consensus.status().node.info.name;
        let row = |what: String, outcome| Event {
            event: event::STATE_DIFFERS,
            who: who(),
            from: String::new(),
            what,
            outcome,
        };
        for member in comparison.deviating() {
            let what = format!("{} (node {}), at log index {}", member.name, member.id, comparison.index);
            self.deps.audit.event(row(what, Outcome::Done));
        }
        if comparison.agreed.is_none() {
            let why = "no majority holds the same state".to_owned();
            let what = format!("all members, at log index {}", comparison.index);
            self.deps.audit.event(row(what, Outcome::Refused(why)));
        }
    }
}
