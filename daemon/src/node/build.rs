//! From the configuration to what each part is built from.

use crate::clock::Clock;
use crate::cluster::audit::Audit;
use crate::cluster::identity::Papers;
use crate::cluster::lobby::Lobby;
use crate::cluster::{Former, Seat};
use crate::config::{Config, Form, TlsMode};
use crate::http::{Deps, Reception};
use crate::leader::LeaderDeps;
use crate::metrics::Metrics;
use crate::peer::{LocalIdentity, Transport};
use crate::raft::{Consensus, RaftConfig, node_uuid};
use crate::raft_types::NodeInfo;
use crate::storage::{Identity, StorageConfig};
use crate::tls::{Tls, TlsError};

/// Newest log entries in memory; replication and apply read them from here.
const TAIL_BYTES_MAX: usize = 16 << 20;

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("addresses have 64 bits")
}

pub(super) fn storage(config: &Config) -> StorageConfig {
    let storage = &config.storage;
    StorageConfig {
        data_dir: storage.data_dir.clone(),
        state_dir: storage.state_dir.clone(),
        map_bytes_max: size(storage.map_bytes),
        prezero_bytes: storage.log_prealloc_bytes,
        prezero_step_bytes: storage.log_prealloc_step_bytes,
        tail_bytes_max: TAIL_BYTES_MAX,
        payload_bytes_max: size(config.raft.payload_bytes),
    }
}

pub(super) fn raft(config: &Config) -> RaftConfig {
    let raft = &config.raft;
    RaftConfig {
        heartbeat: raft.timing.heartbeat,
        election_min: raft.timing.election_min,
        election_max: raft.timing.election_max,
        hold: raft.hold,
        propose_timeout: raft.propose_timeout,
        inflight_bytes_max: size(raft.inflight_bytes_max),
        // One command and what is around it has to fit one frame between nodes.
        command_bytes_max: size(raft.inflight_bytes_max).min(crate::peer::FRAME_BYTES_MAX / 2),
        payload_entries_max: raft.payload_entries,
        snapshot_entries: raft.snapshot_entries,
        keep_entries: raft.keep_entries,
        hints: config.cluster.peers.iter().map(|peer| (peer.name.clone(), peer.rpc.clone())).collect(),
    }
}

/// How this node talks to others.
pub(super) fn transport(config: &Config) -> Result<Transport, TlsError> {
    Ok(match (config.tls.mode, config.tls.files.clone()) {
        (TlsMode::Required, Some(files)) => Transport::Tls(Tls::open(files)?),
        (TlsMode::Permissive, Some(files)) => Transport::Permissive(Tls::open(files)?),
        // Without certificates there is a cluster of one, which binds no peer port.
        (TlsMode::Off, _) | (TlsMode::Required | TlsMode::Permissive, None) => Transport::Plain,
    })
}

pub(super) fn info(config: &Config) -> NodeInfo {
    NodeInfo {
        name: config.node.name.clone(),
        rpc: config.peer.advertise.clone().unwrap_or_default(),
        http: config.http.advertise.clone(),
    }
}

pub(super) fn local(config: &Config, identity: Option<&Identity>) -> LocalIdentity {
    LocalIdentity {
        cluster_id: identity.map(|i| i.cluster_id),
        node_id: identity.map_or(0, |i| i.node_id),
        name: config.node.name.clone(),
        epoch: 0,
    }
}

pub(super) fn seat(config: &Config) -> Seat {
    let peers = &config.cluster.peers;
    let lowest = peers.iter().map(|p| p.id).min();
    let myself = peers.iter().find(|p| p.name == config.node.name).map(|p| p.id);
    let former = match config.cluster.form {
        Form::Never => Former::No,
        _ if peers.iter().all(|p| p.name == config.node.name) => Former::Alone,
        Form::Preferred => Former::Yes,
        Form::Auto if myself.is_some() && myself == lowest => Former::Yes,
        Form::Auto => Former::No,
    };
    let NodeInfo { name, rpc, http } = info(config);
    let others = peers.iter().filter(|p| p.name != name).map(|p| p.rpc.clone()).collect();
    Seat { wished: myself.or(config.node.id).unwrap_or(0), name, rpc, http, others, former }
}

pub(super) fn duties(
    config: &Config,
    consensus: &Consensus,
    audit: &Audit,
    metrics: &Metrics,
    clock: Clock,
) -> LeaderDeps {
    let seats = config.cluster.peers.len();
    LeaderDeps {
        consensus: consensus.clone(),
        metrics: metrics.clone(),
        audit: audit.clone(),
        clock,
        seats,
        authority: None,
    }
}

pub(super) fn reception(config: &Config, metrics: &Metrics, lobby: Lobby) -> Reception {
    Reception { metrics: metrics.clone(), config: config.http.clone(), node_name: config.node.name.clone(), lobby }
}

pub(super) fn http(config: &Config, consensus: &Consensus, audit: Audit, papers: Papers, metrics: Metrics) -> Deps {
    Deps {
        audit,
        clock: papers.clock,
        papers,
        consensus: consensus.clone(),
        metrics,
        config: config.http.clone(),
        node_name: config.node.name.clone(),
        node_uuid: node_uuid(consensus.identity().cluster_id, consensus.identity().node_id),
        work_dir: config.storage.data_dir.join("tmp"),
    }
}
