//! What this node does with its peers' requests: hands them to consensus, once there is one.

use crate::clock::{Clock, Timestamp};
use crate::cluster::enrol::{Enroller, answer_as_newcomer};
use crate::cluster::identity::Authority;
use crate::cluster::token::Token;
use crate::cluster::{JoinAnswer, JoinRequest, Promise};
use crate::peer::{Known, LeaderStanding, LocalIdentity, PeerHandler, PeerIdentity};
use crate::raft::{AdmitError, Asker, Consensus};
use crate::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, NodeInfo, SnapshotMeta, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use crate::storage::SnapshotFile;
use crate::telemetry::chain;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Serves peers before and after this node became a member.
pub(super) struct Handler {
    local: ArcSwap<LocalIdentity>,
    snapshots: PathBuf,
    promise: Promise,
    consensus: OnceLock<Consensus>,
    clock: Clock,
    /// Since when ids are known to be removed.
    gone: Mutex<HashMap<u64, Timestamp>>,
    authority: OnceLock<Authority>,
    enroller: OnceLock<Enroller>,
    /// With which it joins.
    token: ArcSwapOption<Token>,
}

/// A node that was removed is cut off after so long: what it was passing on for its clients ends well by then.
const FAREWELL: Duration = Duration::from_secs(2);

impl Handler {
    pub(super) fn new(local: LocalIdentity, snapshots: PathBuf, promise: Promise, clock: Clock) -> Handler {
        let (consensus, authority, enroller, gone) = Default::default();
        Handler {
            local: ArcSwap::from_pointee(local),
            snapshots,
            promise,
            consensus,
            authority,
            enroller,
            token: ArcSwapOption::empty(),
            clock,
            gone,
        }
    }

    pub(super) fn promise(&self) -> &Promise {
        &self.promise
    }

    /// From now on this node is a member.
    pub(super) fn begin(&self, local: LocalIdentity, consensus: Consensus) {
        self.local.store(Arc::new(local));
        assert!(self.consensus.set(consensus).is_ok(), "a node becomes a member once");
    }

    /// From now on this node passes requests on to its authority, and admits others.
    pub(super) fn admit_others(&self, authority: Option<Authority>, enroller: Enroller) {
        if let Some(authority) = authority {
            assert!(self.authority.set(authority).is_ok(), "a node becomes a member once");
        }
        assert!(self.enroller.set(enroller).is_ok(), "a node becomes a member once");
    }

    /// The token this node joins with: others that hold it may ask for its promise.
    pub(super) fn hold(&self, token: Arc<Token>) {
        self.token.store(Some(token));
    }

    /// The token this node joined with.
    pub(super) fn token(&self) -> Option<Arc<Token>> {
        self.token.load_full()
    }

    /// Whether a node that was removed had the time to say goodbye. What matters is told to it at once, see
    /// [`Consensus::answer`].
    fn is_cut_off(&self, gone: u64) -> bool {
        let now = self.clock.now();
        let mut known = self.gone.lock().expect("nothing panics while it holds the lock");
        now.since(*known.entry(gone).or_insert(now)) >= FAREWELL
    }

    fn member(&self) -> Result<&Consensus, String> {
        self.consensus.get().ok_or_else(|| "this node is not a member of a cluster yet".to_owned())
    }

    async fn admit(&self, from: &PeerIdentity, request: JoinRequest) -> JoinAnswer {
        if request.name != from.name {
            let why = format!("the request names {:?}, the certificate {:?}", request.name, from.name);
            return JoinAnswer::Refused { why };
        }
        let Some(consensus) = self.consensus.get() else {
            let promised = request.former && self.promise.give(&request.name);
            return JoinAnswer::NotMember { promised };
        };
        match consensus.misfit(request.understands) {
            Ok(None) => {}
            Ok(Some(why)) => return JoinAnswer::Refused { why },
            Err(error) => return JoinAnswer::Refused { why: chain(&error) },
        }
        let info = NodeInfo { name: request.name, rpc: request.rpc, http: request.http };
        match consensus.admit(request.wished, info, konsul_state::Role::Voter).await {
            Ok(node_id) => {
                let identity = consensus.identity();
                JoinAnswer::Granted { cluster_id: identity.cluster_id, epoch: identity.epoch, node_id }
            }
            Err(AdmitError::NotLeader) => {
                JoinAnswer::NotLeader { rpc: consensus.leader().map(|leader| leader.info.rpc) }
            }
            Err(error) => JoinAnswer::Refused { why: error.to_string() },
        }
    }
}

impl PeerHandler for Handler {
    fn local(&self) -> LocalIdentity {
        LocalIdentity::clone(&self.local.load())
    }

    fn known(&self, node_id: u64) -> Known {
        let Some(consensus) = self.consensus.get() else { return Known::Stranger };
        match (consensus.member(node_id), consensus.is_gone(node_id)) {
            (Some(member), _) => Known::Member { name: member.info.name },
            (None, Ok(true)) if self.is_cut_off(node_id) => Known::Retired,
            (None, Ok(true | false)) => Known::Stranger,
            (None, Err(error)) => {
                tracing::warn!(%error, "cannot read whether a node was removed");
                Known::Stranger
            }
        }
    }

    async fn append(
        &self,
        request: AppendEntriesRequest,
        leader: LeaderStanding,
    ) -> Result<AppendEntriesResponse, String> {
        self.member()?.append(request, leader).await
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        self.member()?.vote(request).await
    }

    async fn pre_vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        self.member()?.pre_vote(request).await
    }

    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, String> {
        self.member()?.take_over(request).await
    }

    fn snapshot_dir(&self) -> PathBuf {
        self.snapshots.clone()
    }

    async fn snapshot(&self, vote: Vote, meta: SnapshotMeta, file: SnapshotFile) -> Result<SnapshotResponse, String> {
        self.member()?.install(vote, meta, file).await
    }

    async fn forward(&self, from: PeerIdentity, request: Bytes) -> Bytes {
        let Ok(consensus) = self.member() else {
            tracing::debug!(peer = from.node_id, "a member asked before this node was one");
            return Bytes::new();
        };
        let asker = Asker { node_id: from.node_id, name: from.name, vouched: from.vouched };
        consensus.answer(asker, request, self.authority.get()).await
    }

    async fn join(&self, from: PeerIdentity, request: Bytes) -> Bytes {
        let answer = match JoinRequest::decode(&request) {
            Ok(request) => self.admit(&from, request).await,
            Err(error) => JoinAnswer::Refused { why: error.to_string() },
        };
        tracing::info!(name = %from.name, from = %from.address, ?answer, "a node asked to join");
        Bytes::from(answer.encode())
    }

    fn may_enrol(&self, from: IpAddr) -> bool {
        self.enroller.get().is_none_or(|enroller| enroller.may_try(from))
    }

    fn turned_away(&self, from: SocketAddr, why: &str) {
        // Before this node is a member there is no audit, and nobody to be let in to.
        if let Some(enroller) = self.enroller.get() {
            enroller.turned_away(from, why);
        }
    }

    async fn enrol(&self, from: SocketAddr, exporter: [u8; 32], request: Bytes) -> Bytes {
        match self.enroller.get() {
            Some(enroller) => enroller.answer(from, &exporter, &request).await,
            None => answer_as_newcomer(self.token.load().as_deref(), &self.promise, &exporter, &request),
        }
    }
}
