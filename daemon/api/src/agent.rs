//! `/v1/agent/self`: what clients read of it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The answering node, as Consul describes an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentSelf {
    /// What it is.
    pub config: AgentConfig,
    /// Empty: Consul shows its whole configuration here.
    #[serde(default)]
    pub debug_config: BTreeMap<String, String>,
    /// Empty: there are no network coordinates.
    #[serde(default)]
    pub coord: BTreeMap<String, String>,
    /// It as a member of the gossip pool.
    #[serde(default)]
    pub member: AgentMember,
    /// Empty: see `/metrics`.
    #[serde(default)]
    pub stats: BTreeMap<String, BTreeMap<String, String>>,
    /// Empty.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

/// What clients read of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AgentConfig {
    /// Name of the datacenter.
    pub datacenter: String,
    /// Name of the node.
    pub node_name: String,
    /// A UUID.
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// Empty.
    pub revision: String,
    /// Always true.
    pub server: bool,
    /// The Consul version whose contract is spoken: clients branch on it.
    pub version: String,
}

/// A member of Consul's gossip pool. There is none here; the node describes itself as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AgentMember {
    /// Name of the node.
    pub name: String,
    /// Its address between nodes.
    pub addr: String,
    /// Its port between nodes.
    pub port: u16,
    /// `role`, `dc`, `id`, `build`, `port`.
    pub tags: BTreeMap<String, String>,
    /// 1: alive.
    pub status: u8,
    /// As Consul 1.8.7 has it.
    pub protocol_min: u8,
    /// As Consul 1.8.7 has it.
    pub protocol_max: u8,
    /// As Consul 1.8.7 has it.
    pub protocol_cur: u8,
    /// As Consul 1.8.7 has it.
    pub delegate_min: u8,
    /// As Consul 1.8.7 has it.
    pub delegate_max: u8,
    /// As Consul 1.8.7 has it.
    pub delegate_cur: u8,
}

impl Default for AgentMember {
    fn default() -> AgentMember {
        AgentMember {
            name: String::new(),
            addr: String::new(),
            port: 0,
            tags: BTreeMap::new(),
            status: 1,
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
        }
    }
}
