//! A server with a handler that remembers and echoes, and a client for it.

use crate::certs::Authority;
use bytes::Bytes;
use konsuld::metrics::PeerMetrics;
use konsuld::peer::{
    Encryption, Known, LeaderStanding, Limits, LocalIdentity, PeerHandler, PeerIdentity, Pool, Transport, serve,
};
use konsuld::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, LeaderId, NodeInfo, SnapshotMeta, SnapshotResponse,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use konsuld::storage::SnapshotFile;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: [u8; 16] = [7; 16];
/// As many calls as must run at the same time for a `barrier` request to be answered.
pub(crate) const TOGETHER: usize = 1_000;
/// Term of an append that is answered only after `Handler::release`.
pub(crate) const HELD_TERM: u64 = 99;

pub(crate) fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
}

pub(crate) struct Handler {
    local: LocalIdentity,
    /// What the state says of node ids; nothing of all others.
    pub(crate) known: Mutex<HashMap<u64, Known>>,
    /// What protected each call.
    pub(crate) protected_by: Mutex<Vec<Encryption>>,
    /// Where nobody may ask to join from.
    pub(crate) shunned: Mutex<Vec<IpAddr>>,
    /// Why somebody was not let in.
    pub(crate) turned_away: Mutex<Vec<String>>,
    /// Exporter and request of everybody without a certificate.
    pub(crate) enrolments: Mutex<Vec<([u8; 32], Bytes)>>,
    dir: TempDir,
    barrier: Barrier,
    pub(crate) release: Semaphore,
    /// Handshakes begun.
    pub(crate) asked: AtomicUsize,
    pub(crate) appends: Mutex<Vec<AppendEntriesRequest>>,
    pub(crate) snapshots: Mutex<Vec<(SnapshotMeta, SnapshotFile)>>,
    /// Requests that arrived and are held for ever.
    pub(crate) held: Semaphore,
}

impl PeerHandler for Handler {
    fn local(&self) -> LocalIdentity {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.local.clone()
    }

    fn known(&self, node_id: u64) -> Known {
        self.known.lock().unwrap().get(&node_id).cloned().unwrap_or(Known::Stranger)
    }

    async fn append(
        &self,
        request: AppendEntriesRequest,
        _leader: LeaderStanding,
    ) -> Result<AppendEntriesResponse, String> {
        let term = request.vote.leader_id.term;
        self.appends.lock().unwrap().push(request);
        match term {
            0 => Err("no such term".to_owned()),
            1 => Ok(AppendEntriesResponse::Success),
            HELD_TERM => {
                self.release.acquire().await.unwrap().forget();
                Ok(AppendEntriesResponse::Conflict)
            }
            term => Ok(AppendEntriesResponse::HigherVote(vote(term + 1))),
        }
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        Ok(VoteResponse { vote: request.vote, vote_granted: true, last_log_id: request.last_log_id })
    }

    async fn pre_vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        Ok(VoteResponse { vote: request.vote, vote_granted: false, last_log_id: request.last_log_id })
    }

    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, String> {
        let (expected, actual) = (*request.from_leader(), vote(*request.to_node_id()));
        Ok(Err(TransferLeaderError::VoteChanged { expected, actual }))
    }

    fn snapshot_dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    async fn snapshot(&self, vote: Vote, meta: SnapshotMeta, file: SnapshotFile) -> Result<SnapshotResponse, String> {
        if vote.leader_id.term == 0 {
            return Err("not wanted".to_owned());
        }
        self.snapshots.lock().unwrap().push((meta, file));
        Ok(SnapshotResponse { vote })
    }

    async fn forward(&self, from: PeerIdentity, request: Bytes) -> Bytes {
        self.protected_by.lock().unwrap().push(from.encryption);
        if request.starts_with(b"barrier") {
            self.barrier.wait().await;
        }
        if request.starts_with(b"hold") {
            self.held.add_permits(1);
            std::future::pending::<()>().await;
        }
        answer(&from.name, &request)
    }

    async fn join(&self, from: PeerIdentity, request: Bytes) -> Bytes {
        answer(&from.name, &request)
    }

    fn may_enrol(&self, from: IpAddr) -> bool {
        !self.shunned.lock().unwrap().contains(&from)
    }

    fn turned_away(&self, _from: SocketAddr, why: &str) {
        self.turned_away.lock().unwrap().push(why.to_owned());
    }

    async fn enrol(&self, from: SocketAddr, exporter: [u8; 32], request: Bytes) -> Bytes {
        let answered = answer(&from.ip().to_string(), &request);
        self.enrolments.lock().unwrap().push((exporter, request));
        answered
    }
}

/// What the fake answers to a request.
pub(crate) fn answer(from: &str, request: &[u8]) -> Bytes {
    [from.as_bytes(), b": ", request].concat().into()
}

pub(crate) struct Server {
    pub(crate) handler: Arc<Handler>,
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    pub(crate) info: NodeInfo,
}

impl Server {
    /// Node 1, "alpha".
    pub(crate) async fn start(transport: Transport) -> Server {
        Server::at("127.0.0.1:0", transport, Some(CLUSTER)).await
    }

    pub(crate) async fn at(address: &str, transport: Transport, cluster_id: Option<[u8; 16]>) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let handler = Arc::new(Handler {
            local: LocalIdentity { cluster_id, node_id: 1, name: "alpha".to_owned(), epoch: 3 },
            known: Mutex::default(),
            protected_by: Mutex::default(),
            shunned: Mutex::default(),
            turned_away: Mutex::default(),
            enrolments: Mutex::default(),
            dir: TempDir::new().unwrap(),
            barrier: Barrier::new(TOGETHER),
            release: Semaphore::new(0),
            asked: AtomicUsize::new(0),
            appends: Mutex::default(),
            snapshots: Mutex::default(),
            held: Semaphore::new(0),
        });
        let stop = CancellationToken::new();
        let serving =
            serve(listener, transport, Arc::clone(&handler), Limits::default(), PeerMetrics::default(), stop.clone());
        let task = tokio::spawn(serving);
        let info = NodeInfo { name: "alpha".to_owned(), rpc: address.to_string(), http: String::new() };
        Server { handler, address, stop, task, info }
    }

    /// As a crash does it: every connection breaks now.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(crate) fn beta() -> LocalIdentity {
    LocalIdentity { cluster_id: Some(CLUSTER), node_id: 2, name: "beta".to_owned(), epoch: 3 }
}

/// A server and a client that trust each other.
pub(crate) async fn pair() -> (Authority, Server, Pool) {
    let authority = Authority::new();
    let server = Server::start(Transport::Tls(authority.tls("alpha"))).await;
    let pool = connect_as(Transport::Tls(authority.tls("beta")), beta());
    (authority, server, pool)
}

pub(crate) fn connect_as(transport: Transport, local: LocalIdentity) -> Pool {
    Pool::new(transport, local, PeerMetrics::default())
}
