//! The consistency gate: who may read what, when.
//!
//! Waiting readers share their questions: a quorum round, or a question to the leader, answers everybody who asked
//! before it began. Who comes later joins the next one, so no reader is ever given an index older than its request.

use super::Consensus;
use super::forward::{Answer, Request};
use super::propose::millis;
use crate::telemetry::trace;
use bytes::Bytes;
use konsul_state::{Index, StateError, View};
use openraft::{LinearizerOption, ReadPolicy};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// What this node has, at once, also without a leader.
    Stale,
    /// What the leader has while its lease lasts.
    Leader,
    /// What a quorum confirms at the time of the read.
    Strong,
}

impl Consistency {
    /// In traces.
    fn word(self) -> &'static str {
        match self {
            Consistency::Stale => "stale",
            Consistency::Leader => "leader",
            Consistency::Strong => "strong",
        }
    }
}

/// The gate let this read pass. Only this module makes one.
#[derive(Debug)]
pub struct ReadPermit {
    _gate: (),
}

/// A read that is not allowed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader was found, or it lost its quorum, for this long.
    #[error("no cluster leader for {waited_ms} ms")]
    NoLeader { waited_ms: u64 },
    /// This node did not catch up with the leader in time.
    #[error("this node is at index {applied}, the read needs {needed}; waited {waited_ms} ms")]
    Behind { applied: u64, needed: u64, waited_ms: u64 },
    /// The store failed.
    #[error("read the state")]
    State {
        #[source]
        source: StateError,
    },
    /// This node is stopping.
    #[error("this node is stopping; send the request to another one")]
    Stopping,
    /// The state of this node is not that of the others: it answers nobody.
    #[error("this node is fenced: {why}; send the request to another one")]
    Fenced { why: String },
}

/// Readers that wait for the next round of one kind.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    state: Mutex<RoundState>,
}

#[derive(Debug, Default)]
struct RoundState {
    running: bool,
    waiting: Vec<oneshot::Sender<Option<Index>>>,
}

impl Rounds {
    /// Joins the next round; `true`: the caller has to start it.
    fn join(&self) -> (oneshot::Receiver<Option<Index>>, bool) {
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        state.waiting.push(tell);
        let start = !state.running;
        state.running = true;
        (told, start)
    }

    /// Who waits for the round that begins now; `None` ends the rounds.
    fn next(&self) -> Option<Vec<oneshot::Sender<Option<Index>>>> {
        let mut state = self.state.lock().expect("nothing panics while it holds the lock");
        state.running = !state.waiting.is_empty();
        state.running.then(|| std::mem::take(&mut state.waiting))
    }
}

impl Consensus {
    /// Permission to read; waits until this node may answer with this consistency, without a leader as long as
    /// `raft.hold` says.
    pub async fn permit(&self, consistency: Consistency) -> Result<ReadPermit, ReadError> {
        let reads = &self.inner.metrics.raft.reads;
        match consistency {
            Consistency::Stale => reads.stale.inc(),
            Consistency::Leader => reads.leader.inc(),
            Consistency::Strong => reads.strong.inc(),
        };
        trace::note("konsul.consistency", consistency.word());
        self.unfenced()?;
        if consistency == Consistency::Stale {
            return Ok(ReadPermit { _gate: () });
        }
        tokio::select! {
            // First: with a lease it costs a few atomics, and nobody asks further.
            biased;
            permit = self.fresh_permit(consistency) => permit,
            // Nothing is replicated to it any more: it would wait for what never comes.
            _ = self.departure() => Err(ReadError::Stopping),
        }
    }

    async fn fresh_permit(&self, consistency: Consistency) -> Result<ReadPermit, ReadError> {
        let started = Instant::now();
        let needed = match consistency {
            Consistency::Stale => return Ok(ReadPermit { _gate: () }),
            Consistency::Leader if self.inner.leadership.has_lease() => self.known_committed(),
            Consistency::Leader | Consistency::Strong => self.agreed_index(consistency, started).await?,
        };
        let watches = self.watches();
        if watches.applied() < needed {
            let left = self.inner.config.hold.saturating_sub(started.elapsed());
            if tokio::time::timeout(left, watches.applied_at_least(needed)).await.is_err() {
                let applied = watches.applied().get();
                let waited_ms = millis(started.elapsed());
                return Err(ReadError::Behind { applied, needed: needed.get(), waited_ms });
            }
        }
        Ok(ReadPermit { _gate: () })
    }

    /// As the leader with a lease: no node shows anything beyond this. Not what is applied here: a follower that applies
    /// faster shows it to a reader, who would then come here and see the past.
    fn known_committed(&self) -> Index {
        Index::new(self.inner.pool.told_committed().max(self.inner.storage.log.committed_index()))
    }

    /// From the leader, or from the quorum; without a leader it is asked for as long as `raft.hold` says.
    async fn agreed_index(&self, consistency: Consistency, started: Instant) -> Result<Index, ReadError> {
        let mut backoff = Duration::from_millis(5);
        loop {
            if let Some(index) = self.shared_read_index(consistency).await {
                return Ok(index);
            }
            let waited = started.elapsed();
            if waited >= self.inner.config.hold {
                return Err(ReadError::NoLeader { waited_ms: millis(waited) });
            }
            self.pause(&mut backoff).await;
        }
    }

    /// Whether the state may be shown at all.
    pub(super) fn unfenced(&self) -> Result<(), ReadError> {
        self.fenced().map_or(Ok(()), |why| Err(ReadError::Fenced { why }))
    }

    /// One moment of the state, allowed by the permit.
    pub fn view(&self, permit: &ReadPermit) -> Result<View, ReadError> {
        let () = permit._gate;
        // Again: a query may have waited since it was permitted.
        self.unfenced()?;
        self.inner.state.view().map_err(|source| ReadError::State { source })
    }

    /// The index from the next shared round; `None` if it could not be had now.
    async fn shared_read_index(&self, consistency: Consistency) -> Option<Index> {
        let rounds = match consistency {
            Consistency::Stale | Consistency::Leader => &self.inner.leader_rounds,
            Consistency::Strong => &self.inner.strong_rounds,
        };
        let (told, start) = rounds.join();
        if start {
            let this = self.clone();
            self.inner.tasks.spawn_on(async move { this.run_rounds(consistency).await }, &self.inner.runtime);
        }
        // The task answers everybody; a runtime that stops does not.
        told.await.unwrap_or(None)
    }

    async fn run_rounds(self, consistency: Consistency) {
        let rounds = match consistency {
            Consistency::Stale | Consistency::Leader => &self.inner.leader_rounds,
            Consistency::Strong => &self.inner.strong_rounds,
        };
        while let Some(waiting) = rounds.next() {
            let index = self.read_index(consistency).await;
            for reader in waiting {
                // A reader that went away needs no answer.
                let _ = reader.send(index);
            }
        }
    }

    async fn read_index(&self, consistency: Consistency) -> Option<Index> {
        if self.leads() { self.read_index_here(consistency).await } else { self.read_index_there(consistency).await }
    }

    /// As the leader: by the lease, or by a fresh round of the quorum.
    pub(super) async fn read_index_here(&self, consistency: Consistency) -> Option<Index> {
        if consistency != Consistency::Strong && self.inner.leadership.has_lease() {
            return Some(self.known_committed());
        }
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(self.inner.config.lease);
        let (read_log_id, _) = self.inner.raft.get_read_log_id(option).await.ok()?;
        Some(Index::new(read_log_id.index()))
    }

    async fn read_index_there(&self, consistency: Consistency) -> Option<Index> {
        let leader = self.claimed_leader()?;
        let request = Bytes::from(Request::ReadIndex { consistency }.encode());
        let limit = self.inner.config.lease * 2;
        let answer = self.inner.pool.call(leader.id, &leader.info, request, limit).await.ok()?;
        match Answer::decode(&answer) {
            Ok(Answer::ReadIndex(index)) => Some(index),
            Ok(_) | Err(_) => None,
        }
    }
}
