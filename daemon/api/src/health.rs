//! `/health/live` and `/health/ready`.

use serde::{Deserialize, Serialize};

/// 200 when `ok`, else 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the answering node is what was asked.
    pub ok: bool,
    /// If not, why, in words; one sentence a reason.
    pub reasons: Vec<String>,
    /// What will make it otherwise if nobody acts; one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}
