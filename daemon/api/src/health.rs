//! `/health/live` and `/health/ready`.

use serde::{Deserialize, Serialize};

/// 200 when `ok`, else 503.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the answering node is what was asked.
    pub ok: bool,
    /// If not, why, in words; one sentence a reason.
    pub reasons: Vec<String>,
}
