//! Deleted keys, so that the index of a prefix never goes back.
//!
//! A tombstone is (key, index of the deletion). It goes when the key comes back, because the new entry's index is higher,
//! or when it is reaped; reaping raises the floor under every list index, so that also then no index goes back.
//! There are at most [`TOMBSTONES_MAX`]: beyond, the oldest are reaped, at the same log index on every node.

use crate::codec::{DecodeError, Reader};
use crate::schema::{TableId, Tables};
use crate::writes::Writes;
use crate::{Index, StateError};
use heed::RoTxn;

/// Beyond this the oldest are reaped. Each costs about two keys and 40 bytes.
pub(crate) const TOMBSTONES_MAX: u64 = 100_000;

/// The newest deletion under `prefix`.
pub(crate) fn newest_under(tables: &Tables, txn: &RoTxn<'_>, prefix: &[u8]) -> Result<Option<u64>, StateError> {
    let mut newest = None;
    for record in tables.tombstones.under(txn, prefix)? {
        let (_, value) = record?;
        newest = newest.max(Some(decode(value)?));
    }
    Ok(newest)
}

/// Notes that `key`, or everything that starts with it, was deleted. It has no tombstone: it was there until now, or
/// [`drop_under`] went before.
pub(crate) fn bury(w: &mut Writes<'_>, index: Index, key: &[u8]) -> Result<(), StateError> {
    w.heads.tombstones = index.get();
    let order = order_key(index.get(), key);
    if let Some(undo) = &mut w.undo {
        undo.remember(TableId::Tombstones, key, None);
        undo.remember(TableId::TombstonesByIndex, &order, None);
    }
    w.tables.tombstones.put(&mut w.txn, key, &index.get().to_be_bytes())?;
    w.tables.tombstones_by_index.put(&mut w.txn, &order, &[])?;
    w.tombstone_count += 1;
    Ok(())
}

/// Drops the tombstone of a key that is there again.
pub(crate) fn drop_for(w: &mut Writes<'_>, key: &[u8]) -> Result<(), StateError> {
    if w.tombstone_count == 0 {
        return Ok(());
    }
    let Some(value) = w.tables.tombstones.get(&w.txn, key)? else {
        return Ok(());
    };
    let order = order_key(decode(value)?, key);
    if let Some(undo) = &mut w.undo {
        undo.remember(TableId::Tombstones, key, Some(value));
        undo.remember(TableId::TombstonesByIndex, &order, Some(&[]));
    }
    w.tables.tombstones.delete(&mut w.txn, key)?;
    w.tables.tombstones_by_index.delete(&mut w.txn, &order)?;
    w.tombstone_count -= 1;
    Ok(())
}

/// Drops every tombstone under a tree that goes as a whole: an older one inside would now be the newest a list sees.
pub(crate) fn drop_under(w: &mut Writes<'_>, prefix: &[u8]) -> Result<(), StateError> {
    let keys = w.tables.tombstones.under(&w.txn, prefix)?.map(|record| record.map(|(key, _)| key.to_vec()));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    keys.iter().try_for_each(|key| drop_for(w, key))
}

/// Reaps the oldest until at most `max` are left.
pub(crate) fn reap_beyond(w: &mut Writes<'_>, max: u64) -> Result<(), StateError> {
    while w.tombstone_count > max {
        let Some((order, _)) = w.tables.tombstones_by_index.first(&w.txn)? else {
            return Err(TableId::TombstonesByIndex.damaged(DecodeError::Invalid { what: "number of tombstones" }));
        };
        let order = order.to_vec();
        let mut from = Reader::new(&order);
        let index = from.array("deletion index").map_err(|e| TableId::TombstonesByIndex.damaged(e))?;
        w.heads.floor = w.heads.floor.max(u64::from_be_bytes(index));
        w.tables.tombstones.delete(&mut w.txn, from.rest())?;
        w.tables.tombstones_by_index.delete(&mut w.txn, &order)?;
        w.tombstone_count -= 1;
    }
    Ok(())
}

/// Forgets all: whoever does so gives every entry a new index.
pub(crate) fn clear(w: &mut Writes<'_>) -> Result<(), StateError> {
    w.tables.tombstones.clear(&mut w.txn)?;
    w.tables.tombstones_by_index.clear(&mut w.txn)?;
    w.tombstone_count = 0;
    Ok(())
}

fn order_key(index: u64, key: &[u8]) -> Vec<u8> {
    [&index.to_be_bytes(), key].concat()
}

fn decode(value: &[u8]) -> Result<u64, StateError> {
    let index = value.try_into().map_err(|_| TableId::Tombstones.damaged(DecodeError::Invalid { what: "index" }))?;
    Ok(u64::from_be_bytes(index))
}
