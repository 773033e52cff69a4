//! What only the leader does, while it leads: for now, settling the membership.  Knows nothing about: HTTP.

use crate::raft::Consensus;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ROUND: Duration = Duration::from_millis(100);

/// Runs the duties until `stop`; each looks anew whether this node leads.
pub async fn run(consensus: Consensus, stop: CancellationToken) {
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        consensus.settle_membership().await;
    }
}
