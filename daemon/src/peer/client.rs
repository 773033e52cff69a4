//! Raft's requests to one node: openraft's network traits over our links.
//!
//! Each purpose has a connection of its own, so neither a large append nor a snapshot delays a heartbeat or a vote.
//! A node that is not reached is `Unreachable`, never a guess: for a pre-vote that means "no vote".

use super::codec::{self, SnapshotBegin};
use super::frame::with_writer;
use super::link::{Link, LinkError};
use super::pool::Pool;
use super::protocol::{Kind, Purpose};
use super::snapshot::{self, SendError};
use crate::metrics::{PeerLabel, SnapshotOp};
use crate::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, NodeInfo, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, TypeConfig, Vote, VoteRequest, VoteResponse,
};
use crate::storage::SnapshotFile;
use crate::telemetry::chain;
use bytes::Bytes;
use konsul_state::{DecodeError, Writer};
use openraft::OptionalSend;
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use std::time::{Duration, Instant};

/// An append with entries waits this long at least. openraft grants one heartbeat interval; a follower whose disk takes
/// longer would be sent the same megabyte again and again, and fall further behind. A follower that is gone, not slow,
/// is found out by TCP before that.
const APPEND_TIMEOUT_MIN: Duration = Duration::from_secs(2);
/// Bytes of entries in one request; what is left goes with the next.
const APPEND_BYTES_MAX: usize = 32 << 20;
/// A healed link is used again within a second.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// openraft's way to one node.
#[derive(Debug)]
pub struct PeerClient {
    pool: Pool,
    node_id: u64,
    info: NodeInfo,
    append: Link,
}

impl RaftNetworkFactory<TypeConfig> for Pool {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> PeerClient {
        let append = self.link(target, node, Purpose::Append);
        PeerClient { pool: self.clone(), node_id: target, info: node.clone(), append }
    }

    /// A client of its own, hence an append connection of its own.
    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> PeerClient {
        self.new_client(target, node).await
    }

    /// Every transfer makes a connection of its own.
    async fn new_snapshot_client(&mut self, target: u64, node: &NodeInfo) -> PeerClient {
        self.new_client(target, node).await
    }
}

type RpcError = RPCError<TypeConfig>;

impl PeerClient {
    /// The node may have moved since this client was made.
    fn follow(&mut self) {
        if !self.pool.leads_to(&self.append, self.node_id) {
            self.append = self.pool.link(self.node_id, &self.info, Purpose::Append);
        }
    }

    fn failed(&self, action: RPCTypes, limit: Duration, error: &LinkError) -> RpcError {
        match error {
            LinkError::TimedOut { .. } => RPCError::Timeout(Timeout {
                action,
                id: self.pool.local().node_id,
                target: self.node_id,
                timeout: limit,
            }),
            LinkError::Connect(_)
            | LinkError::Connecting { .. }
            | LinkError::Stopped(_)
            | LinkError::Send(_)
            | LinkError::Receive(_)
            | LinkError::TooLong(_)
            | LinkError::Failed(_)
            | LinkError::OutOfTurn(_) => unreachable_node(self.node_id, &chain(error)),
        }
    }

    fn decoded<T>(&self, answer: Result<T, DecodeError>) -> Result<T, RpcError> {
        answer.map_err(|error| unreachable_node(self.node_id, &format!("its answer is malformed: {error}")))
    }

    /// Over the vote connection, which outlives this client: openraft makes a new one for each vote it asks for.
    async fn ask(
        &self,
        kind: Kind,
        action: RPCTypes,
        payload: impl Fn(&mut Writer),
        limit: Duration,
    ) -> Result<Bytes, RpcError> {
        let mut link = self.pool.vote_link(self.node_id, &self.info);
        let answer = link.call(kind, |out| with_writer(out, &payload), limit).await;
        answer.map_err(|error| self.failed(action, limit, &error))
    }
}

fn unreachable_node(node_id: u64, text: &str) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(format!("node {node_id}: {text}")))
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RpcError> {
        let heartbeat = rpc.entries.is_empty();
        let patience = if heartbeat { Duration::ZERO } else { APPEND_TIMEOUT_MIN };
        let limit = option.soft_ttl().max(patience);
        let (mut sent, began) = (0, Instant::now());
        self.pool.tells_committed(rpc.leader_commit.map_or(0, |id| id.index));
        self.follow();
        let standing = self.pool.standing();
        let answer = {
            let payload = |out: &mut Vec<u8>| sent = codec::put_append(out, (&rpc, standing), APPEND_BYTES_MAX);
            self.append.call(Kind::Append, payload, limit).await
        };
        let answer = answer.map_err(|error| self.failed(RPCTypes::AppendEntries, limit, &error))?;
        if heartbeat {
            let rtt = &self.pool.metrics().rtt_seconds;
            rtt.get_or_create(&PeerLabel { peer: self.node_id }).observe(began.elapsed().as_secs_f64());
        }
        let answer = self.decoded(codec::append_answer(&answer))?;
        Ok(match answer {
            AppendEntriesResponse::Success if sent < rpc.entries.len() => {
                AppendEntriesResponse::PartialSuccess(Some(rpc.entries[sent - 1].log_id))
            }
            answer => answer,
        })
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let payload = |out: &mut Writer| codec::put_vote(out, &rpc);
        let answer = self.ask(Kind::Vote, RPCTypes::Vote, payload, option.soft_ttl()).await?;
        self.decoded(codec::vote_answer(&answer))
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let payload = |out: &mut Writer| codec::put_vote(out, &rpc);
        let answer = self.ask(Kind::PreVote, RPCTypes::Vote, payload, option.soft_ttl()).await?;
        self.decoded(codec::vote_answer(&answer))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RpcError> {
        let payload = |out: &mut Writer| codec::put_transfer(out, &req);
        let answer = self.ask(Kind::TransferLeader, RPCTypes::TransferLeader, payload, option.soft_ttl()).await?;
        self.decoded(codec::transfer_answer(&answer))
    }

    /// The time limit is one for standing still: a large snapshot may take as long as it moves.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let stall_max = option.soft_ttl();
        self.follow();
        let target = self.append.target().clone();
        let SnapshotFile { path, len, sha256 } = snapshot.snapshot;
        self.pool.tells_committed(snapshot.meta.last_log_id.map_or(0, |id| id.index));
        let begin = SnapshotBegin { vote, meta: snapshot.meta, len, sha256 };
        let send = snapshot::send(self.pool.dialer(), &target, begin, path, stall_max);
        let began = Instant::now();
        let sent = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = send => sent,
        };
        self.pool.metrics().snapshots.count(SnapshotOp::Send, sent.is_ok(), began.elapsed());
        sent.map_err(|error| match error {
            SendError::Stalled { .. } => StreamingError::Timeout(Timeout {
                action: RPCTypes::InstallSnapshot,
                id: self.pool.local().node_id,
                target: self.node_id,
                timeout: stall_max,
            }),
            error => unreachable_node(self.node_id, &chain(&error)).into(),
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        let next = |pause: &Duration| Some((*pause * 2).min(BACKOFF_MAX));
        Some(Backoff::new(std::iter::successors(Some(BACKOFF_FIRST), next)))
    }
}
