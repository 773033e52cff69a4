//! Which nodes are meant to stay learners: a record of the replicated state. Autopilot promotes all others.
//!
//! It is written before the node becomes a learner, so that no leader ever promotes it in between.

use super::super::Consensus;
use super::super::propose::ProposeError;
use konsul_state::{Command, DecodeError, Outcome, Reader, StateError, View, Writer};
use std::collections::BTreeSet;

/// The record's key.
const KEY: &str = "learners";
const VERSION: u8 = 1;

/// The record, and the index of its last write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Learners {
    pub(super) ids: BTreeSet<u64>,
    index: u64,
}

fn encode(ids: &BTreeSet<u64>) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(VERSION);
    out.usize(ids.len());
    ids.iter().for_each(|id| out.u64(*id));
    out.into_vec()
}

fn decode(record: &[u8]) -> Result<BTreeSet<u64>, DecodeError> {
    let mut from = Reader::new(record);
    from.version("learners version", VERSION)?;
    let ids = from.list("learners", |from| from.u64("node id"))?;
    from.end("learners")?;
    Ok(ids.into_iter().collect())
}

/// Tries of a record that others write too.
const TRIES: usize = 8;

/// A record that was not written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("read the state")]
    State {
        #[source]
        source: StateError,
    },
    #[error("write the record {key:?}")]
    Propose {
        key: &'static str,
        #[source]
        source: ProposeError,
    },
    #[error("the record {key:?} was changed by others again and again; try once more")]
    Contended { key: &'static str },
    #[error("the state machine answered {outcome:?} to the record {key:?}")]
    Unexpected { key: &'static str, outcome: Outcome },
}

impl Consensus {
    /// Who is meant to stay a learner, at this moment of the state.
    pub(super) fn learners_in(&self, view: &View) -> Result<Learners, StateError> {
        let damaged = |source| StateError::Record { table: "records", source };
        match view.record(KEY.as_bytes())? {
            None => Ok(Learners::default()),
            Some((record, index)) => Ok(Learners { ids: decode(record).map_err(damaged)?, index: index.get() }),
        }
    }

    /// Those that are not retired.
    fn living_learners(&self) -> Result<Learners, StateError> {
        let view = self.inner.state.view()?;
        let mut learners = self.learners_in(&view)?;
        for id in learners.ids.clone() {
            if view.is_retired(id)? {
                learners.ids.remove(&id);
            }
        }
        Ok(learners)
    }

    /// Writes whether this node is meant to stay a learner. Ids that are retired are forgotten on the way.
    pub(super) async fn keep_learner(&self, id: u64, stays: bool) -> Result<(), RecordError> {
        for _ in 0..TRIES {
            let Learners { mut ids, index } = self.living_learners().map_err(|source| RecordError::State { source })?;
            let as_wished = if stays { !ids.insert(id) } else { !ids.remove(&id) };
            if as_wished || self.write_record(KEY, &encode(&ids), index).await? {
                return Ok(());
            }
        }
        Err(RecordError::Contended { key: KEY })
    }

    /// Writes a record if it is still the one of this index; whether it was.
    pub(super) async fn write_record(&self, key: &'static str, value: &[u8], index: u64) -> Result<bool, RecordError> {
        let command = Command::Record { key: key.as_bytes(), value, index };
        let committed = self.propose(&command).await.map_err(|source| RecordError::Propose { key, source })?;
        match committed.outcome {
            Outcome::Written(written) => Ok(written),
            outcome => Err(RecordError::Unexpected { key, outcome }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_keeps_its_bytes() {
        let ids = BTreeSet::from([3, 300]);
        let record = encode(&ids);
        assert_eq!(record, [1, 2, 3, 0xac, 2]);
        assert_eq!(decode(&record), Ok(ids));
        assert_eq!(decode(&encode(&BTreeSet::new())), Ok(BTreeSet::new()));
        assert!(decode(&[2, 0]).is_err());
        assert!(decode(&[1, 0, 0]).is_err());
    }
}
