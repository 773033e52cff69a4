//! `/v1/operator`: Consul's words for who votes and how well they are.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/operator/raft/configuration`: who belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RaftConfiguration {
    /// Every member.
    pub servers: Vec<RaftServer>,
    /// Log index that set this membership.
    pub index: u64,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RaftServer {
    /// A UUID that follows from the cluster and the node id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name of the node.
    pub node: String,
    /// `host:port` between nodes.
    pub address: String,
    /// Whether it leads.
    pub leader: bool,
    /// As Consul 1.8.7 has it: `"3"`.
    pub protocol_version: String,
    /// Whether it counts for the quorum.
    pub voter: bool,
    /// The last entry of its log that the leader knows of; 0: it knows of none. Newer than Consul 1.8.
    #[serde(default)]
    pub last_index: u64,
}

/// `POST /v1/operator/raft/transfer-leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TransferLeader {
    /// Whether another one leads now.
    pub success: bool,
}

/// `GET` and `PUT /v1/operator/autopilot/configuration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AutopilotConfiguration {
    /// Whether dead servers are removed.
    pub cleanup_dead_servers: bool,
    /// A server that was silent for longer is not healthy; a Go duration.
    pub last_contact_threshold: String,
    /// A server that is further behind is not healthy.
    pub max_trailing_logs: u64,
    /// Fewest voters that a clean-up may leave; 0: three, or a majority of what the cluster is meant to have.
    pub min_quorum: u64,
    /// How long a newcomer must be healthy before it votes; a Go duration.
    pub server_stabilization_time: String,
    /// Ours: a server that was silent for so long is dead. Told only if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_server_threshold: Option<String>,
    /// Of Consul's enterprise edition: kept, without effect.
    pub redundancy_zone_tag: String,
    /// Of Consul's enterprise edition: kept, without effect.
    pub disable_upgrade_migration: bool,
    /// Of Consul's enterprise edition: kept, without effect.
    pub upgrade_version_tag: String,
    /// Log index of the first write; 0: these are the defaults.
    pub create_index: u64,
    /// Log index of the last write, for `?cas=`.
    pub modify_index: u64,
}

impl Default for AutopilotConfiguration {
    fn default() -> AutopilotConfiguration {
        AutopilotConfiguration {
            cleanup_dead_servers: true,
            last_contact_threshold: "200ms".to_owned(),
            max_trailing_logs: 250,
            min_quorum: 0,
            server_stabilization_time: "10s".to_owned(),
            dead_server_threshold: None,
            redundancy_zone_tag: String::new(),
            disable_upgrade_migration: false,
            upgrade_version_tag: String::new(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// `GET /v1/operator/autopilot/health`: status 200 if all servers are healthy, else 429 with the same body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotHealth {
    /// Whether all servers are.
    pub healthy: bool,
    /// Voters that may fail.
    pub failure_tolerance: u64,
    /// `null` while the leader is new and has not looked yet.
    pub servers: Option<Vec<ServerHealth>>,
}

/// One server in [`AutopilotHealth`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServerHealth {
    /// A UUID that follows from the cluster and the node id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name of the node.
    pub name: String,
    /// `host:port` between nodes.
    pub address: String,
    /// `alive` or `failed`.
    pub serf_status: String,
    /// The Consul version whose contract is spoken.
    pub version: String,
    /// Whether it leads.
    pub leader: bool,
    /// Since it last answered the leader; a Go duration.
    pub last_contact: String,
    /// Term of the last entry of its log that the leader knows of.
    pub last_term: u64,
    /// Index of that entry.
    pub last_index: u64,
    /// Whether it answers and is caught up.
    pub healthy: bool,
    /// Whether it counts for the quorum.
    pub voter: bool,
    /// Since when `Healthy` is what it is; RFC 3339.
    pub stable_since: String,
}

/// `GET /v1/operator/autopilot/state`, newer than Consul 1.8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AutopilotState {
    /// Whether all servers are.
    pub healthy: bool,
    /// Voters that may fail.
    pub failure_tolerance: u64,
    /// The same: there are no redundancy zones.
    pub optimistic_failure_tolerance: u64,
    /// By id.
    pub servers: BTreeMap<String, ServerState>,
    /// Id of the leader.
    pub leader: String,
    /// Ids of the voters.
    pub voters: Vec<String>,
    /// Ours: what autopilot waits for, or does not do and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One server in [`AutopilotState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServerState {
    /// A UUID that follows from the cluster and the node id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name of the node.
    pub name: String,
    /// `host:port` between nodes.
    pub address: String,
    /// `alive` or `failed`.
    pub node_status: String,
    /// The Consul version whose contract is spoken.
    pub version: String,
    /// Since it last answered the leader; a Go duration.
    pub last_contact: String,
    /// Term of the last entry of its log that the leader knows of.
    pub last_term: u64,
    /// Index of that entry.
    pub last_index: u64,
    /// Whether it answers and is caught up.
    pub healthy: bool,
    /// Since when `Healthy` is what it is; RFC 3339.
    pub stable_since: String,
    /// Whether it is meant to stay a learner.
    pub read_replica: bool,
    /// `leader`, `voter` or `non-voter`.
    pub status: String,
    /// Empty.
    pub meta: BTreeMap<String, String>,
    /// `voter` or `read-replica`.
    pub node_type: String,
}
