//! Reading: everything from one [`View`] is of one moment.

use crate::kv::{self, Entry};
use crate::schema::{Store, TableId, sm};
use crate::writes::{self, Heads};
use crate::{Index, StateError, codec::DecodeError};
use heed::{RoTxn, WithoutTls};

/// One moment of the store.
pub struct View {
    pub(crate) store: Store,
    pub(crate) txn: RoTxn<'static, WithoutTls>,
}

impl Store {
    /// One moment of the store, as of now. May be moved to another thread; hold it shortly, because pages it can
    /// see cannot be reused.
    pub fn view(&self) -> Result<View, StateError> {
        let begun = self.env.clone().static_read_txn();
        let txn = begun.map_err(|source| StateError::Begin { kind: "read", source })?;
        Ok(View { store: self.clone(), txn })
    }
}

/// Entries under a prefix.
pub struct Listed<'v> {
    /// In key order.
    pub entries: Vec<Entry<'v>>,
    /// The index of this list: never lower than before, deletions included.
    pub index: Index,
}

/// Keys under a prefix.
pub struct Keys {
    /// In key order, cut after the separator, without repeats.
    pub keys: Vec<Vec<u8>>,
    /// The index of this list.
    pub index: Index,
}

/// (log id, membership), opaque.
pub type Position<'v> = (&'v [u8], &'v [u8]);

impl View {
    /// The log index of the last command applied to this moment; zero before the first.
    pub fn applied(&self) -> Result<Index, StateError> {
        writes::applied(&self.store.tables, &self.txn)
    }

    /// The position the last batch put here: (log id, membership), opaque. The membership is empty before the first.
    pub fn position(&self) -> Result<Option<Position<'_>>, StateError> {
        let sm = self.store.tables.sm;
        let Some(log_id) = sm.get(&self.txn, sm::LOG_ID)? else {
            return Ok(None);
        };
        let membership = sm.get(&self.txn, sm::MEMBERSHIP)?.unwrap_or_default();
        Ok(Some((log_id, membership)))
    }

    /// The cluster this state belongs to.
    pub fn cluster_id(&self) -> Result<Option<[u8; 16]>, StateError> {
        let Some(record) = self.store.tables.sm.get(&self.txn, sm::CLUSTER_ID)? else {
            return Ok(None);
        };
        let id = record.try_into().map_err(|_| TableId::Sm.damaged(DecodeError::Invalid { what: "cluster id" }))?;
        Ok(Some(id))
    }

    /// How many keys there are.
    pub fn key_count(&self) -> Result<u64, StateError> {
        self.store.tables.kv.len(&self.txn)
    }

    /// Pages of the file that hold something; the others are free.
    pub fn pages_in_use(&self) -> Result<u64, StateError> {
        self.store.pages_in_use(&self.txn)
    }

    /// The entry, and the index a reader of this key shall remember: the entry's own if it is there, else that of
    /// the whole table; at least 1.
    pub fn kv_get(&self, key: &[u8]) -> Result<(Option<Entry<'_>>, Index), StateError> {
        if let Some((key, record)) = self.store.tables.kv.get_pair(&self.txn, key)? {
            let entry = kv::entry(key, record)?;
            return Ok((Some(entry), entry.modify_index));
        }
        let table = Heads::load(&self.store.tables, &self.txn)?.table();
        Ok((None, Index::new(table.max(1))))
    }

    /// Entries under a prefix.
    pub fn kv_list(&self, prefix: &[u8]) -> Result<Listed<'_>, StateError> {
        let entries = kv::under(&self.store.tables, &self.txn, prefix)?.collect::<Result<Vec<_>, _>>()?;
        let newest = entries.iter().map(|e| e.modify_index.get()).max();
        let index = kv::list_index(&self.store.tables, &self.txn, prefix, newest)?;
        Ok(Listed { entries, index })
    }

    /// Every entry under a prefix, in key order, one at a time: for whoever must not hold them all.
    pub fn kv_each<E: From<StateError>>(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        kv::under(&self.store.tables, &self.txn, prefix)?.try_for_each(|entry| each(entry?))
    }

    /// Keys under a prefix, each cut after the first `separator` found behind the prefix (empty = not cut).
    pub fn kv_keys(&self, prefix: &[u8], separator: &[u8]) -> Result<Keys, StateError> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut newest = None;
        // Every entry is read, also where many keys are cut to one: the index is that of the newest.
        for entry in kv::under(&self.store.tables, &self.txn, prefix)? {
            let entry = entry?;
            newest = newest.max(Some(entry.modify_index.get()));
            let key = cut(entry.key, prefix.len(), separator);
            if keys.last().is_none_or(|last| last != key) {
                keys.push(key.to_vec());
            }
        }
        let index = kv::list_index(&self.store.tables, &self.txn, prefix, newest)?;
        Ok(Keys { keys, index })
    }
}

/// `key` up to and with the first separator behind its first `from` bytes.
fn cut<'k>(key: &'k [u8], from: usize, separator: &[u8]) -> &'k [u8] {
    if separator.is_empty() {
        return key;
    }
    let found = key[from..].windows(separator.len()).position(|w| w == separator);
    found.map_or(key, |at| &key[..from + at + separator.len()])
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_key_is_cut_after_the_first_separator_behind_the_prefix() {
        assert_eq!(cut(b"a/b/c", 0, b"/"), b"a/");
        assert_eq!(cut(b"a/b/c", 2, b"/"), b"a/b/");
        assert_eq!(cut(b"a/b/c", 4, b"/"), b"a/b/c");
        assert_eq!(cut(b"a--b", 0, b"--"), b"a--");
        assert_eq!(cut(b"a/b", 0, b""), b"a/b");
        assert_eq!(cut(b"a", 1, b"/"), b"a");
    }
}
