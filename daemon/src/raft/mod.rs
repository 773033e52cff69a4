//! Committed or not; read allowed or not.  Knows nothing about: HTTP, JSON, sessions.

mod comparison;
mod examined;
mod fence;
mod forward;
mod group;
mod lag;
mod leadership;
mod members;
mod membership;
mod propose;
mod read;
mod serve;
mod status;
mod traced;
mod tracker;
mod understands;
mod upgrade;

pub use comparison::{CompareError, NotExamined};
pub use examined::{Compared, Comparison, Examined, Soundness};
pub use members::{AskError, Asker, MemberService};
pub use membership::{
    AdmitError, Change, ChangeError, Done, MemberSeen, MembershipDone, MembershipError, MembershipOp,
    MembershipRequest, Policy, Position, RecordError, Seen, Standing, StoredPolicy, TransferError,
};
pub use propose::{Committed, ProposeError};
pub use read::{Consistency, ReadError, ReadPermit};
pub use status::{Contact, MemberStatus, Peer, Role, SnapshotInfo, Status, node_uuid};
pub use understands::Understands;
pub use upgrade::{MemberProgram, Program, UpgradeError, UpgradeState};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::peer::Pool;
use crate::raft_types::{NodeInfo, TypeConfig};
use crate::storage::{Identity, Space, StateMachine, StateStore, Storage};
use crate::systemd::{Pulse, Watched};
use crate::telemetry::events;
use crate::watch::Watches;
use bytes::Bytes;
use group::Grouper;
use leadership::Leadership;
use openraft::error::{Fatal, InitializeError, RaftError};
use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};
use propose::Budget;
use read::Rounds;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// How consensus runs; every length of time follows from `raft.timing`.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Also the leader's lease.
    pub election_max: Duration,
    /// How long a request is held while there is no leader.
    pub hold: Duration,
    /// How long a write may take before its outcome is called unknown.
    pub propose_timeout: Duration,
    pub inflight_bytes_max: usize,
    pub command_bytes_max: usize,
    /// Entries in one replication message.
    pub payload_entries_max: u64,
    /// A snapshot after this many entries, or a quarter of the number of keys, if that is more.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot, so that a follower that was away for a while needs none.
    pub keep_entries: u64,
    /// Where the configuration says that members are, by name: tried when they are not where the membership says.
    pub hints: HashMap<String, String>,
}

/// What consensus is made of.
pub struct Parts {
    pub config: RaftConfig,
    pub storage: Storage,
    pub identity: Identity,
    pub info: NodeInfo,
    pub pool: Pool,
    pub space: Arc<Space>,
    pub metrics: Metrics,
    pub clock: Clock,
}

/// The replicated state of this node: the one way to write to it and to read from it. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    config: Settings,
    identity: Identity,
    info: NodeInfo,
    pool: Pool,
    space: Arc<Space>,
    metrics: Metrics,
    clock: Clock,
    state: Arc<StateStore>,
    storage: Storage,
    leadership: Leadership,
    /// Counts changes of leader, term and role.
    leader_changes: watch::Receiver<u64>,
    budget: Budget,
    grouper: Grouper,
    leader_rounds: Rounds,
    strong_rounds: Rounds,
    tasks: TaskTracker,
    runtime: Handle,
    /// No vote is given before: a restarted voter has forgotten whom it promised not to.
    votes_from: crate::clock::Timestamp,
    stop: CancellationToken,
    stopping: AtomicBool,
    failed: watch::Sender<Option<String>>,
    hints: HashMap<String, String>,
    /// One membership change at a time.
    changing: Semaphore,
    /// One comparison of states at a time.
    comparing: tokio::sync::Mutex<()>,
    /// The last one that this node made as the leader.
    compared: watch::Sender<Option<Comparison>>,
    /// Members that are fenced, as the leader knows.
    fenced_members: Mutex<BTreeSet<u64>>,
    /// Fenced since before the start, and not compared since.
    asks: AtomicBool,
    /// The lease that this node may have granted before its start is over.
    may_campaign: AtomicBool,
    /// Why this node belongs to the cluster no more.
    departed: watch::Sender<Option<String>>,
    /// It does because the cluster was recovered and went on without it.
    left_behind: AtomicBool,
    /// What the leader's autopilot published last, and in which term.
    report: Mutex<Option<(u64, Bytes)>>,
    /// The term whose leader does not understand what is part of a trace.
    untraced_term: AtomicU64,
    /// Of the raft core.
    pulse: Arc<Pulse>,
    poked: Arc<Notify>,
}

/// What the running parts need of [`RaftConfig`].
#[derive(Debug, Clone)]
struct Settings {
    lease: Duration,
    hold: Duration,
    propose_timeout: Duration,
    command_bytes_max: usize,
    snapshot_entries: u64,
    keep_entries: u64,
}

/// Consensus cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("raft timing is not usable")]
    Config {
        #[source]
        source: ConfigError,
    },
    #[error("start the raft core")]
    Build {
        #[source]
        source: Fatal<TypeConfig>,
    },
    #[error("form the cluster")]
    Form {
        #[source]
        source: Box<RaftError<TypeConfig, InitializeError<TypeConfig>>>,
    },
}

fn ms(d: Duration) -> u64 {
    propose::millis(d)
}

impl RaftConfig {
    /// What it means for openraft.
    pub fn core(&self, cluster: &str) -> Result<Arc<Config>, StartError> {
        let core = Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            heartbeat_min_interval: Some(0),
            max_payload_entries: self.payload_entries_max,
            max_append_entries: Some(4096),
            api_channel_size: Some(4096),
            // Snapshots are triggered by `tracker`, which knows how large the state is.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: 4096,
            replication_lag_threshold: 1000,
            install_snapshot_timeout: 60_000,
            quorum_loss_probe_interval: Some(2 * ms(self.election_max)),
            enable_pre_vote: Some(true),
            // Leadership is won, never remembered.
            enable_leader_restore: Some(false),
            // Off until this node may campaign: see `tracker::begin_to_campaign`.
            enable_elect: false,
            removed_leader_step_down: StepDownPolicy::After(ms(self.heartbeat)),
            ..Config::default()
        };
        core.validate().map(Arc::new).map_err(|source| StartError::Config { source })
    }
}

impl Consensus {
    /// Starts the raft core on the runtime it is called on. `form`: this node is the first of a new cluster.
    pub async fn start(parts: Parts, form: bool) -> Result<Consensus, StartError> {
        let Parts { config, storage, identity, info, pool, space, metrics, clock } = parts;
        let cluster = uuid::Uuid::from_bytes(identity.cluster_id).to_string();
        let core = config.core(&cluster)?;
        let (log, machine) = (storage.log.clone(), storage.state.clone());
        let state = Arc::clone(machine.store());
        let built = Raft::build(identity.node_id, core, pool.clone(), log, machine).await;
        let raft = built.map_err(|source| StartError::Build { source })?;
        let applied = state.view().and_then(|view| view.applied());
        if let Ok(applied) = applied {
            state.watches().publish(applied, &konsul_state::Changes::default());
        }

        let fenced = storage.fence.why();
        metrics.raft.fenced.set(u64::from(fenced.is_some()));
        if let Some(why) = &fenced {
            tracing::error!(message_id = events::NODE_FENCED, %why, "fenced since before the start");
        }
        let (changed, leader_changes) = watch::channel(0);
        let consensus = Consensus {
            inner: Arc::new(Inner {
                leadership: Leadership::new(clock, config.election_max),
                config: Settings {
                    lease: config.election_max,
                    hold: config.hold,
                    propose_timeout: config.propose_timeout,
                    command_bytes_max: config.command_bytes_max,
                    snapshot_entries: config.snapshot_entries,
                    keep_entries: config.keep_entries,
                },
                raft,
                info,
                pool,
                space,
                metrics,
                clock,
                state,
                storage,
                leader_changes,
                budget: Budget::new(config.inflight_bytes_max),
                grouper: Grouper::default(),
                leader_rounds: Rounds::default(),
                strong_rounds: Rounds::default(),
                tasks: TaskTracker::new(),
                runtime: Handle::current(),
                votes_from: clock.now().plus(config.election_max),
                stop: CancellationToken::new(),
                stopping: AtomicBool::new(false),
                failed: watch::Sender::new(None),
                hints: config.hints,
                changing: Semaphore::new(1),
                comparing: tokio::sync::Mutex::default(),
                compared: watch::Sender::new(None),
                fenced_members: Mutex::default(),
                asks: AtomicBool::new(fenced.is_some()),
                may_campaign: AtomicBool::new(false),
                departed: watch::Sender::new(None),
                left_behind: AtomicBool::new(false),
                report: Mutex::default(),
                untraced_term: AtomicU64::new(0),
                pulse: Pulse::new("raft-core"),
                poked: Arc::default(),
                identity,
            }),
        };
        consensus.inner.raft.run();
        consensus.track(changed);
        if form {
            let first = BTreeMap::from([(consensus.inner.identity.node_id, consensus.inner.info.clone())]);
            let formed = consensus.inner.raft.initialize(first).await;
            formed.map_err(|source| StartError::Form { source: Box::new(source) })?;
        }
        Ok(consensus)
    }

    /// Waiters for changes.
    pub fn watches(&self) -> &Watches {
        self.inner.state.watches()
    }

    /// The state, for those who count and check it.
    pub fn state(&self) -> &Arc<StateStore> {
        &self.inner.state
    }

    /// Those without whose progress this node is dead: the log writer, the apply thread, and the raft core.
    pub fn watched(&self) -> [Watched; 3] {
        let (pulse, poked) = (Arc::clone(&self.inner.pulse), Arc::clone(&self.inner.poked));
        let asked = Arc::clone(&pulse);
        let poke = move || {
            asked.ask();
            poked.notify_one();
        };
        let core = Watched { pulse, poke: Box::new(poke) };
        [self.inner.storage.log.watched(), self.inner.storage.state.watched(), core]
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Waits until the raft core or the storage has failed; the node must end then. The reason.
    pub async fn failure(&self) -> String {
        let mut failed = self.inner.failed.subscribe();
        // The sender lives in `inner`, which `self` holds.
        let reason = failed.wait_for(Option::is_some).await.map(|reason| reason.clone());
        reason.ok().flatten().unwrap_or_else(|| "the raft core has gone".to_owned())
    }

    /// What this node met in the log or in a snapshot that only a newer program understands.
    pub fn newer(&self) -> Option<String> {
        self.inner.state.newer().map(str::to_owned)
    }

    /// Hands leadership over if this node leads and somebody can take it.
    pub async fn hand_over(&self) {
        if !self.leads() {
            return;
        }
        match self.transfer_leadership(None).await {
            Ok((_, to, took)) => {
                tracing::info!(to = to.id, took_ms = propose::millis(took), "leadership handed over");
            }
            Err(error) => tracing::warn!(%error, "leadership could not be handed over; an election will follow"),
        }
    }

    /// Ends the raft core, then syncs and closes the storage.
    pub async fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.inner.stop.cancel();
        self.inner.changing.close();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "the raft core did not end well");
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        if let Err(error) = self.inner.storage.log.close().await {
            tracing::error!(%error, "the log was not closed");
        }
        let state = Arc::clone(&self.inner.state);
        match tokio::task::spawn_blocking(move || state.close()).await {
            Ok(Ok(())) => tracing::info!("storage closed"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the state was not closed; it will be rebuilt if the machine stops")
            }
            Err(error) => tracing::error!(%error, "closing the state was interrupted"),
        }
    }
}
