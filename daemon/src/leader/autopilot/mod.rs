//! Autopilot: keeps the membership as it should be. Every round looks (`inputs`), decides (`plan`, pure), does at most
//! one thing (`apply`), and publishes what it saw (`report`).

mod apply;
mod inputs;
mod plan;
mod report;

pub use report::{Report, ServerReport};

use super::LeaderDeps;
use crate::raft::Policy;
use inputs::Tracker;
use konsul_state::StateError;
use plan::Plan;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ROUND: Duration = Duration::from_millis(100);

/// Runs as long as the term lasts.
pub(super) async fn run(deps: LeaderDeps, term: u64, stop: CancellationToken) {
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut duty = Duty { tracker: Tracker::new(deps.clock.now()), deps, term, last: Plan::default() };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        if let Err(error) = duty.round().await {
            tracing::warn!(%error, "autopilot cannot read the state; it looks again");
        }
    }
    duty.deps.metrics.autopilot.forget();
}

struct Duty {
    deps: LeaderDeps,
    term: u64,
    tracker: Tracker,
    /// What the last round came to: only news are logged.
    last: Plan,
}

impl Duty {
    async fn round(&mut self) -> Result<(), StateError> {
        let consensus = self.deps.consensus.clone();
        // Held until the change is made: what was seen is still so by then.
        let Some(_turn) = consensus.change_turn().await else { return Ok(()) };
        let policy = consensus.policy()?.policy;
        let Some(seen) = consensus.seen()?.filter(|seen| seen.term == self.term) else { return Ok(()) };
        let now = self.deps.clock.now();
        self.tracker.look(&seen, &Limits::of(&policy, &self.deps), now);
        let inputs = self.tracker.inputs(&seen, self.deps.seats);
        let plan = plan::plan(&policy, &inputs, now.as_millis());
        self.publish(&seen, &plan);
        self.tell(&plan);
        if let Some(step) = &plan.step {
            apply::apply(&self.deps, &seen, step).await;
        }
        self.last = plan;
        Ok(())
    }

    fn publish(&self, seen: &crate::raft::Seen, plan: &Plan) {
        let wall = self.deps.clock.wall().as_millis();
        let report = self.tracker.report(seen, self.deps.clock.now(), wall, &plan.notes);
        let servers = report.servers.iter().map(|server| (server.id, server.healthy)).collect();
        self.deps.metrics.autopilot.show(
            report.failure_tolerance,
            report.intended_tolerance(self.deps.seats),
            &servers,
        );
        self.deps.consensus.publish_report(self.term, report.encode().into());
    }

    /// A step is logged when it is planned, and again if the next round has to plan it again.
    fn tell(&self, plan: &Plan) {
        if let Some(step) = &plan.step {
            tracing::info!(?step, "autopilot");
        }
        // Texts with running numbers are told once, when something else changes.
        let kinds = |plan: &Plan| {
            plan.notes.iter().map(|note| note.split(" is ").next().map(str::to_owned)).collect::<Vec<_>>()
        };
        if kinds(plan) != kinds(&self.last) {
            for note in &plan.notes {
                tracing::info!(%note, "autopilot waits");
            }
        }
    }
}

/// Where health ends.
#[derive(Debug, Clone, Copy)]
struct Limits {
    contact_max: Duration,
    trailing_max: u64,
}

impl Limits {
    fn of(policy: &Policy, deps: &LeaderDeps) -> Limits {
        let contact_max = deps.consensus.contact_max(policy.last_contact_threshold);
        Limits { contact_max, trailing_max: policy.max_trailing_logs }
    }
}
