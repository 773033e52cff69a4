//! A state that nobody serves: filled to see whether it can be, then thrown away.

use super::env::{self, EnvError, EnvOptions};
use konsul_state::{StateError, Store};
use std::io;
use std::path::{Path, PathBuf};

/// The address space of a scratch state; the file is as large as what is in it.
const MAP_BYTES_MAX: usize = 64 << 30;

/// A scratch state that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    #[error("make the scratch directory {path}")]
    MakeDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open a scratch state")]
    Env {
        #[source]
        source: EnvError,
    },
    #[error("open the tables of a scratch state")]
    Tables {
        #[source]
        source: StateError,
    },
}

/// An empty state in a directory of its own, which is gone with this value.
#[derive(Debug)]
pub struct Scratch {
    store: Option<Store>,
    path: PathBuf,
}

impl Scratch {
    /// Below `dir`, which must exist.
    pub fn make(dir: &Path) -> Result<Scratch, ScratchError> {
        let path = dir.join(format!("konsul-scratch-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).map_err(|source| ScratchError::MakeDir { path: path.clone(), source })?;
        // From here on the directory is removed, whatever fails.
        let mut scratch = Scratch { store: None, path };
        let options = EnvOptions { map_bytes_max: MAP_BYTES_MAX, readers_max: 16, durable: false };
        let env = env::open(&scratch.path, &options).map_err(|source| ScratchError::Env { source })?;
        scratch.store = Some(Store::open(env).map_err(|source| ScratchError::Tables { source })?);
        Ok(scratch)
    }

    /// Its tables.
    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("there from the end of `make` until it is dropped")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.store = None;
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a scratch directory was not removed");
        }
    }
}
