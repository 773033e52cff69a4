//! The fence around a node whose state is not that of the others: a file, so that a restart does not lift it.
//!
//! It does not lie beside the state, because a state that is built anew may be built from a snapshot of the wrong one:
//! only a comparison with the others takes it down.  Knows nothing about: who compares.

use crate::durable::{self, DurableError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The file, in the data directory.
pub(super) const FENCED: &str = "FENCED";

/// Up or down, and why it is up.
#[derive(Debug)]
pub struct Fence {
    path: PathBuf,
    /// Read with every request.
    up: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Fence {
    /// As it was when the node ran last.
    pub(super) fn open(data_dir: &Path) -> io::Result<Fence> {
        let path = data_dir.join(FENCED);
        let why = match std::fs::read_to_string(&path) {
            Ok(why) => Some(why.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Fence { path, up: AtomicBool::new(why.is_some()), why: Mutex::new(why) })
    }

    /// Why it is up, if it is.
    pub fn why(&self) -> Option<String> {
        if self.is_up() { self.reason().clone() } else { None }
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.why.lock().expect("nothing panics while it holds the lock")
    }

    /// Up, at once; then on disk. What fails to be written down is up all the same, until a restart.
    pub fn put_up(&self, why: &str) -> Result<(), DurableError> {
        *self.reason() = Some(why.to_owned());
        self.up.store(true, Ordering::SeqCst);
        durable::write(&self.path, why.as_bytes())
    }

    /// Down, first on disk: a fence that comes back by itself would be in nobody's mind.
    pub fn take_down(&self) -> Result<(), DurableError> {
        durable::remove(&self.path)?;
        self.up.store(false, Ordering::SeqCst);
        *self.reason() = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_there_after_a_restart_until_it_is_taken_down() {
        let dir = tempfile::tempdir().unwrap();
        let fence = Fence::open(dir.path()).unwrap();
        assert_eq!((fence.why(), fence.is_up()), (None, false));
        fence.put_up("another state").unwrap();
        assert!(fence.is_up());
        let again = Fence::open(dir.path()).unwrap();
        assert_eq!(again.why().as_deref(), Some("another state"));
        again.take_down().unwrap();
        assert!(!again.is_up());
        assert_eq!(Fence::open(dir.path()).unwrap().why(), None);
        again.take_down().unwrap();
    }
}
