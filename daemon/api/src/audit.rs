//! `/v1/cluster/audit`: who did what to the cluster.

use serde::{Deserialize, Serialize};

/// One row; `GET /v1/cluster/audit` answers a list of them, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its place, for `?after=`: `<log index>.<number>`.
    pub id: String,
    /// When, by the clock of the node that reported it.
    pub time: String,
    /// What kind of event, as `token.create`.
    pub event: String,
    /// Who did it, or tried.
    pub who: String,
    /// From which address.
    pub from: String,
    /// To what it was done.
    pub what: String,
    /// `ok`, or `refused: ` and why.
    pub outcome: String,
}
