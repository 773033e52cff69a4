//! The replicated state of one life of a node: konsul-state on a file that is gone with it, as after a power cut.

use crate::disk::Disk;
use crate::event::Event;
use crate::mutant::Mutant;
use crate::oracle::Oracle;
use crate::types::{LogId, Records, SimTypes, SnapshotMeta, StoredMembership};
use futures_util::{Stream, StreamExt};
use heed::{EnvFlags, EnvOpenOptions};
use konsul_state::{Command, Digest, Index, KvWrite, Loader, Outcome, Record, StateError, Store, View};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tempfile::TempDir;

pub(crate) type Raft = openraft::Raft<SimTypes, Machine>;
type Payload = openraft::alias::EntryPayloadOf<SimTypes>;
type Taken = openraft::alias::SnapshotOf<SimTypes, Arc<Records>>;

/// Enough for every run; addresses, not memory.
const MAP_BYTES: usize = 64 << 20;

struct Inner {
    store: Store,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// The directory of `store`.
    _dir: TempDir,
}

/// Cloned handles are the same state.
#[derive(Clone)]
pub(crate) struct Machine {
    node: u64,
    inner: Arc<Mutex<Inner>>,
    disk: Disk,
    oracle: Oracle,
    mutant: Mutant,
}

fn open() -> io::Result<(Store, TempDir)> {
    let dir = tempfile::tempdir()?;
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(MAP_BYTES).max_dbs(16);
    #[expect(unsafe_code, reason = "heed cannot know that nobody else maps the file")]
    // SAFETY: the directory is new and ours: no other process or environment maps these files. NO_SYNC only matters if
    // the machine stops, and then nobody reads this directory again.
    let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(dir.path()) }.map_err(io::Error::other)?;
    Ok((Store::open(env).map_err(io::Error::other)?, dir))
}

fn filled(records: &Records) -> io::Result<(Store, TempDir)> {
    let (store, dir) = open()?;
    let mut loader = Loader::new(&store).map_err(io::Error::other)?;
    for (table, key, value) in records {
        loader.put(Record { table: *table, key, value }).map_err(io::Error::other)?;
    }
    loader.finish().map_err(io::Error::other)?;
    Ok((store, dir))
}

impl Machine {
    /// What the disk's snapshot holds, or nothing.
    pub(crate) fn start(node: u64, disk: Disk, oracle: Oracle, mutant: Mutant) -> io::Result<Machine> {
        let inner = match disk.snapshot() {
            Some((meta, records)) => {
                let (store, dir) = filled(&records)?;
                Inner { store, applied: meta.last_log_id, membership: meta.last_membership, _dir: dir }
            }
            None => {
                let (store, dir) = open()?;
                Inner { store, applied: None, membership: StoredMembership::default(), _dir: dir }
            }
        };
        Ok(Machine { node, inner: Arc::new(Mutex::new(inner)), disk, oracle, mutant })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }

    fn view(&self) -> Result<View, StateError> {
        self.lock().store.view()
    }

    /// The number that a key holds here, 0 if it is absent.
    pub(crate) fn number(&self, key: &str) -> io::Result<u64> {
        let view = self.view().map_err(io::Error::other)?;
        let (entry, _) = view.kv_get(key.as_bytes()).map_err(io::Error::other)?;
        let Some(entry) = entry else { return Ok(0) };
        let text = std::str::from_utf8(entry.value).map_err(io::Error::other)?;
        text.parse().map_err(io::Error::other)
    }

    /// The index that is applied, and the digest there.
    pub(crate) fn digest(&self) -> io::Result<(u64, Digest)> {
        let applied = self.lock().applied.map_or(0, |id| id.index);
        Ok((applied, self.view().and_then(|view| view.digest()).map_err(io::Error::other)?))
    }

    fn apply_one(&self, id: LogId, payload: &Payload) -> Result<Outcome, StateError> {
        let mut inner = self.lock();
        let index = Index::new(id.index);
        let mut hash = DefaultHasher::new();
        let mut batch = inner.store.batch()?;
        let mut membership = None;
        let outcome = match payload {
            EntryPayload::Normal(proposal) => {
                proposal.0.hash(&mut hash);
                batch.apply(index, &proposal.0)?
            }
            EntryPayload::Blank if self.mutant == Mutant::AppliesByNode && self.node == 2 => {
                let mut command = Vec::new();
                Command::Kv(KvWrite::Set { key: b"of node 2", value: b"", flags: id.index }).encode(&mut command);
                batch.apply(index, &command)?
            }
            EntryPayload::Blank => Outcome::None,
            EntryPayload::Membership(members) => {
                membership = Some(StoredMembership::new(Some(id), members.clone()));
                Outcome::None
            }
        };
        let by = id.committed_leader_id();
        let leader = (by.term, by.node_id);
        batch.set_position(index, &leader.0.to_be_bytes(), None)?;
        batch.commit()?;
        inner.applied = Some(id);
        if let Some(membership) = membership {
            inner.membership = membership;
        }
        drop(inner);
        self.oracle.see(Event::Applied { node: self.node, index: id.index, leader, content: hash.finish() });
        Ok(outcome)
    }

    fn taken(&self) -> Result<(SnapshotMeta, Arc<Records>), StateError> {
        let (view, meta) = {
            let inner = self.lock();
            let meta = SnapshotMeta { last_log_id: inner.applied, last_membership: inner.membership.clone() };
            (inner.store.view()?, meta)
        };
        let mut records = Records::new();
        view.records(|record| {
            records.push((record.table, record.key.to_vec(), record.value.to_vec()));
            Ok::<(), StateError>(())
        })?;
        Ok((meta, Arc::new(records)))
    }
}

impl RaftStateMachine<SimTypes> for Machine {
    type SnapshotData = Arc<Records>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = self.lock();
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<SimTypes>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let outcome = self.apply_one(entry.log_id, &entry.payload).map_err(io::Error::other)?;
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { disk: self.disk.clone(), taken: self.taken().map_err(|e| e.to_string()) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, records: Arc<Records>) -> Result<(), io::Error> {
        let (store, dir) = filled(&records)?;
        let fresh = Inner { store, applied: meta.last_log_id, membership: meta.last_membership.clone(), _dir: dir };
        self.disk.put_snapshot(meta.clone(), records);
        *self.lock() = fresh;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Taken>, io::Error> {
        Ok(self.disk.snapshot().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A snapshot of the moment it was asked for.
pub(crate) struct Builder {
    disk: Disk,
    taken: Result<(SnapshotMeta, Arc<Records>), String>,
}

impl RaftSnapshotBuilder<SimTypes> for Builder {
    type SnapshotData = Arc<Records>;

    async fn build_snapshot(&mut self) -> Result<Taken, io::Error> {
        let (meta, snapshot) = self.taken.clone().map_err(io::Error::other)?;
        self.disk.put_snapshot(meta.clone(), Arc::clone(&snapshot));
        Ok(Snapshot { meta, snapshot })
    }
}
