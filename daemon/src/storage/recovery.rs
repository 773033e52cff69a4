//! Opening the storage: verify, trust or rebuild, before any port is bound.
//!
//! The raft environment is durable: it is read whole and every record's checksum is checked. The state is used if it
//! may be trusted (see `generation`); otherwise it begins empty, and openraft fills it from the newest verified snapshot
//! and the log: the same path by which a follower far behind is brought up to date, so it is exercised all the time.

use super::check_point::CheckPoints;
use super::codec;
use super::env::{self, EnvError, EnvOptions};
use super::fence::{FENCED, Fence};
use super::generation::{Distrust, GenerationError, Generations};
use super::log_state::{Opened, RecordError, Shared, Tables, checked_record};
use super::log_store::{LogReader, LogStore};
use super::log_writer::{LogWriter, Op, meta};
use super::prezero::Prezero;
use super::snapshot::{self, SnapshotDir, SnapshotError, Verified};
use super::state_machine::{StateMachine, StateStore};
use crate::metrics::{Recovering, StorageMetrics};
use crate::raft_types::{LogId, SnapshotMeta};
use crate::telemetry::events;
use crate::watch::Watches;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Env, RoTxn, WithoutTls};
use konsul_state::{DecodeError, Reader, StateError, Writer};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// Format of the data directory. A higher one is refused.
const FORMAT: u8 = 1;
/// Operations waiting for the log writer: far more than openraft has in flight.
const LOG_QUEUE: usize = 16_384;

/// Where and how the storage lies.
#[derive(Debug, Clone)]
pub struct StorageConfig {
    /// Log, snapshots, identity.
    pub data_dir: PathBuf,
    /// The disposable state; may be on tmpfs.
    pub state_dir: PathBuf,
    /// Upper bound of each environment.
    pub map_bytes_max: usize,
    /// The log's file is zeroed this far at the start …
    pub prezero_bytes: u64,
    /// … and this much further when it is about to grow.
    pub prezero_step_bytes: u64,
    /// Newest log entries kept in memory.
    pub tail_bytes_max: usize,
    /// Bytes of entries in one replication message.
    pub payload_bytes_max: usize,
    /// The directory of the state, as an earlier process of this node had opened it; somebody kept that open.
    pub witnesses: Vec<Arc<OwnedFd>>,
}

/// Who this node is: written once, when it becomes a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: [u8; 16],
    pub node_id: u64,
    pub name: String,
    /// It formed the cluster: an empty log then means that forming was interrupted, not that a leader will come.
    pub former: bool,
    /// How often the cluster was recovered by force, as this node knows it.
    pub epoch: u32,
}

/// What was found, for the log, the metrics and the health report.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Log entries checked.
    pub log_entries: u64,
    /// Why the state was rebuilt, if it was.
    pub rebuilt: Option<String>,
    /// Damaged snapshots that were set aside.
    pub damaged_snapshots: Vec<String>,
}

/// The opened storage of one node.
pub struct Storage {
    pub log: LogStore,
    pub state: StateMachine,
    pub identity: Option<Identity>,
    pub report: Report,
    pub fence: Fence,
    /// The directory of the state, if no descriptor of it was kept.
    unwitnessed: Option<PathBuf>,
    /// Held as long as the process lives: two daemons on one directory would destroy it.
    _lock: File,
}

/// The storage cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{op} {path}")]
    File {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "data directory {path} is in use by another konsuld; stop that one, or give this one its own `storage.data_dir`"
    )]
    InUse { path: PathBuf },
    #[error("open the log")]
    Env {
        #[source]
        source: EnvError,
    },
    #[error("{op} of the log")]
    Log {
        op: &'static str,
        #[source]
        source: heed::Error,
    },
    #[error("data directory has format {found}, this version knows {FORMAT}: upgrade konsuld")]
    Format { found: u8 },
    #[error(
        "the log in {path} is damaged: {why}; this node must not vote again with it: move {path} away and let the node join anew"
    )]
    DamagedLog { path: PathBuf, why: String },
    #[error(
        "the state of {path} cannot be rebuilt: the log begins after {purged}, the newest usable snapshot ends at {snapshot}; move it away and let the node join anew"
    )]
    Gap { path: PathBuf, purged: u64, snapshot: u64 },
    #[error("open the snapshots")]
    Snapshots {
        #[source]
        source: SnapshotError,
    },
    #[error("open the state")]
    State {
        #[source]
        source: GenerationError,
    },
    #[error("read the state's position")]
    Position {
        #[source]
        source: StateError,
    },
}

impl OpenError {
    /// Whether the data is lost to this node, so that it may join anew under a new id.
    pub fn is_damage(&self) -> bool {
        matches!(self, OpenError::DamagedLog { .. } | OpenError::Gap { .. })
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::File { op, path, source }
}

impl Storage {
    /// Opens everything below `config.data_dir`, making it if it is new.
    pub fn open(config: &StorageConfig, watches: Watches, metrics: &StorageMetrics) -> Result<Storage, OpenError> {
        std::fs::create_dir_all(&config.data_dir).map_err(failed("make directory", &config.data_dir))?;
        let lock = lock(&config.data_dir)?;
        let mut report = Report::default();
        let log = open_log(config, metrics.clone(), &mut report)?;

        let snapshots = SnapshotDir::open(config.data_dir.join("snap"));
        let snapshots = snapshots.map_err(|source| OpenError::Snapshots { source })?;
        let options = EnvOptions { map_bytes_max: config.map_bytes_max, readers_max: 1024, durable: false };
        let state_failed = |source| OpenError::State { source };
        let generations = Generations::new(config.state_dir.clone(), options).map_err(state_failed)?;
        let generations = generations.with_witnesses(config.witnesses.clone());
        let unwitnessed = (!generations.is_witnessed().map_err(state_failed)?).then(|| config.state_dir.clone());
        let opened = generations.open().map_err(state_failed)?;

        let (generation, newest) = match opened {
            // The state holds everything: whether the snapshots are sound is checked later, off the start-up path.
            Ok(generation) => (generation, unverified(&snapshots)?),
            Err(why) => {
                let newest = verified(&snapshots, &mut report, metrics)?;
                check_no_gap(config, &log.purged, newest.as_ref())?;
                if why == Distrust::AnotherBoot || log.purged.is_some() || newest.is_some() {
                    report.rebuilt = Some(distrust_in_words(&why).to_owned());
                }
                let fresh = generations.fresh(None).map_err(state_failed)?;
                generations.adopt(&fresh).map_err(state_failed)?;
                (fresh, newest)
            }
        };
        let check_points = CheckPoints::start().map_err(failed("start the digest thread of", &config.data_dir))?;
        let state = StateStore::new(generation, generations, snapshots, newest, watches, check_points, metrics.clone());
        secure_unlogged(&state, log.last)?;
        let state = StateMachine::start(Arc::new(state), log.store.clone())
            .map_err(failed("start the apply thread of", &config.data_dir))?;
        let identity = log.identity;
        let fence = Fence::open(&config.data_dir).map_err(failed("look for a fence in", &config.data_dir))?;
        Ok(Storage { log: log.store, state, identity, report, fence, unwitnessed, _lock: lock })
    }

    /// Checks the snapshots of a trusted state; to be run once, beside normal work. A damaged one is set aside and the
    /// next one takes its place; it returns what was found.
    pub fn check_snapshots(state: &StateStore, metrics: &StorageMetrics) -> Result<Vec<String>, SnapshotError> {
        let mut found = Vec::new();
        let newest = state.snapshots().newest(metrics, |error| {
            metrics.snapshot_damaged.inc();
            found.push(error.to_string());
        })?;
        state.replace_unverified(newest);
        Ok(found)
    }

    /// The directory of the state, to be kept open for the next process, unless it is already: while it is open, its file
    /// system is not mounted anew.
    pub fn unwitnessed(&self) -> Option<io::Result<OwnedFd>> {
        self.unwitnessed.as_ref().map(|dir| File::open(dir).map(OwnedFd::from))
    }

    /// Whether nothing was ever written to the log.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Moves everything of this node but its configuration aside, so that it may join anew under another id.
    pub fn quarantine(config: &StorageConfig, name: &str) -> Result<PathBuf, OpenError> {
        let aside = config.data_dir.join(name);
        std::fs::create_dir_all(&aside).map_err(failed("make directory", &aside))?;
        for part in ["raft", "snap", FENCED] {
            let from = config.data_dir.join(part);
            if from.exists() {
                std::fs::rename(&from, aside.join(part)).map_err(failed("move aside", &from))?;
            }
        }
        let state = &config.state_dir;
        if state.exists() {
            std::fs::remove_dir_all(state).map_err(failed("remove", state))?;
        }
        File::open(&config.data_dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", &config.data_dir))?;
        Ok(aside)
    }

    /// Writes who this node is; once.
    pub async fn become_member(&mut self, identity: Identity) -> io::Result<()> {
        let mut out = Writer::new();
        out.u8(codec::FORMAT);
        out.raw(&identity.cluster_id);
        out.u64(identity.node_id);
        out.str(&identity.name);
        out.bool(identity.former);
        out.u64(u64::from(identity.epoch));
        self.log.put_meta(meta::IDENTITY, out.into_vec()).await?;
        self.identity = Some(identity);
        Ok(())
    }
}

pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let path = data_dir.join("LOCK");
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed("open", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: data_dir.to_owned() }),
        Err(e) => Err(failed("lock", &path)(e.into())),
    }
}

fn distrust_in_words(why: &Distrust) -> &'static str {
    match why {
        Distrust::Absent => "there was no usable state",
        Distrust::AnotherBoot => "the machine stopped, or the file system was mounted anew, without a clean stop",
    }
}

struct OpenedLog {
    store: LogStore,
    identity: Option<Identity>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

fn open_log(config: &StorageConfig, metrics: StorageMetrics, report: &mut Report) -> Result<OpenedLog, OpenError> {
    let path = config.data_dir.join("raft");
    let options = EnvOptions { map_bytes_max: config.map_bytes_max, readers_max: 256, durable: true };
    let env = env::open(&path, &options).map_err(|source| OpenError::Env { source })?;
    let pages = u64::try_from(env.info().last_page_number).expect("a page count fits 64 bits");
    let progress = metrics.recovering(pages * 4096);
    let ReadLog { tables, opened, identity, entries } = read_log(&env, &path, Some(progress))?;
    report.log_entries = entries;

    let (purged, last) = (opened.last_purged, opened.last.max(opened.last_purged));
    let prezero = Prezero::open(&path, config.prezero_bytes, config.prezero_step_bytes);
    let prezero = prezero.map_err(failed("extend the log in", &path))?;
    let shared = Arc::new(Shared::new(opened, config.tail_bytes_max, metrics));
    let (queue, ops) = mpsc::sync_channel::<Op>(LOG_QUEUE);
    let writer = LogWriter::new(env.clone(), tables, Arc::clone(&shared), ops, prezero, purged);
    std::thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || writer.run())
        .map_err(failed("start the log writer of", &path))?;
    let payload_bytes_max = config.payload_bytes_max;
    let reader = LogReader { shared: Arc::clone(&shared), env, tables, payload_bytes_max };
    Ok(OpenedLog { store: LogStore { shared, queue, reader }, identity, purged, last })
}

/// A log of which every record was read and checked.
pub(super) struct ReadLog {
    pub(super) tables: Tables,
    pub(super) opened: Opened,
    pub(super) identity: Option<Identity>,
    entries: u64,
}

pub(super) fn read_log(env: &Env<WithoutTls>, path: &Path, progress: Option<Recovering>) -> Result<ReadLog, OpenError> {
    let tables = open_tables(env).map_err(|source| OpenError::Log { op: "open the tables", source })?;
    let txn = env.read_txn().map_err(|source| OpenError::Log { op: "begin a read", source })?;
    let damaged = |why: String| OpenError::DamagedLog { path: path.to_owned(), why };
    let identity = read_meta(&txn, tables, meta::IDENTITY, identity).map_err(|e| damaged(e.to_string()))?;
    let mut opened = Opened {
        vote: read_meta(&txn, tables, meta::VOTE, codec::vote).map_err(|e| damaged(e.to_string()))?,
        committed: read_meta(&txn, tables, meta::COMMITTED, codec::log_id).map_err(|e| damaged(e.to_string()))?,
        last_purged: read_meta(&txn, tables, meta::LAST_PURGED, codec::log_id).map_err(|e| damaged(e.to_string()))?,
        last: None,
    };
    let (last, entries) = scan(&txn, tables, opened.last_purged, progress).map_err(|e| damaged(e.to_string()))?;
    opened.last = last;
    Ok(ReadLog { tables, opened, identity, entries })
}

fn open_tables(env: &Env<WithoutTls>) -> heed::Result<Tables> {
    let txn = env.write_txn()?;
    let made = env.create_databases_and_commit(txn, |opener, txn| {
        let log = opener.create_database::<RawBytes, RawBytes>(txn, Some("log"))?;
        let meta = opener.create_database::<RawBytes, RawBytes>(txn, Some("meta"))?;
        if meta.get(txn, meta::FORMAT.as_bytes())?.is_none() {
            meta.put(txn, meta::FORMAT.as_bytes(), &[FORMAT])?;
        }
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((log, meta)))
    })?;
    let (log, meta) = made.unwrap_commit();
    Ok(Tables { log, meta })
}

fn identity(from: &mut Reader<'_>) -> Result<Identity, DecodeError> {
    Ok(Identity {
        cluster_id: from.array("cluster id")?,
        node_id: from.u64("node id")?,
        name: from.str("node name")?.to_owned(),
        former: from.bool("former")?,
        // The first version knew no epoch.
        epoch: if from.rest().is_empty() { 0 } else { from.u32("epoch")? },
    })
}

/// A record of the metadata table that cannot be read.
#[derive(Debug, thiserror::Error)]
enum MetaError {
    #[error("read {key}")]
    Read {
        key: &'static str,
        #[source]
        source: heed::Error,
    },
    #[error("{key}: {source}")]
    Decode { key: &'static str, source: DecodeError },
}

fn read_meta<T>(
    txn: &RoTxn<'_, WithoutTls>,
    tables: Tables,
    key: &'static str,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, MetaError> {
    let found = tables.meta.get(txn, key.as_bytes()).map_err(|source| MetaError::Read { key, source })?;
    let Some(bytes) = found else { return Ok(None) };
    let mut from = Reader::new(bytes);
    let decoded = match from.u8("format") {
        Ok(codec::FORMAT) => decode(&mut from),
        Ok(found) => Err(DecodeError::Unknown { what: "format", found: found.into(), known: codec::FORMAT.into() }),
        Err(e) => Err(e),
    };
    decoded.map(Some).map_err(|source| MetaError::Decode { key, source })
}

/// A log that has a hole or a damaged record.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    #[error("read: {0}")]
    Read(heed::Error),
    #[error("{0}")]
    Record(RecordError),
    #[error("{0}")]
    Decode(DecodeError),
    #[error("entry {after} is followed by {found}")]
    Hole { after: u64, found: u64 },
}

/// Reads the whole log, checks every record, and returns the last log id and how many entries there are.
fn scan(
    txn: &RoTxn<'_, WithoutTls>,
    tables: Tables,
    purged: Option<LogId>,
    mut progress: Option<Recovering>,
) -> Result<(Option<LogId>, u64), ScanError> {
    let purged = purged.map_or(0, |id| id.index);
    let (mut last, mut entries): (Option<(u64, &[u8])>, u64) = (None, 0);
    for found in tables.log.iter(txn).map_err(ScanError::Read)? {
        let (key, record) = found.map_err(ScanError::Read)?;
        let (index, body) = checked_record(key, record).map_err(ScanError::Record)?;
        if index <= purged && purged > 0 {
            continue;
        }
        let after = last.map_or(purged, |(index, _)| index);
        // An empty, never purged log begins at 0.
        if index != after + 1 && !(last.is_none() && purged == 0 && index == 0) {
            return Err(ScanError::Hole { after, found: index });
        }
        last = Some((index, body));
        entries += 1;
        let bytes = u64::try_from(record.len()).expect("a length fits 64 bits");
        progress.iter_mut().for_each(|progress| progress.advance(bytes));
    }
    let Some((index, body)) = last else { return Ok((None, entries)) };
    let entry = codec::entry(index, &bytes::Bytes::copy_from_slice(body)).map_err(ScanError::Decode)?;
    Ok((Some(entry.log_id), entries))
}

fn unverified(snapshots: &SnapshotDir) -> Result<Option<Verified>, OpenError> {
    let list = snapshots.list().map_err(|source| OpenError::Snapshots { source })?;
    for path in list {
        // Its header and trailer are read; its content is checked in the background (`check_snapshots`). A follower that
        // asks for it before that is served a little later.
        match snapshot::peek(&path) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => tracing::warn!(%error, "snapshot passed over"),
        }
    }
    Ok(None)
}

fn verified(
    snapshots: &SnapshotDir,
    report: &mut Report,
    metrics: &StorageMetrics,
) -> Result<Option<Verified>, OpenError> {
    let newest = snapshots.newest(metrics, |error| {
        let message_id = events::SNAPSHOT_DAMAGED;
        tracing::error!(message_id, %error, "damaged snapshot set aside; the previous one is used");
        metrics.snapshot_damaged.inc();
        report.damaged_snapshots.push(error.to_string());
    });
    newest.map_err(|source| OpenError::Snapshots { source })
}

fn check_no_gap(config: &StorageConfig, purged: &Option<LogId>, newest: Option<&Verified>) -> Result<(), OpenError> {
    let purged = purged.map_or(0, |id| id.index);
    let snapshot = newest.and_then(|v| v.meta.last_log_id).map_or(0, |id| id.index);
    if purged > snapshot {
        return Err(OpenError::Gap { path: config.data_dir.clone(), purged, snapshot });
    }
    Ok(())
}

/// A leader may apply what a quorum of others holds before its own disk does. After a crash the state is then ahead of
/// the log, and openraft lets the log begin behind it; so what only the unsynced state holds is put into a snapshot.
fn secure_unlogged(state: &StateStore, last: Option<LogId>) -> Result<(), OpenError> {
    let (applied, membership) = state.position().map_err(|source| OpenError::Position { source })?;
    let covered = last.max(state.newest_snapshot().and_then(|v| v.meta.last_log_id));
    if applied <= covered {
        return Ok(());
    }
    let view = state.view().map_err(|source| OpenError::Position { source })?;
    let meta = SnapshotMeta { last_log_id: applied, last_membership: membership };
    let written = state.snapshots().write(&meta, &view).map_err(|source| OpenError::Snapshots { source })?;
    tracing::info!(index = applied.map(|id| id.index), "the state is ahead of the log: secured in a snapshot");
    state.set_newest(Some(written));
    Ok(())
}
