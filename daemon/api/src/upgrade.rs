//! `/v1/cluster/upgrade`: programs of several versions in one cluster.

use serde::{Deserialize, Serialize};

/// `GET /v1/cluster/upgrade`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// What every member understands, and programs write.
    pub cluster_version: u32,
    /// The newest one that a member understands.
    pub newest: u32,
    /// What raising the cluster version to it would enable; after that, older programs cannot come back.
    pub brings: Vec<String>,
    /// What keeps it from being raised.
    pub blocked: Vec<String>,
    /// Every member.
    pub members: Vec<UpgradeMember>,
}

/// What a member runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeMember {
    /// Raft node id.
    pub id: u64,
    /// Configured name.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
    /// Version of its program; `null`: it does not tell.
    pub version: Option<String>,
    /// The oldest cluster version that it takes part in.
    pub oldest: Option<u32>,
    /// The newest one that it understands.
    pub newest: Option<u32>,
    /// Why nothing is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `POST /v1/cluster/upgrade`: the cluster version was raised; equal: it was the newest already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizeAnswer {
    /// Before.
    pub from: u32,
    /// Now.
    pub to: u32,
}
