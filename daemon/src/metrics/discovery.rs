//! Looking for contact points.

use super::Gauge;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

/// Rounds of discovery and what they found.
#[derive(Debug, Clone, Default)]
pub struct DiscoveryMetrics {
    pub rounds: Counter,
    pub failures: Family<DiscoveryMethodLabel, Counter>,
    pub contact_points: Family<DiscoveryMethodLabel, Gauge>,
}

/// The values of `DiscoveryMethodLabel`.
const METHODS: [&str; 3] = ["aws", "dns", "static"];

/// A way of finding contact points.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DiscoveryMethodLabel {
    pub method: &'static str,
}

impl DiscoveryMetrics {
    pub(super) fn new(registry: &mut Registry) -> DiscoveryMetrics {
        let discovery = DiscoveryMetrics::default();
        for method in METHODS {
            // From the start: a series that appears with its first failure hides that failure from `rate`.
            drop(discovery.failures.get_or_create(&DiscoveryMethodLabel { method }));
            drop(discovery.contact_points.get_or_create(&DiscoveryMethodLabel { method }));
        }
        let help = "Rounds of looking for contact points; a steady rise means this node finds no cluster to join";
        registry.register("discovery_rounds", help, discovery.rounds.clone());
        let help = "Attempts of a discovery method without an answer; a rise means DNS or the cloud is down or refuses";
        registry.register("discovery_failures", help, discovery.failures.clone());
        let help = "Contact points that a discovery method last found";
        registry.register("discovery_contact_points", help, discovery.contact_points.clone());
        discovery
    }
}
