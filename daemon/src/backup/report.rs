//! What became of the backups, as whoever keeps them reports it: a record of the replicated state, and metrics of it on
//! every node.
//!
//! The cluster cannot know whether an archive that it made was kept, or whether it restores: who keeps and verifies them
//! says so.

use crate::metrics::{BackupKind, BackupMetrics};
use crate::raft::{Consensus, ProposeError};
use crate::telemetry::chain;
use konsul_state::{Command, DecodeError, Outcome, Reader, StateError, View, Writer};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The record's key.
const KEY: &[u8] = b"backup";
const VERSION: u8 = 1;
/// Metrics follow the record this closely: far closer than anybody backs up.
const LOOK: Duration = Duration::from_secs(2);
/// Reports that meet each other are written one after the other.
const ATTEMPTS_MAX: usize = 10;

/// Something that was done with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// By the clock of the node that was told.
    pub time_ms: u64,
    /// The archive's.
    pub index: u64,
    pub bytes: u64,
    pub took_ms: u64,
}

/// The last of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reported {
    pub saved: Option<Done>,
    pub verified: Option<Done>,
}

/// A report that was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("read what was reported before")]
    State(#[from] StateError),
    #[error("write the report")]
    Propose(#[from] ProposeError),
    #[error("too many reports at once; try again")]
    Busy,
}

fn put(out: &mut Writer, done: Option<&Done>) {
    out.bool(done.is_some());
    if let Some(done) = done {
        [done.time_ms, done.index, done.bytes, done.took_ms].into_iter().for_each(|number| out.u64(number));
    }
}

fn done(from: &mut Reader<'_>) -> Result<Option<Done>, DecodeError> {
    if !from.bool("done")? {
        return Ok(None);
    }
    Ok(Some(Done {
        time_ms: from.u64("time")?,
        index: from.u64("index")?,
        bytes: from.u64("bytes")?,
        took_ms: from.u64("duration")?,
    }))
}

impl Reported {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        put(&mut out, self.saved.as_ref());
        put(&mut out, self.verified.as_ref());
        out.into_vec()
    }

    fn decode(record: &[u8]) -> Result<Reported, DecodeError> {
        let mut from = Reader::new(record);
        from.version("backup report version", VERSION)?;
        let reported = Reported { saved: done(&mut from)?, verified: done(&mut from)? };
        from.end("backup report")?;
        Ok(reported)
    }

    /// At one moment of the state, and the index of the last report.
    pub fn of(view: &View) -> Result<(Reported, u64), StateError> {
        let Some((record, index)) = view.record(KEY)? else { return Ok((Reported::default(), 0)) };
        let reported = Reported::decode(record).map_err(|source| StateError::Record { table: "records", source })?;
        Ok((reported, index.get()))
    }
}

/// Writes down what was done.
pub async fn report(consensus: &Consensus, kind: BackupKind, done: Done) -> Result<Reported, ReportError> {
    for _ in 0..ATTEMPTS_MAX {
        let (mut reported, index) = Reported::of(&consensus.state().view()?)?;
        match kind {
            BackupKind::Saved => reported.saved = Some(done),
            BackupKind::Verified => reported.verified = Some(done),
        }
        let value = reported.encode();
        let written = consensus.propose(&Command::Record { key: KEY, value: &value, index }).await?;
        if written.outcome == Outcome::Written(true) {
            return Ok(reported);
        }
        // Another report came first; this node may not have applied it yet.
        tokio::time::timeout(LOOK, consensus.watches().applied_at_least(written.index)).await.unwrap_or(());
    }
    Err(ReportError::Busy)
}

/// Keeps the metrics of this node at what was reported, until `stop`.
pub async fn follow(consensus: Consensus, metrics: BackupMetrics, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match consensus.state().view().and_then(|view| Reported::of(&view)) {
            Ok((Reported { saved, verified }, _)) => {
                for (kind, done) in [(BackupKind::Saved, saved), (BackupKind::Verified, verified)] {
                    if let Some(done) = done {
                        metrics.set(kind, (done.time_ms, done.took_ms), done.index, done.bytes);
                    }
                }
            }
            Err(error) => tracing::warn!(error = %chain(&error), "cannot read what was reported of backups"),
        }
        stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reported_survives_the_record() {
        let done = Done { time_ms: 1_800_000_000_000, index: 508, bytes: 12_345, took_ms: 17 };
        for reported in [
            Reported::default(),
            Reported { saved: Some(done), verified: None },
            Reported { saved: Some(done), verified: Some(Done { index: 400, ..done }) },
        ] {
            assert_eq!(Reported::decode(&reported.encode()), Ok(reported));
        }
    }
}
