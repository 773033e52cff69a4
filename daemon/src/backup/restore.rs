//! Replacing the content of a running cluster: staged through the log, put in place by one entry, on all nodes at once.
//!
//! What a restore brings back is what users keep here. The cluster's own records (members, authority, tokens, audit) are
//! of the cluster that runs, and stay.

use crate::raft::{Consensus, ProposeError};
use crate::telemetry::events;
use konsul_state::{Command, Entry, Index, Outcome, Restore, StagedEntry, StateError, Store};
use tokio::sync::mpsc;

/// Entries of one log entry, in bytes of keys and values.
const STAGE_BYTES_MAX: usize = 256 * 1024;
/// Chunks that wait for the log.
const CHUNKS_WAITING_MAX: usize = 2;

/// An entry on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub flags: u64,
    pub lock_index: u64,
    pub create_index: u64,
}

impl KeyEntry {
    /// As the state has it.
    pub(super) fn of(entry: &Entry<'_>) -> KeyEntry {
        KeyEntry {
            key: entry.key.to_vec(),
            value: entry.value.to_vec(),
            flags: entry.flags,
            lock_index: entry.lock_index,
            create_index: entry.create_index.get(),
        }
    }

    /// As it goes into the log.
    pub(super) fn staged(&self) -> StagedEntry<'_> {
        StagedEntry {
            key: &self.key,
            value: &self.value,
            flags: self.flags,
            create_index: self.create_index,
            lock_index: self.lock_index,
        }
    }
}

/// A restore that did not come about. Nothing was replaced, unless the outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("write a step of the restore")]
    Propose {
        #[source]
        source: ProposeError,
    },
    #[error("{why}")]
    Refused { why: String },
    #[error("a step of the restore has the outcome {outcome}; this is a defect of this program")]
    Unexpected { outcome: String },
    #[error("read the entries to restore: {why}")]
    Source { why: String },
}

/// What was put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    pub entries: u64,
    /// The log entry that did it: the modify index of every key.
    pub index: Index,
}

/// Whoever takes the entries has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Gathers entries into chunks for the log; for a thread that may block.
#[derive(Debug)]
pub struct Chunker {
    sender: mpsc::Sender<Result<Vec<KeyEntry>, String>>,
    chunk: Vec<KeyEntry>,
    bytes: usize,
}

/// Chunks of entries, or why there are no more.
pub type Chunks = mpsc::Receiver<Result<Vec<KeyEntry>, String>>;

impl Chunker {
    /// And its other end.
    pub fn channel() -> (Chunker, Chunks) {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        (Chunker { sender, chunk: Vec::new(), bytes: 0 }, receiver)
    }

    pub fn put(&mut self, entry: KeyEntry) -> Result<(), Gone> {
        self.bytes += entry.key.len() + entry.value.len();
        self.chunk.push(entry);
        if self.bytes < STAGE_BYTES_MAX { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<(), Gone> {
        self.bytes = 0;
        self.sender.blocking_send(Ok(std::mem::take(&mut self.chunk))).map_err(|_| Gone)
    }

    /// Everything was put, or something failed.
    pub fn end(mut self, read: Result<(), String>) {
        let sent = match read {
            Ok(()) if self.chunk.is_empty() => Ok(()),
            Ok(()) => self.send(),
            Err(why) => self.sender.blocking_send(Err(why)).map_err(|_| Gone),
        };
        match sent {
            // Whoever took them has said why it takes no more.
            Ok(()) | Err(Gone) => {}
        }
    }
}

/// Sends every entry of a restored state.
pub fn entries_of(store: &Store, mut to: Chunker) {
    /// The walk ends early when nobody takes the entries, and that is no error of the state.
    enum Stop {
        State(StateError),
        Gone,
    }
    impl From<StateError> for Stop {
        fn from(error: StateError) -> Stop {
            Stop::State(error)
        }
    }
    let walked = store
        .view()
        .map_err(Stop::State)
        .and_then(|view| view.kv_each(b"", |entry| to.put(KeyEntry::of(&entry)).map_err(|Gone| Stop::Gone)));
    match walked {
        Ok(()) => to.end(Ok(())),
        Err(Stop::State(error)) => to.end(Err(crate::telemetry::chain(&error))),
        Err(Stop::Gone) => {}
    }
}

/// Puts the entries, of which there are this many, in place of everything.
pub async fn replace(consensus: &Consensus, entries: u64, chunks: Chunks) -> Result<Replaced, RestoreError> {
    let id = *uuid::Uuid::new_v4().as_bytes();
    step(consensus, Restore::Begin { id }).await?;
    let done = match stage(consensus, id, chunks).await {
        Ok(()) => step(consensus, Restore::Commit { id, entries }).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &done {
        tracing::warn!(%error, "restore failed; what was staged is dropped");
        if let Err(error) = step(consensus, Restore::Abort { id }).await {
            tracing::warn!(%error, "what a failed restore staged stays until the next restore begins");
        }
    }
    let (entries, index) = done?;
    let message_id = events::RESTORED;
    tracing::info!(message_id, entries, index = index.get(), "restored: everything was replaced");
    Ok(Replaced { entries, index })
}

async fn stage(consensus: &Consensus, id: [u8; 16], mut chunks: Chunks) -> Result<(), RestoreError> {
    let mut staged = 0;
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|why| RestoreError::Source { why })?;
        let entries = chunk.iter().map(KeyEntry::staged).collect();
        let (total, _) = step(consensus, Restore::Stage { id, entries }).await?;
        staged += u64::try_from(chunk.len()).expect("usize is at most 64 bits");
        if total != staged {
            let why =
                format!("restore failed: {total} entries are staged instead of {staged}; is another one running?");
            return Err(RestoreError::Refused { why });
        }
    }
    Ok(())
}

/// One step of the restore; how many entries there are after it, and its log index.
async fn step(consensus: &Consensus, step: Restore<'_>) -> Result<(u64, Index), RestoreError> {
    let committed = consensus.propose(&Command::Restore(step)).await;
    let committed = committed.map_err(|source| RestoreError::Propose { source })?;
    match committed.outcome {
        Outcome::Restored { entries } => Ok((entries, committed.index)),
        Outcome::None => Ok((0, committed.index)),
        Outcome::Refused(why) => Err(RestoreError::Refused { why }),
        other @ (Outcome::Written(_)
        | Outcome::Txn(_)
        | Outcome::Batch { .. }
        | Outcome::Admitted { .. }
        | Outcome::TokenUsed(_)
        | Outcome::Group(_)) => Err(RestoreError::Unexpected { outcome: format!("{other:?}") }),
    }
}
