//! Cluster versions: what may be in the log, and what every member therefore has to understand.
//!
//! | version | since it, the log may hold |
//! |---|---|
//! | 1 | everything of before there were versions |
//! | 2 | check points ([`crate::Command::CheckPoint`]), and a cluster version ([`crate::Command::Upgrade`]) |
//!
//! What members say to each other keeps to it as well: since version 2 a leader may say that it is cut off.
//!
//! A program understands a range of them, and at each writes what the oldest program of that version can read. Nobody
//! raises the version but people, when every member understands the next one. It never goes down: then older programs
//! could meet what they do not understand.

use crate::codec::{DecodeError, Reader, Writer};
use crate::schema::{Store, TableId, sm};
use crate::writes::Writes;
use crate::{Outcome, StateError, View};

/// The oldest cluster version that this program takes part in.
pub const VERSION_MIN: u32 = 1;
/// The newest one. A new cluster begins with it.
pub const VERSION_MAX: u32 = 2;

/// Since this version the log may hold check points.
pub const VERSION_OF_CHECK_POINTS: u32 = 2;

/// Since this version a leader may say with its appends that it misses its majority.
pub const VERSION_OF_CUT_OFF: u32 = 2;

/// What a cluster has from this version on, in words; `None`: it is from before, or not known to this program.
pub fn version_brings(version: u32) -> Option<&'static str> {
    match version {
        VERSION_OF_CHECK_POINTS => Some(
            "the states of all nodes are compared, and one that deviates is fenced; who hears only a leader that is cut off is not ready",
        ),
        _ => None,
    }
}

/// Raises the version, if it is lower; whether it was.
pub(crate) fn raise(w: &mut Writes<'_>, to: u32) -> Result<Outcome, StateError> {
    check(to)?;
    if read(w.tables.sm.get(&w.txn, sm::CLUSTER_VERSION)?)? >= to {
        return Ok(Outcome::Written(false));
    }
    let mut record = Writer::new();
    record.u64(u64::from(to));
    w.tables.sm.put(&mut w.txn, sm::CLUSTER_VERSION, &record.into_vec())?;
    w.changes.cluster = true;
    Ok(Outcome::Written(true))
}

/// Whether this program understands what a cluster of this version may hold.
pub(crate) fn check(version: u32) -> Result<(), StateError> {
    if version <= VERSION_MAX {
        return Ok(());
    }
    Err(StateError::Version { found: version, known: VERSION_MAX })
}

/// The same of the record as it is in a snapshot.
pub(crate) fn check_record(record: &[u8]) -> Result<(), StateError> {
    check(read(Some(record))?)
}

/// A state from before there were versions has none.
fn read(record: Option<&[u8]>) -> Result<u32, StateError> {
    let Some(record) = record else { return Ok(VERSION_MIN) };
    let decode = || {
        let mut from = Reader::new(record);
        let version = from.u32("cluster version")?;
        from.end("cluster version")?;
        Ok::<u32, DecodeError>(version)
    };
    decode().map_err(|e| TableId::Sm.damaged(e))
}

impl Store {
    /// Refuses a state of a cluster version that this program does not understand.
    pub(crate) fn check_version(&self) -> Result<(), StateError> {
        self.view()?.cluster_version().and_then(check)
    }
}

impl View {
    /// The cluster version: what the log may hold.
    pub fn cluster_version(&self) -> Result<u32, StateError> {
        read(self.store.tables.sm.get(&self.txn, sm::CLUSTER_VERSION)?)
    }
}
