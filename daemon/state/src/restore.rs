//! Replacing the whole content: staged beside it, then put in its place by one command.
//!
//! A restore never lowers an index: every entry and the table get the log index of the commit, and with it every list,
//! empty or not. So nobody who waits for a change misses the restore. Flags and create index are kept. A lock index grows
//! beyond what it was here and what it is in the archive: whoever holds a lock from before is told apart from whoever
//! takes it afterwards.

use crate::codec::{DecodeError, Reader};
use crate::command::StagedEntry;
use crate::kv::Head;
use crate::schema::{TableId, sm};
use crate::writes::Writes;
use crate::{Index, Outcome, Restore, StateError, kv, tombstone};
use std::ops::Bound;

const RECORD_VERSION: u8 = 1;
/// What is copied at a time on commit: bounds the copy's memory.
const CHUNK_ENTRIES: usize = 1_000;
const CHUNK_BYTES: usize = 4 << 20;

/// One step.
pub(crate) fn apply(w: &mut Writes<'_>, index: Index, step: &Restore<'_>) -> Result<Outcome, StateError> {
    match step {
        Restore::Begin { id } => begin(w, id),
        Restore::Stage { id, entries } => stage(w, id, entries),
        Restore::Commit { id, entries } => commit(w, index, id, *entries),
        Restore::Abort { id } => abort(w, id),
    }
}

fn begin(w: &mut Writes<'_>, id: &[u8; 16]) -> Result<Outcome, StateError> {
    w.tables.staged.clear(&mut w.txn)?;
    w.tables.sm.put(&mut w.txn, sm::RESTORE, id)?;
    Ok(Outcome::Restored { entries: 0 })
}

fn is_current(w: &Writes<'_>, id: &[u8; 16]) -> Result<bool, StateError> {
    Ok(w.tables.sm.get(&w.txn, sm::RESTORE)?.is_some_and(|current| current == id))
}

fn not_current() -> Outcome {
    Outcome::Refused("this restore is not in progress: another one began, or it ended; begin it again".to_owned())
}

fn stage(w: &mut Writes<'_>, id: &[u8; 16], entries: &[StagedEntry<'_>]) -> Result<Outcome, StateError> {
    if !is_current(w, id)? {
        return Ok(not_current());
    }
    if let Some(why) = entries.iter().find_map(|entry| kv::refusal(entry.key)) {
        return Ok(Outcome::Refused(why));
    }
    for entry in entries {
        let head = StagedHead { flags: entry.flags, create_index: entry.create_index, lock_index: entry.lock_index };
        w.tables.staged.put_parts(&mut w.txn, entry.key, &[&head.encode(), entry.value])?;
    }
    Ok(Outcome::Restored { entries: w.tables.staged.len(&w.txn)? })
}

fn commit(w: &mut Writes<'_>, index: Index, id: &[u8; 16], entries: u64) -> Result<Outcome, StateError> {
    if !is_current(w, id)? {
        return Ok(not_current());
    }
    let staged = w.tables.staged.len(&w.txn)?;
    if staged != entries {
        let why = format!("{staged} entries are staged, the archive has {entries}: nothing was restored; begin again");
        return Ok(Outcome::Refused(why));
    }
    raise_lock_indexes(w)?;
    w.tables.kv.clear(&mut w.txn)?;
    tombstone::clear(w)?;
    copy_staged(w, index)?;
    end(w)?;
    w.heads.kv = index.get();
    w.changes.all = true;
    Ok(Outcome::Restored { entries })
}

fn abort(w: &mut Writes<'_>, id: &[u8; 16]) -> Result<Outcome, StateError> {
    if !is_current(w, id)? {
        return Ok(not_current());
    }
    end(w)?;
    Ok(Outcome::Restored { entries: 0 })
}

fn end(w: &mut Writes<'_>) -> Result<(), StateError> {
    w.tables.staged.clear(&mut w.txn)?;
    w.tables.sm.delete(&mut w.txn, sm::RESTORE).map(|_was_there| ())
}

/// What is staged of a key gets the higher one of its two lock indexes.
fn raise_lock_indexes(w: &mut Writes<'_>) -> Result<(), StateError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let chunk = locked_chunk(w, after.as_deref())?;
        let Some((last, _)) = chunk.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, lock_index) in &chunk {
            let Some(staged) = w.tables.staged.get(&w.txn, key)?.map(<[u8]>::to_vec) else { continue };
            let (head, value) = decode(&staged).map_err(|e| TableId::Staged.damaged(e))?;
            let head = StagedHead { lock_index: head.lock_index.max(*lock_index), ..head };
            w.tables.staged.put_parts(&mut w.txn, key, &[&head.encode(), value])?;
        }
    }
}

/// Keys behind `after` that were ever locked, with their lock indexes, as many as one round takes.
fn locked_chunk(w: &Writes<'_>, after: Option<&[u8]>) -> Result<Vec<(Vec<u8>, u64)>, StateError> {
    let mut chunk = Vec::new();
    for record in w.tables.kv.range(&w.txn, after.map_or(Bound::Unbounded, Bound::Excluded))? {
        let (key, record) = record?;
        let (head, _) = Head::decode(record).map_err(|e| TableId::Kv.damaged(e))?;
        if head.lock_index > 0 {
            chunk.push((key.to_vec(), head.lock_index));
        }
        if chunk.len() == CHUNK_ENTRIES {
            break;
        }
    }
    Ok(chunk)
}

/// The staged records are in key order already, so the entries are appended: random puts cost ten times as much.
fn copy_staged(w: &mut Writes<'_>, index: Index) -> Result<(), StateError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let chunk = staged_chunk(w, after.as_deref(), index)?;
        let Some((last, _)) = chunk.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, record) in &chunk {
            w.tables.kv.append(&mut w.txn, key, record)?;
        }
    }
}

/// A key and its record.
type KvPair = (Vec<u8>, Vec<u8>);

/// Up to [`CHUNK_ENTRIES`] entries after a key, as records of the table `kv`.
fn staged_chunk(w: &Writes<'_>, after: Option<&[u8]>, index: Index) -> Result<Vec<KvPair>, StateError> {
    let mut chunk = Vec::with_capacity(CHUNK_ENTRIES);
    let mut bytes = 0;
    for record in w.tables.staged.range(&w.txn, after.map_or(Bound::Unbounded, Bound::Excluded))? {
        let (key, staged) = record?;
        let (head, value) = decode(staged).map_err(|e| TableId::Staged.damaged(e))?;
        let entry = [head.restored(index).encode().bytes(), value].concat();
        bytes += key.len() + entry.len();
        chunk.push((key.to_vec(), entry));
        if chunk.len() == CHUNK_ENTRIES || bytes >= CHUNK_BYTES {
            break;
        }
    }
    Ok(chunk)
}

/// What is staged beside a key's value.
#[derive(Debug, Clone, Copy)]
struct StagedHead {
    flags: u64,
    create_index: u64,
    lock_index: u64,
}

impl StagedHead {
    const BYTES: usize = 25;

    fn encode(&self) -> [u8; StagedHead::BYTES] {
        let mut bytes = [RECORD_VERSION; StagedHead::BYTES];
        let numbers = [self.flags, self.create_index, self.lock_index].map(u64::to_le_bytes);
        bytes[1..].copy_from_slice(numbers.as_flattened());
        bytes
    }

    /// An archive of another cluster may carry create indexes this log has not reached, or none.
    fn restored(self, index: Index) -> Head {
        let create_index = match self.create_index {
            0 => index.get(),
            known => known.min(index.get()),
        };
        let lock_index = if self.lock_index == 0 { 0 } else { self.lock_index.saturating_add(1) };
        Head { create_index, lock_index, ..Head::new(index, self.flags) }
    }
}

fn decode(staged: &[u8]) -> Result<(StagedHead, &[u8]), DecodeError> {
    let mut from = Reader::new(staged);
    from.version("staged record version", RECORD_VERSION)?;
    let head = StagedHead {
        flags: u64::from_le_bytes(from.array("flags")?),
        create_index: u64::from_le_bytes(from.array("create index")?),
        lock_index: u64::from_le_bytes(from.array("lock index")?),
    };
    Ok((head, from.rest()))
}
