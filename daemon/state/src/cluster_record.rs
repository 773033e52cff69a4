//! The cluster's own small records: opaque here, each with one owner who knows what it means.
//!
//! Written by compare-and-set on the modify index only, so that two owners who decide at the same time do not undo each
//! other's decision.

use crate::codec::{DecodeError, Reader};
use crate::schema::{KEY_BYTES_MAX, TableId};
use crate::writes::Writes;
use crate::{Index, Outcome, StateError, View};

/// The largest record in bytes.
pub const RECORD_BYTES_MAX: usize = 256 << 10;

const RECORD_VERSION: u8 = 1;

/// (value, modify index) of a record.
pub(crate) fn decode(record: &[u8]) -> Result<(&[u8], Index), DecodeError> {
    let mut from = Reader::new(record);
    from.version("cluster record version", RECORD_VERSION)?;
    let modify_index = u64::from_le_bytes(from.array("modify index")?);
    Ok((from.rest(), Index::new(modify_index)))
}

/// Writes the record if its modify index is `expected`; 0 = if it is absent.
pub(crate) fn apply(
    w: &mut Writes<'_>,
    index: Index,
    key: &[u8],
    value: &[u8],
    expected: u64,
) -> Result<Outcome, StateError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Ok(Outcome::Refused(format!("the name of a record has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len())));
    }
    if value.len() > RECORD_BYTES_MAX {
        let why = format!("a record of {} bytes; the largest has {RECORD_BYTES_MAX}", value.len());
        return Ok(Outcome::Refused(why));
    }
    let old = w.tables.records.get(&w.txn, key)?.map(decode).transpose().map_err(|e| TableId::Records.damaged(e))?;
    if old.map_or(0, |(_, modified)| modified.get()) != expected {
        return Ok(Outcome::Written(false));
    }
    let parts: [&[u8]; 3] = [&[RECORD_VERSION], &index.get().to_le_bytes(), value];
    w.tables.records.put_parts(&mut w.txn, key, &parts)?;
    w.changes.cluster = true;
    Ok(Outcome::Written(true))
}

impl View {
    /// The cluster's own record of this name, and the index of its last change.
    pub fn record(&self, key: &[u8]) -> Result<Option<(&[u8], Index)>, StateError> {
        let record = self.store.tables.records.get(&self.txn, key)?;
        record.map(decode).transpose().map_err(|e| TableId::Records.damaged(e))
    }
}
