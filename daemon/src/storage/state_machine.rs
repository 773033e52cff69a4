//! The replicated state as openraft sees it: committed entries in, answers out, snapshots both ways.
//!
//! One thread applies. One call is one write transaction that holds the data and the position in the log together;
//! it is committed first, then callers are answered, then waiters are woken.

use super::check_point::{CheckPoints, Taken};
use super::codec;
use super::generation::{Generation, GenerationError, Generations};
use super::log_store::LogStore;
use super::log_writer::meta;
use super::moments::Moments;
use super::newer::needs_newer;
use super::snapshot::{self, SnapshotDir, SnapshotError, Verified};
use super::snapshot_file::SnapshotFile;
use crate::metrics::{SnapshotOp, StorageMetrics};
use crate::raft_types::{Entry, EntryPayload, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::systemd::{Pulse, Watched};
use crate::telemetry::chain;
use crate::watch::Watches;
use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt};
use konsul_state::{Changes, Index, Outcome, Reader, StateError, View, Writer};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use std::error::Error;
use std::io;
use std::iter::Peekable;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Instant, SystemTime};
use std::vec::Drain;
use tokio::sync::oneshot;

type RunItem = (Entry, Option<ApplyResponder<TypeConfig>>);
type Run = Vec<RunItem>;

/// What the apply thread is asked to do.
enum Job {
    Apply {
        run: Run,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Nothing: whoever asks wants to see that the thread answers.
    Poke,
}

/// Entries and bytes of one transaction at most: a reader of the next index waits for all of it.
const BATCH_ENTRIES_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The state of this node: read anywhere, written by the apply thread only.
pub struct StateStore {
    current: ArcSwap<Generation>,
    generations: Generations,
    snapshots: SnapshotDir,
    newest: Mutex<Option<Verified>>,
    watches: Watches,
    metrics: StorageMetrics,
    check_points: CheckPoints,
    /// What only a newer program understands, if that was met.
    newer: OnceLock<String>,
    /// When what was applied.
    applies: Moments,
    /// Of the apply thread.
    pulse: Arc<Pulse>,
}

/// openraft's handle to the state. Cloned handles are the same state.
#[derive(Clone)]
pub struct StateMachine {
    store: Arc<StateStore>,
    jobs: mpsc::SyncSender<Job>,
    log: LogStore,
}

/// Builds one snapshot of one moment.
pub struct SnapshotBuilder {
    store: Arc<StateStore>,
    log: LogStore,
    /// A read transaction may move between threads but not be shared, and openraft shares builders.
    view: Mutex<Option<Result<View, StateError>>>,
}

impl StateStore {
    pub(super) fn new(
        current: Generation,
        generations: Generations,
        snapshots: SnapshotDir,
        newest: Option<Verified>,
        watches: Watches,
        check_points: CheckPoints,
        metrics: StorageMetrics,
    ) -> StateStore {
        StateStore {
            current: ArcSwap::from_pointee(current),
            generations,
            snapshots,
            newest: Mutex::new(newest),
            watches,
            metrics,
            check_points,
            newer: OnceLock::new(),
            applies: Moments::default(),
            pulse: Pulse::new("apply"),
        }
    }

    /// One moment of the state.
    pub fn view(&self) -> Result<View, StateError> {
        self.current.load().store().view()
    }

    /// Where the members listen for each other, as of what is applied.
    pub fn member_addresses(&self) -> Result<Vec<String>, StateError> {
        let (_, membership) = position_of(&self.view()?)?;
        Ok(membership.nodes().map(|(_, info)| info.rpc.clone()).collect())
    }

    /// Waiters for changes of this state.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Where received snapshots are put.
    pub fn snapshots(&self) -> &SnapshotDir {
        &self.snapshots
    }

    /// The newest snapshot, if there is one.
    pub fn newest_snapshot(&self) -> Option<Verified> {
        self.newest.lock().expect("nothing panics while it holds the lock").clone()
    }

    /// From when to when this entry was applied, if that is known.
    pub fn applied_at(&self, index: u64) -> Option<(SystemTime, SystemTime)> {
        self.applies.of(index)
    }

    /// (bytes in use, bytes of the map) of the environment.
    pub fn usage(&self) -> (u64, u64) {
        let info = self.current.load().store().env().info();
        ((wide(info.last_page_number) + 1) * 4096, wide(info.map_size))
    }

    /// Pages of the file that hold nothing, and the most views there ever were at a time.
    pub fn free_pages_and_readers(&self) -> Result<(u64, u64), StateError> {
        let current = self.current.load();
        let used = current.store().view()?.pages_in_use()?;
        let info = current.store().env().info();
        Ok(((wide(info.last_page_number) + 1).saturating_sub(used), u64::from(info.number_of_readers)))
    }

    /// The digest at the newest check point that this node applied since its start.
    pub fn newest_digest(&self) -> Option<Taken> {
        self.check_points.newest()
    }

    /// What this node met that only a newer program understands: nothing is wrong with its data.
    pub fn newer(&self) -> Option<&str> {
        self.newer.get().map(String::as_str)
    }

    /// Surfaces I/O errors of the unsynced environment.
    pub fn sync(&self) -> Result<(), GenerationError> {
        self.generations.sync(&self.current.load())
    }

    /// After the last apply: the state survives a machine stop.
    pub fn close(&self) -> Result<(), GenerationError> {
        self.generations.close(&self.current.load())
    }

    /// What is offered to followers and named in the log's metadata.
    pub(super) fn set_newest(&self, newest: Option<Verified>) {
        *self.newest.lock().expect("nothing panics while it holds the lock") = newest;
    }

    /// After the check of the snapshots found at the start: what was offered unseen is offered no longer.
    pub(super) fn replace_unverified(&self, checked: Option<Verified>) {
        let index = |v: &Option<Verified>| v.as_ref().and_then(|v| v.meta.last_log_id);
        let mut newest = self.newest.lock().expect("nothing panics while it holds the lock");
        // A snapshot built or received meanwhile is verified and newer.
        let unverified = newest.as_ref().is_some_and(|v| v.file.sha256 == snapshot::UNVERIFIED);
        if unverified || index(&newest) < index(&checked) {
            *newest = checked;
        }
    }

    pub(super) fn position(&self) -> Result<(Option<LogId>, StoredMembership), StateError> {
        position_of(&self.view()?)
    }

    /// Applies a run of entries: in one transaction, unless a check point ends one.
    fn apply(&self, run: &mut Run) -> Result<(), StateError> {
        let mut entries = run.drain(..).peekable();
        while entries.peek().is_some() {
            self.apply_to_check_point(&mut entries)?;
        }
        Ok(())
    }

    /// Applies entries up to a check point or the end in one transaction, answers, wakes.
    fn apply_to_check_point(&self, entries: &mut Peekable<Drain<'_, RunItem>>) -> Result<(), StateError> {
        let (started, began) = (Instant::now(), Moments::begin());
        let current = self.current.load_full();
        let mut batch = current.store().batch()?;
        let mut answers = Vec::with_capacity(entries.size_hint().0);
        let mut membership = None;
        let mut last = None;
        let mut at_check_point = false;
        for (entry, responder) in entries.by_ref() {
            last = Some(entry.log_id);
            let outcome = match &entry.payload {
                EntryPayload::Normal(proposal) => {
                    let outcome = batch.apply(Index::new(entry.log_id.index), &proposal.0)?;
                    at_check_point = batch.is_at_check_point();
                    outcome
                }
                EntryPayload::Blank => Outcome::None,
                EntryPayload::Membership(m) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), m.clone()));
                    Outcome::None
                }
            };
            if let Some(responder) = responder {
                answers.push((responder, outcome));
            }
            if at_check_point {
                break;
            }
        }
        let Some(last) = last else { return Ok(()) };
        let mut id = Writer::new();
        codec::put_log_id(&mut id, &last);
        let membership = membership.map(|m| {
            let mut out = Writer::new();
            codec::put_stored_membership(&mut out, &m);
            out.into_vec()
        });
        let index = Index::new(last.index);
        batch.set_position(index, &id.into_vec(), membership.as_deref())?;
        let changes = self.pulse.io(|| batch.commit())?;
        if at_check_point {
            self.check_points.reached(index, current.store().view()?);
        }
        // Before anybody is answered who may ask for it.
        self.applies.end(last.index, began);
        // Committed: a caller that is answered now, and reads, sees its write.
        self.watches.publish(index, &changes);
        for (responder, outcome) in answers {
            responder.send(outcome);
        }
        self.metrics.store_commit_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Notes whether it is only that a newer program is needed.
    fn note_newer(&self, error: &(dyn Error + 'static)) {
        if let Some(what) = needs_newer(error) {
            self.newer.get_or_init(|| what);
        }
    }

    /// Replaces the content by a verified snapshot; atomic against a crash.
    fn install(&self, verified: &Verified) -> Result<(), io::Error> {
        let old = self.current.load_full();
        let fresh = self.generations.fresh(Some(&old)).map_err(io::Error::other)?;
        snapshot::load(verified, fresh.store(), &self.metrics).map_err(|error| {
            self.note_newer(&error);
            io::Error::other(error)
        })?;
        self.put_position(&fresh, &verified.meta).map_err(io::Error::other)?;
        self.generations.adopt(&fresh).map_err(io::Error::other)?;
        let keep = self.generations.path_of(&fresh);
        self.current.store(Arc::new(fresh));
        // Views of the old content may still be open: the files are unlinked, the pages stay until the last is closed.
        self.generations.remove_others(Some(&keep)).map_err(io::Error::other)?;
        let index = verified.meta.last_log_id.map_or(Index::ZERO, |id| Index::new(id.index));
        self.watches.publish(index, &Changes { all: true, ..Changes::default() });
        Ok(())
    }

    fn put_position(&self, generation: &Generation, meta: &SnapshotMeta) -> Result<(), StateError> {
        let Some(last) = meta.last_log_id else { return Ok(()) };
        let (mut id, mut membership) = (Writer::new(), Writer::new());
        codec::put_log_id(&mut id, &last);
        codec::put_stored_membership(&mut membership, &meta.last_membership);
        let mut batch = generation.store().batch()?;
        batch.set_position(Index::new(last.index), &id.into_vec(), Some(&membership.into_vec()))?;
        batch.commit()?;
        Ok(())
    }
}

impl StateMachine {
    /// Starts the apply thread; it ends when the last handle is dropped.
    pub(super) fn start(store: Arc<StateStore>, log: LogStore) -> io::Result<StateMachine> {
        // One call of openraft is one job, and it waits for it.
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let applier = Arc::clone(&store);
        std::thread::Builder::new().name("apply".to_owned()).spawn(move || {
            applier.pulse.is_mine();
            while let Ok(job) = queue.recv() {
                if let Job::Apply { mut run, done } = job {
                    let result = applier.apply(&mut run);
                    if let Err(error) = &result {
                        applier.note_newer(error);
                        tracing::error!(error = %chain(error), "cannot apply to the state; the node stops");
                    }
                    // openraft gives up waiting only when it stops.
                    drop(done.send(result.map_err(io::Error::other)));
                }
                applier.pulse.done(1);
            }
            applier.pulse.retire();
        })?;
        Ok(StateMachine { store, jobs, log })
    }

    /// The state behind it.
    pub fn store(&self) -> &Arc<StateStore> {
        &self.store
    }

    /// The apply thread, for those who see to it that it makes progress.
    pub fn watched(&self) -> Watched {
        let (pulse, jobs) = (Arc::clone(&self.store.pulse), self.jobs.clone());
        let asked = Arc::clone(&pulse);
        let poke = move || {
            asked.ask();
            if jobs.try_send(Job::Poke).is_err() {
                asked.done(1);
            }
        };
        Watched { pulse, poke: Box::new(poke) }
    }

    async fn run(&self, run: Run) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        let ended = || io::Error::other("the apply thread has ended");
        self.store.pulse.ask();
        self.jobs.send(Job::Apply { run, done }).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.store.position().map_err(io::Error::other)
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut run = Vec::new();
        let mut bytes = 0;
        while let Some(next) = entries.next().await {
            let next = next?;
            bytes += super::tail::weight(&next.0);
            run.push(next);
            if run.len() >= BATCH_ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                self.run(std::mem::take(&mut run)).await?;
                bytes = 0;
            }
        }
        if run.is_empty() { Ok(()) } else { self.run(run).await }
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        // The moment is now: apply goes on while the file is written.
        SnapshotBuilder {
            store: Arc::clone(&self.store),
            log: self.log.clone(),
            view: Mutex::new(Some(self.store.view())),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let (store, meta) = (Arc::clone(&self.store), meta.clone());
        let file = blocking(move || {
            let mut verified = snapshot::verify(&snapshot.path, Some(&store.metrics)).map_err(io::Error::other)?;
            if verified.meta != meta {
                return Err(io::Error::other(SnapshotError::Damaged {
                    path: snapshot.path.clone(),
                    why: "it is not the snapshot that was announced".to_owned(),
                }));
            }
            verified.file = store.snapshots.adopt(&verified).map_err(io::Error::other)?;
            let started = Instant::now();
            let installed = store.install(&verified);
            store.metrics.snapshots.count(SnapshotOp::Install, installed.is_ok(), started.elapsed());
            installed?;
            let file = verified.file.clone();
            store.set_newest(Some(verified));
            store.snapshots.retain().map_err(io::Error::other)?;
            Ok(file)
        })
        .await?;
        self.log.put_meta(meta::SNAPSHOT, file.path.to_string_lossy().into_owned().into_bytes()).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<CurrentSnapshot>, io::Error> {
        Ok(self.store.newest_snapshot().map(|v| Snapshot { meta: v.meta, snapshot: v.file }))
    }
}

type CurrentSnapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<CurrentSnapshot, io::Error> {
        let store = Arc::clone(&self.store);
        let taken = self.view.get_mut().expect("nothing panics while it holds the lock").take();
        let view = taken.unwrap_or_else(|| store.view()).map_err(io::Error::other)?;
        let verified = blocking(move || {
            let started = Instant::now();
            let (last_log_id, last_membership) = position_of(&view).map_err(io::Error::other)?;
            let meta = SnapshotMeta { last_log_id, last_membership };
            let written = store.snapshots.write(&meta, &view).map_err(io::Error::other);
            store.metrics.snapshots.count(SnapshotOp::Build, written.is_ok(), started.elapsed());
            let verified = written?;
            drop(view);
            store.snapshots.retain().map_err(io::Error::other)?;
            tracing::info!(
                index = meta.last_log_id.map(|id| id.index),
                records = verified.records,
                bytes = verified.file.len,
                took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "snapshot built"
            );
            store.set_newest(Some(verified.clone()));
            Ok(verified)
        })
        .await?;
        let name = verified.file.path.to_string_lossy().into_owned();
        self.log.put_meta(meta::SNAPSHOT, name.into_bytes()).await?;
        Ok(Snapshot { meta: verified.meta, snapshot: verified.file })
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("a size fits 64 bits")
}

/// Where in the log a moment of the state stands, and the membership there.
pub fn position_of(view: &View) -> Result<(Option<LogId>, StoredMembership), StateError> {
    let Some((log_id, membership)) = view.position()? else { return Ok((None, StoredMembership::default())) };
    let damaged = |source| StateError::Record { table: "sm", source };
    let log_id = codec::log_id(&mut Reader::new(log_id)).map_err(damaged)?;
    let membership = if membership.is_empty() {
        StoredMembership::default()
    } else {
        codec::stored_membership(&mut Reader::new(membership)).map_err(damaged)?
    };
    Ok((Some(log_id), membership))
}

/// Files are read and written outside the runtime's own threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the storage work was cancelled")),
    }
}
