//! Opening LMDB environments: the only unsafe code of the daemon.

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};
use std::path::{Path, PathBuf};

/// How an environment is opened.
#[derive(Debug, Clone, Copy)]
pub struct EnvOptions {
    /// Upper bound of the file; address space, not memory.
    pub map_bytes_max: usize,
    /// Read transactions at a time.
    pub readers_max: u32,
    /// Full sync on each commit. Without it a machine stop leaves the environment silently wrong: see `recovery`.
    pub durable: bool,
}

/// An environment that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    #[error("make directory {path}")]
    MakeDir {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("open the environment in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: heed::Error,
    },
}

const TABLES_MAX: u32 = 32;

/// Opens (or makes) the environment in `path`.
#[expect(unsafe_code, reason = "LMDB maps files and trusts the process with them")]
pub(super) fn open(path: &Path, options: &EnvOptions) -> Result<Env<WithoutTls>, EnvError> {
    std::fs::create_dir_all(path).map_err(|source| EnvError::MakeDir { path: path.into(), source })?;
    let mut how = EnvOpenOptions::new().read_txn_without_tls();
    how.map_size(options.map_bytes_max).max_dbs(TABLES_MAX).max_readers(options.readers_max);
    if !options.durable {
        // SAFETY: NO_SYNC cannot corrupt what this boot sees; `recovery` throws the environment away after any other.
        // WRITE_MAP, which a stray pointer could corrupt, is never set.
        unsafe { how.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the data directory is locked by this process (`recovery::lock`), so nobody else changes the mapped file,
    // and heed refuses to open the same path twice in one process.
    unsafe { how.open(path) }.map_err(|source| EnvError::Open { path: path.into(), source })
}
