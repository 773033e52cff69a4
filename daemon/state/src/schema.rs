//! The tables of the store and their format version.
//!
//! Every table has a number that never changes: snapshots carry it. Every operation names its table when it fails.

use crate::StateError;
use crate::codec::{DecodeError, Reader};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, PutFlags, RoTxn, RwTxn, WithoutTls};
use std::io::{self, Write};
use std::ops::Bound;

/// Longest key in bytes. LMDB could hold 1,982; the rest is room for keys that carry a prefix.
pub const KEY_BYTES_MAX: usize = 1024;

/// The format of the tables. A store of a higher format is refused.
pub(crate) const FORMAT: u8 = 1;

/// Keys of the table `sm`.
pub(crate) mod sm {
    pub(crate) const APPLIED: &[u8] = b"applied";
    pub(crate) const CLUSTER_ID: &[u8] = b"cluster_id";
    pub(crate) const CLUSTER_VERSION: &[u8] = b"cluster_version";
    pub(crate) const FORMAT: &[u8] = b"format";
    pub(crate) const HEADS: &[u8] = b"heads";
    pub(crate) const LOG_ID: &[u8] = b"log_id";
    pub(crate) const MEMBERSHIP: &[u8] = b"membership";
    pub(crate) const RESTORE: &[u8] = b"restore";
}

/// A table's name in code. The order of the variants is the order in snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TableId {
    Sm,
    Kv,
    Tombstones,
    TombstonesByIndex,
    Nodes,
    Staged,
    Tokens,
    Audit,
    Records,
}

impl TableId {
    pub(crate) const ALL: [TableId; 9] = [
        TableId::Sm,
        TableId::Kv,
        TableId::Tombstones,
        TableId::TombstonesByIndex,
        TableId::Nodes,
        TableId::Staged,
        TableId::Tokens,
        TableId::Audit,
        TableId::Records,
    ];

    pub(crate) const fn number(self) -> u8 {
        match self {
            TableId::Sm => 1,
            TableId::Kv => 2,
            TableId::Tombstones => 3,
            TableId::TombstonesByIndex => 4,
            TableId::Nodes => 5,
            TableId::Staged => 6,
            TableId::Tokens => 7,
            TableId::Audit => 8,
            TableId::Records => 9,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            TableId::Sm => "sm",
            TableId::Kv => "kv",
            TableId::Tombstones => "tombstones",
            TableId::TombstonesByIndex => "tombstones_by_index",
            TableId::Nodes => "nodes",
            TableId::Staged => "staged",
            TableId::Tokens => "tokens",
            TableId::Audit => "audit",
            TableId::Records => "records",
        }
    }

    pub(crate) fn of_number(number: u8) -> Result<TableId, StateError> {
        TableId::ALL.into_iter().find(|t| t.number() == number).ok_or(StateError::UnknownTable { table: number })
    }

    /// An error of this table's records.
    pub(crate) fn damaged(self, source: DecodeError) -> StateError {
        StateError::Record { table: self.name(), source }
    }
}

/// One table: raw bytes to raw bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    pub(crate) id: TableId,
    db: Database<'static, Bytes, Bytes>,
}

/// A key and its value, as stored.
pub(crate) type Pair<'t> = (&'t [u8], &'t [u8]);

impl Table {
    fn failed(self, op: &'static str) -> impl FnOnce(heed::Error) -> StateError {
        move |source| StateError::Table { op, table: self.id.name(), source }
    }

    /// LMDB refuses an empty key even to look it up; no table has one.
    pub(crate) fn get<'t>(self, txn: &'t RoTxn<'_>, key: &[u8]) -> Result<Option<&'t [u8]>, StateError> {
        if key.is_empty() {
            return Ok(None);
        }
        self.db.get(txn, key).map_err(self.failed("get"))
    }

    /// As [`Table::get`], with the key as it lies in the table: for whoever outlives the asker's key.
    pub(crate) fn get_pair<'t>(self, txn: &'t RoTxn<'_>, key: &[u8]) -> Result<Option<Pair<'t>>, StateError> {
        if key.is_empty() {
            return Ok(None);
        }
        let found = self.db.get_greater_than_or_equal_to(txn, key).map_err(self.failed("get"))?;
        Ok(found.filter(|(found, _)| *found == key))
    }

    pub(crate) fn put(self, txn: &mut RwTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.db.put(txn, key, value).map_err(self.failed("put"))
    }

    /// Writes `parts`, one after the other, straight into the page: no buffer in between.
    pub(crate) fn put_parts(self, txn: &mut RwTxn<'_>, key: &[u8], parts: &[&[u8]]) -> Result<(), StateError> {
        let size = parts.iter().map(|p| p.len()).sum();
        let fill = |space: &mut heed::ReservedSpace<'_>| -> io::Result<()> {
            parts.iter().try_for_each(|part| space.write_all(part))
        };
        self.db.put_reserved(txn, key, size, fill).map_err(self.failed("put"))
    }

    /// Puts behind the last key; a key that is not greater is an error.
    pub(crate) fn append(self, txn: &mut RwTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.db.put_with_flags(txn, PutFlags::APPEND, key, value).map_err(self.failed("append"))
    }

    pub(crate) fn delete(self, txn: &mut RwTxn<'_>, key: &[u8]) -> Result<bool, StateError> {
        self.db.delete(txn, key).map_err(self.failed("delete"))
    }

    pub(crate) fn clear(self, txn: &mut RwTxn<'_>) -> Result<(), StateError> {
        self.db.clear(txn).map_err(self.failed("clear"))
    }

    /// Kept by LMDB: no scan.
    pub(crate) fn len(self, txn: &RoTxn<'_>) -> Result<u64, StateError> {
        self.db.len(txn).map_err(self.failed("count"))
    }

    /// Pages of the file that hold it. Kept by LMDB: no scan.
    fn pages(self, txn: &RoTxn<'_>) -> Result<u64, StateError> {
        let stat = self.db.stat(txn).map_err(self.failed("measure"))?;
        Ok(wide(stat.branch_pages + stat.leaf_pages + stat.overflow_pages))
    }

    pub(crate) fn first<'t>(self, txn: &'t RoTxn<'_>) -> Result<Option<Pair<'t>>, StateError> {
        self.db.first(txn).map_err(self.failed("read first"))
    }

    pub(crate) fn last<'t>(self, txn: &'t RoTxn<'_>) -> Result<Option<Pair<'t>>, StateError> {
        self.db.last(txn).map_err(self.failed("read last"))
    }

    /// Records from `from` on, in key order.
    pub(crate) fn range<'t>(
        self,
        txn: &'t RoTxn<'_>,
        from: Bound<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<Pair<'t>, StateError>>, StateError> {
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (from, Bound::Unbounded);
        let iter = self.db.range(txn, &range).map_err(self.failed("scan"))?;
        Ok(iter.map(move |record| record.map_err(self.failed("scan"))))
    }

    /// Records from the last one on, backwards.
    pub(crate) fn backwards<'t>(
        self,
        txn: &'t RoTxn<'_>,
    ) -> Result<impl Iterator<Item = Result<Pair<'t>, StateError>>, StateError> {
        let iter = self.db.rev_iter(txn).map_err(self.failed("scan"))?;
        Ok(iter.map(move |record| record.map_err(self.failed("scan"))))
    }

    /// Records whose key starts with `prefix`, in key order.
    pub(crate) fn under<'t, 'p>(
        self,
        txn: &'t RoTxn<'_>,
        prefix: &'p [u8],
    ) -> Result<impl Iterator<Item = Result<Pair<'t>, StateError>> + use<'t, 'p>, StateError> {
        // LMDB cannot seek to an empty key.
        let from = if prefix.is_empty() { Bound::Unbounded } else { Bound::Included(prefix) };
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (from, Bound::Unbounded);
        let iter = self.db.range(txn, &range).map_err(self.failed("scan"))?;
        let inside =
            move |r: &Result<Pair<'t>, StateError>| r.as_ref().map_or(true, |(key, _)| key.starts_with(prefix));
        Ok(iter.map(move |record| record.map_err(self.failed("scan"))).take_while(inside))
    }

    /// Deletes every record whose key starts with `prefix`: one walk, no lookups.
    pub(crate) fn delete_under(self, txn: &mut RwTxn<'_>, prefix: &[u8]) -> Result<(), StateError> {
        let end = after_prefix(prefix);
        let from = if prefix.is_empty() { Bound::Unbounded } else { Bound::Included(prefix) };
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (from, to);
        self.db.delete_range(txn, &range).map_err(self.failed("delete range")).map(|_count| ())
    }
}

/// The first key behind everything that starts with `prefix`; none if there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// All tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) sm: Table,
    pub(crate) kv: Table,
    pub(crate) tombstones: Table,
    pub(crate) tombstones_by_index: Table,
    pub(crate) nodes: Table,
    pub(crate) staged: Table,
    pub(crate) tokens: Table,
    pub(crate) audit: Table,
    pub(crate) records: Table,
}

impl Tables {
    pub(crate) fn at(&self, id: TableId) -> Table {
        match id {
            TableId::Sm => self.sm,
            TableId::Kv => self.kv,
            TableId::Tombstones => self.tombstones,
            TableId::TombstonesByIndex => self.tombstones_by_index,
            TableId::Nodes => self.nodes,
            TableId::Staged => self.staged,
            TableId::Tokens => self.tokens,
            TableId::Audit => self.audit,
            TableId::Records => self.records,
        }
    }
}

/// The tables of one LMDB environment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) env: Env<WithoutTls>,
    pub(crate) tables: Tables,
}

impl Store {
    /// Opens the tables, making those that are missing. The environment needs `max_dbs` >= 16.
    pub fn open(env: Env<WithoutTls>) -> Result<Store, StateError> {
        let tables = create_tables(&env)?;
        let store = Store { env, tables };
        store.check_format()?;
        store.check_version()?;
        Ok(store)
    }

    /// The environment, for sizes and syncing.
    pub fn env(&self) -> &Env<WithoutTls> {
        &self.env
    }

    /// Pages of the file that hold something, as `view` sees it: those of each table, those of the table of tables, and the
    /// two that say where everything is.
    pub(crate) fn pages_in_use(&self, txn: &RoTxn<'_>) -> Result<u64, StateError> {
        let root = self.env.unnamed_database_stat();
        let around = 2 + wide(root.branch_pages + root.leaf_pages + root.overflow_pages);
        TableId::ALL.into_iter().try_fold(around, |sum, id| Ok(sum + self.tables.at(id).pages(txn)?))
    }

    pub(crate) fn write_txn(&self) -> Result<RwTxn<'_>, StateError> {
        self.env.write_txn().map_err(|source| StateError::Begin { kind: "write", source })
    }

    /// Writes the format into an empty store; refuses tables without one, because somebody stopped filling them.
    fn check_format(&self) -> Result<(), StateError> {
        let mut txn = self.write_txn()?;
        if let Some(found) = self.tables.sm.get(&txn, sm::FORMAT)? {
            return check_format(found);
        }
        for id in TableId::ALL {
            if self.tables.at(id).len(&txn)? > 0 {
                return Err(StateError::Format { found: 0, known: u64::from(FORMAT) });
            }
        }
        self.tables.sm.put(&mut txn, sm::FORMAT, &[FORMAT])?;
        txn.commit().map_err(|source| StateError::Commit { source })
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("a count fits 64 bits")
}

/// Whether this version can read a store with this format record.
pub(crate) fn check_format(record: &[u8]) -> Result<(), StateError> {
    let found = Reader::new(record).u64("format").map_err(|e| TableId::Sm.damaged(e))?;
    if found == u64::from(FORMAT) { Ok(()) } else { Err(StateError::Format { found, known: u64::from(FORMAT) }) }
}

/// A failed table keeps its name on the way through heed's closure.
struct OpenFailed(StateError);

impl From<heed::Error> for OpenFailed {
    fn from(source: heed::Error) -> Self {
        OpenFailed(StateError::Commit { source })
    }
}

fn create_tables(env: &Env<WithoutTls>) -> Result<Tables, StateError> {
    let txn = env.write_txn().map_err(|source| StateError::Begin { kind: "write", source })?;
    let handles = env.create_databases_and_commit(txn, |opener, txn| {
        let mut create = |id: TableId| {
            let failed = |source| OpenFailed(StateError::OpenTable { table: id.name(), source });
            opener.create_database::<Bytes, Bytes>(txn, Some(id.name())).map_err(failed)
        };
        Ok::<_, OpenFailed>(CommitOrAbort::<_, std::convert::Infallible>::Commit([
            create(TableId::Sm)?,
            create(TableId::Kv)?,
            create(TableId::Tombstones)?,
            create(TableId::TombstonesByIndex)?,
            create(TableId::Nodes)?,
            create(TableId::Staged)?,
            create(TableId::Tokens)?,
            create(TableId::Audit)?,
            create(TableId::Records)?,
        ]))
    });
    let [sm, kv, tombstones, tombstones_by_index, nodes, staged, tokens, audit, records] = match handles {
        Ok(CommitOrAbort::Commit(handles)) => handles,
        Ok(CommitOrAbort::Abort(never)) => match never {},
        Err(OpenFailed(error)) => return Err(error),
    };
    Ok(Tables {
        sm: Table { id: TableId::Sm, db: sm },
        kv: Table { id: TableId::Kv, db: kv },
        tombstones: Table { id: TableId::Tombstones, db: tombstones },
        tombstones_by_index: Table { id: TableId::TombstonesByIndex, db: tombstones_by_index },
        nodes: Table { id: TableId::Nodes, db: nodes },
        staged: Table { id: TableId::Staged, db: staged },
        tokens: Table { id: TableId::Tokens, db: tokens },
        audit: Table { id: TableId::Audit, db: audit },
        records: Table { id: TableId::Records, db: records },
    })
}

#[cfg(test)]
mod tests {
    use super::after_prefix;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_does_not_start_with_it() {
        assert_eq!(after_prefix(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
