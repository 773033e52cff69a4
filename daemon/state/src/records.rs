//! The whole state as a stream of records, and back: for snapshots.

use crate::codec::DecodeError;
use crate::kv::Head;
use crate::schema::{FORMAT, Store, TableId, check_format, sm};
use crate::{StateError, View, audit, cluster_record, nodes, token, version};
use heed::RwTxn;

/// What one transaction of a [`Loader`] holds at most: bounds its memory.
const COMMIT_RECORDS: u64 = 20_000;
const COMMIT_BYTES: usize = 8 << 20;

/// One record of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The table's stable number.
    pub table: u8,
    /// The key as stored.
    pub key: &'a [u8],
    /// The value as stored.
    pub value: &'a [u8],
}

impl View {
    /// Calls `each` for every record, in table and key order, until it fails.
    pub fn records<E: From<StateError>>(&self, mut each: impl FnMut(Record<'_>) -> Result<(), E>) -> Result<(), E> {
        for id in TableId::ALL {
            for record in self.store.tables.at(id).under(&self.txn, &[])? {
                let (key, value) = record?;
                each(Record { table: id.number(), key, value })?;
            }
        }
        Ok(())
    }
}

/// Fills an empty store with records in the order in which [`View::records`] gives them. A store on which it failed or
/// was dropped halfway is of no use: fill a fresh one and switch to it when it is complete.
pub struct Loader<'s> {
    store: &'s Store,
    txn: Option<RwTxn<'s>>,
    last: Option<(TableId, Vec<u8>)>,
    records: u64,
    uncommitted_records: u64,
    uncommitted_bytes: usize,
}

impl<'s> Loader<'s> {
    /// The store must be empty.
    pub fn new(store: &'s Store) -> Result<Loader<'s>, StateError> {
        let mut txn = store.write_txn()?;
        for id in TableId::ALL {
            let expected = if id == TableId::Sm { 1 } else { 0 };
            if store.tables.at(id).len(&txn)? > expected {
                return Err(StateError::NotEmpty { table: id.name() });
            }
        }
        // The format comes with the records; without it a half-filled store cannot be opened.
        store.tables.sm.clear(&mut txn)?;
        Ok(Loader { store, txn: Some(txn), last: None, records: 0, uncommitted_records: 0, uncommitted_bytes: 0 })
    }

    /// Appends one record; commits on its own every so many records, to bound memory.
    pub fn put(&mut self, record: Record<'_>) -> Result<(), StateError> {
        let id = TableId::of_number(record.table)?;
        self.check(id, &record)?;
        let mut txn = match self.txn.take() {
            Some(txn) => txn,
            None => self.store.write_txn()?,
        };
        self.store.tables.at(id).append(&mut txn, record.key, record.value)?;
        self.records += 1;
        self.uncommitted_records += 1;
        self.uncommitted_bytes += record.key.len() + record.value.len();
        if self.uncommitted_records >= COMMIT_RECORDS || self.uncommitted_bytes >= COMMIT_BYTES {
            txn.commit().map_err(|source| StateError::Commit { source })?;
            self.uncommitted_records = 0;
            self.uncommitted_bytes = 0;
        } else {
            self.txn = Some(txn);
        }
        Ok(())
    }

    /// Commits the rest; how many records were put.
    pub fn finish(mut self) -> Result<u64, StateError> {
        let txn = match self.txn.take() {
            Some(txn) => txn,
            None => self.store.write_txn()?,
        };
        if self.store.tables.sm.get(&txn, sm::FORMAT)?.is_none() {
            return Err(StateError::Format { found: 0, known: u64::from(FORMAT) });
        }
        txn.commit().map_err(|source| StateError::Commit { source })?;
        Ok(self.records)
    }

    /// What a newer version wrote is refused here, not when somebody reads it.
    fn check(&mut self, id: TableId, record: &Record<'_>) -> Result<(), StateError> {
        let is_after = match &self.last {
            Some((last_id, last_key)) => (*last_id, last_key.as_slice()) < (id, record.key),
            None => true,
        };
        if !is_after {
            return Err(StateError::Order { table: id.name() });
        }
        if id == TableId::Sm && record.key == sm::FORMAT {
            check_format(record.value)?;
        }
        if id == TableId::Sm && record.key == sm::CLUSTER_VERSION {
            version::check_record(record.value)?;
        }
        check_value(id, record).map_err(|e| id.damaged(e))?;
        match &mut self.last {
            Some((last_id, last_key)) => {
                *last_id = id;
                last_key.clear();
                last_key.extend_from_slice(record.key);
            }
            last => *last = Some((id, record.key.to_vec())),
        }
        Ok(())
    }
}

/// Whether this version can read the record.
fn check_value(id: TableId, record: &Record<'_>) -> Result<(), DecodeError> {
    match id {
        TableId::Kv => Head::decode(record.value).map(drop),
        TableId::Nodes => nodes::decode(record.key, record.value).map(drop),
        TableId::Tokens => token::decode(record.key, record.value).map(drop),
        TableId::Audit => audit::decode(record.key, record.value).map(drop),
        TableId::Records => cluster_record::decode(record.value).map(drop),
        // Their values are read by whoever wrote them, or have one form only.
        TableId::Sm | TableId::Tombstones | TableId::TombstonesByIndex | TableId::Staged => Ok(()),
    }
}
