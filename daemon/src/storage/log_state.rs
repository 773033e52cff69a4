//! What the log's writer thread and its readers share: where the log stands, its tables, and the form of a record.

use super::codec;
use super::moments::Moments;
use super::tail::Tail;
use crate::metrics::StorageMetrics;
use crate::raft_types::{Entry, LogId, Vote};
use crate::systemd::Pulse;
use bytes::Bytes;
use heed::Database;
use heed::types::Bytes as RawBytes;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// Appends whose time to a majority is measured at once; a leader without a majority appends more.
const TAKEN_MAX: usize = 4096;

/// The tables of the raft environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables {
    pub(super) log: Database<'static, RawBytes, RawBytes>,
    pub(super) meta: Database<'static, RawBytes, RawBytes>,
}

/// What the writer thread and the readers share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// The index of `committed`, readable without the lock.
    committed_index: AtomicU64,
    /// When what was committed.
    pub(super) commits: Moments,
    /// Of the writer thread.
    pub(super) pulse: Arc<Pulse>,
    pub(super) metrics: StorageMetrics,
}

/// What is known of the log without looking at the disk.
pub(super) struct Inner {
    pub(super) vote: Option<Vote>,
    /// As openraft last said; `true`: not yet written.
    pub(super) committed: (Option<LogId>, bool),
    pub(super) last_purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) durable: u64,
    pub(super) tail: Tail,
    pub(super) failed: Option<String>,
    /// When this node, as the leader, took which last index in, for what is not committed yet.
    pub(super) taken: VecDeque<(u64, Instant)>,
}

/// Where a log stands when it is opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Opened {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) last_purged: Option<LogId>,
    pub(super) last: Option<LogId>,
}

impl Shared {
    pub(super) fn new(opened: Opened, tail_bytes_max: usize, metrics: StorageMetrics) -> Shared {
        let durable = opened.last.map_or(0, |id| id.index);
        let committed_index = AtomicU64::new(opened.committed.map_or(0, |id| id.index));
        Shared {
            committed_index,
            commits: Moments::default(),
            pulse: Pulse::new("log-writer"),
            inner: Mutex::new(Inner {
                vote: opened.vote,
                committed: (opened.committed, false),
                last_purged: opened.last_purged,
                last: opened.last.max(opened.last_purged),
                durable,
                tail: Tail::new(tail_bytes_max),
                failed: None,
                taken: VecDeque::new(),
            }),
            metrics,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }

    /// Takes over what openraft says is committed; the writer writes it with its next transaction.
    pub(super) fn set_committed(&self, committed: Option<LogId>) {
        let index = committed.map_or(0, |id| id.index);
        let mut inner = self.lock();
        inner.committed = (committed, true);
        while inner.taken.front().is_some_and(|(last, _)| *last <= index)
            && let Some((_, since)) = inner.taken.pop_front()
        {
            self.metrics.commits.observe(since.elapsed());
        }
        drop(inner);
        self.committed_index.fetch_max(index, Ordering::SeqCst);
        self.commits.end(index, Moments::begin());
    }

    /// The time it takes to a majority counts from here, if this node leads.
    pub(super) fn take_in(&self, inner: &mut Inner, last: u64) {
        if !self.metrics.commits.count() {
            inner.taken.clear();
        } else if inner.taken.len() < TAKEN_MAX {
            inner.taken.push_back((last, Instant::now()));
        }
    }

    pub(super) fn committed_index(&self) -> u64 {
        self.committed_index.load(Ordering::SeqCst)
    }

    pub(super) fn take_committed(&self) -> Option<LogId> {
        let mut inner = self.lock();
        let (committed, new) = inner.committed;
        inner.committed.1 = false;
        committed.filter(|_| new)
    }

    pub(super) fn set_durable(&self, index: u64) {
        let mut inner = self.lock();
        inner.durable = index;
        inner.tail.shrink(index);
    }

    pub(super) fn fail(&self, error: &io::Error) {
        self.lock().failed = Some(error.to_string());
    }
}

/// A log record: the entry's bytes, then their checksum, which covers the index as well.
pub(super) fn record_crc(index: u64, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.to_be_bytes()), entry)
}

/// A log record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("log key of {len} bytes, expected 8")]
    Key { len: usize },
    #[error("log record {index} is damaged: checksum {found:08x}, expected {expected:08x}")]
    Damaged { index: u64, found: u32, expected: u32 },
    #[error("log record {index} cannot be decoded")]
    Decode {
        index: u64,
        #[source]
        source: konsul_state::DecodeError,
    },
}

/// Splits a record into the entry's bytes and their checksum, and checks it.
pub(super) fn checked_record<'r>(key: &[u8], record: &'r [u8]) -> Result<(u64, &'r [u8]), RecordError> {
    let index = u64::from_be_bytes(key.try_into().map_err(|_| RecordError::Key { len: key.len() })?);
    let Some((body, crc)) = record.split_last_chunk::<4>() else {
        return Err(RecordError::Damaged { index, found: 0, expected: record_crc(index, &[]) });
    };
    let (expected, found) = (record_crc(index, body), u32::from_le_bytes(*crc));
    if expected == found { Ok((index, body)) } else { Err(RecordError::Damaged { index, found, expected }) }
}

pub(super) fn parse_record(key: &[u8], record: &[u8]) -> Result<Entry, RecordError> {
    let (index, body) = checked_record(key, record)?;
    codec::entry(index, &Bytes::copy_from_slice(body)).map_err(|source| RecordError::Decode { index, source })
}
