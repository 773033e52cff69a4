//! `/v1/cluster`: what Consul's API does not tell.

use crate::ca::OwnCertificate;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the field's words")]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// Not (yet) a member.
    Joining,
}

/// `GET /v1/cluster/status`: the cluster as the answering node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's identity; empty before the node is a member.
    pub cluster_id: String,
    /// The answering node.
    pub node: NodeStatus,
    /// The leader, if this node knows one that is acknowledged by a quorum.
    pub leader: Option<Leader>,
    /// Whether a quorum acknowledged the leader within a lease.
    pub has_quorum: bool,
    /// Every member.
    pub members: Vec<Member>,
    /// How many more voters may fail before the cluster stops.
    pub failure_tolerance: u32,
    /// Whether every voter is reachable and caught up and no change of members is under way, as the leader sees it; `null`
    /// on a follower that cannot tell.
    pub healthy: Option<bool>,
}

/// The answering node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Raft node id.
    pub id: u64,
    /// Configured name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Its role.
    pub role: Role,
    /// Raft term.
    pub term: u64,
    /// Index of the last log entry.
    pub last_log_index: u64,
    /// Index up to which entries are committed, as far as this node knows.
    pub commit_index: u64,
    /// Index up to which entries are applied.
    pub applied_index: u64,
    /// Index of the newest snapshot.
    pub snapshot_index: u64,
    /// Milliseconds since this node last heard from the leader; `null` if never. 0 on the leader.
    pub last_contact_ms: Option<u64>,
    /// Why the node accepts no writes, if so.
    pub read_only: Option<String>,
    /// Why the node answers nobody, if so: its state is not the one that a majority holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<String>,
    /// Its certificate for other nodes; `null`: it has none.
    #[serde(default)]
    pub certificate: Option<OwnCertificate>,
    /// What will keep it from doing its part, if nobody acts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What a node that is in no cluster waits for or does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Addresses of what might be members, on a node that is in no cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listening: Vec<Listener>,
}

/// `POST /v1/cluster/restart-turn`: it is this node's turn to restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartTurn {
    /// The node that was asked.
    pub node: String,
    /// RFC 3339, UTC: until then no other node is told that it may; unless this one is back before.
    pub until: String,
}

/// A socket the answering node listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `http`, `rpc` or `admin`.
    pub name: String,
    /// `host:port`, or a path.
    pub address: String,
    /// `service manager`: it stays open while the node restarts; or `konsuld`.
    pub held_by: String,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Raft node id.
    pub id: u64,
    /// Configured name.
    pub name: String,
    /// Peer address.
    pub rpc: String,
    /// URL of its HTTP API.
    pub http: String,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Raft node id.
    pub id: u64,
    /// Configured name.
    pub name: String,
    /// Peer address.
    pub rpc: String,
    /// URL of its HTTP API.
    pub http: String,
    /// `leader`, `follower` or `learner`.
    pub role: Role,
    /// Whether it counts for the quorum.
    pub voter: bool,
    /// Entries it is behind the leader; only the leader knows.
    pub lag: Option<u64>,
    /// Milliseconds since it last answered the leader; only the leader knows.
    pub last_contact_ms: Option<u64>,
    /// What protects the answering node's connections to it: `TLS 1.3`, `TLS 1.2` or `none`; `null`: there is no
    /// connection, or it is the answering node itself.
    #[serde(default)]
    pub encryption: Option<String>,
}

/// `POST /v1/cluster/transfer-leadership`; an empty body picks the best follower.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Node id or name.
    #[serde(default)]
    pub to: Option<String>,
}

/// `POST /v1/cluster/join`, on a node that is in no cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinClusterRequest {
    /// The whole token. A secret.
    pub token: String,
    /// Members to ask, `host:port` of their peer listener, before those that the token and discovery name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
}

impl fmt::Debug for JoinClusterRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinClusterRequest").field("via", &self.via).finish_non_exhaustive()
    }
}

/// `POST /v1/cluster/init` and `/v1/cluster/join`: the answering node is in this cluster now, and serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnteredAnswer {
    /// A UUID.
    pub cluster_id: String,
    /// The node's id there.
    pub node_id: u64,
    /// The node's name.
    pub name: String,
}

/// The answer to a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferAnswer {
    /// The old leader.
    pub from: Leader,
    /// The new leader.
    pub to: Leader,
    /// How long it took.
    pub took_ms: u64,
}

/// `POST /v1/cluster/leave`, `/remove`, `/promote` and `/demote`. Each says what shall be and may be repeated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipRequest {
    /// Node id or name. Only `leave` does without: then the answering node leaves.
    #[serde(default)]
    pub node: Option<String>,
    /// Also if the cluster survives less failures than before. What would stop it is refused in any case.
    #[serde(default)]
    pub force: bool,
}

/// It is as asked for, or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipAnswer {
    /// Raft node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// It is so now.
    pub done: bool,
    /// It was so before.
    pub already: bool,
    /// What is waited for, if it is not so yet: autopilot does it then.
    pub pending: Option<String>,
    /// Voters now.
    pub voters: u64,
    /// How many of them may fail.
    pub failure_tolerance: u64,
}

/// `POST /v1/cluster/snapshot`: the answering node builds a snapshot of its state for itself, so that its log can be purged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotAnswer {
    /// Last log index in the snapshot.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file, hex.
    pub sha256: String,
}

/// `GET /v1/cluster/digest[?index=N]`: a hash of the replicated state, equal on every node at the same index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestAnswer {
    /// The log index the digest was taken at.
    pub index: u64,
    /// SHA-256 over every record, hex.
    pub digest: String,
}

/// `POST /v1/cluster/compare`: the states of all members at one log index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareAnswer {
    /// Where in the log they were compared.
    pub index: u64,
    /// When.
    pub at: String,
    /// All that are known are the same.
    pub same: bool,
    /// The digest that a majority of the voters holds; `null`: none has a majority.
    pub agreed: Option<String>,
    /// Every member.
    pub members: Vec<ComparedMember>,
}

/// One member in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedMember {
    /// Raft node id.
    pub id: u64,
    /// Configured name.
    pub name: String,
    /// Whether it counts for the majority.
    pub voter: bool,
    /// SHA-256 over every record, hex; `null`: it did not tell.
    pub digest: Option<String>,
    /// Why it did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// It is fenced, and answers nobody.
    pub fenced: bool,
}

/// An error of Konsul's own endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What, which, and what to do next.
    pub error: String,
}
