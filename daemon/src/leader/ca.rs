//! While it leads, a node carries the replacement of the authority on: one look, and at most one step, at a time.

use crate::cluster::identity::Authority;
use crate::telemetry::chain;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const ROUND: Duration = Duration::from_millis(500);

/// Until `stop`, the end of the term.
pub(super) async fn run(authority: Authority, stop: CancellationToken) {
    let mut told = None;
    while !stop.is_cancelled() {
        let Some(stepped) = stop.run_until_cancelled(authority.advance_rotation()).await else { return };
        let failed = stepped.err().map(|error| chain(&error));
        if failed != told {
            if let Some(error) = &failed {
                tracing::warn!(error, "the replacement of the authority does not go on");
            }
            told = failed;
        }
        stop.run_until_cancelled(tokio::time::sleep(ROUND)).await;
    }
}
