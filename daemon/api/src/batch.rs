//! `/v1/batch`: many key/value writes in one log entry.

use serde::{Deserialize, Serialize};

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// `true`: all or nothing. `false`: each operation for itself.
    #[serde(default)]
    pub atomic: bool,
    /// In order.
    pub ops: Vec<BatchOp>,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the members of a key/value write")]
pub enum BatchOp {
    /// Write.
    Set {
        key: String,
        #[serde(with = "crate::bytes64", default)]
        value: Vec<u8>,
        #[serde(default)]
        flags: u64,
    },
    /// Write if the modify index is `index` (0: only if absent).
    Cas {
        key: String,
        #[serde(with = "crate::bytes64", default)]
        value: Vec<u8>,
        #[serde(default)]
        flags: u64,
        index: u64,
    },
    /// Delete.
    Delete { key: String },
    /// Delete if the modify index is `index`.
    DeleteCas { key: String, index: u64 },
    /// Delete everything under a prefix.
    DeleteTree { prefix: String },
}

/// The answer; status 200, or 409 when an atomic batch was undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// Whether anything was written.
    pub applied: bool,
    /// The log index of the batch.
    pub index: u64,
    /// For each operation, whether its condition held.
    pub results: Vec<bool>,
}
