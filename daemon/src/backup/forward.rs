//! A restored state as the beginning of a cluster that goes on: every index in it is one that nobody has seen.
//!
//! Whoever watched the lost cluster may have seen indexes beyond the archive's. So the new log begins far behind it, and
//! every key is put anew, in the way of a restore into a running cluster, at the first index of that log.

use super::restore::KeyEntry;
use konsul_state::{Command, Index, Outcome, Restore, StateError, Store};

/// More entries than any cluster writes between two archives that somebody still goes back to.
const LEAP: u64 = 1_000_000;
/// Bytes of keys and values of one transaction.
const STAGE_BYTES_MAX: usize = 4 << 20;

/// A state that was not carried forward.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("write the restored state")]
    State(#[from] StateError),
    #[error("the restored state answers {outcome}; this is a defect of this program")]
    Unexpected { outcome: String },
}

/// The first index of the log that goes on from `archived`.
pub fn leap(archived: u64) -> Index {
    Index::new(archived.saturating_add(LEAP))
}

/// What a state was carried forward to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Of the node that was admitted.
    pub node_id: u64,
    /// The last index that was used.
    pub last: Index,
}

/// Puts every key anew, at indexes from `first` on, and admits a node of this name.
pub fn carry_forward(store: &Store, first: Index, name: &str) -> Result<Forwarded, ForwardError> {
    let id = *uuid::Uuid::new_v4().as_bytes();
    let mut log = Log { store, next: first };
    log.apply(&Command::Restore(Restore::Begin { id }))?;
    let view = store.view()?;
    let entries = view.key_count()?;
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    view.kv_each(b"", |entry| {
        bytes += entry.key.len() + entry.value.len();
        chunk.push(KeyEntry::of(&entry));
        if bytes < STAGE_BYTES_MAX {
            return Ok::<(), ForwardError>(());
        }
        bytes = 0;
        log.stage(id, &std::mem::take(&mut chunk))
    })?;
    log.stage(id, &chunk)?;
    drop(view);
    log.apply(&Command::Restore(Restore::Commit { id, entries }))?;
    let last = log.next;
    match log.apply(&Command::Admit { wished: 0, name })? {
        Outcome::Admitted { node_id } => Ok(Forwarded { node_id, last }),
        other => Err(ForwardError::Unexpected { outcome: format!("{other:?}") }),
    }
}

/// Applies commands as a log would, each at an index of its own.
struct Log<'s> {
    store: &'s Store,
    next: Index,
}

impl Log<'_> {
    fn stage(&mut self, id: [u8; 16], chunk: &[KeyEntry]) -> Result<(), ForwardError> {
        let entries = chunk.iter().map(KeyEntry::staged).collect();
        self.apply(&Command::Restore(Restore::Stage { id, entries })).map(drop)
    }

    fn apply(&mut self, command: &Command<'_>) -> Result<Outcome, ForwardError> {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        let mut batch = self.store.batch()?;
        let outcome = batch.apply(self.next, &bytes)?;
        batch.commit()?;
        self.next = Index::new(self.next.get() + 1);
        match outcome {
            Outcome::Refused(why) => Err(ForwardError::Unexpected { outcome: why }),
            done => Ok(done),
        }
    }
}
