//! The one thread that writes the raft environment: votes, entries, truncations, purges and metadata, in order.
//!
//! It drains its queue into one transaction, commits (one flush), then answers all of it. There is no timer: batches
//! form by themselves while the previous commit flushes.  Knows nothing about: what an entry means, who leads.

use super::codec;
use super::log_state::{Shared, Tables, record_crc};
use super::prezero::Prezero;
use crate::raft_types::{Entry, IOFlushed, LogId, Vote};
use crate::telemetry::events;
use heed::{Env, PutFlags, RwTxn, WithoutTls};
use konsul_state::Writer;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::sync::oneshot;

/// What the thread is asked to do. Order is what makes it safe: a vote is durable before an entry of its term.
pub(super) enum Op {
    Append {
        entries: Vec<Entry>,
        done: IOFlushed,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Removes entries behind `after` (`None`: all).
    Truncate {
        after: Option<LogId>,
        done: oneshot::Sender<io::Result<()>>,
    },
    Purge {
        upto: LogId,
    },
    /// A record of the metadata table.
    Meta {
        key: &'static str,
        value: Vec<u8>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Writes what only rides on other transactions, then ends the thread.
    Close {
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Nothing: whoever asks wants to see that the thread answers.
    Poke,
}

/// Keys of the metadata table.
pub(super) mod meta {
    pub(in crate::storage) const VOTE: &str = "vote";
    pub(in crate::storage) const COMMITTED: &str = "committed";
    pub(in crate::storage) const LAST_PURGED: &str = "last_purged";
    pub(in crate::storage) const FORMAT: &str = "format";
    pub(in crate::storage) const IDENTITY: &str = "identity";
    pub(in crate::storage) const SNAPSHOT: &str = "snapshot";
}

/// One transaction holds at most this much, so that the first caller of a long queue does not wait for the last.
const BATCH_ENTRIES_MAX: usize = 4096;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Purging is folded into other transactions in slices: 100,000 at once would stall appends for 0.3 s.
const PURGE_SLICE: u64 = 1000;

pub(super) struct LogWriter {
    env: Env<WithoutTls>,
    tables: Tables,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Op>,
    prezero: Prezero,
    /// Entries up to here shall go; slices of it ride on other transactions.
    purge_upto: Option<LogId>,
    /// Entries up to here are gone; `None`: not looked yet.
    purged: Option<u64>,
    scratch: Vec<u8>,
}

enum Done {
    Flushed(IOFlushed),
    Answer(oneshot::Sender<io::Result<()>>),
}

/// What one transaction collected.
#[derive(Default)]
struct Collected {
    done: Vec<Done>,
    ops: u64,
    entries: usize,
    bytes: usize,
    last: Option<u64>,
    close: bool,
}

fn index_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(key.try_into().expect("the scan at the start refuses other keys"))
}

impl LogWriter {
    /// `purge_upto`: what an earlier run was told to purge, perhaps not finished.
    pub(super) fn new(
        env: Env<WithoutTls>,
        tables: Tables,
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Op>,
        prezero: Prezero,
        purge_upto: Option<LogId>,
    ) -> LogWriter {
        LogWriter { env, tables, shared, queue, prezero, purge_upto, purged: None, scratch: Vec::new() }
    }

    /// Runs until it is closed or a write fails. After a failure nothing is acknowledged any more: what the page
    /// cache holds after a failed flush cannot be trusted, so the process has to end.
    pub(super) fn run(self) {
        let pulse = Arc::clone(&self.shared.pulse);
        pulse.is_mine();
        self.work();
        // It ends because it is told to, or because the node ends.
        pulse.retire();
    }

    fn work(mut self) {
        loop {
            let first = if self.purge_pending() {
                match self.queue.try_recv() {
                    Ok(op) => Some(op),
                    Err(mpsc::TryRecvError::Empty) => None,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            } else {
                let Ok(op) = self.queue.recv() else { return };
                Some(op)
            };
            if matches!(first, Some(Op::Poke)) {
                self.shared.pulse.done(1);
                continue;
            }
            match self.batch(first) {
                Ok(true) => return,
                Ok(false) => {}
                Err((error, done)) => return self.fail(&error, done),
            }
        }
    }

    fn purge_pending(&self) -> bool {
        self.purge_upto.is_some_and(|upto| self.purged.is_none_or(|purged| upto.index > purged))
    }

    /// One transaction; `true` if the thread shall end.
    fn batch(&mut self, first: Option<Op>) -> Result<bool, (io::Error, Vec<Done>)> {
        let mut got = Collected::default();
        let started = Instant::now();
        let env = self.env.clone();
        let written = env.write_txn().and_then(|mut txn| {
            let mut next = first;
            while let Some(op) = next.take() {
                got.ops += 1;
                self.put(&mut txn, op, &mut got)?;
                let full = got.entries >= BATCH_ENTRIES_MAX || got.bytes >= BATCH_BYTES_MAX || got.close;
                next = if full { None } else { self.queue.try_recv().ok() };
            }
            self.put_committed(&mut txn)?;
            self.purge_slice(&mut txn)?;
            self.shared.pulse.io(|| txn.commit())
        });
        if let Err(error) = written {
            return Err((io::Error::other(error), got.done));
        }
        self.shared.metrics.log_fsync_seconds.observe(started.elapsed().as_secs_f64());
        if let Some(last) = got.last {
            self.shared.set_durable(last);
        }
        for done in got.done {
            match done {
                Done::Flushed(callback) => callback.io_completed(Ok(())),
                // Whoever asked may have gone; what was asked is done all the same.
                Done::Answer(to) => drop(to.send(Ok(()))),
            }
        }
        self.shared.pulse.done(got.ops);
        // Ahead of need, and never between a caller and its answer.
        let (prezero, env) = (&mut self.prezero, &self.env);
        if let Err(error) = self.shared.pulse.io(|| prezero.ahead(env)) {
            tracing::warn!(%error, "cannot extend the log file ahead of use; commits will be slower");
        }
        Ok(got.close)
    }

    fn put(&mut self, txn: &mut RwTxn<'_>, op: Op, got: &mut Collected) -> heed::Result<()> {
        match op {
            Op::Append { entries, done } => {
                // Answered even if a put fails: it is in the list before the first one.
                got.done.push(Done::Flushed(done));
                for entry in &entries {
                    self.put_entry(txn, entry)?;
                    got.bytes += self.scratch.len();
                    got.last = Some(entry.log_id.index);
                }
                got.entries += entries.len();
            }
            Op::Vote { vote, done } => {
                got.done.push(Done::Answer(done));
                let mut out = Writer::new();
                out.u8(codec::FORMAT);
                codec::put_vote(&mut out, &vote);
                self.tables.meta.put(txn, meta::VOTE.as_bytes(), &out.into_vec())?;
            }
            Op::Truncate { after, done } => {
                got.done.push(Done::Answer(done));
                let from = after.map_or(0, |id| id.index + 1).to_be_bytes();
                let range = (Bound::Included(&from[..]), Bound::Unbounded);
                self.tables.log.delete_range(txn, &range)?;
            }
            Op::Purge { upto } => {
                self.put_log_id(txn, meta::LAST_PURGED, &upto)?;
                self.purge_upto = Some(upto);
            }
            Op::Meta { key, value, done } => {
                got.done.push(Done::Answer(done));
                self.tables.meta.put(txn, key.as_bytes(), &value)?;
            }
            Op::Close { done } => {
                got.done.push(Done::Answer(done));
                got.close = true;
            }
            Op::Poke => {}
        }
        Ok(())
    }

    fn put_entry(&mut self, txn: &mut RwTxn<'_>, entry: &Entry) -> heed::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut out = Writer::over(scratch);
        codec::put_entry(&mut out, entry);
        let mut record = out.into_vec();
        let crc = record_crc(entry.log_id.index, &record);
        record.extend_from_slice(&crc.to_le_bytes());
        let key = entry.log_id.index.to_be_bytes();
        // APPEND: an entry out of order is an error, not a silent hole.
        let put = self.tables.log.put_with_flags(txn, PutFlags::APPEND, &key, &record);
        self.scratch = record;
        put
    }

    /// The commit index costs nothing: it rides on a transaction that is written anyway.
    fn put_committed(&mut self, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let Some(committed) = self.shared.take_committed() else { return Ok(()) };
        self.put_log_id(txn, meta::COMMITTED, &committed)
    }

    fn put_log_id(&self, txn: &mut RwTxn<'_>, key: &str, id: &LogId) -> heed::Result<()> {
        let mut out = Writer::new();
        out.u8(codec::FORMAT);
        codec::put_log_id(&mut out, id);
        self.tables.meta.put(txn, key.as_bytes(), &out.into_vec())
    }

    fn purge_slice(&mut self, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let Some(upto) = self.purge_upto else { return Ok(()) };
        // Where the log begins is only known to the table after a start.
        let first = match self.purged {
            Some(purged) => purged + 1,
            None => self.tables.log.first(txn)?.map_or(upto.index + 1, |(key, _)| index_of(key)),
        };
        if first > upto.index {
            self.purged = Some(upto.index);
            return Ok(());
        }
        let end = upto.index.min(first + PURGE_SLICE);
        let upper = end.to_be_bytes();
        self.tables.log.delete_range(txn, &(Bound::Unbounded, Bound::Included(&upper[..])))?;
        self.purged = Some(end);
        Ok(())
    }

    fn fail(self, error: &io::Error, done: Vec<Done>) {
        let message_id = events::LOG_FAILED;
        tracing::error!(message_id, %error, "cannot write the raft log; nothing is acknowledged any more, the node stops");
        self.shared.fail(error);
        for done in done {
            let told = io::Error::other(error.to_string());
            match done {
                Done::Flushed(callback) => callback.io_completed(Err(told)),
                // Whoever asked may have gone; the node stops all the same.
                Done::Answer(to) => drop(to.send(Err(told))),
            }
        }
    }
}
