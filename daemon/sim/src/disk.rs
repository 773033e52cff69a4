//! The disk of one node: what is written is on it some time later, in order, and what is not on it yet is lost when the
//! power goes.

use crate::mutant::Mutant;
use crate::types::{Entry, LogId, Records, SimTypes, SnapshotMeta, Vote, now, sleep, spawn};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft_rt_sim::SimInstant;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long one synchronised write takes.
const SYNC: Duration = Duration::from_micros(700);
/// With [`Mutant::TellsBeforeSync`], how long what was told takes to be true.
const LATE: Duration = Duration::from_millis(400);

/// What a log holds.
#[derive(Debug, Clone, Default)]
struct Content {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

/// A write on its way to the disk.
#[derive(Debug)]
enum Write {
    Append(Vec<Entry>),
    Vote(Vote),
    TruncateAfter(Option<LogId>),
    Purge(LogId),
}

impl Content {
    fn take(&mut self, write: Write) {
        match write {
            Write::Append(entries) => self.entries.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry))),
            Write::Vote(vote) => self.vote = Some(vote),
            Write::TruncateAfter(last) => {
                let from = last.map_or(0, |id| id.index + 1);
                self.entries.split_off(&from);
            }
            Write::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
        }
    }
}

#[derive(Debug)]
struct Inner {
    /// As openraft sees it.
    seen: Content,
    /// As it is on the disk.
    on_disk: Content,
    snapshot: Option<(SnapshotMeta, Arc<Records>)>,
    /// How often the node was started; whoever is of an earlier life writes nothing.
    life: u64,
    /// When the last write will be on the disk.
    busy_until: Option<SimInstant>,
    slow: u32,
}

/// Outlives the node that uses it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    inner: Arc<Mutex<Inner>>,
    mutant: Mutant,
}

impl Disk {
    pub(crate) fn new(mutant: Mutant) -> Disk {
        let inner = Inner {
            seen: Content::default(),
            on_disk: Content::default(),
            snapshot: None,
            life: 0,
            busy_until: None,
            slow: 1,
        };
        Disk { inner: Arc::new(Mutex::new(inner)), mutant }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }

    /// The power goes: only what is on the disk is left. The log of the next life.
    pub(crate) fn next_life(&self) -> (Log, u64) {
        let mut inner = self.lock();
        inner.life += 1;
        inner.seen = inner.on_disk.clone();
        inner.busy_until = None;
        (Log { disk: self.clone(), life: inner.life }, inner.life)
    }

    /// Writes take this many times as long.
    pub(crate) fn slow_down(&self, times: u32) {
        self.lock().slow = times;
    }

    pub(crate) fn snapshot(&self) -> Option<(SnapshotMeta, Arc<Records>)> {
        self.lock().snapshot.clone()
    }

    /// Snapshots are complete or not there.
    pub(crate) fn put_snapshot(&self, meta: SnapshotMeta, records: Arc<Records>) {
        self.lock().snapshot = Some((meta, records));
    }
}

/// The log of one life of a node.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    disk: Disk,
    life: u64,
}

impl Log {
    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.life == self.life { Ok(inner) } else { Err(io::Error::other("the power is gone")) }
    }

    /// Begins to write; when it will be on the disk.
    fn begin(&self, late: Duration) -> io::Result<SimInstant> {
        let mut inner = self.alive()?;
        let begin = inner.busy_until.map_or_else(now, |busy| busy.max(now()));
        let done = begin + SYNC * inner.slow + late;
        inner.busy_until = Some(done);
        Ok(done)
    }

    async fn end(&self, done: SimInstant, write: Write) -> io::Result<()> {
        sleep(done - now()).await;
        self.alive()?.on_disk.take(write);
        Ok(())
    }

    async fn write(&self, write: Write) -> io::Result<()> {
        let done = self.begin(Duration::ZERO)?;
        self.end(done, write).await
    }
}

impl RaftLogStorage<SimTypes> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<SimTypes>, io::Error> {
        let inner = self.alive()?;
        let last = inner.seen.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: inner.seen.purged, last_log_id: last.or(inner.seen.purged) })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.alive()?.seen.vote = Some(*vote);
        if self.disk.mutant == Mutant::ForgetsVotes {
            return Ok(());
        }
        self.write(Write::Vote(*vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<SimTypes>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.alive()?.seen.take(Write::Append(entries.clone()));
        let early = self.disk.mutant == Mutant::TellsBeforeSync;
        let done = self.begin(if early { LATE } else { Duration::ZERO })?;
        let log = self.clone();
        let callback = if early {
            callback.io_completed(Ok(()));
            None
        } else {
            Some(callback)
        };
        spawn(async move {
            let ended = log.end(done, Write::Append(entries)).await;
            if let Some(callback) = callback {
                callback.io_completed(ended);
            }
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.alive()?.seen.take(Write::TruncateAfter(last));
        self.write(Write::TruncateAfter(last)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.alive()?.seen.take(Write::Purge(upto));
        self.write(Write::Purge(upto)).await
    }
}

impl RaftLogReader<SimTypes> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        Ok(self.alive()?.seen.entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.alive()?.seen.vote)
    }
}
