//! What a batch holds while it runs: the write transaction, the table indexes, the changes, and how to take them back.
//!
//! Table indexes live in memory and are written once per batch. A transaction of the log that fails is undone from a
//! list of old records: one copy per write. LMDB's nested transactions would copy every page they touch instead.

use crate::codec::{DecodeError, Reader, Writer};
use crate::schema::{Store, TableId, Tables, sm};
use crate::{Changes, Index, StateError};
use heed::{RoTxn, RwTxn};

const HEADS_VERSION: u8 = 1;

/// The newest index of each table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heads {
    /// Newest write of an entry.
    pub(crate) kv: u64,
    /// Newest deletion.
    pub(crate) tombstones: u64,
    /// No list index is lower: the newest deletion whose tombstone was reaped.
    pub(crate) floor: u64,
}

impl Heads {
    pub(crate) fn load(tables: &Tables, txn: &RoTxn<'_>) -> Result<Heads, StateError> {
        match tables.sm.get(txn, sm::HEADS)? {
            Some(record) => Heads::decode(record).map_err(|e| TableId::Sm.damaged(e)),
            None => Ok(Heads::default()),
        }
    }

    fn store(self, tables: &Tables, txn: &mut RwTxn<'_>) -> Result<(), StateError> {
        let mut out = Writer::new();
        out.u8(HEADS_VERSION);
        for index in [self.kv, self.tombstones, self.floor] {
            out.u64(index);
        }
        tables.sm.put(txn, sm::HEADS, &out.into_vec())
    }

    fn decode(record: &[u8]) -> Result<Heads, DecodeError> {
        let mut from = Reader::new(record);
        from.version("heads version", HEADS_VERSION)?;
        let heads = Heads {
            kv: from.u64("kv index")?,
            tombstones: from.u64("tombstones index")?,
            floor: from.u64("index floor")?,
        };
        from.end("heads")?;
        Ok(heads)
    }

    /// The index of the whole table.
    pub(crate) fn table(&self) -> u64 {
        self.kv.max(self.tombstones).max(self.floor)
    }
}

/// The log index of the last command applied to what `txn` sees.
pub(crate) fn applied(tables: &Tables, txn: &RoTxn<'_>) -> Result<Index, StateError> {
    let Some(record) = tables.sm.get(txn, sm::APPLIED)? else {
        return Ok(Index::ZERO);
    };
    let bytes = record.try_into().map_err(|_| TableId::Sm.damaged(DecodeError::Invalid { what: "applied index" }))?;
    Ok(Index::new(u64::from_le_bytes(bytes)))
}

/// What one write transaction has done so far.
pub(crate) struct Writes<'s> {
    pub(crate) tables: Tables,
    pub(crate) txn: RwTxn<'s>,
    pub(crate) heads: Heads,
    /// How many tombstones there are: a write of a new key looks for one only if there are any.
    pub(crate) tombstone_count: u64,
    pub(crate) changes: Changes,
    pub(crate) undo: Option<Undo>,
    stored_heads: Heads,
}

/// How things were before the command.
pub(crate) struct Undo {
    heads: Heads,
    tombstone_count: u64,
    changed_keys: usize,
    records: Vec<OldRecord>,
}

struct OldRecord {
    table: TableId,
    key: Box<[u8]>,
    value: Option<Box<[u8]>>,
}

impl Undo {
    /// Keeps the value `key` had; to be called before each write.
    pub(crate) fn remember(&mut self, table: TableId, key: &[u8], value: Option<&[u8]>) {
        self.records.push(OldRecord { table, key: key.into(), value: value.map(Into::into) });
    }
}

impl<'s> Writes<'s> {
    pub(crate) fn begin(store: &'s Store) -> Result<Writes<'s>, StateError> {
        let txn = store.write_txn()?;
        let tables = store.tables;
        let heads = Heads::load(&tables, &txn)?;
        let tombstone_count = tables.tombstones.len(&txn)?;
        let changes = Changes::default();
        Ok(Writes { tables, txn, heads, tombstone_count, changes, undo: None, stored_heads: heads })
    }

    /// From here on everything can be taken back.
    pub(crate) fn start_undoable(&mut self) {
        assert!(self.undo.is_none(), "a command is undone as a whole");
        self.undo = Some(Undo {
            heads: self.heads,
            tombstone_count: self.tombstone_count,
            changed_keys: self.changes.keys.len(),
            records: Vec::new(),
        });
    }

    /// Keeps what was done since [`Writes::start_undoable`], or takes it back.
    pub(crate) fn end_undoable(&mut self, keep: bool) -> Result<(), StateError> {
        let undo = self.undo.take().expect("started by the same command");
        if keep {
            return Ok(());
        }
        self.heads = undo.heads;
        self.tombstone_count = undo.tombstone_count;
        self.changes.keys.truncate(undo.changed_keys);
        // Newest first: a key written twice ends with its oldest value.
        for old in undo.records.into_iter().rev() {
            let table = self.tables.at(old.table);
            match old.value {
                Some(value) => table.put(&mut self.txn, &old.key, &value)?,
                None => {
                    table.delete(&mut self.txn, &old.key)?;
                }
            }
        }
        Ok(())
    }

    /// Makes everything visible.
    pub(crate) fn commit(mut self) -> Result<Changes, StateError> {
        assert!(self.undo.is_none(), "a command is undone or kept before the commit");
        if self.heads != self.stored_heads {
            self.heads.store(&self.tables, &mut self.txn)?;
        }
        self.txn.commit().map_err(|source| StateError::Commit { source })?;
        Ok(self.changes)
    }
}
