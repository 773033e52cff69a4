//! What autopilot sees and does. Gauges are the leader's view, and zero elsewhere.

use super::Gauge;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

type OneLabel = [(&'static str, &'static str); 1];

/// Autopilot of this node, while it leads.
#[derive(Debug, Clone)]
pub struct AutopilotMetrics {
    healthy: Gauge,
    failure_tolerance: Gauge,
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
            promoted: Counter::default(),
            removed: Removed { dead: counter("dead"), replaced: counter("replaced"), retired: counter("retired") },
        };
        registry.register("autopilot_healthy", "1 on the leader while every server is healthy; 0 on all nodes for long means that a server needs somebody to look", metrics.healthy.clone());
        registry.register("autopilot_failure_tolerance", "On the leader: voters that may still fail; 0 on all nodes means that the next failure stops the cluster", metrics.failure_tolerance.clone());
        registry.register("autopilot_promoted", "Learners that this node, leading, made voters", metrics.promoted.clone());
        registry.register("autopilot_removed", "Members that this node, leading, removed by itself, by reason; a rise of dead means failed servers", removed);
        metrics
    }

    /// What a round saw.
    pub fn show(&self, healthy: bool, failure_tolerance: u64) {
        self.healthy.set(u64::from(healthy));
        self.failure_tolerance.set(failure_tolerance);
    }

    /// This node leads no more, and knows nothing.
    pub fn forget(&self) {
        self.show(false, 0);
    }
}
