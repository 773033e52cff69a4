//! The audit: who did what, from where, and what came of it. The newest [`AUDIT_ROWS_MAX`] rows are kept.
//!
//! A row's key is the log index of its command and its number within it, so that rows are in the order of the log and
//! whoever reads on from one he has seen misses none.

use crate::codec::{DecodeError, Reader, Writer};
use crate::schema::{TableId, Tables};
use crate::writes::Writes;
use crate::{AuditEvent, Index, Outcome, StateError, View};
use heed::RoTxn;
use std::ops::Bound;

/// Beyond this the oldest rows go. About 200 bytes each.
pub const AUDIT_ROWS_MAX: u64 = 10_000;
/// The most events one command may carry.
pub const AUDIT_EVENTS_MAX: usize = 256;
/// The longest text of an event, in bytes.
pub const AUDIT_TEXT_BYTES_MAX: usize = 512;

const RECORD_VERSION: u8 = 1;
const KEY_BYTES: usize = 10;

/// A row's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditId {
    /// The log index of its command.
    pub index: u64,
    /// Its number among the rows of that command.
    pub seq: u16,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditRow<'v> {
    /// Its place.
    pub id: AuditId,
    /// What happened.
    pub event: AuditEvent<'v>,
}

impl AuditId {
    fn key(self) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(&self.index.to_be_bytes());
        key[8..].copy_from_slice(&self.seq.to_be_bytes());
        key
    }

    fn of_key(key: &[u8]) -> Result<AuditId, DecodeError> {
        let mut from = Reader::new(key);
        let index = u64::from_be_bytes(from.array("audit index")?);
        let seq = u16::from_be_bytes(from.array("audit number")?);
        from.end("audit key")?;
        Ok(AuditId { index, seq })
    }
}

/// The row of a record.
pub(crate) fn decode<'t>(key: &[u8], record: &'t [u8]) -> Result<AuditRow<'t>, DecodeError> {
    let id = AuditId::of_key(key)?;
    let mut from = Reader::new(record);
    from.version("audit record version", RECORD_VERSION)?;
    let event = AuditEvent::decode(&mut from)?;
    from.end("audit record")?;
    Ok(AuditRow { id, event })
}

/// Events that are reported by themselves.
pub(crate) fn apply(w: &mut Writes<'_>, index: Index, events: &[AuditEvent<'_>]) -> Result<Outcome, StateError> {
    if events.len() > AUDIT_EVENTS_MAX {
        return Ok(Outcome::Refused(format!("{} events; at most {AUDIT_EVENTS_MAX} at a time", events.len())));
    }
    if let Some(bytes) = events.iter().flat_map(|e| e.texts()).map(str::len).find(|n| *n > AUDIT_TEXT_BYTES_MAX) {
        let why = format!("a text of an event is {bytes} bytes long; the longest has {AUDIT_TEXT_BYTES_MAX}");
        return Ok(Outcome::Refused(why));
    }
    append(w, index, events)?;
    Ok(Outcome::None)
}

/// Appends the rows of the command at `index`, and drops the oldest beyond the bound. Commands of a group share an index,
/// and their rows its numbers: of the bytes an entry may have, so many rows do not come that the numbers would end.
pub(crate) fn append(w: &mut Writes<'_>, index: Index, events: &[AuditEvent<'_>]) -> Result<(), StateError> {
    let Some(first) = next_seq(w, index)? else { return Ok(()) };
    for (seq, event) in (first..=u16::MAX).zip(events) {
        let mut record = Writer::new();
        record.u8(RECORD_VERSION);
        event.encode(&mut record);
        w.tables.audit.append(&mut w.txn, &AuditId { index: index.get(), seq }.key(), &record.into_vec())?;
    }
    let mut rows = w.tables.audit.len(&w.txn)?;
    while rows > AUDIT_ROWS_MAX {
        let Some((oldest, _)) = w.tables.audit.first(&w.txn)? else {
            return Err(TableId::Audit.damaged(DecodeError::Invalid { what: "number of rows" }));
        };
        let oldest = oldest.to_vec();
        w.tables.audit.delete(&mut w.txn, &oldest)?;
        rows -= 1;
    }
    Ok(())
}

fn next_seq(w: &Writes<'_>, index: Index) -> Result<Option<u16>, StateError> {
    let Some((key, _)) = w.tables.audit.last(&w.txn)? else { return Ok(Some(0)) };
    let last = AuditId::of_key(key).map_err(|e| TableId::Audit.damaged(e))?;
    Ok(if last.index == index.get() { last.seq.checked_add(1) } else { Some(0) })
}

fn rows<'t>(
    tables: &Tables,
    txn: &'t RoTxn<'_>,
    after: Option<AuditId>,
    limit: usize,
) -> Result<Vec<AuditRow<'t>>, StateError> {
    let row = |record: Result<(&'t [u8], &'t [u8]), StateError>| {
        record.and_then(|(key, value)| decode(key, value).map_err(|e| TableId::Audit.damaged(e)))
    };
    match after {
        Some(after) => {
            let key = after.key();
            tables.audit.range(txn, Bound::Excluded(&key))?.take(limit).map(row).collect()
        }
        None => {
            let mut newest = tables.audit.backwards(txn)?.take(limit).map(row).collect::<Result<Vec<_>, _>>()?;
            newest.reverse();
            Ok(newest)
        }
    }
}

impl View {
    /// Up to `limit` rows, oldest first: those behind `after`, or the newest.
    pub fn audit(&self, after: Option<AuditId>, limit: usize) -> Result<Vec<AuditRow<'_>>, StateError> {
        rows(&self.store.tables, &self.txn, after, limit)
    }
}
