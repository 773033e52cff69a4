//! `/v1/cluster/ca`: the cluster's own authority, and replacing it.

use serde::{Deserialize, Serialize};

/// What an authority is for right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaStage {
    /// Signs.
    Active,
    /// Will sign as soon as every member trusts it.
    Next,
    /// Signs no more; trusted until no member uses a certificate of it.
    Retiring,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaAuthority {
    /// Counts up from 1.
    pub number: u64,
    /// What it is for.
    pub stage: CaStage,
    /// SHA-256 of its certificate, hex.
    pub fingerprint: String,
    /// Valid from then on.
    pub not_before: String,
    /// Valid until then.
    pub not_after: String,
    /// The id of the key that its own key is sealed under.
    pub sealing_key: String,
    /// Whether the answering node has that key, and so can sign.
    pub can_sign: bool,
}

/// A member that the replacement of the authority waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaWaiting {
    /// Its node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What it lacks.
    pub why: String,
}

/// `GET /v1/cluster/ca`: the authorities as the answering node trusts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// Oldest first; more than one while the authority is being replaced.
    pub authorities: Vec<CaAuthority>,
    /// Whether the authority is being replaced.
    pub rotating: bool,
    /// For whom that waits; `null` if the leader, who knows, could not be asked.
    pub waiting: Option<Vec<CaWaiting>>,
}

/// `POST /v1/cluster/ca/rotate`: the replacement has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRotation {
    /// The number of the authority that is on its way in.
    pub number: u64,
}

/// The answering node's own certificate, in its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCertificate {
    /// Valid from then on.
    pub not_before: String,
    /// Valid until then.
    pub not_after: String,
    /// Seconds until it expires; 0: it has.
    pub expires_in_s: u64,
    /// Which of the cluster's authorities signed it; `null`: one that people keep.
    pub authority: Option<u64>,
}
