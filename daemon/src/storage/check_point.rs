//! The digest of the state at check points of the log, taken beside the apply thread.
//!
//! The apply thread commits at the check point and opens a view there, so that every node looks at the same moment. To
//! read everything in it takes a third of a second for a million keys: that is the work of a thread of its own, and no
//! write waits for it. A check point that comes while two others are on their way is passed over.

use konsul_state::{Digest, Index, View};
use std::io;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use tokio::sync::watch;

/// The digest of the state at one log index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub index: Index,
    pub digest: Digest,
}

/// Takes digests; the newest can be asked for.
#[derive(Debug)]
pub(super) struct CheckPoints {
    views: SyncSender<(Index, View)>,
    newest: watch::Receiver<Option<Taken>>,
}

impl CheckPoints {
    /// Starts the thread; it ends when this is dropped.
    pub(super) fn start() -> io::Result<CheckPoints> {
        let (views, queue) = mpsc::sync_channel::<(Index, View)>(1);
        let (tell, newest) = watch::channel(None);
        std::thread::Builder::new().name("digest".to_owned()).spawn(move || {
            while let Ok((index, view)) = queue.recv() {
                match view.digest() {
                    Ok(digest) => {
                        tracing::debug!(index = index.get(), %digest, "digest of the state taken");
                        tell.send_replace(Some(Taken { index, digest }));
                    }
                    Err(error) => tracing::error!(index = index.get(), %error, "the state cannot be read whole"),
                }
            }
        })?;
        Ok(CheckPoints { views, newest })
    }

    /// The state is `view` at the check point `index`.
    pub(super) fn reached(&self, index: Index, view: View) {
        match self.views.try_send((index, view)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::debug!(index = index.get(), "check point passed over: others are on their way");
            }
            // It panicked, and the process is about to end.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// The newest that was taken since the start.
    pub(super) fn newest(&self) -> Option<Taken> {
        *self.newest.borrow()
    }
}
