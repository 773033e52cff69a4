//! A node of a few parts: storage, consensus, the peer port, and all that keeps its identity.

use bytes::Bytes;
use konsul_state::{Command, Role, TokenWrite};
use konsuld::clock::Clock;
use konsuld::clock::rate::RateConfig;
use konsuld::cluster::Promise;
use konsuld::cluster::audit::Audit;
use konsuld::cluster::ca::{SealingKeys, Subject, Term};
use konsuld::cluster::enrol::{self, Admitted, Answer, Applicant, Enroller, EnrollerParts};
use konsuld::cluster::identity::{self, Authority, AuthorityParts, IdentityFiles, Keeper};
use konsuld::cluster::token::{self, Purpose, Token};
use konsuld::leader::{self, LeaderDeps};
use konsuld::metrics::Metrics;
use konsuld::peer::{Known, LeaderStanding, Limits, LocalIdentity, PeerHandler, PeerIdentity, Pool, Transport, serve};
use konsuld::raft::{Asker, Consensus, Parts, Policy, RaftConfig, Understands};
use konsuld::raft_types::{
    AppendEntriesRequest, AppendEntriesResponse, NodeInfo, SnapshotMeta, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use konsuld::storage::{Identity, SnapshotFile, Space, SpaceConfig, Storage, StorageConfig};
use konsuld::tls::{Material, MemberId, Tls, TlsVersion};
use konsuld::watch::Watches;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: [u8; 16] = [7; 16];
/// Any state of a small cluster is reached within this time, or never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn now_ms() -> u64 {
    Clock::start().wall().as_millis()
}

/// Looks until it is so.
pub(crate) async fn wait_for(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Handler {
    local: LocalIdentity,
    consensus: Consensus,
    authority: Authority,
    enroller: OnceLock<Enroller>,
    snapshots: PathBuf,
}

impl PeerHandler for Handler {
    fn local(&self) -> LocalIdentity {
        self.local.clone()
    }

    fn known(&self, node_id: u64) -> Known {
        self.consensus.member(node_id).map_or(Known::Stranger, |member| Known::Member { name: member.info.name })
    }

    async fn append(
        &self,
        request: AppendEntriesRequest,
        leader: LeaderStanding,
    ) -> Result<AppendEntriesResponse, String> {
        self.consensus.append(request, leader).await
    }

    async fn vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        self.consensus.vote(request).await
    }

    async fn pre_vote(&self, request: VoteRequest) -> Result<VoteResponse, String> {
        self.consensus.pre_vote(request).await
    }

    async fn transfer_leader(&self, request: TransferLeaderRequest) -> Result<TransferLeaderResponse, String> {
        self.consensus.take_over(request).await
    }

    fn snapshot_dir(&self) -> PathBuf {
        self.snapshots.clone()
    }

    async fn snapshot(&self, vote: Vote, meta: SnapshotMeta, file: SnapshotFile) -> Result<SnapshotResponse, String> {
        self.consensus.install(vote, meta, file).await
    }

    async fn forward(&self, from: PeerIdentity, request: Bytes) -> Bytes {
        let asker = Asker { node_id: from.node_id, name: from.name, vouched: from.vouched };
        self.consensus.answer(asker, request, Some(&self.authority)).await
    }

    async fn join(&self, _from: PeerIdentity, _request: Bytes) -> Bytes {
        panic!("whoever joins this cluster enrols");
    }

    fn may_enrol(&self, from: IpAddr) -> bool {
        self.enroller.get().expect("set before the port is served").may_try(from)
    }

    fn turned_away(&self, from: SocketAddr, why: &str) {
        self.enroller.get().expect("set before the port is served").turned_away(from, why);
    }

    async fn enrol(&self, from: SocketAddr, exporter: [u8; 32], request: Bytes) -> Bytes {
        let enroller = self.enroller.get().expect("set before the port is served");
        enroller.answer(from, &exporter, &request).await
    }
}

pub(crate) struct Node {
    pub(crate) consensus: Consensus,
    pub(crate) authority: Authority,
    pub(crate) metrics: Metrics,
    pub(crate) rpc: String,
    pub(crate) dir: TempDir,
    pool: Pool,
    tasks: JoinSet<()>,
    pub(crate) stop: CancellationToken,
}

/// Somewhere to listen.
pub(crate) async fn port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rpc = listener.local_addr().unwrap().to_string();
    (listener, rpc)
}

fn storage(dir: &TempDir, metrics: &Metrics) -> Storage {
    let config = StorageConfig {
        data_dir: dir.path().to_owned(),
        state_dir: dir.path().join("state"),
        map_bytes_max: 1 << 28,
        prezero_bytes: 1 << 20,
        prezero_step_bytes: 1 << 20,
        tail_bytes_max: 1 << 20,
        payload_bytes_max: 1 << 20,
        witnesses: Vec::new(),
    };
    Storage::open(&config, Watches::new(), &metrics.storage).unwrap()
}

fn raft_config() -> RaftConfig {
    RaftConfig {
        heartbeat: Duration::from_millis(75),
        election_min: Duration::from_millis(400),
        election_max: Duration::from_millis(600),
        hold: Duration::from_secs(7),
        propose_timeout: Duration::from_secs(10),
        inflight_bytes_max: 1 << 24,
        command_bytes_max: 1 << 20,
        payload_entries_max: 512,
        snapshot_entries: 50_000,
        keep_entries: 100_000,
        hints: HashMap::new(),
    }
}

/// What a node is started with.
pub(crate) struct Seat {
    pub(crate) dir: TempDir,
    pub(crate) name: String,
    pub(crate) node_id: u64,
    pub(crate) former: bool,
    pub(crate) material: Material,
    pub(crate) life: Duration,
    pub(crate) port: (TcpListener, String),
}

impl Node {
    /// The first node of a new cluster.
    pub(crate) async fn found(name: &str, life: Duration) -> Node {
        let dir = TempDir::new().unwrap();
        let files = IdentityFiles::in_data_dir(dir.path());
        let mut keys = SealingKeys::in_data_dir(dir.path()).unwrap();
        let first = Subject { member: MemberId { cluster_id: CLUSTER, node_id: 1 }, name: name.to_owned() };
        let term = Term { now_ms: now_ms(), life };
        let material = identity::found(&files, &mut keys, &first, term).unwrap();
        let (name, port) = (name.to_owned(), port().await);
        let node = Node::start(Seat { dir, name, node_id: 1, former: true, material, life, port }).await;
        node.consensus.write_formation().await.unwrap();
        let authority = node.authority.clone();
        // A newcomer shall not have to be healthy for ten seconds.
        let before = node.consensus.policy().unwrap();
        let policy = Policy { server_stabilization: Duration::from_millis(100), ..before.policy.clone() };
        assert!(node.consensus.set_policy(&before, &policy).await.unwrap());
        wait_for("the authority is in the state", || authority.stored().unwrap().is_some()).await;
        node
    }

    pub(crate) async fn start(seat: Seat) -> Node {
        let Seat { dir, name, node_id, former, material, life, port: (listener, rpc) } = seat;
        let (metrics, clock, stop) = (Metrics::new(&name, "dc1"), Clock::start(), CancellationToken::new());
        let mut storage = storage(&dir, &metrics);
        let identity = Identity { cluster_id: CLUSTER, node_id, name: name.clone(), former, epoch: 0 };
        let fresh = storage.identity.is_none();
        if fresh {
            storage.become_member(identity.clone()).await.unwrap();
        }
        let tls = Tls::of(&material, TlsVersion::V1_3).unwrap();
        let local = LocalIdentity { cluster_id: Some(CLUSTER), node_id, name: name.clone(), epoch: 0 };
        let pool = Pool::new(Transport::Tls(tls.clone()), local.clone(), metrics.peer.clone());
        let space = SpaceConfig { data_dir: dir.path().to_owned(), reserve_bytes: 0, ballast_bytes: 0 };
        let snapshots = storage.state.store().snapshots().path().to_owned();
        let parts = Parts {
            config: raft_config(),
            storage,
            identity,
            info: NodeInfo { name, rpc: rpc.clone(), http: String::new() },
            pool: pool.clone(),
            space: Arc::new(Space::open(space, metrics.storage.clone()).unwrap()),
            metrics: metrics.clone(),
            clock,
        };
        let consensus = Consensus::start(parts, former && fresh).await.unwrap();
        let keys = SealingKeys::in_data_dir(dir.path()).unwrap();
        let authority =
            Authority::new(AuthorityParts { consensus: consensus.clone(), tls: tls.clone(), keys, life, clock });
        let audit = Audit::new(clock, metrics.cluster.clone());
        let enroller = Enroller::new(EnrollerParts {
            consensus: consensus.clone(),
            authority: Some(authority.clone()),
            audit: audit.clone(),
            clock,
            token: None,
            rate: RateConfig { times: 0, per: Duration::from_secs(60), burst: NonZeroU32::MIN, exempt: Vec::new() },
            epoch: 0,
        });
        let handler = Handler {
            local,
            consensus: consensus.clone(),
            authority: authority.clone(),
            enroller: enroller.into(),
            snapshots,
        };
        let mut tasks = JoinSet::new();
        let peers = serve(
            listener,
            Transport::Tls(tls),
            Arc::new(handler),
            Limits::default(),
            metrics.peer.clone(),
            stop.clone(),
        );
        tasks.spawn(peers);
        let files = IdentityFiles::in_data_dir(dir.path());
        tasks.spawn(Keeper::new(authority.clone(), files, metrics.identity.clone()).run(stop.clone()));
        tasks.spawn(audit.clone().run(consensus.clone(), stop.clone()));
        let duties = LeaderDeps {
            consensus: consensus.clone(),
            metrics: metrics.clone(),
            audit,
            clock,
            compare_every: None,
            seats: 0,
            authority: Some(authority.clone()),
        };
        tasks.spawn(leader::run(duties, stop.clone()));
        Node { consensus, authority, metrics, rpc, dir, pool, tasks, stop }
    }

    /// A token that this many nodes may join with.
    pub(crate) async fn token(&self, uses_max: u32, ttl: Duration) -> Token {
        let pin = self.authority.pin().unwrap().unwrap();
        let random = ring::rand::SystemRandom::new();
        let token = token::generate(Purpose::Join { pin }, Vec::new(), &random).unwrap();
        let (id, key, created_ms) = (token.id().bytes(), token::public_key(&token), now_ms());
        let expires_ms = created_ms + u64::try_from(ttl.as_millis()).unwrap();
        let (by, from, role) = ("test", "", Role::Voter);
        let made = Command::Token(TokenWrite::Create { id, key, role, uses_max, created_ms, expires_ms, by, from });
        self.consensus.propose(&made).await.unwrap();
        token
    }

    /// Another node joins this one's cluster.
    pub(crate) async fn admit(&self, name: &str, token: &Token, life: Duration) -> Node {
        let (dir, port) = (TempDir::new().unwrap(), port().await);
        let files = IdentityFiles::in_data_dir(dir.path());
        let me = applicant(name, &port.1, &files);
        let admitted = match enrol::join(token, &self.rpc, &me).await.unwrap() {
            Answer::Admitted(admitted) => *admitted,
            other => panic!("{}", told(&other)),
        };
        let Admitted { cluster_id, node_id, material, .. } = admitted;
        assert_eq!(cluster_id, CLUSTER);
        files.store(&material).unwrap();
        files.remove_joining_key().unwrap();
        let name = name.to_owned();
        Node::start(Seat { dir, name, node_id, former: false, material, life, port }).await
    }

    pub(crate) fn id(&self) -> u64 {
        self.consensus.identity().node_id
    }

    pub(crate) fn voters(&self) -> usize {
        self.consensus.status().members.iter().filter(|member| member.voter).count()
    }

    /// Ends in order; what it kept is on disk.
    pub(crate) async fn end(mut self) -> TempDir {
        self.stop.cancel();
        self.pool.close().await;
        while self.tasks.join_next().await.is_some() {}
        self.consensus.stop().await;
        self.dir
    }
}

pub(crate) fn applicant(name: &str, rpc: &str, files: &IdentityFiles) -> Applicant {
    let (name, rpc, http) = (name.to_owned(), rpc.to_owned(), String::new());
    Applicant { name, rpc, http, former: false, understands: Understands::OWN, key: files.joining_key().unwrap() }
}

pub(crate) fn told(answer: &Answer) -> String {
    match answer {
        Answer::Admitted(admitted) => format!("admitted as {}", admitted.node_id),
        Answer::NotMember { promised } => format!("not a member, promised: {promised}"),
        Answer::NotLeader { rpc } => format!("not the leader, which is at {rpc:?}"),
        Answer::Refused { code, why } => format!("refused, {code:?}: {why}"),
    }
}

/// Whether a proposal of this node's own is committed.
pub(crate) async fn writes(node: &Node, value: &[u8]) -> bool {
    use konsul_state::KvWrite;
    let write = Command::Kv(KvWrite::Set { key: b"k", value, flags: 0 });
    node.consensus.propose(&write).await.is_ok()
}

pub(crate) fn promise() -> Promise {
    Promise::new(Clock::start())
}
