//! Names, help and units of every metric; counters handed out to the parts.  Knows nothing about: domain types.
//!
//! Gauges are set by their owners, counters are counted where things happen; nothing is computed here except what the
//! kernel knows of the process. No key, session or address is ever a label, and every label has a bounded set of
//! values: peers, reasons and operations.

mod autopilot;
mod backup;
mod cluster;
mod discovery;
mod http;
mod identity;
mod peer;
mod process;
mod raft;
mod reload;
mod storage;
mod supervision;

pub use autopilot::{AutopilotMetrics, Removed};
pub use backup::{BackupKind, BackupMetrics};
pub use cluster::{ClusterMetrics, JoinMetric};
pub use discovery::{DiscoveryMethodLabel, DiscoveryMetrics};
pub use http::{Endpoint, HttpMetrics, Refused, Request};
pub use identity::{CertificateMetric, IdentityMetrics};
pub use peer::{Counted, PeerMetrics, PurposeLabel};
pub use raft::{Applied, Commits, Election, PeerLabel, PeerProgress, ProposalFailure, RaftMetrics, Reads, RoleMetric};
pub use reload::{ReloadMetrics, ReloadedPart};
pub use storage::{Recovering, SnapshotMetrics, SnapshotOp, StorageMetrics};
pub use supervision::{RuntimeLabel, SupervisionMetrics, ThreadLabel};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{Atomic, Gauge as IntGauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// A count or an amount of bytes.
pub type Gauge = IntGauge<u64, AtomicU64>;
/// A duration in seconds.
pub type SecondsGauge = IntGauge<f64, AtomicU64>;
/// A histogram per set of labels.
pub type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Doubling from 0.25 ms to 4 s.
const LATENCY_MS: [f64; 15] =
    [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
/// Doubling from 0.1 ms to 6.6 s: a disk flush.
const FLUSH_SECONDS: [f64; 17] = [
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768, 6.5536,
];
/// Doubling from 0.25 ms to 2 s: there and back between two nodes.
const RTT_SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048];
/// From 50 ms to five minutes: a snapshot.
const SNAPSHOT_SECONDS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// All metrics of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub autopilot: AutopilotMetrics,
    pub backup: BackupMetrics,
    pub cluster: ClusterMetrics,
    pub discovery: DiscoveryMetrics,
    pub http: HttpMetrics,
    pub identity: IdentityMetrics,
    pub peer: PeerMetrics,
    pub raft: RaftMetrics,
    pub reload: ReloadMetrics,
    pub storage: StorageMetrics,
    pub supervision: SupervisionMetrics,
}

impl Metrics {
    /// Registers everything; each series carries these two labels, so that series of several nodes can be told apart
    /// wherever they meet.
    pub fn new(node: &str, cluster: &str) -> Metrics {
        let labels = [("cluster", cluster), ("node", node)];
        let mut registry = Registry::with_labels(
            labels.map(|(name, value)| (Cow::from(name), Cow::from(value.to_owned()))).into_iter(),
        );
        registry.register_collector(Box::new(process::Process));
        let konsul = registry.sub_registry_with_prefix("konsul");
        register_build_info(konsul);
        let raft = RaftMetrics::new(konsul);
        let storage = StorageMetrics::new(konsul, raft.commits.clone());
        Metrics {
            autopilot: AutopilotMetrics::new(konsul),
            backup: BackupMetrics::new(konsul),
            cluster: ClusterMetrics::new(konsul),
            discovery: DiscoveryMetrics::new(konsul),
            http: HttpMetrics::new(konsul),
            identity: IdentityMetrics::new(konsul),
            peer: PeerMetrics::new(konsul, storage.snapshots.clone()),
            raft,
            reload: ReloadMetrics::new(konsul),
            storage,
            supervision: SupervisionMetrics::new(konsul),
            registry: Arc::new(registry),
        }
    }

    /// The exposition text (OpenMetrics 1.0).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

fn register_build_info(registry: &mut Registry) {
    let family: Family<[(&'static str, &'static str); 2], Gauge> = Family::default();
    let git = option_env!("KONSUL_GIT").unwrap_or("unknown");
    family.get_or_create(&[("version", env!("CARGO_PKG_VERSION")), ("git", git)]).set(1);
    registry.register("build_info", "What runs here; always 1", family);
}

/// A gauge for each member, and none for others: one that was removed must not raise alarms for ever.
#[derive(Debug, Clone)]
struct PeerGauges<V> {
    family: Family<PeerLabel, IntGauge<V, AtomicU64>>,
    shown: Arc<Mutex<BTreeSet<u64>>>,
}

impl<V> Default for PeerGauges<V> {
    fn default() -> PeerGauges<V> {
        PeerGauges { family: Family::default(), shown: Arc::default() }
    }
}

impl<V: Copy> PeerGauges<V>
where
    AtomicU64: Atomic<V>,
{
    /// Shows these and forgets all others.
    fn show(&self, values: &BTreeMap<u64, V>) {
        let mut shown = self.shown.lock().expect("nothing panics while it holds the lock");
        for peer in shown.iter().filter(|peer| !values.contains_key(peer)) {
            self.family.remove(&PeerLabel { peer: *peer });
        }
        *shown = values.keys().copied().collect();
        for (peer, value) in values {
            self.family.get_or_create(&PeerLabel { peer: *peer }).set(*value);
        }
    }
}

fn latency_ms() -> Histogram {
    Histogram::new(LATENCY_MS)
}

fn flush_seconds() -> Histogram {
    Histogram::new(FLUSH_SECONDS)
}

fn rtt_seconds() -> Histogram {
    Histogram::new(RTT_SECONDS)
}

fn snapshot_seconds() -> Histogram {
    Histogram::new(SNAPSHOT_SECONDS)
}

#[cfg(test)]
mod tests;
