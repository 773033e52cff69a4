//! A snapshot as openraft passes it around: a file, never its content in memory.

use std::path::PathBuf;

/// A complete, synced snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where it is. A received one lies in the snapshot directory under a temporary name until it is installed.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// SHA-256 of the whole file.
    pub sha256: [u8; 32],
}
