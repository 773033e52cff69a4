//! `/v1/txn`.

use crate::kv::KvEntry;
use serde::{Deserialize, Serialize};

/// One operation of a transaction as clients send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KvOp {
    /// `set`, `cas`, `get`, `get-tree`, `check-index`, `check-not-exists`, `delete`, `delete-tree`, `delete-cas`.
    pub verb: String,
    /// The key, or the prefix for the tree verbs.
    pub key: String,
    /// For the writing verbs.
    #[serde(with = "crate::bytes64", default, skip_serializing_if = "Vec::is_empty")]
    pub value: Vec<u8>,
    /// Client flags.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u64,
    /// For the verbs that compare.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub index: u64,
    /// For the verbs that lock.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The envelope of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnOp {
    /// A key/value operation.
    #[serde(rename = "KV")]
    pub kv: KvOp,
}

/// One result: the verbs that delete or check give none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnResult {
    /// The entry after the operation.
    #[serde(rename = "KV")]
    pub kv: KvEntry,
}

/// One failed operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnError {
    /// Which operation, from 0.
    pub op_index: u32,
    /// Why.
    pub what: String,
}

/// The answer: `Results` or `Errors` is null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnAnswer {
    /// In order; `[]` when nothing is returned; null on failure.
    pub results: Option<Vec<TxnResult>>,
    /// Every failed operation; null on success.
    pub errors: Option<Vec<TxnError>>,
    /// Read-only transactions only.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub read: Option<TxnReadMeta>,
}

/// What a read-only transaction says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TxnReadMeta {
    /// Always 0: a transaction does not block.
    pub index: u64,
    /// Milliseconds since the answering node heard from the leader.
    pub last_contact: u64,
    /// Whether the answering node knows a leader.
    pub known_leader: bool,
    /// Always empty.
    pub consistency_level: String,
}
