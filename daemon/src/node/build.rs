//! From the configuration to what each part is built from.

use crate::clock::Clock;
use crate::cluster::audit::Audit;
use crate::cluster::entry::Newcomer;
use crate::cluster::identity::{Authority, IdentityError, IdentityFiles, Papers};
use crate::cluster::lobby::Lobby;
use crate::cluster::{Former, Seat};
use crate::config::{Config, Form, TlsMode};
use crate::http::{Deps, Listening, LiveLimits, Reception};
use crate::leader::LeaderDeps;
use crate::metrics::Metrics;
use crate::peer::{LocalIdentity, Transport};
use crate::raft::{Consensus, RaftConfig, node_uuid};
use crate::raft_types::NodeInfo;
use crate::storage::Identity;
use crate::tls::{Tls, TlsError};
use std::path::PathBuf;
use std::sync::Arc;

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("addresses have 64 bits")
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

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{path} is gone, which tells who this member is; put it back, or remove the data directory and join anew")]
    Lost { path: PathBuf },
}

/// With the identity that the cluster gave it, or none yet. An expired one is renewed after the start.
fn entered_transport(config: &Config, is_member: bool) -> Result<Transport, TransportError> {
    let data_dir = &config.storage.data_dir;
    let material = if is_member { IdentityFiles::in_data_dir(data_dir).load()? } else { None };
    let min_version = config.tls.min_version;
    Ok(Transport::Tls(match material {
        Some(material) => Tls::of(&material, min_version)?,
        None if is_member => return Err(TransportError::Lost { path: data_dir.join("tls") }),
        None => Tls::newcomer(min_version)?,
    }))
}

pub(super) fn newcomer(config: &Config) -> Newcomer {
    Newcomer {
        name: config.node.name.clone(),
        rpc: config.peer.advertise.clone(),
        http: config.http.advertise.clone(),
        listen: config.peer.listen.expect("a node that enters a cluster listens for its peers"),
        data_dir: config.storage.data_dir.clone(),
        sealing_key_file: config.cluster.sealing_key_file.clone(),
        life: config.cluster.certificate_life,
        may_found: config.cluster.form != Form::Never,
    }
}

/// What this node told others to connect to, when that was found out.
pub(super) fn address_file(config: &Config) -> PathBuf {
    config.storage.data_dir.join("address")
}

/// How this node talks to others.
pub(super) fn transport(config: &Config, is_member: bool) -> Result<Transport, TransportError> {
    if config.cluster.is_entered() {
        return entered_transport(config, is_member);
    }
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
        rpc: config.peer.advertise.clone().or_else(|| found_out(config)).unwrap_or_default(),
        http: config.http.advertise.clone(),
    }
}

pub(super) fn found_out(config: &Config) -> Option<String> {
    if !config.cluster.is_entered() {
        return None;
    }
    std::fs::read_to_string(address_file(config)).ok().filter(|address| !address.is_empty())
}

pub(super) fn local(config: &Config, identity: Option<&Identity>) -> LocalIdentity {
    LocalIdentity {
        cluster_id: identity.map(|i| i.cluster_id),
        node_id: identity.map_or(0, |i| i.node_id),
        name: config.node.name.clone(),
        epoch: identity.map_or(0, |i| i.epoch),
    }
}

pub(super) fn seat(config: &Config) -> Seat {
    let peers = &config.cluster.peers;
    let lowest = peers.iter().map(|p| p.id).min();
    let myself = peers.iter().find(|p| p.name == config.node.name).map(|p| p.id);
    let former = match config.cluster.form {
        Form::Never | Form::Init => Former::No,
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
    authority: Option<&Authority>,
) -> LeaderDeps {
    let seats = config.cluster.peers.len();
    metrics.raft.compare_interval_seconds.set(config.raft.compare_interval.as_secs_f64());
    LeaderDeps {
        consensus: consensus.clone(),
        metrics: metrics.clone(),
        audit: audit.clone(),
        clock,
        seats,
        compare_every: Some(config.raft.compare_interval).filter(|every| !every.is_zero()),
        authority: authority.cloned(),
    }
}

pub(super) fn reception(
    config: &Config,
    limits: &LiveLimits,
    metrics: &Metrics,
    (lobby, is_member): (Lobby, bool),
    listening: Arc<[Listening]>,
) -> Reception {
    let (metrics, limits, node_name) = (metrics.clone(), limits.clone(), config.node.name.clone());
    let hold = is_member.then_some(config.raft.hold);
    Reception { metrics, config: config.http.clone(), limits, node_name, lobby, hold, listening }
}

pub(super) fn http(
    config: &Config,
    limits: LiveLimits,
    consensus: &Consensus,
    audit: Audit,
    papers: Papers,
    metrics: Metrics,
    listening: Arc<[Listening]>,
) -> Deps {
    Deps {
        listening,
        limits,
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
