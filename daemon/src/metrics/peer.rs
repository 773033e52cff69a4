//! Connections between nodes and what is on its way on them.

use super::{Gauge, Histograms, PeerLabel, SnapshotMetrics, rtt_seconds};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

/// Traffic between nodes.
#[derive(Debug, Clone)]
pub struct PeerMetrics {
    pub connections: Gauge,
    pub refused: Counter,
    pub connect_failures: Family<PurposeLabel, Counter>,
    /// Asked by others, not answered yet.
    pub requests_in_flight: Gauge,
    /// Asked by this node, not answered yet.
    pub calls_in_flight: Gauge,
    pub snapshot_sent_bytes: Counter,
    pub snapshot_received_bytes: Counter,
    /// From a heartbeat to its answer.
    pub rtt_seconds: Histograms<PeerLabel>,
    pub snapshots: SnapshotMetrics,
}

/// The values of `PurposeLabel`.
const PURPOSES: [&str; 5] = ["append", "vote", "snapshot", "forward", "join"];

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PurposeLabel {
    pub purpose: &'static str,
}

/// One more in a gauge until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// Counts.
    pub fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for PeerMetrics {
    fn default() -> PeerMetrics {
        PeerMetrics {
            connections: Gauge::default(),
            refused: Counter::default(),
            connect_failures: Family::default(),
            requests_in_flight: Gauge::default(),
            calls_in_flight: Gauge::default(),
            snapshot_sent_bytes: Counter::default(),
            snapshot_received_bytes: Counter::default(),
            rtt_seconds: Family::new_with_constructor(rtt_seconds),
            snapshots: SnapshotMetrics::default(),
        }
    }
}

impl PeerMetrics {
    pub(super) fn new(registry: &mut Registry, snapshots: SnapshotMetrics) -> PeerMetrics {
        let peer = PeerMetrics { snapshots, ..PeerMetrics::default() };
        for purpose in PURPOSES {
            // From the start: a series that appears with its first failure hides that failure from `rate`.
            drop(peer.connect_failures.get_or_create(&PurposeLabel { purpose }));
        }
        let help = "Connections of other nodes served now; four or five for each peer";
        registry.register("peer_connections", help, peer.connections.clone());
        let help = "Connections of other nodes that ended before they were admitted; a rise means wrong certificates, clusters or strangers";
        registry.register("peer_refused", help, peer.refused.clone());
        let help = "Connections to other nodes that could not be made; a rise means a node is down or refuses this one";
        registry.register("peer_connect_failures", help, peer.connect_failures.clone());
        let help = "Requests of other nodes not answered yet; a steady rise means this node cannot keep up";
        registry.register("peer_requests_in_flight", help, peer.requests_in_flight.clone());
        let help = "Requests to other nodes not answered yet; a steady rise means the leader cannot keep up";
        registry.register("peer_calls_in_flight", help, peer.calls_in_flight.clone());
        let help = "Bytes of snapshots sent; a rise means a node fell far behind or is new";
        registry.register("peer_snapshot_sent_bytes", help, peer.snapshot_sent_bytes.clone());
        let help = "Bytes of snapshots received; a rise means this node fell far behind or is new";
        registry.register("peer_snapshot_received_bytes", help, peer.snapshot_received_bytes.clone());
        let help = "From a heartbeat of this node, leading, to the peer's answer; a rise means a slow network, or a peer that is short of processor or disk";
        registry.register("raft_peer_rtt_seconds", help, peer.rtt_seconds.clone());
        peer
    }
}
