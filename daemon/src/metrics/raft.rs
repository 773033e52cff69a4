//! Who leads, how far each index is, how long a write takes.

use super::{Gauge, PeerGauges, SecondsGauge, latency_ms};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;
use std::time::Duration;

type OneLabel = [(&'static str, &'static str); 1];

/// Consensus as this node sees it. Gauges of peers are the leader's view: clear them when leadership ends.
#[derive(Debug, Clone)]
pub struct RaftMetrics {
    pub is_leader: Gauge,
    pub term: Gauge,
    pub voters: Gauge,
    pub members: Gauge,
    pub leader_changes: Counter,
    pub last_log_index: Gauge,
    pub commit_index: Gauge,
    pub applied_index: Gauge,
    pub snapshot_index: Gauge,
    /// Since the oldest entry of the log was seen first.
    pub log_oldest_age_seconds: SecondsGauge,
    pub has_quorum: Gauge,
    /// Comparisons, made by this node as the leader, in which states differed.
    pub state_digest_mismatch: Counter,
    /// Comparisons, made by this node as the leader, in which a majority of the voters held the same state.
    pub states_compared: Counter,
    /// Between two comparisons; 0: only when asked.
    pub compare_interval_seconds: SecondsGauge,
    /// Log index of the newest digest that this node took of its state.
    pub state_digest_index: Gauge,
    /// 1 while this node answers nobody.
    pub fenced: Gauge,
    /// Milliseconds from proposal to applied.
    pub apply_latency_ms: Histogram,
    /// Observed by the leader.
    pub commits: Commits,
    pub fsm_pending: Gauge,
    pub inflight_bytes: Gauge,
    /// Commands that shared one log entry.
    pub group_commands: Histogram,
    /// Commands proposed by this node and applied.
    pub applied: Applied,
    /// Reads that asked for the consistency gate.
    pub reads: Reads,
    role: Family<OneLabel, Gauge>,
    apply: Family<OneLabel, Counter>,
    apply_errors: Family<OneLabel, Counter>,
    read: Family<OneLabel, Counter>,
    elections: Family<OneLabel, Counter>,
    replication_lag: PeerGauges<u64>,
    replication_lag_seconds: PeerGauges<f64>,
    last_contact_seconds: PeerGauges<f64>,
}

/// How long entries take from this node's log to a majority; counted while this node leads.
#[derive(Debug, Clone)]
pub struct Commits {
    latency_ms: Histogram,
    is_leader: Gauge,
}

impl Commits {
    /// Whether this node leads.
    pub fn count(&self) -> bool {
        self.is_leader.get() == 1
    }

    /// From append to acknowledged by a majority.
    pub fn observe(&self, took: Duration) {
        self.latency_ms.observe(took.as_secs_f64() * 1e3);
    }
}

/// A counter for each type of command, there from the start: counting one looks nothing up.
#[derive(Debug, Clone)]
pub struct Applied {
    pub kv_set: Counter,
    pub kv_cas: Counter,
    pub kv_delete: Counter,
    pub kv_delete_cas: Counter,
    pub kv_delete_tree: Counter,
    pub txn: Counter,
    pub batch: Counter,
    pub form: Counter,
    pub admit: Counter,
    pub restore: Counter,
    pub token_create: Counter,
    pub token_revoke: Counter,
    pub token_use: Counter,
    pub audit: Counter,
    pub record: Counter,
    pub retire: Counter,
    pub check_point: Counter,
    pub upgrade: Counter,
}

/// A counter for each consistency, there from the start.
#[derive(Debug, Clone)]
pub struct Reads {
    pub stale: Counter,
    pub leader: Counter,
    pub strong: Counter,
}

/// A member by its node id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    pub peer: u64,
}

/// How far a member is, as the leader knows; `None`: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// Its node id.
    pub peer: u64,
    /// Entries that it is behind.
    pub lag: Option<u64>,
    /// How long ago the leader's log ended where this one's ends.
    pub lag_time: Option<Duration>,
    /// Since it last answered.
    pub last_contact: Option<Duration>,
}

/// What a node is doing; exactly one series of `konsul_raft_role` is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleMetric {
    Leader,
    Follower,
    Candidate,
    Learner,
    Recovering,
}

/// How a candidacy of this node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Election {
    Won,
    /// Another leads, or the majority did not answer.
    Lost,
}

/// Why a proposal was not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalFailure {
    NoLeader,
    Timeout,
    Busy,
    ReadOnly,
    TooLarge,
    Stopping,
}

impl Applied {
    fn of(family: &Family<OneLabel, Counter>) -> Applied {
        let counter = |command| family.get_or_create_owned(&[("type", command)]);
        Applied {
            kv_set: counter("kv_set"),
            kv_cas: counter("kv_cas"),
            kv_delete: counter("kv_delete"),
            kv_delete_cas: counter("kv_delete_cas"),
            kv_delete_tree: counter("kv_delete_tree"),
            txn: counter("txn"),
            batch: counter("batch"),
            form: counter("form"),
            admit: counter("admit"),
            restore: counter("restore"),
            token_create: counter("token_create"),
            token_revoke: counter("token_revoke"),
            token_use: counter("token_use"),
            audit: counter("audit"),
            record: counter("record"),
            retire: counter("retire"),
            check_point: counter("check_point"),
            upgrade: counter("upgrade"),
        }
    }
}

impl Reads {
    fn of(family: &Family<OneLabel, Counter>) -> Reads {
        let counter = |consistency| family.get_or_create_owned(&[("consistency", consistency)]);
        Reads { stale: counter("stale"), leader: counter("leader"), strong: counter("strong") }
    }
}

impl RoleMetric {
    const ALL: [RoleMetric; 5] =
        [RoleMetric::Leader, RoleMetric::Follower, RoleMetric::Candidate, RoleMetric::Learner, RoleMetric::Recovering];

    fn label(self) -> OneLabel {
        let role = match self {
            RoleMetric::Leader => "leader",
            RoleMetric::Follower => "follower",
            RoleMetric::Candidate => "candidate",
            RoleMetric::Learner => "learner",
            RoleMetric::Recovering => "recovering",
        };
        [("role", role)]
    }
}

impl Election {
    const ALL: [Election; 2] = [Election::Won, Election::Lost];

    fn label(self) -> OneLabel {
        let outcome = match self {
            Election::Won => "won",
            Election::Lost => "lost",
        };
        [("outcome", outcome)]
    }
}

impl ProposalFailure {
    const ALL: [ProposalFailure; 6] = [
        ProposalFailure::NoLeader,
        ProposalFailure::Timeout,
        ProposalFailure::Busy,
        ProposalFailure::ReadOnly,
        ProposalFailure::TooLarge,
        ProposalFailure::Stopping,
    ];

    fn label(self) -> OneLabel {
        let reason = match self {
            ProposalFailure::NoLeader => "no_leader",
            ProposalFailure::Timeout => "timeout",
            ProposalFailure::Busy => "busy",
            ProposalFailure::ReadOnly => "read_only",
            ProposalFailure::TooLarge => "too_large",
            ProposalFailure::Stopping => "stopping",
        };
        [("reason", reason)]
    }
}

impl RaftMetrics {
    pub(super) fn new(registry: &mut Registry) -> RaftMetrics {
        let (apply, read) = (Family::default(), Family::default());
        let is_leader = Gauge::default();
        let raft = RaftMetrics {
            commits: Commits { latency_ms: latency_ms(), is_leader: is_leader.clone() },
            is_leader,
            term: Gauge::default(),
            voters: Gauge::default(),
            members: Gauge::default(),
            leader_changes: Counter::default(),
            last_log_index: Gauge::default(),
            commit_index: Gauge::default(),
            applied_index: Gauge::default(),
            snapshot_index: Gauge::default(),
            log_oldest_age_seconds: SecondsGauge::default(),
            replication_lag: PeerGauges::default(),
            replication_lag_seconds: PeerGauges::default(),
            last_contact_seconds: PeerGauges::default(),
            has_quorum: Gauge::default(),
            state_digest_mismatch: Counter::default(),
            states_compared: Counter::default(),
            compare_interval_seconds: SecondsGauge::default(),
            state_digest_index: Gauge::default(),
            fenced: Gauge::default(),
            apply_latency_ms: latency_ms(),
            group_commands: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]),
            fsm_pending: Gauge::default(),
            inflight_bytes: Gauge::default(),
            role: Family::default(),
            applied: Applied::of(&apply),
            apply,
            reads: Reads::of(&read),
            read,
            apply_errors: Family::default(),
            elections: Family::default(),
        };
        // A series that appears with its first event has no zero before it, and `rate()` misses that event.
        for failure in ProposalFailure::ALL {
            drop(raft.apply_errors.get_or_create(&failure.label()));
        }
        for outcome in Election::ALL {
            drop(raft.elections.get_or_create(&outcome.label()));
        }
        raft.set_role(RoleMetric::Recovering);
        raft.register_state(registry);
        raft.register_progress(registry);
        raft
    }

    #[rustfmt::skip]
    fn register_state(&self, registry: &mut Registry) {
        registry.register("raft_is_leader", "1 on the node that leads; a sum over the cluster other than 1 means no leader, or an old one not yet aware", self.is_leader.clone());
        registry.register("raft_role", "1 for what the node is doing now; long as candidate means it cannot reach a majority", self.role.clone());
        registry.register("raft_term", "Current term; a steady rise means elections", self.term.clone());
        registry.register("raft_voters", "Voting members", self.voters.clone());
        registry.register("raft_members", "Members, learners included", self.members.clone());
        registry.register("raft_leader_changes", "Changes of leader seen by this node; a rise means failed nodes or slow disks or network", self.leader_changes.clone());
        registry.register("raft_elections", "Candidacies of this node by outcome; a rise of lost means that it stands for election without a majority to hear it", self.elections.clone());
        registry.register("raft_has_quorum", "1 while a majority acknowledged the leader within a lease; 0 means no writes", self.has_quorum.clone());
        registry.register("raft_state_digest_mismatch", "Comparisons by this node, as the leader, in which the members' states differed; any rise means that data is damaged on one of them", self.state_digest_mismatch.clone());
        registry.register("raft_states_compared", "Comparisons by this node, as the leader, in which a majority of the voters held the same state; without a rise on any node nobody would see that one holds something else", self.states_compared.clone());
        registry.register("raft_compare_interval_seconds", "How often a leader has the states compared, by the configuration; 0: only when it is asked to", self.compare_interval_seconds.clone());
        registry.register("raft_state_digest_index", "Log index at which this node last took the digest of its state; it stands still if states are not compared", self.state_digest_index.clone());
        registry.register("raft_fenced", "1 while this node answers nobody, because its state is not the one that a majority holds", self.fenced.clone());
        registry.register("raft_last_contact_seconds", "Since the peer last answered the leader; above the heartbeat means it is slow or gone", self.last_contact_seconds.family.clone());
    }

    #[rustfmt::skip]
    fn register_progress(&self, registry: &mut Registry) {
        registry.register("raft_last_log_index", "Last index in this node's log", self.last_log_index.clone());
        registry.register("raft_commit_index", "Last index known committed", self.commit_index.clone());
        registry.register("raft_applied_index", "Last index applied to the state", self.applied_index.clone());
        registry.register("raft_snapshot_index", "Index of the newest snapshot", self.snapshot_index.clone());
        registry.register("raft_log_oldest_age_seconds", "How long the oldest entry of the log has been there, as seen since the start of this process; below the time of a restore, a node that restores never catches up: raise raft.keep_entries", self.log_oldest_age_seconds.clone());
        registry.register("raft_replication_lag", "Entries the peer is behind the leader; a steady rise means it cannot keep up", self.replication_lag.family.clone());
        registry.register("raft_replication_lag_seconds", "How long ago the leader's log ended where the peer's ends; above the time between writes the peer cannot keep up", self.replication_lag_seconds.family.clone());
        registry.register("raft_apply_latency_ms", "Milliseconds from proposal to applied, as a writer feels it", self.apply_latency_ms.clone());
        registry.register("raft_commit_latency_ms", "Milliseconds from append to acknowledged by a majority", self.commits.latency_ms.clone());
        registry.register("raft_apply", "Commands sent through this node and applied, by type; the sum over the cluster is all of them", self.apply.clone());
        registry.register("raft_reads", "Reads that asked this node for leave, by consistency; a rise of strong costs a round to a majority each, or shared", self.read.clone());
        registry.register("raft_apply_errors", "Proposals that were not applied, by reason; timeout means the outcome is unknown", self.apply_errors.clone());
        registry.register("raft_group_commands", "Commands of this node's clients that shared one log entry; a rise means more writers at a time", self.group_commands.clone());
        registry.register("raft_fsm_pending", "Committed entries not yet applied; a rise means applying is the bottleneck", self.fsm_pending.clone());
        registry.register("raft_inflight_bytes", "Bytes of proposals not yet answered; at raft.inflight_bytes_max writes get 429", self.inflight_bytes.clone());
    }

    /// Sets this role to 1 and all others to 0.
    pub fn set_role(&self, now: RoleMetric) {
        for role in RoleMetric::ALL {
            self.role.get_or_create(&role.label()).set(u64::from(role == now));
        }
        self.is_leader.set(u64::from(now == RoleMetric::Leader));
    }

    /// Counts a proposal that was not applied.
    pub fn proposal_failed(&self, why: ProposalFailure) {
        self.apply_errors.get_or_create(&why.label()).inc();
    }

    /// Counts the end of a candidacy.
    pub fn election(&self, outcome: Election) {
        self.elections.get_or_create(&outcome.label()).inc();
    }

    /// Shows how far the members are; who is no member is forgotten.
    pub fn show_peers(&self, members: &[PeerProgress]) {
        let lag = members.iter().filter_map(|member| Some((member.peer, member.lag?)));
        let seconds = |of: fn(&PeerProgress) -> Option<Duration>| {
            members.iter().filter_map(move |member| Some((member.peer, of(member)?.as_secs_f64()))).collect()
        };
        self.replication_lag.show(&lag.collect());
        self.replication_lag_seconds.show(&seconds(|member| member.lag_time));
        self.last_contact_seconds.show(&seconds(|member| member.last_contact));
    }

    /// Forgets what only a leader knows of its peers.
    pub fn clear_peers(&self) {
        self.show_peers(&[]);
    }
}
