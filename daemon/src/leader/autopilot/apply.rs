//! Doing what the plan says: one change, then the next round looks again. What fails is planned again.

use super::super::LeaderDeps;
use super::plan::{Step, Why};
use crate::cluster::audit::{Event, Outcome, event};
use crate::raft::{Change, ChangeError, Seen};
use crate::telemetry::events;

/// Makes the change; how it ended is in the log and the metrics.
pub(super) async fn apply(deps: &LeaderDeps, seen: &Seen, step: &Step) {
    let change = match step {
        Step::HandOver { to } => {
            if let Err(error) = deps.consensus.transfer_leadership(Some(&to.to_string())).await {
                tracing::warn!(to, %error, "leadership was not handed over; it is tried again");
            }
            return;
        }
        Step::Flatten => Change::Flatten,
        Step::Promote { id, replaces } => Change::Promote { id: *id, replaces: replaces.clone() },
        Step::Remove { id, .. } => Change::Remove { id: *id },
    };
    match deps.consensus.carry_out(seen, &change).await {
        Ok(()) => count(deps, seen, step),
        Err(ChangeError::NotLeader | ChangeError::Overtaken) => {
            tracing::info!(?step, "the membership was changed by somebody else; autopilot looks again");
        }
        Err(
            error @ (ChangeError::State { .. }
            | ChangeError::Retire { .. }
            | ChangeError::Refused { .. }
            | ChangeError::TimedOut { .. }),
        ) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(?step, %error, cause, "autopilot did not change the membership; it tries again");
        }
    }
}

fn report(deps: &LeaderDeps, event: &'static str, what: String) {
    let from = deps.consensus.identity().name.clone();
    deps.audit.event(Event { event, who: "autopilot".to_owned(), from, what, outcome: Outcome::Done });
}

fn count(deps: &LeaderDeps, seen: &Seen, step: &Step) {
    let metrics = &deps.metrics.autopilot;
    let name = |id: u64| seen.member(id).map(|member| member.peer.info.name.clone()).unwrap_or_default();
    match step {
        Step::Flatten | Step::HandOver { .. } => {}
        Step::Promote { id, replaces } => {
            tracing::info!(node = id, name = %name(*id), ?replaces, "a node votes now");
            metrics.promoted.inc();
            let instead = if replaces.is_empty() { String::new() } else { format!(" in place of {replaces:?}") };
            report(deps, event::MEMBER_PROMOTE, format!("{} (node {id}){instead}", name(*id)));
        }
        Step::Remove { id, why } => {
            tracing::info!(message_id = events::MEMBER_REMOVED, node = id, name = %name(*id), why = why.as_str(), "a node was removed");
            report(deps, event::MEMBER_REMOVE, format!("{} (node {id}): {}", name(*id), why.as_str()));
            match why {
                Why::Dead => metrics.removed.dead.inc(),
                Why::Replaced => metrics.removed.replaced.inc(),
                Why::Retired => metrics.removed.retired.inc(),
            };
        }
    }
}
