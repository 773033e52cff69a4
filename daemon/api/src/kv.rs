//! `/v1/kv`.

use serde::{Deserialize, Serialize};

/// One entry, with the members in the order Consul writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct KvEntry {
    /// How often the key was locked.
    #[serde(default)]
    pub lock_index: u64,
    /// The key.
    pub key: String,
    /// Client flags.
    #[serde(default)]
    pub flags: u64,
    /// The value; `null` when empty.
    #[serde(with = "crate::bytes64", default)]
    pub value: Vec<u8>,
    /// The holder of the lock; absent when unlocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Log index of the creation.
    #[serde(default)]
    pub create_index: u64,
    /// Log index of the last change.
    #[serde(default)]
    pub modify_index: u64,
}
