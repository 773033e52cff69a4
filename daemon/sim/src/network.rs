//! The network between the nodes: what is sent arrives later, or not at all.

use crate::machine::Raft;
use crate::types::{Records, SimTypes, Vote, now, sleep};
use konsuld::raft_types::NodeInfo;
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft_rt_sim::SimInstant;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// One way, when nothing is wrong.
const LATENCY_US: std::ops::Range<u64> = 100..900;
/// One way over a link that is slow.
const SLOW_US: std::ops::Range<u64> = 5_000..60_000;
/// openraft pauses between attempts to reach a node that is not there.
const BACKOFF: Duration = Duration::from_millis(50);

struct Node {
    raft: Raft,
    life: u64,
    /// A voter that was restarted has forgotten whom it promised its lease: it votes for nobody before. As konsuld does.
    votes_from: SimInstant,
}

struct Inner {
    rng: StdRng,
    nodes: BTreeMap<u64, Node>,
    cut: BTreeSet<(u64, u64)>,
    slow: BTreeSet<(u64, u64)>,
    /// Of a thousand messages.
    lost: u32,
}

/// Cloned handles are the same network.
#[derive(Clone)]
pub(crate) struct Network {
    inner: Arc<Mutex<Inner>>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Network {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeSet::new(),
            lost: 0,
        };
        Network { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }

    pub(crate) fn plug_in(&self, id: u64, life: u64, raft: Raft, votes_from: SimInstant) {
        self.lock().nodes.insert(id, Node { raft, life, votes_from });
    }

    pub(crate) fn plug_out(&self, id: u64) {
        self.lock().nodes.remove(&id);
    }

    /// From one to another, this way only.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.lock().cut.insert((from, to));
    }

    pub(crate) fn slow_down(&self, from: u64, to: u64) {
        self.lock().slow.insert((from, to));
    }

    pub(crate) fn lose(&self, of_a_thousand: u32) {
        self.lock().lost = of_a_thousand;
    }

    pub(crate) fn heal(&self) {
        let mut inner = self.lock();
        inner.cut.clear();
        inner.slow.clear();
        inner.lost = 0;
    }

    /// How long a message is on its way; none if it does not arrive.
    fn delay(&self, from: u64, to: u64) -> Option<Duration> {
        let mut inner = self.lock();
        let range = if inner.slow.contains(&(from, to)) { SLOW_US } else { LATENCY_US };
        let delay = Duration::from_micros(inner.rng.random_range(range));
        let lost = inner.lost > 0 && inner.rng.random_range(0..1000) < inner.lost;
        (!lost && !inner.cut.contains(&(from, to))).then_some(delay)
    }

    /// Whether this life of the node goes on.
    pub(crate) fn lives(&self, id: u64, life: u64) -> bool {
        self.lock().nodes.get(&id).is_some_and(|node| node.life == life)
    }

    fn node(&self, id: u64) -> Option<(Raft, u64, SimInstant)> {
        self.lock().nodes.get(&id).map(|node| (node.raft.clone(), node.life, node.votes_from))
    }

    /// A message there, what it does, and the answer back.
    pub(crate) async fn ask<F, R, Fut>(&self, from: (u64, u64), to: u64, limit: Duration, serve: F) -> Result<R, String>
    where
        F: FnOnce(Raft, SimInstant) -> Fut,
        Fut: Future<Output = Result<R, String>>,
    {
        let began = now();
        let lost = async || {
            sleep(limit.saturating_sub(now() - began)).await;
            Err(format!("node {to} did not answer in {limit:?}"))
        };
        if !self.lives(from.0, from.1) {
            return lost().await;
        }
        let Some(there) = self.delay(from.0, to) else { return lost().await };
        sleep(there).await;
        let Some((raft, life, votes_from)) = self.node(to) else { return Err(format!("node {to} is down")) };
        let answer = serve(raft, votes_from).await;
        if !self.lives(to, life) {
            return lost().await;
        }
        let Some(back) = self.delay(to, from.0) else { return lost().await };
        sleep(back).await;
        answer
    }
}

/// What one life of a node sends with.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) network: Network,
    pub(crate) id: u64,
    pub(crate) life: u64,
}

pub(crate) struct Client {
    sender: Sender,
    to: u64,
}

impl RaftNetworkFactory<SimTypes> for Sender {
    type Network = Client;

    async fn new_client(&mut self, to: u64, _: &NodeInfo) -> Client {
        Client { sender: self.clone(), to }
    }
}

type RpcError = RPCError<SimTypes>;

fn unreachable_node(text: String) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(text))
}

impl Client {
    async fn ask<F, R, Fut>(&self, option: &RPCOption, serve: F) -> Result<R, RpcError>
    where
        F: FnOnce(Raft, SimInstant) -> Fut,
        Fut: Future<Output = Result<R, String>>,
    {
        let Sender { network, id, life } = &self.sender;
        network.ask((*id, *life), self.to, option.soft_ttl(), serve).await.map_err(unreachable_node)
    }
}

fn may_vote(rpc: &VoteRequest<SimTypes>, votes_from: SimInstant) -> Result<(), String> {
    if rpc.leadership_transfer || now() >= votes_from {
        return Ok(());
    }
    Err("restarted less than a lease ago".to_owned())
}

impl RaftNetworkV2<SimTypes> for Client {
    type SnapshotData = Arc<Records>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<SimTypes>, RpcError> {
        self.ask(&option, |raft, _| async move { raft.append_entries(rpc).await.map_err(|e| e.to_string()) }).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimTypes>, RpcError> {
        let serve = |raft: Raft, votes_from| async move {
            may_vote(&rpc, votes_from)?;
            raft.vote(rpc).await.map_err(|e| e.to_string())
        };
        self.ask(&option, serve).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<VoteResponse<SimTypes>, RpcError> {
        let serve = |raft: Raft, votes_from| async move {
            may_vote(&rpc, votes_from)?;
            raft.pre_vote(rpc).await.map_err(|e| e.to_string())
        };
        self.ask(&option, serve).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<SimTypes>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<SimTypes>, RpcError> {
        self.ask(&option, |raft, _| async move { raft.handle_transfer_leader(rpc).await.map_err(|e| e.to_string()) })
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<SimTypes, Arc<Records>>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<SimTypes>, StreamingError<SimTypes>> {
        let serve =
            |raft: Raft, _| async move { raft.install_full_snapshot(vote, snapshot).await.map_err(|e| e.to_string()) };
        self.ask(&option, serve).await.map_err(Into::into)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}
