//! Recorded steps that are not asked, or answered otherwise on purpose.

/// What is different about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exception {
    /// Not asked.
    Skipped { why: &'static str },
    /// This status is right as well; then the rest of the recorded answer does not count.
    Status { status: u16, why: &'static str },
}

use Exception::{Skipped, Status};

const SESSIONS: Exception = Skipped { why: "needs sessions and locks" };
const CATALOG: Exception = Skipped { why: "needs the catalog" };
const HEALTH: Exception = Skipped { why: "needs services and their health" };
const KEYRING: Exception = Skipped { why: "there is no gossip, and no keyring for it" };
const STATE: Exception = Status { status: 200, why: "this endpoint came with Consul 1.9" };
const COORDINATES: Exception = Skipped { why: "needs the coordinate endpoints" };

/// From the first step to the last, both included.
pub(crate) const ALL: [(&str, &str, Exception); 14] = [
    ("blocking-0350", "blocking-0430", HEALTH),
    ("blocking-0440", "blocking-0460", CATALOG),
    ("blocking-0470", "blocking-0500", SESSIONS),
    ("blocking-0540", "blocking-0560", CATALOG),
    ("blocking-0570", "blocking-0590", HEALTH),
    ("kv-0740", "kv-0920", SESSIONS),
    ("kv-0960", "kv-1000", SESSIONS),
    ("kv-1030", "kv-1030", Status { status: 413, why: "an upload without a length is counted while it comes" }),
    ("status-0180", "status-0180", STATE),
    ("status-0190", "status-0190", KEYRING),
    ("status-0200", "status-0230", COORDINATES),
    ("txn-0310", "txn-0430", SESSIONS),
    ("txn-0450", "txn-0450", Status { status: 200, why: "the limit is 128 operations, as in newer Consul" }),
    ("txn-0490", "txn-0690", CATALOG),
];

/// What is different about this step, if anything.
pub(crate) fn of(id: &str) -> Option<Exception> {
    let area = |id: &str| id.split('-').next().map(str::to_owned);
    ALL.iter()
        .find(|(first, last, _)| area(first) == area(id) && (*first..=*last).contains(&id))
        .map(|(_, _, exception)| *exception)
}
