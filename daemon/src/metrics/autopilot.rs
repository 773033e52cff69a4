//! What autopilot sees and does. Gauges are the leader's view, and zero elsewhere.

use super::{Gauge, PeerGauges};
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;

type OneLabel = [(&'static str, &'static str); 1];

/// Autopilot of this node, while it leads.
#[derive(Debug, Clone)]
pub struct AutopilotMetrics {
    healthy: Gauge,
    failure_tolerance: Gauge,
    intended_tolerance: Gauge,
    server_healthy: PeerGauges<u64>,
    pub promoted: Counter,
    pub removed: Removed,
}

/// Removals by reason, there from the start.
#[derive(Debug, Clone)]
pub struct Removed {
    pub dead: Counter,
    pub replaced: Counter,
    pub retired: Counter,
}

impl AutopilotMetrics {
    #[rustfmt::skip]
    pub(super) fn new(registry: &mut Registry) -> AutopilotMetrics {
        let removed: Family<OneLabel, Counter> = Family::default();
        let counter = |reason| removed.get_or_create_owned(&[("reason", reason)]);
        let metrics = AutopilotMetrics {
            healthy: Gauge::default(),
            failure_tolerance: Gauge::default(),
            intended_tolerance: Gauge::default(),
            server_healthy: PeerGauges::default(),
            promoted: Counter::default(),
            removed: Removed { dead: counter("dead"), replaced: counter("replaced"), retired: counter("retired") },
        };
        registry.register("autopilot_healthy", "1 on the leader while every server is healthy; 0 on all nodes for long means that a server needs somebody to look", metrics.healthy.clone());
        registry.register("autopilot_failure_tolerance", "On the leader: voters that may still fail; 0 on all nodes means that the next failure stops the cluster", metrics.failure_tolerance.clone());
        registry.register("autopilot_intended_tolerance", "On the leader: voters that could fail if all were well, with as many as the configuration names; above the failure tolerance means that somebody must look", metrics.intended_tolerance.clone());
        registry.register("autopilot_server_healthy", "On the leader, for each server: 1 while it answers in time and has the log; 0 means slow, behind or gone", metrics.server_healthy.family.clone());
        registry.register("autopilot_promoted", "Learners that this node, leading, made voters", metrics.promoted.clone());
        registry.register("autopilot_removed", "Members that this node, leading, removed by itself, by reason; a rise of dead means failed servers", removed);
        metrics
    }

    /// What a round saw. `servers`: each by its id, and whether it is healthy.
    pub fn show(&self, failure_tolerance: u64, intended_tolerance: u64, servers: &BTreeMap<u64, bool>) {
        self.healthy.set(u64::from(!servers.is_empty() && servers.values().all(|healthy| *healthy)));
        self.failure_tolerance.set(failure_tolerance);
        self.intended_tolerance.set(intended_tolerance);
        self.server_healthy.show(&servers.iter().map(|(peer, healthy)| (*peer, u64::from(*healthy))).collect());
    }

    /// This node leads no more, and knows nothing.
    pub fn forget(&self) {
        self.show(0, 0, &BTreeMap::new());
    }
}
