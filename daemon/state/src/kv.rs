//! Key/value entries: their record, reading, and the five writes.

use crate::codec::{DecodeError, Reader};
use crate::schema::{KEY_BYTES_MAX, TableId, Tables};
use crate::writes::{Heads, Writes};
use crate::{Index, KvWrite, StateError, tombstone};
use heed::RoTxn;

/// One key/value entry, borrowed from the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'v> {
    /// The key.
    pub key: &'v [u8],
    /// The value.
    pub value: &'v [u8],
    /// Client flags.
    pub flags: u64,
    /// Grows with each lock.
    pub lock_index: u64,
    /// Who holds the lock.
    pub session: Option<[u8; 16]>,
    /// Log index of the creation.
    pub create_index: Index,
    /// Log index of the last change.
    pub modify_index: Index,
}

const RECORD_VERSION: u8 = 1;
/// Version, four u64, the session flag.
const HEAD_BYTES: usize = 34;
const SESSION_BYTES: usize = 16;

/// Everything of an entry but key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) flags: u64,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
    pub(crate) lock_index: u64,
    pub(crate) session: Option<[u8; SESSION_BYTES]>,
}

impl Head {
    /// The head of an entry that is new at `index`.
    pub(crate) fn new(index: Index, flags: u64) -> Head {
        Head { flags, create_index: index.get(), modify_index: index.get(), lock_index: 0, session: None }
    }

    /// The head of a record, and the value behind it.
    pub(crate) fn decode(record: &[u8]) -> Result<(Head, &[u8]), DecodeError> {
        let mut from = Reader::new(record);
        from.version("kv record version", RECORD_VERSION)?;
        let head = Head {
            flags: u64::from_le_bytes(from.array("flags")?),
            create_index: u64::from_le_bytes(from.array("create index")?),
            modify_index: u64::from_le_bytes(from.array("modify index")?),
            lock_index: u64::from_le_bytes(from.array("lock index")?),
            session: if from.bool("session flag")? { Some(from.array("session")?) } else { None },
        };
        Ok((head, from.rest()))
    }

    /// The bytes before the value.
    pub(crate) fn encode(&self) -> EncodedHead {
        let mut bytes = [0; HEAD_BYTES + SESSION_BYTES];
        bytes[0] = RECORD_VERSION;
        bytes[1..9].copy_from_slice(&self.flags.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.create_index.to_le_bytes());
        bytes[17..25].copy_from_slice(&self.modify_index.to_le_bytes());
        bytes[25..33].copy_from_slice(&self.lock_index.to_le_bytes());
        let Some(session) = self.session else {
            return EncodedHead { bytes, len: HEAD_BYTES };
        };
        bytes[33] = 1;
        bytes[HEAD_BYTES..].copy_from_slice(&session);
        EncodedHead { bytes, len: HEAD_BYTES + SESSION_BYTES }
    }
}

/// On the stack: a write allocates nothing for its record.
pub(crate) struct EncodedHead {
    bytes: [u8; HEAD_BYTES + SESSION_BYTES],
    len: usize,
}

impl EncodedHead {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

pub(crate) fn decode(record: &[u8]) -> Result<(Head, &[u8]), StateError> {
    Head::decode(record).map_err(|e| TableId::Kv.damaged(e))
}

pub(crate) fn entry<'t>(key: &'t [u8], record: &'t [u8]) -> Result<Entry<'t>, StateError> {
    let (head, value) = decode(record)?;
    Ok(Entry {
        key,
        value,
        flags: head.flags,
        lock_index: head.lock_index,
        session: head.session,
        create_index: Index::new(head.create_index),
        modify_index: Index::new(head.modify_index),
    })
}

/// The head and value of `key`.
pub(crate) fn get<'t>(tables: &Tables, txn: &'t RoTxn<'_>, key: &[u8]) -> Result<Option<(Head, &'t [u8])>, StateError> {
    tables.kv.get(txn, key)?.map(decode).transpose()
}

/// Every entry under `prefix`, in key order.
pub(crate) fn under<'t, 'p>(
    tables: &Tables,
    txn: &'t RoTxn<'_>,
    prefix: &'p [u8],
) -> Result<impl Iterator<Item = Result<Entry<'t>, StateError>> + use<'t, 'p>, StateError> {
    Ok(tables.kv.under(txn, prefix)?.map(|record| record.and_then(|(key, value)| entry(key, value))))
}

/// The index of a list whose newest entry is `newest_entry`. Never lower than before: the floor stands for tombstones
/// that are gone, and a list of nothing has the index of the table.
pub(crate) fn list_index(
    tables: &Tables,
    txn: &RoTxn<'_>,
    prefix: &[u8],
    newest_entry: Option<u64>,
) -> Result<Index, StateError> {
    let heads = Heads::load(tables, txn)?;
    let newest = match prefix {
        [] => None,
        prefix => newest_entry.max(tombstone::newest_under(tables, txn, prefix)?),
    };
    Ok(Index::new(newest.map_or_else(|| heads.table(), |n| n.max(heads.floor)).max(1)))
}

/// Why a key cannot be, if so. Log entries are for ever: apply refuses what the HTTP layer should have refused.
pub(crate) fn refusal(key: &[u8]) -> Option<String> {
    match key.len() {
        0 => Some("Must provide key".to_owned()),
        1..=KEY_BYTES_MAX => None,
        n => Some(format!("key is {n} bytes long; the longest has {KEY_BYTES_MAX}")),
    }
}

/// Why a write cannot be, if so. A prefix may be empty, and one that is too long matches nothing.
pub(crate) fn write_refusal(write: &KvWrite<'_>) -> Option<String> {
    match write {
        KvWrite::Set { key, .. } | KvWrite::Cas { key, .. } => refusal(key),
        KvWrite::Delete { key } | KvWrite::DeleteCas { key, .. } => refusal(key),
        KvWrite::DeleteTree { prefix: _ } => None,
    }
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The entry is there, with this head.
    Entry(Head),
    /// What was to be deleted is not there.
    Gone,
    /// The condition did not hold.
    Stale,
}

/// Applies one write.
pub(crate) fn write(w: &mut Writes<'_>, index: Index, write: &KvWrite<'_>) -> Result<Effect, StateError> {
    match *write {
        KvWrite::Set { key, value, flags } => set(w, index, Set { key, value, flags }, None),
        KvWrite::Cas { key, value, flags, index: expected } => set(w, index, Set { key, value, flags }, Some(expected)),
        KvWrite::Delete { key } => delete(w, index, key, None),
        KvWrite::DeleteCas { key, index: expected } => delete(w, index, key, Some(expected)),
        KvWrite::DeleteTree { prefix } => delete_tree(w, index, prefix),
    }
}

struct Set<'a> {
    key: &'a [u8],
    value: &'a [u8],
    flags: u64,
}

/// One lookup, one put. Session and lock index stay: a lock's fencing number never goes back (Consul resets it).
fn set(w: &mut Writes<'_>, index: Index, set: Set<'_>, expected: Option<u64>) -> Result<Effect, StateError> {
    let Set { key, value, flags } = set;
    let old_record = w.tables.kv.get(&w.txn, key)?;
    let old = old_record.map(decode).transpose()?;
    // Index 0 stands for: the key is absent.
    if expected.is_some_and(|e| e != old.map_or(0, |(head, _)| head.modify_index)) {
        return Ok(Effect::Stale);
    }
    let head = match old {
        Some((head, old_value)) if head.flags == flags && old_value == value => return Ok(Effect::Entry(head)),
        Some((head, _)) => Head { flags, modify_index: index.get(), ..head },
        None => Head::new(index, flags),
    };
    let is_new = old.is_none();
    if let Some(undo) = &mut w.undo {
        undo.remember(TableId::Kv, key, old_record);
    }
    w.tables.kv.put_parts(&mut w.txn, key, &[head.encode().bytes(), value])?;
    w.heads.kv = index.get();
    w.changes.keys.push(key.into());
    if is_new {
        tombstone::drop_for(w, key)?;
    }
    Ok(Effect::Entry(head))
}

fn delete(w: &mut Writes<'_>, index: Index, key: &[u8], expected: Option<u64>) -> Result<Effect, StateError> {
    let Some(old_record) = w.tables.kv.get(&w.txn, key)? else {
        return Ok(Effect::Gone);
    };
    let (head, _) = decode(old_record)?;
    if expected.is_some_and(|e| e != head.modify_index) {
        return Ok(Effect::Stale);
    }
    if let Some(undo) = &mut w.undo {
        undo.remember(TableId::Kv, key, Some(old_record));
    }
    w.tables.kv.delete(&mut w.txn, key)?;
    w.changes.keys.push(key.into());
    tombstone::bury(w, index, key)?;
    Ok(Effect::Gone)
}

/// One tombstone stands for the tree. A list deeper inside is empty now, so it has the index of the table; a list
/// further out sees the tombstone.
fn delete_tree(w: &mut Writes<'_>, index: Index, prefix: &[u8]) -> Result<Effect, StateError> {
    let keys_before = w.changes.keys.len();
    for record in w.tables.kv.under(&w.txn, prefix)? {
        let (key, value) = record?;
        w.changes.keys.push(key.into());
        if let Some(undo) = &mut w.undo {
            undo.remember(TableId::Kv, key, Some(value));
        }
    }
    if w.changes.keys.len() == keys_before {
        return Ok(Effect::Gone);
    }
    w.tables.kv.delete_under(&mut w.txn, prefix)?;
    tombstone::drop_under(w, prefix)?;
    if prefix.is_empty() {
        // Every list is empty: all have the index of the table.
        w.heads.tombstones = index.get();
    } else {
        tombstone::bury(w, index, prefix)?;
    }
    Ok(Effect::Gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written_with_and_without_a_session() {
        for session in [None, Some([7; SESSION_BYTES])] {
            let head = Head { flags: u64::MAX, create_index: 3, modify_index: 9, lock_index: 2, session };
            let record = [head.encode().bytes(), b"value"].concat();
            assert_eq!(Head::decode(&record), Ok((head, &b"value"[..])));
        }
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused() {
        let mut record = Head::new(Index::new(1), 0).encode().bytes().to_vec();
        record[0] = 2;
        let unknown = DecodeError::Unknown { what: "kv record version", found: 2, known: 1 };
        assert_eq!(Head::decode(&record), Err(unknown));
    }

    #[test]
    fn a_key_has_1_to_1024_bytes() {
        assert!(refusal(b"").is_some());
        assert!(refusal(&[b'k'; KEY_BYTES_MAX]).is_none());
        assert!(refusal(&[b'k'; KEY_BYTES_MAX + 1]).is_some());
    }
}
