//! What is left of a node, and making it the only voter of its cluster.

use super::{DAMAGED, FAILED, Found, PRECONDITION, failed, restore, tell};
use crate::config::{Args, Config, Loaded, OfflineData};
use crate::durable;
use crate::metrics::Metrics;
use crate::raft_types::{LogId, NodeInfo};
use crate::storage::{self, Left, LookError, OpenError, Storage};
use crate::telemetry::chain;
use crate::watch::Watches;
use konsul_api::archive::ArchivedMember;
use konsul_api::recover::{LogPlace, NodeLeft, RecoverAnswer};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) fn run(work: &OfflineData, args: &Args) -> ExitCode {
    match work {
        OfflineData::Inspect { dir } => tell(match dir {
            Some(dir) => inspect(dir),
            None => configured(args).and_then(|config| inspect(&config.storage.data_dir)),
        }),
        OfflineData::Restore { file } => tell(configured(args).and_then(|config| restore::restore(&config, file))),
        OfflineData::Recover { node_id, term, index } => {
            let last = LogPlace { term: *term, index: *index };
            tell(configured(args).and_then(|config| recover(&config, *node_id, last)))
        }
    }
}

fn configured(args: &Args) -> Found<Config> {
    Loaded::load(args).map(|loaded| loaded.config().clone()).map_err(|error| (2, chain(&error)))
}

fn look(dir: &Path) -> Found<Left> {
    storage::look(dir).map_err(|error| {
        let code = match &error {
            LookError::NoNode { .. } | LookError::Open { source: OpenError::InUse { .. }, .. } => PRECONDITION,
            LookError::Open { .. } => FAILED,
        };
        (code, chain(&error))
    })
}

fn inspect(dir: &Path) -> Found<NodeLeft> {
    let left_behind =
        storage::left_behind(dir).map_err(|error| failed("read why it was left behind".to_owned(), &error))?;
    Ok(NodeLeft { left_behind, ..described(&look(dir)?, dir) })
}

fn described(left: &Left, dir: &Path) -> NodeLeft {
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let identity = left.identity.as_ref();
    let voters: Vec<u64> = left.membership.voter_ids().collect();
    let members = left.membership.nodes().map(|(id, info)| ArchivedMember {
        id: *id,
        name: info.name.clone(),
        rpc: info.rpc.clone(),
        voter: voters.contains(id),
    });
    NodeLeft {
        data_dir: dir.display().to_string(),
        name: identity.map(|identity| identity.name.clone()).unwrap_or_default(),
        node_id: identity.map_or(0, |identity| identity.node_id),
        cluster_id: identity
            .map(|identity| uuid::Uuid::from_bytes(identity.cluster_id).to_string())
            .unwrap_or_default(),
        epoch: identity.map_or(0, |identity| identity.epoch),
        term: left.vote.map_or(0, |vote| vote.leader_id.term),
        last: place(left.last),
        committed: index(left.committed),
        snapshot: index(left.snapshot),
        members: members.collect(),
        damage: left.damage.clone(),
        left_behind: None,
    }
}

fn place(id: Option<LogId>) -> LogPlace {
    LogPlace { term: id.map_or(0, |id| id.committed_leader_id().term), index: id.map_or(0, |id| id.index) }
}

/// `last`: what was planned with. If it is not so any more, somebody started the node since.
fn recover(config: &Config, node_id: u64, last: LogPlace) -> Found<RecoverAnswer> {
    let dir = &config.storage.data_dir;
    let left = look(dir)?;
    if let Some(damage) = left.damage {
        return Err((DAMAGED, format!("the data in {} is damaged: {damage}; choose another survivor", dir.display())));
    }
    let refused = |why: String| (PRECONDITION, format!("{why}; nothing was changed"));
    let Some(identity) = left.identity else {
        return Err(refused(format!("{} belongs to no member of a cluster", dir.display())));
    };
    if identity.node_id != node_id || place(left.last) != last {
        let (found, place) = (identity.node_id, place(left.last));
        return Err(refused(format!(
            "the plan is for node {node_id} with its last entry at index {} of term {}, {} holds node {found} at index {} of \
             term {}: make a new plan",
            last.index,
            last.term,
            dir.display(),
            place.index,
            place.term
        )));
    }
    let Some(info) = left.membership.nodes().find(|(id, _)| **id == node_id).map(|(_, info)| info.clone()) else {
        return Err(refused(format!(
            "node {node_id} is not among the newest members it knows: choose another survivor"
        )));
    };
    let epoch = identity.epoch + 1;
    let backup = back_up(dir, epoch)?;
    let entry = surgery(config, epoch, info).map_err(|why| {
        (FAILED, format!("{why}; the data as it was is in {}: put it back, then try again", backup.display()))
    })?;
    Ok(RecoverAnswer {
        name: identity.name,
        node_id,
        cluster_id: uuid::Uuid::from_bytes(identity.cluster_id).to_string(),
        epoch,
        entry: place(Some(entry)),
        backup: backup.display().to_string(),
    })
}

/// The data as it is, beside the data, on disk before anything changes.
fn back_up(dir: &Path, epoch: u32) -> Found<PathBuf> {
    let to = dir.join(format!("before-recovery-e{epoch}"));
    if to.exists() {
        let why = format!(
            "{} is there already: a recovery was begun before. If it failed, put raft/ and snap/ from there back first; then \
             move it away and try again; nothing was changed",
            to.display()
        );
        return Err((PRECONDITION, why));
    }
    let copied = copy(&dir.join("raft"), &to.join("raft")).and_then(|()| copy(&dir.join("snap"), &to.join("snap")));
    match copied.and_then(|()| durable::sync_dir(dir).map_err(io::Error::other)) {
        Ok(()) => Ok(to),
        Err(error) => {
            // Nothing was changed yet; half a backup would be in the way of the next attempt.
            let removed = fs::remove_dir_all(&to);
            let left = if removed.is_ok() { "" } else { ", and half a backup could not be removed" };
            Err((FAILED, format!("copy the data to {}: {error}{left}; nothing was changed", to.display())))
        }
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    durable::create_dir_all(to).map_err(io::Error::other)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let copy = to.join(entry.file_name());
            fs::copy(entry.path(), &copy)?;
            File::open(&copy)?.sync_all()?;
        }
    }
    durable::sync_dir(to).map_err(io::Error::other)
}

fn surgery(config: &Config, epoch: u32, info: NodeInfo) -> Result<LogId, String> {
    let metrics = Metrics::new(&config.node.name, &config.http.datacenter);
    let mut storage = Storage::open(&config.storage(), Watches::new(), &metrics.storage).map_err(|e| chain(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| chain(&e))?;
    runtime.block_on(async {
        let entry = storage.make_only_voter(epoch, info).await.map_err(|e| chain(&e))?;
        storage.close().await.map_err(|e| chain(&e))?;
        Ok(entry)
    })
}
