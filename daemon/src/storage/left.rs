//! What is left of a node, read while it does not run; and making it the only voter, when a majority is lost for good.
//!
//! Looking changes nothing. Making a node the only voter takes the way every change of members takes, an entry of the log,
//! only that nobody else is asked: the vote of a term that nobody had, and in that term an entry that names this node
//! alone. When it starts, it elects itself and commits everything in its log.

use super::codec;
use super::env::{self, EnvOptions};
use super::log_state::checked_record;
use super::recovery::{self, Identity, OpenError, Storage};
use super::snapshot::{self, SnapshotDir};
use crate::raft_types::{
    CommittedLeaderId, Entry, EntryPayload, IOFlushed, LeaderId, LogId, Membership, NodeInfo, SnapshotMeta,
    StoredMembership, Vote,
};
use crate::telemetry::chain;
use konsul_state::Store;
use openraft::storage::RaftLogStorage;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// The address space for looking at a log; nothing is written.
const MAP_BYTES_MAX: usize = 64 << 30;

/// What is left of a node.
#[derive(Debug, Clone)]
pub struct Left {
    /// `None`: it never was a member.
    pub identity: Option<Identity>,
    pub vote: Option<Vote>,
    /// Entries up to here are committed, as far as this node had written it down.
    pub committed: Option<LogId>,
    /// Entries up to here are in the snapshot only.
    pub purged: Option<LogId>,
    /// The last entry, be it in the log or in the snapshot.
    pub last: Option<LogId>,
    /// The newest snapshot whose content is sound.
    pub snapshot: Option<LogId>,
    /// The newest one that it knows, committed or not: nodes act on it as soon as they have it.
    pub membership: StoredMembership,
    /// Why its data is of no use, if so.
    pub damage: Option<String>,
}

/// There is nothing to look at, or this host cannot.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("{path} holds no log of a node: is it the data directory (`storage.data_dir`)?")]
    NoNode { path: PathBuf },
    #[error("look at {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: OpenError,
    },
}

/// Reads the log, every record of it, and the snapshots. The node must not run.
pub fn look(data_dir: &Path) -> Result<Left, LookError> {
    if !data_dir.join("raft").join("data.mdb").is_file() {
        return Err(LookError::NoNode { path: data_dir.to_owned() });
    }
    let failed = |source| LookError::Open { path: data_dir.to_owned(), source };
    let _lock = recovery::lock(data_dir).map_err(failed)?;
    let (snapshots, mut damage) = sound_snapshot(data_dir);
    let path = data_dir.join("raft");
    let options = EnvOptions { map_bytes_max: MAP_BYTES_MAX, readers_max: 16, durable: true };
    let env = env::open(&path, &options).map_err(|source| failed(OpenError::Env { source }))?;
    let read = match recovery::read_log(&env, &path, None) {
        Ok(read) => read,
        Err(OpenError::DamagedLog { why, .. }) => {
            let none = StoredMembership::default();
            let (identity, vote, committed, purged, last) = (None, None, None, None, None);
            return Ok(Left {
                identity,
                vote,
                committed,
                purged,
                last,
                snapshot: None,
                membership: none,
                damage: Some(why),
            });
        }
        Err(error) => return Err(failed(error)),
    };
    let newest = snapshots.as_ref().map(|meta| meta.last_log_id).unwrap_or_default();
    let of_snapshot = snapshots.map(|meta| meta.last_membership).unwrap_or_default();
    let purged = read.opened.last_purged;
    if purged > newest {
        let (purged, newest) = (purged.map_or(0, |id| id.index), newest.map_or(0, |id| id.index));
        damage = Some(format!("the log begins behind {purged}, the newest sound snapshot ends at {newest}"));
    }
    let in_log = last_membership(&env, &read, &path).map_err(failed)?;
    Ok(Left {
        membership: in_log.filter(|stored| *stored.log_id() > *of_snapshot.log_id()).unwrap_or(of_snapshot),
        last: read.opened.last.max(purged).max(newest),
        vote: read.opened.vote,
        committed: read.opened.committed.max(newest),
        identity: read.identity,
        snapshot: newest,
        purged,
        damage,
    })
}

/// Its metadata, and what is wrong with those that are newer.
fn sound_snapshot(data_dir: &Path) -> (Option<SnapshotMeta>, Option<String>) {
    let dir = data_dir.join("snap");
    if !dir.is_dir() {
        return (None, None);
    }
    let listed = SnapshotDir::at(dir).list();
    let list = match listed {
        Ok(list) => list,
        Err(error) => return (None, Some(chain(&error))),
    };
    for path in list {
        match snapshot::verify(&path, None) {
            Ok(verified) => return (Some(verified.meta), None),
            // Start-up sets it aside and uses the one before; whether that suffices is seen from the log.
            Err(error) => tracing::warn!(error = %chain(&error), "snapshot passed over"),
        }
    }
    (None, None)
}

/// The newest membership among the entries.
fn last_membership(
    env: &heed::Env<heed::WithoutTls>,
    read: &recovery::ReadLog,
    path: &Path,
) -> Result<Option<StoredMembership>, OpenError> {
    let damaged = |why: String| OpenError::DamagedLog { path: path.to_owned(), why };
    let log = |source| OpenError::Log { op: "read the entries", source };
    let txn = env.read_txn().map_err(log)?;
    for found in read.tables.log.rev_iter(&txn).map_err(log)? {
        let (key, record) = found.map_err(log)?;
        let (index, body) = checked_record(key, record).map_err(|e| damaged(e.to_string()))?;
        let entry = codec::entry(index, &bytes::Bytes::copy_from_slice(body)).map_err(|e| damaged(e.to_string()))?;
        if let EntryPayload::Membership(membership) = entry.payload {
            return Ok(Some(StoredMembership::new(Some(entry.log_id), membership)));
        }
    }
    Ok(None)
}

impl Storage {
    /// Makes this node the only voter of its cluster, in this recovery epoch; the entry that says so. Durable when it
    /// returns.
    pub async fn make_only_voter(&mut self, epoch: u32, info: NodeInfo) -> io::Result<LogId> {
        let none = || io::Error::other("this node is no member of a cluster");
        let identity = self.identity.clone().ok_or_else(none)?;
        let state = self.log.get_log_state().await?;
        let (applied, _) = self.state.store().position().map_err(io::Error::other)?;
        let covered = self.state.store().newest_snapshot().and_then(|v| v.meta.last_log_id);
        let last = state.last_log_id.max(applied).max(covered);
        if last > state.last_log_id
            && let Some(last) = last
        {
            // What only the snapshot holds: the log goes on behind it, as it does after a start.
            self.log.purge(last).await?;
        }
        let voted = self.log.vote().map_or(0, |vote| vote.leader_id.term);
        let term = voted.max(last.map_or(0, |id| id.committed_leader_id().term)) + 1;
        let node_id = identity.node_id;
        let entry_id = LogId::new(CommittedLeaderId { term, node_id }, last.map_or(0, |id| id.index + 1));
        let alone = Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, info)]));
        let alone = alone.map_err(io::Error::other)?;
        self.log.save_vote(&Vote { leader_id: LeaderId { term, node_id }, committed: false }).await?;
        let entry = Entry { log_id: entry_id, payload: EntryPayload::Membership(alone) };
        self.log.append([entry], IOFlushed::noop()).await?;
        // Behind the entry in the writer's queue: when it is durable, the entry is.
        self.become_member(Identity { epoch, former: false, ..identity }).await?;
        Ok(entry_id)
    }

    /// Makes this state, which is at that place of the log, the beginning of a node that is its cluster's only member.
    /// The storage must be new. Durable when it returns.
    pub async fn begin_with(
        &mut self,
        store: &Store,
        identity: Identity,
        info: NodeInfo,
        (term, index): (u64, u64),
    ) -> io::Result<()> {
        if self.identity.is_some() || !self.is_empty() {
            return Err(io::Error::other("the storage is not new"));
        }
        let node_id = identity.node_id;
        let last = LogId::new(CommittedLeaderId { term, node_id }, index);
        let alone = Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, info)]));
        let last_membership = StoredMembership::new(Some(last), alone.map_err(io::Error::other)?);
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership };
        let view = store.view().map_err(io::Error::other)?;
        self.state.store().snapshots().write(&meta, &view).map_err(io::Error::other)?;
        drop(view);
        self.log.save_vote(&Vote { leader_id: LeaderId { term, node_id }, committed: false }).await?;
        // Last: without it the directory is no node's.
        self.become_member(identity).await
    }

    /// Closes what was opened for this.
    pub async fn close(&self) -> io::Result<()> {
        self.log.close().await?;
        self.state.store().close().map_err(io::Error::other)
    }
}

/// The file that keeps a node from starting whose cluster went on without it.
const LEFT_BEHIND: &str = "LEFT_BEHIND";

/// Why the node of this data directory must not start, if so.
pub fn left_behind(data_dir: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(data_dir.join(LEFT_BEHIND)) {
        Ok(why) => Ok(Some(why.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// From now on the node of this data directory does not start.
pub fn leave_behind(data_dir: &Path, why: &str) -> Result<(), crate::durable::DurableError> {
    crate::durable::write(&data_dir.join(LEFT_BEHIND), why.as_bytes())
}
