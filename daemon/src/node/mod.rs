//! One node: what it is made of, the order in which its parts start and stop.  Holds no logic of its own.

mod build;
mod enter;
mod handler;
mod listen;
pub mod offline;
mod reload;
mod supervise;

use crate::backup;
use crate::clock::Clock;
use crate::cluster::audit::Audit;
use crate::cluster::ca::SealingError;
use crate::cluster::enrol::{Enroller, EnrollerParts};
use crate::cluster::entry;
use crate::cluster::identity::{Authority, AuthorityParts, Brought, IdentityFiles, Keeper, Papers};
use crate::cluster::lobby::{self, Lobby};
use crate::cluster::token::{BadToken, Token};
use crate::cluster::{self, Promise};
use crate::config::{Config, Loaded};
use crate::durable::DurableError;
use crate::http::{self, AdminSocketError, Listening, LiveLimits};
use crate::leader;
use crate::metrics::Metrics;
use crate::peer::{self, Limits, Pool, Transport};
use crate::raft::{Consensus, Parts, StartError};
use crate::shutdown::Hangups;
use crate::storage::{self, Identity, OpenError, Space, SpaceConfig, Storage, StorageConfig};
use crate::systemd::{Passed, SocketsError, Supervisor};
use crate::telemetry::events;
use crate::watch::Watches;
use handler::Handler;
use listen::{OwnFile, Ports};
use reload::Reloader;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use supervise::{Conditions, Sight};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Peer connections at a time: a few per member, and some for those who join.
const PEER_CONNECTIONS_MAX: usize = 1024;
/// Between looks whether the authority of a new cluster is in the state.
const FOUNDING_LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// A node whose storage is open and whose ports are not.
pub struct Node {
    config: Config,
    loaded: Loaded,
    clock: Clock,
    metrics: Metrics,
    storage: Storage,
    space: Arc<Space>,
    transport: Transport,
    passed: Passed,
    supervisor: Supervisor,
    /// Until it starts.
    conditions: Option<Conditions>,
    sight: Sight,
}

/// A node that serves.
pub struct Running {
    consensus: Consensus,
    pool: Pool,
    tasks: TaskTracker,
    http: tokio::task::JoinHandle<()>,
    stop_http: CancellationToken,
    stop_peers: CancellationToken,
    data_dir: PathBuf,
    supervisor: Supervisor,
    own_admin: Option<OwnFile>,
}

/// Why a node ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Somebody wants it to.
    Asked,
    /// A part failed, and nothing can be trusted any more.
    Failed { reason: String },
    /// It belongs to its cluster no more; its data is of no use to anybody.
    Removed { reason: String },
    /// Its cluster was recovered and went on without it; it must not answer anybody any more.
    LeftBehind { reason: String },
    /// The log or a snapshot holds what only a newer program understands; nothing of it was applied.
    Newer { reason: String },
}

/// A node that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("open the storage in {data_dir}")]
    Storage {
        data_dir: PathBuf,
        #[source]
        source: OpenError,
    },
    #[error("watch the space of the data directory")]
    Space {
        #[source]
        source: io::Error,
    },
    #[error("open the directory of the state")]
    Witness {
        #[source]
        source: io::Error,
    },
    #[error("look whether this node was left behind")]
    Marker {
        #[source]
        source: io::Error,
    },
    #[error("read the certificates of this node")]
    Tls {
        #[source]
        source: build::TransportError,
    },
    #[error(
        "this data directory belongs to node {found:?}, the configuration says {configured:?}; set node.name, or use another storage.data_dir"
    )]
    Name { found: String, configured: String },
    #[error("listen on {address}; is something else running there?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "this node was left behind: {why}. Its data is kept in {data_dir}; to rejoin, move that away and start the node \
         empty"
    )]
    LeftBehind { data_dir: PathBuf, why: String },
    #[error("start the thread that watches the others")]
    Supervisor {
        #[source]
        source: io::Error,
    },
    #[error("use the sockets of the service manager")]
    Passed {
        #[source]
        source: SocketsError,
    },
    #[error("make the admin socket")]
    AdminSocket {
        #[source]
        source: AdminSocketError,
    },
    #[error("use the socket {name}")]
    Adopt {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("write who this node is")]
    Identity {
        #[source]
        source: io::Error,
    },
    #[error("start consensus")]
    Start {
        #[source]
        source: StartError,
    },
    #[error("read the join token {path}")]
    Token {
        path: PathBuf,
        #[source]
        source: TokenFileError,
    },
    #[error("read the sealing keys")]
    Sealing {
        #[source]
        source: SealingError,
    },
    #[error("stopped before the node was a member")]
    Stopped,
}

/// A file with a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Bad(#[from] BadToken),
}

impl NodeError {
    /// Whether no more is wrong than that this program is too old for the data; then a restart does not help.
    pub fn needs_newer(&self) -> bool {
        storage::needs_newer(self).is_some()
    }
}

impl Node {
    /// Verifies and recovers; binds nothing.
    pub fn open(loaded: Loaded) -> Result<Node, NodeError> {
        let mut passed = listen::passed().map_err(|source| NodeError::Passed { source })?;
        let started = supervise::start();
        let (supervisor, conditions) = started.map_err(|source| NodeError::Supervisor { source })?;
        let config = loaded.config().clone();
        let (clock, sight) = (Clock::start(), Sight::default());
        let metrics = Metrics::new(&config.node.name, &config.http.datacenter);
        sight.tell(&supervisor, &metrics);
        let wanted = wanted_storage(&config, &mut passed)?;
        let left_behind = storage::left_behind(&wanted.data_dir).map_err(|source| NodeError::Marker { source })?;
        if let Some(why) = left_behind {
            return Err(NodeError::LeftBehind { data_dir: wanted.data_dir, why });
        }
        let space_config = SpaceConfig {
            data_dir: wanted.data_dir.clone(),
            reserve_bytes: config.storage.free_reserve_bytes,
            ballast_bytes: config.storage.ballast_bytes,
        };
        let storage = open_storage(&config, &wanted, &metrics)?;
        if let Some(dir) = storage.unwitnessed() {
            supervisor.keep(listen::STATE, dir.map_err(|source| NodeError::Witness { source })?);
        }
        if let Some(identity) = &storage.identity
            && identity.name != config.node.name
        {
            let (found, configured) = (identity.name.clone(), config.node.name.clone());
            return Err(NodeError::Name { found, configured });
        }
        let config = of_member(config, &storage)?;
        let space = Space::open(space_config, metrics.storage.clone());
        let space = Arc::new(space.map_err(|source| NodeError::Space { source })?);
        let transport =
            build::transport(&config, storage.identity.is_some()).map_err(|source| NodeError::Tls { source })?;
        Ok(Node {
            config,
            loaded,
            clock,
            metrics,
            storage,
            space,
            transport,
            passed,
            supervisor,
            conditions: Some(conditions),
            sight,
        })
    }

    /// Joins or forms, then serves. Consensus and peers run on the current runtime, HTTP on `http_runtime`, so that a
    /// storm of requests cannot delay a heartbeat.
    pub async fn start(
        mut self,
        http_runtime: &Handle,
        stop: &CancellationToken,
        hangups: Hangups,
    ) -> Result<Running, NodeError> {
        let conditions = self.conditions.take().expect("a node starts once");
        conditions.storage_verified.met();
        let (tasks, stop_peers) = (TaskTracker::new(), CancellationToken::new());
        let myself = build::local(&self.config, self.storage.identity.as_ref());
        let pool = Pool::new(self.transport.clone(), myself, self.metrics.peer.clone());
        let snapshots = self.storage.state.store().snapshots().path().to_owned();
        let nobody = build::local(&self.config, None);
        let promise = if self.config.cluster.is_entered() {
            Promise::among_newcomers(self.clock)
        } else {
            Promise::new(self.clock)
        };
        let handler = Arc::new(Handler::new(nobody, snapshots, promise, self.clock));
        let token = self.token()?;
        if let Some(token) = &token {
            handler.hold(Arc::clone(token));
        }
        let ports = Ports::open(&self.config, std::mem::take(&mut self.passed)).await?;
        for listener in ports.rpc {
            let limits = Limits { connections_max: PEER_CONNECTIONS_MAX };
            let served = Arc::clone(&handler);
            let (transport, counted, stop) = (self.transport.clone(), self.metrics.peer.clone(), stop_peers.clone());
            tasks.spawn(peer::serve(listener, transport, served, limits, counted, stop));
        }
        let listening: Arc<[Listening]> = ports.list.into();
        // Before the node is in a cluster: it tells what it waits for, and is told what to do.
        let (lobby, mut wishes) = lobby::lobby();
        let (stop_http, (begin_http, member)) = (CancellationToken::new(), oneshot::channel());
        let limits = LiveLimits::new(self.config.http.limits.clone());
        let entering = (lobby.clone(), self.storage.identity.is_some());
        let reception = build::reception(&self.config, &limits, &self.metrics, entering, Arc::clone(&listening));
        let http = http_runtime.spawn(http::serve(ports.http, reception, member, stop_http.clone()));
        conditions.listening.met();
        supervise::feel_runtimes(&tasks, http_runtime, &self.metrics.supervision, &stop_peers);
        self.sight.lobby(&lobby);

        let brought = self.transport.tls().and_then(|tls| Brought::of(tls, &self.metrics));
        if let Some(brought) = &brought {
            tasks.spawn(brought.clone().run(stop_peers.clone()));
        }
        let (loaded, counted) = (self.loaded.clone(), self.metrics.reload.clone());
        let reloader = Reloader::new(loaded, limits.clone(), brought.clone(), counted, self.supervisor.clone());
        tasks.spawn(reloader.run(hangups, stop_peers.clone()));

        let (identity, asked) = match self.storage.identity.clone() {
            Some(identity) => {
                self.look_at_address()?;
                (identity, None)
            }
            None if self.config.cluster.is_entered() => {
                self.enter(&handler, (&lobby, &mut wishes), token.as_ref(), stop).await?
            }
            None => (self.become_member(&pool, &handler, &lobby, stop).await?, None),
        };
        conditions.member.met();
        let known = build::local(&self.config, Some(&identity));
        pool.become_member(known.clone());
        self.metrics.cluster.recovery_epoch.set(u64::from(identity.epoch));
        let form = identity.former && self.storage.is_empty();
        let parts = Parts {
            config: build::raft(&self.config),
            storage: self.storage,
            identity,
            info: build::info(&self.config),
            pool: pool.clone(),
            space: self.space,
            metrics: self.metrics.clone(),
            clock: self.clock,
        };
        let consensus = Consensus::start(parts, form).await.map_err(|source| NodeError::Start { source })?;
        self.sight.member(&consensus);
        consensus.watched().into_iter().for_each(|watched| self.supervisor.watch(watched));
        handler.begin(known, consensus.clone());
        complete_formation(&consensus, stop).await;
        let audit = Audit::new(self.clock, self.metrics.cluster.clone());
        let authority = authority_of(&self.config, &self.transport, &consensus, self.clock)?;
        let duties = build::duties(&self.config, &consensus, &audit, &self.metrics, self.clock, authority.as_ref());
        tasks.spawn(leader::run(duties, stop_peers.clone()));
        check_snapshots(&tasks, &consensus, &self.metrics);
        tasks.spawn(backup::follow(consensus.clone(), self.metrics.backup.clone(), stop_peers.clone()));

        // Stops with HTTP: what is left is written while peers can still be reached.
        tasks.spawn(audit.clone().run(consensus.clone(), stop_http.clone()));
        let parts = EnrollerParts {
            consensus: consensus.clone(),
            authority: authority.clone(),
            audit: audit.clone(),
            clock: self.clock,
            token: handler.token().map(|token| Token::clone(&token)),
            rate: self.config.cluster.join_rate.clone(),
            epoch: consensus.identity().epoch,
        };
        handler.admit_others(authority.clone(), Enroller::new(parts));
        if let Some(authority) = &authority {
            let files = IdentityFiles::in_data_dir(&self.config.storage.data_dir);
            let keeper = Keeper::new(authority.clone(), files, self.metrics.identity.clone());
            tasks.spawn(keeper.run(stop_peers.clone()));
            founded(&consensus, authority, handler.token().as_deref(), self.clock, stop).await;
        }
        let tls = self.transport.tls().cloned();
        let papers = Papers { tls, authority, brought, pool: pool.clone(), clock: self.clock };
        let deps = build::http(&self.config, limits, &consensus, audit, papers, self.metrics, listening);
        // It fails if the node is stopping, and then nobody is answered any more.
        drop(begin_http.send(deps));
        enter::tell(asked, consensus.identity());
        // Not `stop`: a node that is removed before it has caught up ends without it.
        tasks.spawn(supervise::catch_up(consensus.clone(), conditions.caught_up, stop_peers.clone()));
        tracing::info!(node = consensus.identity().node_id, name = %self.config.node.name, "serving");
        let (data_dir, supervisor) = (self.config.storage.data_dir, self.supervisor);
        let own_admin = ports.own_admin;
        Ok(Running { consensus, pool, tasks, http, stop_http, stop_peers, data_dir, supervisor, own_admin })
    }

    /// The token of the configuration, which only a node that is in no cluster needs; and the nodes that joined each
    /// other with it, while they do.
    fn token(&self) -> Result<Option<Arc<Token>>, NodeError> {
        let Some(path) = &self.config.cluster.join_token_file else { return Ok(None) };
        let failed = |source| NodeError::Token { path: path.clone(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => Token::parse(&text).map(|token| Some(Arc::new(token))).map_err(|error| failed(error.into())),
            // Used, and taken away.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.storage.identity.is_some() => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    async fn become_member(
        &mut self,
        pool: &Pool,
        handler: &Handler,
        lobby: &Lobby,
        stop: &CancellationToken,
    ) -> Result<Identity, NodeError> {
        let seat = build::seat(&self.config);
        lobby.now("joining the cluster of its static peers, or forming it with them", false);
        let identity = tokio::select! {
            identity = cluster::begin(&seat, pool, handler.promise()) => identity,
            () = stop.cancelled() => return Err(NodeError::Stopped),
        };
        let written = self.storage.become_member(identity.clone()).await;
        written.map_err(|source| NodeError::Identity { source })?;
        Ok(identity)
    }
}

impl Running {
    /// Until there is a reason to end.
    pub async fn until_stopped(&self, stop: &CancellationToken) -> End {
        tokio::select! {
            () = stop.cancelled() => End::Asked,
            reason = self.consensus.failure() => match self.consensus.newer() {
                Some(reason) => End::Newer { reason },
                None => End::Failed { reason },
            },
            reason = self.consensus.departure() => {
                if self.consensus.is_left_behind() { End::LeftBehind { reason } } else { End::Removed { reason } }
            }
        }
    }

    /// From now on this node does not start: so that it does not serve again when it cannot reach those who went on.
    pub fn stay_behind(&self, reason: &str) -> Result<(), DurableError> {
        storage::leave_behind(&self.data_dir, reason)
    }

    /// Ends in order.
    pub async fn drain(self) {
        self.supervisor.stopping();
        supervise::stopping(&self.supervisor, "leadership is handed over");
        // First, while everything still works: writes in flight are then forwarded to the new leader, not lost.
        self.consensus.hand_over().await;
        // Blocked queries are answered with the current index, requests in flight run to their end.
        supervise::stopping(&self.supervisor, "requests under way are answered");
        self.stop_http.cancel();
        if let Err(error) = self.http.await {
            tracing::error!(%error, "the HTTP server did not end well");
        }
        drop(self.own_admin);
        // Before the raft core: nobody shall be answered by a core that is ending.
        supervise::stopping(&self.supervisor, "the storage is closed");
        self.stop_peers.cancel();
        self.pool.close().await;
        self.tasks.close();
        self.tasks.wait().await;
        // Last: the storage is closed when nobody writes to it any more.
        self.consensus.stop().await;
    }
}

/// A member of a cluster that was entered is one whatever the configuration says now.
fn of_member(config: Config, storage: &Storage) -> Result<Config, NodeError> {
    let may_be = storage.identity.is_some() && config.cluster.peers.is_empty() && config.tls.files.is_none();
    if !may_be {
        return Ok(config);
    }
    let kept = IdentityFiles::in_data_dir(&config.storage.data_dir).load();
    let kept = kept.map_err(|error| NodeError::Tls { source: error.into() })?;
    Ok(if kept.is_some() { config.of_entered() } else { config })
}

/// With what the service manager kept since an earlier process of this node had it open.
fn wanted_storage(config: &Config, passed: &mut Passed) -> Result<StorageConfig, NodeError> {
    let kept = passed.kept(listen::STATE).map_err(|source| NodeError::Passed { source })?;
    Ok(StorageConfig { witnesses: kept.into_iter().map(Arc::new).collect(), ..config.storage() })
}

/// Opens the storage; one that is damaged beyond repair is moved aside, if others hold the data.
fn open_storage(config: &Config, wanted: &StorageConfig, metrics: &Metrics) -> Result<Storage, NodeError> {
    let open = || Storage::open(wanted, Watches::new(), &metrics.storage);
    let failed = |source| NodeError::Storage { data_dir: wanted.data_dir.clone(), source };
    let storage = match open() {
        Err(damage) if damage.is_damage() && config.cluster.peers.len() > 1 => {
            let name = format!("damaged-{}", Clock::start().wall().as_millis());
            let aside = Storage::quarantine(wanted, &name).map_err(failed)?;
            tracing::error!(
                message_id = events::STORAGE_DAMAGED,
                error = %damage,
                moved_to = %aside.display(),
                "damaged storage set aside; this node joins anew, under another id"
            );
            open().map_err(failed)?
        }
        opened => opened.map_err(failed)?,
    };
    if let Some(why) = &storage.report.rebuilt {
        tracing::info!(%why, "the state is rebuilt from the newest snapshot and the log");
    }
    tracing::info!(log_entries = storage.report.log_entries, "storage verified");
    Ok(storage)
}

/// A former that was interrupted between its first entry and the command that names the cluster writes it now.
async fn complete_formation(consensus: &Consensus, stop: &CancellationToken) {
    while consensus.identity().former && !consensus.is_formed() && !stop.is_cancelled() {
        if let Err(error) = consensus.write_formation().await {
            tracing::warn!(%error, "cannot write the formation of the cluster yet");
        }
    }
}

/// The authority of a cluster that makes its own certificates.
fn authority_of(
    config: &Config,
    transport: &Transport,
    consensus: &Consensus,
    clock: Clock,
) -> Result<Option<Authority>, NodeError> {
    let Some(tls) = transport.tls().filter(|_| config.cluster.is_entered()) else { return Ok(None) };
    let keys = entry::sealing_keys(&config.storage.data_dir, config.cluster.sealing_key_file.as_deref());
    let keys = keys.map_err(|source| NodeError::Sealing { source })?;
    let life = config.cluster.certificate_life;
    let parts = AuthorityParts { consensus: consensus.clone(), tls: tls.clone(), keys, life, clock };
    Ok(Some(Authority::new(parts)))
}

/// As the founder: returns when the cluster's authority is in the state, and with it the token that others hold.
async fn founded(
    consensus: &Consensus,
    authority: &Authority,
    token: Option<&Token>,
    clock: Clock,
    stop: &CancellationToken,
) {
    while consensus.identity().former && !stop.is_cancelled() {
        match authority.stored() {
            Ok(Some(_)) => break,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot read the authority of the cluster"),
        }
        stop.run_until_cancelled(tokio::time::sleep(FOUNDING_LOOK)).await;
    }
    if let Some(token) = token.filter(|_| consensus.identity().former)
        && let Err(error) = entry::register(consensus, token, clock.wall().as_millis()).await
    {
        tracing::warn!(%error, "the others cannot join with the bootstrap token; make a join token for them");
    }
}

/// The snapshots of a trusted state are read once beside normal work: a damaged one shall be known before it is needed.
fn check_snapshots(tasks: &TaskTracker, consensus: &Consensus, metrics: &Metrics) {
    let (state, metrics) = (Arc::clone(consensus.state()), metrics.storage.clone());
    tasks.spawn_blocking(move || match Storage::check_snapshots(&state, &metrics) {
        Ok(damaged) => {
            for error in damaged {
                tracing::error!(message_id = events::SNAPSHOT_DAMAGED, %error, "damaged snapshot set aside");
            }
        }
        Err(error) => tracing::error!(%error, "the snapshots cannot be checked"),
    });
}
