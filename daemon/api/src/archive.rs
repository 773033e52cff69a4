//! Archives of the whole state: what one says of itself, and what became of it.

use serde::{Deserialize, Serialize};

/// Of `GET /v1/cluster/archive`: [`ArchiveFacts`] as JSON, so that whoever keeps the bytes need not understand them.
pub const ARCHIVE: &str = "X-Konsul-Archive";

/// How every archive begins.
pub const MAGIC: [u8; 8] = *b"KNSLARCH";

/// What an archive says of itself, ahead of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFacts {
    /// SHA-256 of its head, hex. The head holds the hash of the content, so this names every byte.
    pub id: String,
    /// SHA-256 of the whole file, hex.
    pub sha256: String,
    /// Version of the format.
    pub format: u8,
    /// The cluster, a UUID.
    pub cluster_id: String,
    /// How often that cluster was recovered by force.
    pub epoch: u32,
    /// The log entry up to which the archive holds everything.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// When it was made: RFC 3339, UTC.
    pub created: String,
    /// Name of the node that made it.
    pub made_by: String,
    /// Version of the program that made it.
    pub version: String,
    /// Members of the cluster at that index.
    pub members: Vec<ArchivedMember>,
    /// Keys.
    pub keys: u64,
    /// Records of all tables.
    pub records: u64,
    /// Bytes of the whole archive.
    pub bytes: u64,
    /// Bytes of the records, unpacked.
    pub plain_bytes: u64,
    /// Hash of the state, as `cluster digest` has it at that index.
    pub digest: String,
}

/// A member, as an archive lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedMember {
    /// Raft node id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its address among peers.
    pub rpc: String,
    /// Whether it votes.
    pub voter: bool,
}

/// An archive that was restored on trial: every record was read back into an empty state, whose hash is the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// What the archive says of itself.
    pub archive: ArchiveFacts,
    /// Hash of the state that was restored on trial.
    pub digest: String,
    /// How long it took.
    pub took_ms: u64,
}

/// `PUT /v1/cluster/backup`: whoever keeps or verifies archives tells the cluster, whose metrics tell it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupReport {
    /// What was done, or was to be done.
    pub kind: BackupKind,
    /// It failed: the answering node counts it, with or without a leader, and the rest means nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// Index of the archive.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
    /// How long it took.
    #[serde(default)]
    pub took_ms: u64,
}

/// What was done with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// It was kept.
    Saved,
    /// It was restored on trial.
    Verified,
}

/// `GET /v1/cluster/backup`, and the answer to a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// The last archive that was kept; `null`: none was reported.
    pub saved: Option<BackupDone>,
    /// The last one that was restored on trial.
    pub verified: Option<BackupDone>,
}

/// What became of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDone {
    /// When it was reported: RFC 3339, UTC.
    pub time: String,
    /// Index of the archive.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// An archive that was restored into a host that held no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineRestoreAnswer {
    /// What was restored.
    pub archive: ArchiveFacts,
    /// The cluster, a UUID: the archive's.
    pub cluster_id: String,
    /// Its epoch from now on.
    pub epoch: u32,
    /// The node that is its only member.
    pub name: String,
    /// Its id, which no node ever had.
    pub node_id: u64,
    /// The log begins here: beyond what anybody has seen.
    pub index: u64,
}

/// `PUT /v1/cluster/archive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreAnswer {
    /// What was restored.
    pub archive: ArchiveFacts,
    /// The cluster it was restored into, a UUID.
    pub cluster_id: String,
    /// Nothing was changed: that was asked for.
    pub dry_run: bool,
    /// Keys before.
    pub keys_before: u64,
    /// Keys after.
    pub keys: u64,
    /// The log entry that put it in place; with `dry_run`: the last one that was looked at.
    pub index: u64,
}
