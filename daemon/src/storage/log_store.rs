//! The raft log as openraft sees it: appends go to the writer thread, reads come from memory or from disk.
//!
//! Everything that openraft may ask back at once (the vote, where the log ends) is kept in memory and changed before
//! the writer thread is told, so a reader never sees less than was submitted.

use super::log_state::{Shared, Tables, parse_record};
use super::log_writer::Op;
use super::tail::weight;
use crate::raft_types::{Entry, IOFlushed, LogId, LogState, TypeConfig, Vote};
use crate::systemd::Watched;
use heed::{Env, WithoutTls};
use openraft::storage::RaftLogStorage;
use openraft::{OptionalSend, RaftLogReader};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, mpsc};
use std::time::SystemTime;
use tokio::sync::oneshot;

/// The log of this node.
#[derive(Clone)]
pub struct LogStore {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::SyncSender<Op>,
    pub(super) reader: LogReader,
}

/// Reads the log; may be cloned to any thread.
#[derive(Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
    pub(super) env: Env<WithoutTls>,
    pub(super) tables: Tables,
    /// Bytes one replication message carries at most; the only byte limit openraft's replication has.
    pub(super) payload_bytes_max: usize,
}

impl LogStore {
    /// Writes a record of the metadata table durably.
    pub(super) async fn put_meta(&self, key: &'static str, value: Vec<u8>) -> io::Result<()> {
        self.ask(|done| Op::Meta { key, value, done }).await
    }

    /// The vote that was saved last.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.shared.lock().vote
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shared.lock().last.is_none()
    }

    /// The last index that openraft said is committed. It says so before it applies anything of it.
    pub fn committed_index(&self) -> u64 {
        self.shared.committed_index()
    }

    /// Bytes of the log's file that are in use.
    pub fn file_bytes_used(&self) -> u64 {
        let pages = self.reader.env.info().last_page_number + 1;
        u64::try_from(pages).expect("a page count fits 64 bits") * 4096
    }

    /// When openraft said that this entry is committed, if that is known.
    pub fn committed_at(&self, index: u64) -> Option<SystemTime> {
        self.shared.commits.of(index).map(|(_, ended)| ended)
    }

    /// Pages of the log's file that hold nothing.
    pub fn free_pages(&self) -> heed::Result<u64> {
        let (env, tables) = (&self.reader.env, &self.reader.tables);
        let txn = env.read_txn()?;
        let stats = [env.unnamed_database_stat(), tables.log.stat(&txn)?, tables.meta.stat(&txn)?];
        // Two more say where everything is.
        let used = stats.iter().fold(2, |sum, stat| sum + stat.branch_pages + stat.leaf_pages + stat.overflow_pages);
        let free = (env.info().last_page_number + 1).saturating_sub(used);
        Ok(u64::try_from(free).expect("a page count fits 64 bits"))
    }

    /// Writes what is still only in memory and ends the writer thread.
    pub async fn close(&self) -> io::Result<()> {
        self.ask(|done| Op::Close { done }).await
    }

    async fn ask(&self, op: impl FnOnce(oneshot::Sender<io::Result<()>>) -> Op) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(op(done))?;
        answer.await.map_err(|_| self.stopped())?
    }

    /// The writer thread, for those who see to it that it makes progress.
    pub fn watched(&self) -> Watched {
        let (pulse, queue) = (Arc::clone(&self.shared.pulse), self.queue.clone());
        let asked = Arc::clone(&pulse);
        let poke = move || {
            asked.ask();
            if queue.try_send(Op::Poke).is_err() {
                asked.done(1);
            }
        };
        Watched { pulse, poke: Box::new(poke) }
    }

    fn send(&self, op: Op) -> io::Result<()> {
        self.shared.pulse.ask();
        self.queue.send(op).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> io::Error {
        let failed = self.shared.lock().failed.clone();
        io::Error::other(failed.unwrap_or_else(|| "the log writer was closed".to_owned()))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState, io::Error> {
        let inner = self.shared.lock();
        Ok(LogState { last_purged_log_id: inner.last_purged, last_log_id: inner.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.ask(|done| Op::Vote { vote, done }).await?;
        self.shared.lock().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.lock().committed.0)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut inner = self.shared.lock();
            for entry in &entries {
                inner.tail.push(entry.clone());
                inner.last = Some(entry.log_id);
            }
            if let Some(last) = entries.last() {
                self.shared.take_in(&mut inner, last.log_id.index);
            }
        }
        self.send(Op::Append { entries, done: callback })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        {
            let mut inner = self.shared.lock();
            inner.tail.truncate_after(last_log_id.map(|id| id.index));
            inner.taken.clear();
            inner.last = last_log_id.min(inner.last).max(inner.last_purged);
        }
        self.ask(|done| Op::Truncate { after: last_log_id, done }).await?;
        // Only now: until the transaction is committed, the writer may still report older entries as durable.
        let mut inner = self.shared.lock();
        inner.durable = inner.durable.min(last_log_id.map_or(0, |id| id.index));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut inner = self.shared.lock();
            inner.last_purged = inner.last_purged.max(Some(log_id));
            inner.last = inner.last.max(inner.last_purged);
            inner.tail.purge(log_id.index);
        }
        self.send(Op::Purge { upto: log_id })
    }
}

impl LogReader {
    /// Entries `[start, end)` up to `bytes_max` bytes (at least one, if there is one).
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let (tail_first, mut newest) = {
            let inner = self.shared.lock();
            let first = inner.tail.first();
            match first {
                Some(first) if first <= start => return Ok(inner.tail.range(start, end, bytes_max)),
                Some(first) if first < end => (first, inner.tail.range(first, end, bytes_max)),
                Some(_) | None => (end, Vec::new()),
            }
        };
        let (mut entries, complete) = self.read_disk(start, tail_first.min(end), bytes_max)?;
        if complete {
            let mut bytes: usize = entries.iter().map(weight).sum();
            newest.retain(|entry| {
                bytes += weight(entry);
                bytes <= bytes_max
            });
            entries.append(&mut newest);
        }
        Ok(entries)
    }

    /// As [`LogReader::read`], and whether the byte budget was not used up.
    fn read_disk(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<(Vec<Entry>, bool)> {
        let txn = self.env.read_txn().map_err(io::Error::other)?;
        let (from, to) = (start.to_be_bytes(), end.to_be_bytes());
        let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for found in self.tables.log.range(&txn, &range).map_err(io::Error::other)? {
            let (key, record) = found.map_err(io::Error::other)?;
            let entry = parse_record(key, record).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Some(last) = entries.last() {
                assert!(
                    entry.log_id.index == last.log_id.index + 1,
                    "log has a hole: {} after {}",
                    entry.log_id.index,
                    last.log_id.index
                );
            }
            if bytes > 0 && bytes + weight(&entry) > bytes_max {
                return Ok((entries, false));
            }
            bytes += weight(&entry);
            entries.push(entry);
        }
        Ok((entries, true))
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, self.payload_bytes_max)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.lock().vote)
    }
}
