//! Flushes, sizes, snapshots, and the space that is left.

use super::{Commits, Gauge, Histograms, SecondsGauge, flush_seconds, snapshot_seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};
use prometheus_client::registry::Registry;
use std::time::Duration;

/// What the disk does.
#[derive(Debug, Clone)]
pub struct StorageMetrics {
    /// Seconds of one durable commit of the log.
    pub log_fsync_seconds: Histogram,
    /// How long the leader's log takes to a majority.
    pub commits: Commits,
    /// Seconds of one commit of the state.
    pub store_commit_seconds: Histogram,
    pub log_size_bytes: Gauge,
    pub snapshot_damaged: Counter,
    pub map_bytes: Gauge,
    pub map_used_bytes: Gauge,
    /// Pages of the two files that hold nothing and are used before the files grow.
    pub log_free_pages: Gauge,
    pub state_free_pages: Gauge,
    /// The most views of the state at a time.
    pub readers: Gauge,
    /// Free on the file system of the data directory.
    pub free_bytes: Gauge,
    pub read_only: Gauge,
    pub kv_keys: Gauge,
    pub snapshots: SnapshotMetrics,
    free_pages: Family<[(&'static str, &'static str); 1], Gauge>,
    recovery_read_bytes: Gauge,
    recovery_bytes: Gauge,
}

/// Finished snapshot operations; counted by whoever does them.
#[derive(Debug, Clone)]
pub struct SnapshotMetrics {
    done: Family<SnapshotDone, Counter>,
    seconds: Histograms<[(&'static str, &'static str); 1]>,
    last_restore_seconds: SecondsGauge,
}

/// What is done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotOp {
    /// Made from the state.
    Build,
    /// Sent to a peer.
    Send,
    /// Made the state: one that was received, or at start this node's own.
    Install,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SnapshotDone {
    op: &'static str,
    result: &'static str,
}

/// A recovery under way; dropped, it is over, whatever came of it.
#[derive(Debug)]
pub struct Recovering {
    read: Gauge,
    left: u64,
}

impl Recovering {
    /// So many more bytes were read.
    pub fn advance(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.read.inc_by(bytes);
    }
}

impl Drop for Recovering {
    fn drop(&mut self) {
        self.read.inc_by(self.left);
    }
}

impl SnapshotOp {
    const ALL: [SnapshotOp; 3] = [SnapshotOp::Build, SnapshotOp::Send, SnapshotOp::Install];

    fn name(self) -> &'static str {
        match self {
            SnapshotOp::Build => "build",
            SnapshotOp::Send => "send",
            SnapshotOp::Install => "install",
        }
    }
}

impl Default for SnapshotMetrics {
    fn default() -> SnapshotMetrics {
        let done = Family::default();
        for op in SnapshotOp::ALL {
            // From the start: a series that appears with its first failure hides that failure from `rate`.
            for result in ["ok", "failed"] {
                drop(done.get_or_create(&SnapshotDone { op: op.name(), result }));
            }
        }
        SnapshotMetrics {
            done,
            seconds: Family::new_with_constructor(snapshot_seconds),
            last_restore_seconds: SecondsGauge::default(),
        }
    }
}

impl SnapshotMetrics {
    /// Counts one finished operation and how long it took.
    pub fn count(&self, op: SnapshotOp, ok: bool, took: Duration) {
        let result = if ok { "ok" } else { "failed" };
        self.done.get_or_create(&SnapshotDone { op: op.name(), result }).inc();
        self.seconds.get_or_create(&[("op", op.name())]).observe(took.as_secs_f64());
        if ok && matches!(op, SnapshotOp::Install) {
            self.last_restore_seconds.set(took.as_secs_f64());
        }
    }
}

impl StorageMetrics {
    pub(super) fn new(registry: &mut Registry, commits: Commits) -> StorageMetrics {
        let free_pages: Family<[(&'static str, &'static str); 1], Gauge> = Family::default();
        let storage = StorageMetrics {
            log_free_pages: free_pages.get_or_create_owned(&[("env", "log")]),
            state_free_pages: free_pages.get_or_create_owned(&[("env", "state")]),
            readers: Gauge::default(),
            free_pages,
            commits,
            log_fsync_seconds: flush_seconds(),
            store_commit_seconds: flush_seconds(),
            log_size_bytes: Gauge::default(),
            snapshot_damaged: Counter::default(),
            map_bytes: Gauge::default(),
            map_used_bytes: Gauge::default(),
            free_bytes: Gauge::default(),
            read_only: Gauge::default(),
            kv_keys: Gauge::default(),
            snapshots: SnapshotMetrics::default(),
            recovery_read_bytes: Gauge::default(),
            recovery_bytes: Gauge::default(),
        };
        storage.register(registry);
        storage
    }

    #[rustfmt::skip]
    fn register(&self, registry: &mut Registry) {
        registry.register("raft_log_fsync_seconds", "One durable commit of the log; above 0.1 s the disk endangers the leader's lease", self.log_fsync_seconds.clone());
        registry.register("store_commit_seconds", "One commit of the state, not durable by itself", self.store_commit_seconds.clone());
        registry.register("raft_log_size_bytes", "Bytes used by the log; a rise without end means that purging fails", self.log_size_bytes.clone());
        registry.register("raft_snapshots", "Snapshots by operation and result; a steady rise of install means a node that cannot catch up from the log", self.snapshots.done.clone());
        registry.register("raft_snapshot_duration_seconds", "Time of one snapshot operation", self.snapshots.seconds.clone());
        registry.register("raft_snapshot_last_restore_seconds", "How long the last snapshot took to become the state; 0: none since the start. Above raft_log_oldest_age_seconds of the leader, the log is purged faster than a node can restore", self.snapshots.last_restore_seconds.clone());
        registry.register("raft_snapshot_damaged", "Snapshots set aside because their checksum was wrong; any rise means a bad disk", self.snapshot_damaged.clone());
        registry.register("store_map_bytes", "Size limit of the state's LMDB map", self.map_bytes.clone());
        registry.register("store_map_used_bytes", "Bytes of the map in use; near the limit writes end: raise storage.map_size", self.map_used_bytes.clone());
        registry.register("store_free_pages", "Pages of 4 KiB in the files of log and state that hold nothing and are used before the file grows; many for long means that much was deleted or purged, or that a read stays open", self.free_pages.clone());
        registry.register("store_readers", "The most reads of the state that were open at a time since it was opened; at 1,024 further ones fail", self.readers.clone());
        registry.register("store_free_bytes", "Free on the file system of the data directory; below storage.free_reserve the node goes read-only", self.free_bytes.clone());
        registry.register("store_read_only", "1 while the node takes no writes because of its disk", self.read_only.clone());
        registry.register("store_recovery_bytes", "Bytes that recoveries and installed snapshots had to read since the start", self.recovery_bytes.clone());
        registry.register("store_recovery_read_bytes", "Bytes of them that were read; equal to store_recovery_bytes: nothing is being recovered", self.recovery_read_bytes.clone());
        registry.register("kv_keys", "Keys in the store", self.kv_keys.clone());
    }

    /// So many bytes are read from now on.
    pub fn recovering(&self, bytes: u64) -> Recovering {
        self.recovery_bytes.inc_by(bytes);
        Recovering { read: self.recovery_read_bytes.clone(), left: bytes }
    }

    /// Bytes that were read, and that had to be, by all recoveries since the start.
    pub fn recovered(&self) -> (u64, u64) {
        (self.recovery_read_bytes.get(), self.recovery_bytes.get())
    }
}
