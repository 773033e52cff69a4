//! Proposing: to the leader, wherever it is; the answer is committed, refused, or honestly unknown.
//!
//! A proposal is tried again only while it is surely in nobody's log: no leader known, a leader not yet acknowledged
//! after its election, a connection that could not be made. Once it may have been appended, the only honest answer
//! besides "committed" is "unknown".

use super::forward::{Answer, Request};
use super::traced;
use super::{Consensus, Peer};
use crate::metrics::{Applied, ProposalFailure};
use crate::peer::CallError;
use crate::raft_types::Proposal;
use crate::telemetry::trace::{self, Parent, SpanKind};
use bytes::Bytes;
use konsul_state::{Command, Index, KvWrite, Outcome, TokenWrite};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// A command in the log, applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its log index.
    pub index: Index,
    /// What it did.
    pub outcome: Outcome,
}

/// A command that was not committed, or perhaps was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader was found in time; surely not appended.
    #[error("no cluster leader for {waited_ms} ms")]
    NoLeader { waited_ms: u64 },
    /// The answer did not come in time: it may be committed or not, now or later.
    #[error("no answer within {waited_ms} ms; outcome unknown: read before you write again")]
    OutcomeUnknown { waited_ms: u64 },
    /// Too much is in flight; surely not appended.
    #[error("{in_flight_bytes} bytes of writes are in flight, the limit is {max_bytes}; retry in {retry_after_s} s")]
    Busy { in_flight_bytes: usize, max_bytes: usize, retry_after_s: u32 },
    /// The node takes no writes now; surely not appended.
    #[error("read-only: {reason}")]
    ReadOnly { reason: String },
    /// One command larger than the log takes.
    #[error("command of {bytes} bytes is larger than {max_bytes}")]
    TooLarge { bytes: usize, max_bytes: usize },
    /// This node is stopping; surely not appended.
    #[error("this node is stopping; send the request to another one")]
    Stopping,
}

/// One try.
pub(super) enum Tried {
    Done(Result<Committed, ProposeError>),
    /// Surely in nobody's log.
    NotAppended,
    /// Nor this: the leader is of another version.
    NotUnderstood,
}

impl Tried {
    /// In traces; `None`: it was committed.
    fn failed(&self) -> Option<&'static str> {
        match self {
            Tried::Done(Ok(_)) => None,
            Tried::Done(Err(ProposeError::OutcomeUnknown { .. })) => Some("outcome unknown"),
            Tried::Done(Err(_)) => Some("not committed"),
            Tried::NotAppended | Tried::NotUnderstood => Some("not appended"),
        }
    }
}

/// Bytes of proposals that are not yet answered. openraft's own queues are bounded by count only.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    in_flight: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    in_flight: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Budget {
        Budget { in_flight: Arc::new(AtomicUsize::new(0)), bytes_max }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self, bytes: usize) -> Result<Share, ProposeError> {
        let before = self.in_flight.fetch_add(bytes, Ordering::Relaxed);
        let share = Share { in_flight: Arc::clone(&self.in_flight), bytes };
        if before + bytes > self.bytes_max {
            return Err(ProposeError::Busy { in_flight_bytes: before, max_bytes: self.bytes_max, retry_after_s: 1 });
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Commands of at most this size are grouped: copying a larger one costs more than it saves.
const MEMBER_BYTES_MAX: usize = 16 << 10;

/// Whether this command may share a log entry with others.
fn is_groupable(command: &Command<'_>, bytes: usize) -> bool {
    let kind = match command {
        Command::Kv(_) | Command::Txn(_) => true,
        Command::Batch { .. }
        | Command::Form { .. }
        | Command::Admit { .. }
        | Command::Restore(_)
        | Command::Token(_)
        | Command::Audit(_)
        | Command::Record { .. }
        | Command::Retire { .. }
        | Command::CheckPoint
        | Command::Upgrade { .. }
        | Command::Group(_) => false,
    };
    kind && bytes <= MEMBER_BYTES_MAX
}

/// Between tries when nothing else tells that a try makes sense.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

impl Consensus {
    /// Writes: returns when the command is committed and applied, on the leader and, if it is another node, there.
    /// On a follower it is forwarded to the leader over the peer channel.
    ///
    /// Dropping the future forgets the answer, not the write: once it was handed over, it runs to its end elsewhere.
    pub async fn propose(&self, command: &Command<'_>) -> Result<Committed, ProposeError> {
        let mut encoded = Vec::new();
        command.encode(&mut encoded);
        let (bytes, max_bytes) = (encoded.len(), self.inner.config.command_bytes_max);
        let result = if bytes > max_bytes {
            Err(ProposeError::TooLarge { bytes, max_bytes })
        } else {
            let groupable = is_groupable(command, bytes);
            self.propose_encoded(Bytes::from(encoded), groupable, trace::current()).await
        };
        let metrics = &self.inner.metrics.raft;
        match &result {
            Ok(_) => {
                applied(&metrics.applied, command).inc();
            }
            Err(error) => metrics.proposal_failed(failure(error)),
        }
        result
    }

    async fn propose_encoded(
        &self,
        command: Bytes,
        groupable: bool,
        part_of: Option<Parent>,
    ) -> Result<Committed, ProposeError> {
        if self.has_departed() {
            return Err(ProposeError::Stopping);
        }
        if let Some(why) = self.fenced() {
            return Err(ProposeError::ReadOnly { reason: format!("fenced: {why}") });
        }
        let share = self.inner.budget.take(command.len())?;
        if groupable {
            return self.propose_in_group(command, share, part_of).await;
        }
        let started = Instant::now();
        let mut backoff = PAUSE;
        loop {
            if let Tried::Done(result) = self.try_propose(&command, part_of.as_slice()).await {
                return result;
            }
            let waited = started.elapsed();
            if waited >= self.inner.config.hold {
                return Err(ProposeError::NoLeader { waited_ms: millis(waited) });
            }
            self.pause(&mut backoff).await;
        }
    }

    /// Once, wherever the leader is.
    pub(super) async fn try_propose(&self, command: &Bytes, part_of: &[Parent]) -> Tried {
        if self.leads() {
            self.propose_here(command, part_of).await
        } else {
            self.propose_there(command, part_of).await
        }
    }

    /// Until the leadership changes, or a moment has passed.
    pub(super) async fn pause(&self, backoff: &mut Duration) {
        let mut changes = self.inner.leader_changes.clone();
        changes.mark_unchanged();
        tokio::select! {
            // Its sender lives as long as this node's consensus.
            _ = changes.changed() => *backoff = PAUSE,
            () = tokio::time::sleep(*backoff) => *backoff = (*backoff * 2).min(Duration::from_millis(100)),
        }
    }

    /// Returns when this node follows another leader than `old`, and answers still on their way had time to arrive.
    async fn another_leads(&self, old: u64) {
        let mut changes = self.inner.leader_changes.clone();
        while self.inner.leadership.claimed().is_none_or(|leader| leader == old) {
            if changes.changed().await.is_err() {
                // The node is stopping; the call ends by itself.
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(self.inner.config.lease).await;
    }

    /// On this node, as its leader.
    pub(super) async fn propose_here(&self, command: &Bytes, part_of: &[Parent]) -> Tried {
        if part_of.is_empty() {
            return self.write(command).await;
        }
        let mut spans = traced::Spans::begin(part_of, SpanKind::Internal, "raft.propose");
        let tried = self.write(command).await;
        tried.failed().into_iter().for_each(|why| spans.fail(why));
        if let Tried::Done(Ok(committed)) = &tried {
            let index = committed.index.get();
            spans.applied(index, self.inner.storage.log.committed_at(index), self.inner.state.applied_at(index));
        }
        tried
    }

    async fn write(&self, command: &Bytes) -> Tried {
        if let Some(reason) = self.inner.space.read_only() {
            return Tried::Done(Err(ProposeError::ReadOnly { reason }));
        }
        let started = Instant::now();
        let limit = self.inner.config.propose_timeout;
        let write = self.inner.raft.client_write(Proposal(command.clone()));
        let Ok(result) = tokio::time::timeout(limit, write).await else {
            return Tried::Done(Err(ProposeError::OutcomeUnknown { waited_ms: millis(limit) }));
        };
        match result {
            Ok(response) => {
                let took_ms = started.elapsed().as_secs_f64() * 1e3;
                self.inner.metrics.raft.apply_latency_ms.observe(took_ms);
                let index = Index::new(response.log_id.index);
                Tried::Done(Ok(Committed { index, outcome: response.data }))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Tried::NotAppended,
            Err(RaftError::APIError(error)) => {
                tracing::warn!(%error, "a write was interrupted by a change of leader; its outcome is unknown");
                Tried::Done(Err(ProposeError::OutcomeUnknown { waited_ms: millis(started.elapsed()) }))
            }
            Err(RaftError::Fatal(error)) => {
                tracing::error!(%error, "the raft core has stopped");
                Tried::Done(Err(ProposeError::OutcomeUnknown { waited_ms: millis(started.elapsed()) }))
            }
        }
    }

    /// On the leader, which is another node.
    async fn propose_there(&self, command: &Bytes, part_of: &[Parent]) -> Tried {
        let Some(leader) = self.claimed_leader() else { return Tried::NotAppended };
        if part_of.is_empty() {
            return self.forward(&leader, Request::Propose { command }).await;
        }
        let mut spans = traced::Spans::begin(part_of, SpanKind::Client, "raft.forward");
        spans.number("konsul.leader", leader.id);
        let term = self.inner.raft.metrics().borrow_watched().current_term;
        // A program from before understood nothing of it, and did nothing: the same leader is not asked like this again.
        let understands = self.inner.untraced_term.load(Ordering::Relaxed) != term;
        let traced = match spans.parents() {
            parents if understands && !parents.is_empty() => Some(Request::ProposeTraced { parents, command }),
            _ => None,
        };
        let tried = match traced {
            Some(request) => match self.forward(&leader, request).await {
                Tried::NotUnderstood => {
                    self.inner.untraced_term.store(term, Ordering::Relaxed);
                    self.forward(&leader, Request::Propose { command }).await
                }
                tried => tried,
            },
            None => self.forward(&leader, Request::Propose { command }).await,
        };
        tried.failed().into_iter().for_each(|why| spans.fail(why));
        tried
    }

    /// A request to propose, sent to the leader.
    async fn forward(&self, leader: &Peer, request: Request<'_>) -> Tried {
        let is_traced = matches!(request, Request::ProposeTraced { .. });
        let request = Bytes::from(request.encode());
        let started = Instant::now();
        // The leader has its own time limit; ours only covers a connection that went silent.
        let limit = self.inner.config.propose_timeout + self.inner.config.propose_timeout / 2;
        let unknown = || ProposeError::OutcomeUnknown { waited_ms: millis(started.elapsed()) };
        let answer = tokio::select! {
            answer = self.inner.pool.call(leader.id, &leader.info, request, limit) => answer,
            // Cut off from us, the old leader never answers: the client shall not wait for the whole time limit.
            () = self.another_leads(leader.id) => return Tried::Done(Err(unknown())),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(CallError::NotSent { .. }) => return Tried::NotAppended,
            Err(CallError::Lost { .. }) => return Tried::Done(Err(unknown())),
        };
        match Answer::decode(&answer) {
            Ok(Answer::Committed(committed)) => Tried::Done(Ok(committed)),
            Ok(Answer::Failed(error)) => Tried::Done(Err(error)),
            Ok(Answer::NotLeader) => Tried::NotAppended,
            Ok(Answer::Unreadable(why)) => {
                if !is_traced {
                    tracing::warn!(leader = leader.id, %why, "the leader does not understand this node");
                }
                Tried::NotUnderstood
            }
            Ok(
                Answer::ReadIndex(_)
                | Answer::Transferring
                | Answer::Changed(_)
                | Answer::NotChanged(_)
                | Answer::Greeted(_)
                | Answer::Report(_)
                | Answer::Examined(_)
                | Answer::Judged(_)
                | Answer::Compared(_)
                | Answer::NotCompared(_)
                | Answer::Member(_),
            ) => Tried::Done(Err(unknown())),
            Err(error) => {
                tracing::warn!(leader = leader.id, %error, "this node does not understand the leader");
                Tried::Done(Err(unknown()))
            }
        }
    }

    /// A forwarded write: tried once here, because the follower holds and retries.
    pub(super) async fn propose_for_peer(&self, command: Bytes, part_of: &[Parent]) -> Answer {
        if part_of.is_empty() {
            return self.try_for_peer(command, &[]).await;
        }
        let mut spans = traced::Spans::begin(part_of, SpanKind::Server, "peer.forward");
        let answer = self.try_for_peer(command, &spans.parents()).await;
        if !matches!(answer, Answer::Committed(_)) {
            spans.fail("not committed");
        }
        answer
    }

    async fn try_for_peer(&self, command: Bytes, part_of: &[Parent]) -> Answer {
        // A leader that is fenced tells nobody what a command did: another one is about to lead.
        if !self.leads() || self.is_fenced() {
            return Answer::NotLeader;
        }
        let _share = match self.inner.budget.take(command.len()) {
            Ok(share) => share,
            Err(error) => return Answer::Failed(error),
        };
        match self.propose_here(&command, part_of).await {
            Tried::Done(Ok(committed)) => Answer::Committed(committed),
            Tried::Done(Err(error)) => Answer::Failed(error),
            Tried::NotAppended | Tried::NotUnderstood => Answer::NotLeader,
        }
    }
}

fn applied<'m>(counters: &'m Applied, command: &Command<'_>) -> &'m Counter {
    match command {
        Command::Kv(KvWrite::Set { .. }) => &counters.kv_set,
        Command::Kv(KvWrite::Cas { .. }) => &counters.kv_cas,
        Command::Kv(KvWrite::Delete { .. }) => &counters.kv_delete,
        Command::Kv(KvWrite::DeleteCas { .. }) => &counters.kv_delete_cas,
        Command::Kv(KvWrite::DeleteTree { .. }) => &counters.kv_delete_tree,
        Command::Txn(_) => &counters.txn,
        Command::Batch { .. } => &counters.batch,
        Command::Form { .. } => &counters.form,
        Command::Admit { .. } => &counters.admit,
        Command::Restore(_) => &counters.restore,
        Command::Token(TokenWrite::Create { .. }) => &counters.token_create,
        Command::Token(TokenWrite::Revoke { .. }) => &counters.token_revoke,
        Command::Token(TokenWrite::Use { .. }) => &counters.token_use,
        Command::Audit(_) => &counters.audit,
        Command::Record { .. } => &counters.record,
        Command::Retire { .. } => &counters.retire,
        Command::CheckPoint => &counters.check_point,
        Command::Upgrade { .. } => &counters.upgrade,
        // Counted by its members.
        Command::Group(_) => unreachable!("a group is made of proposals, it is none"),
    }
}

fn failure(error: &ProposeError) -> ProposalFailure {
    match error {
        ProposeError::NoLeader { .. } => ProposalFailure::NoLeader,
        ProposeError::OutcomeUnknown { .. } => ProposalFailure::Timeout,
        ProposeError::Busy { .. } => ProposalFailure::Busy,
        ProposeError::ReadOnly { .. } => ProposalFailure::ReadOnly,
        ProposeError::TooLarge { .. } => ProposalFailure::TooLarge,
        ProposeError::Stopping => ProposalFailure::Stopping,
    }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
