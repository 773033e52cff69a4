//! How far an import has come, beside the imported file, so that it can go on after it was stopped.

use crate::file::WholeFile;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often it is written at most: each time costs a sync, and what it does not yet tell is only imported again.
const EVERY: Duration = Duration::from_millis(500);

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    version: u32,
    /// Entries the server has confirmed, without a gap from the first.
    confirmed: u64,
    /// Size of the imported file: another one would be resumed in the wrong place.
    size: u64,
    prefix: String,
}

/// The state of one import.
pub(super) struct ProgressFile {
    path: PathBuf,
    progress: Progress,
    written: Instant,
}

impl ProgressFile {
    /// The state beside `file`; with `resume` it goes on where the last import stopped.
    pub(super) fn open(file: &str, prefix: &str, resume: bool) -> anyhow::Result<Self> {
        let size = fs::metadata(file).with_context(|| format!("read {file}"))?.len();
        let path = PathBuf::from(format!("{file}.import-state"));
        let fresh = Progress { version: 1, confirmed: 0, size, prefix: prefix.to_owned() };
        let old = if resume { read(&path)? } else { None };
        let progress = match old {
            None => fresh,
            Some(old) if old.size != size => {
                bail!("{file} has changed since the import stopped; start again without --resume")
            }
            Some(old) if old.prefix != prefix => {
                bail!("the import that stopped had --prefix '{}'; resume it with the same", old.prefix)
            }
            Some(old) => old,
        };
        Ok(Self { path, progress, written: Instant::now() })
    }

    /// Entries that need not be imported again.
    pub(super) fn confirmed(&self) -> u64 {
        self.progress.confirmed
    }

    /// Notes that the server has confirmed that many entries.
    pub(super) fn confirm(&mut self, confirmed: u64) -> anyhow::Result<()> {
        self.progress.confirmed = confirmed;
        if self.written.elapsed() < EVERY {
            return Ok(());
        }
        self.write()
    }

    /// Keeps the state for a later `--resume`.
    pub(super) fn write(&mut self) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(&self.progress).context("encode the import's state")?;
        let mut file = WholeFile::create(&self.path)?;
        file.write(&bytes)?;
        file.finish()?;
        self.written = Instant::now();
        Ok(())
    }

    /// Where it is kept.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The import is complete: nothing is left to resume.
    pub(super) fn remove(self) -> anyhow::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("remove {}", self.path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Progress>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    let progress: Progress =
        serde_json::from_slice(&bytes).with_context(|| format!("read {}; remove it to start again", path.display()))?;
    if progress.version != 1 {
        bail!("{} was written by another version; remove it to start again", path.display());
    }
    Ok(Some(progress))
}
