//! Recovery after a majority of the voters was lost for good: what is left of each node, and what was done.

use crate::archive::ArchivedMember;
use serde::{Deserialize, Serialize};

/// A place in the log. The greater one of two nodes is the one that is further: term first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPlace {
    /// The term of the entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What is left of a node, read from its data directory while it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLeft {
    /// Where that was read.
    pub data_dir: String,
    /// Its name; empty: it never was a member, or its log is damaged.
    pub name: String,
    /// Its id.
    pub node_id: u64,
    /// Its cluster, a UUID.
    pub cluster_id: String,
    /// How often that cluster was recovered by force, as far as this node knows.
    pub epoch: u32,
    /// The highest term it knows.
    pub term: u64,
    /// Its last entry.
    pub last: LogPlace,
    /// Entries up to this index are committed, as far as it had written that down; more may be.
    pub committed: u64,
    /// Where its newest sound snapshot ends.
    pub snapshot: u64,
    /// The newest members it knows of.
    pub members: Vec<ArchivedMember>,
    /// Why its data is of no use, if so.
    pub damage: Option<String>,
    /// Why it does not start, if it was left behind by an earlier recovery.
    pub left_behind: Option<String>,
}

/// Who is to go on, and what that costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverPlan {
    /// The cluster, a UUID.
    pub cluster_id: String,
    /// Its epoch.
    pub epoch: u32,
    /// The node that goes on alone.
    pub survivor: NodeLeft,
    /// Every node that was looked at, the furthest first.
    pub nodes: Vec<NodeLeft>,
    /// Voters of which nothing sound was found.
    pub missing: Vec<String>,
    /// How many voters a majority is.
    pub majority: u64,
    /// What may be lost, for people.
    pub warnings: Vec<String>,
}

/// What was done to a node's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverAnswer {
    /// The node that is now the only voter.
    pub name: String,
    /// Its id.
    pub node_id: u64,
    /// The cluster, a UUID: the same as before.
    pub cluster_id: String,
    /// The epoch from now on.
    pub epoch: u32,
    /// The entry that says that this node votes alone.
    pub entry: LogPlace,
    /// Where the data is as it was before.
    pub backup: String,
}
