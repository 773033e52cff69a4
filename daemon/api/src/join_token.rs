//! `/v1/cluster/join-token`: tokens with which nodes join.

use serde::{Deserialize, Serialize};

/// What a node becomes that joins with a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinRole {
    /// It votes as soon as it has caught up and is stable.
    #[default]
    Voter,
    /// It holds the data and never votes.
    Learner,
}

/// `POST /v1/cluster/join-token`; an empty body takes every default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// How long it can be used: `90m`, `24h`. Default: `1h`; `1m` to `720h` (30 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// How many nodes may join with it. Default: 1; at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// What they become. Default: `voter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<JoinRole>,
}

/// A new token. The only answer that ever holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenAnswer {
    /// What `konsulctl cluster join` takes. A secret.
    pub token: String,
    /// Its name in lists, in the audit and for revoking it. No secret.
    pub id: String,
    /// What a node becomes that joins with it.
    pub role: JoinRole,
    /// How many nodes may join with it.
    pub uses: u32,
    /// From then on nobody joins with it.
    pub expires_at: String,
}

/// Whether nodes can join with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinTokenState {
    /// They can.
    Valid,
    /// Its time is up.
    Expired,
    /// As many as may have.
    UsedUp,
    /// Somebody revoked it.
    Revoked,
}

/// A token, as `GET /v1/cluster/join-token` lists it: without its secret, which is nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenInfo {
    /// Its name.
    pub id: String,
    /// Whether nodes can join with it, by the clock of the answering node.
    pub state: JoinTokenState,
    /// What a node becomes that joins with it.
    pub role: JoinRole,
    /// How many nodes may join with it.
    pub uses: u32,
    /// The nodes that did.
    pub used_by: Vec<JoinTokenUse>,
    /// When it was made.
    pub created_at: String,
    /// From which address.
    pub created_from: String,
    /// From then on nobody joins with it.
    pub expires_at: String,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
}

/// A node that joined with a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenUse {
    /// The node's name.
    pub name: String,
    /// From which address.
    pub from: String,
    /// When.
    pub at: String,
}

/// `DELETE /v1/cluster/join-token/<id>`: nobody joins with it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenRevoked {
    /// Which.
    pub id: String,
}
