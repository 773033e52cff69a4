//! Who joins, who is refused, what the audit keeps.

use super::Gauge;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

type OneLabel = [(&'static str, &'static str); 1];

/// Who joins, who is refused, what the audit keeps.
#[derive(Debug, Clone)]
pub struct ClusterMetrics {
    pub audit_suppressed: Counter,
    pub audit_lost: Counter,
    pub recovery_epoch: Gauge,
    pub version: Gauge,
    /// The newest version that this program understands.
    pub version_of_program: Gauge,
    /// Tokens that still let somebody in.
    pub join_tokens: Gauge,
    joins: Family<OneLabel, Counter>,
}

/// What came of an attempt to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinMetric {
    Granted,
    Unknown,
    Expired,
    UsedUp,
    Revoked,
    BadProof,
    Malformed,
    TooMany,
    OtherCluster,
    NotAllowed,
}

impl JoinMetric {
    const ALL: [JoinMetric; 10] = [
        JoinMetric::Granted,
        JoinMetric::Unknown,
        JoinMetric::Expired,
        JoinMetric::UsedUp,
        JoinMetric::Revoked,
        JoinMetric::BadProof,
        JoinMetric::Malformed,
        JoinMetric::TooMany,
        JoinMetric::OtherCluster,
        JoinMetric::NotAllowed,
    ];

    /// The value of the label.
    pub fn word(self) -> &'static str {
        match self {
            JoinMetric::Granted => "granted",
            JoinMetric::Unknown => "unknown",
            JoinMetric::Expired => "expired",
            JoinMetric::UsedUp => "used_up",
            JoinMetric::Revoked => "revoked",
            JoinMetric::BadProof => "bad_proof",
            JoinMetric::Malformed => "malformed",
            JoinMetric::TooMany => "too_many",
            JoinMetric::OtherCluster => "other_cluster",
            JoinMetric::NotAllowed => "not_allowed",
        }
    }
}

impl ClusterMetrics {
    #[rustfmt::skip]
    pub(super) fn new(registry: &mut Registry) -> ClusterMetrics {
        let cluster = ClusterMetrics { audit_suppressed: Counter::default(), audit_lost: Counter::default(), recovery_epoch: Gauge::default(), version: Gauge::default(), version_of_program: Gauge::default(), join_tokens: Gauge::default(), joins: Family::default() };
        // A series that appears with its first event has no zero before it, and `rate()` misses that event.
        for result in JoinMetric::ALL {
            drop(cluster.joins.get_or_create(&[("result", result.word())]));
        }
        registry.register("join_attempts", "Attempts to join that this node decided, by result; a rise of anything but granted means somebody guesses, or holds an old token", cluster.joins.clone());
        registry.register("audit_suppressed", "Refused attempts to join without a row of their own in the audit; a rise means somebody tries often", cluster.audit_suppressed.clone());
        registry.register("audit_lost", "Events that are in this node's log only, because the audit could not be written for long", cluster.audit_lost.clone());
        registry.register("recovery_epoch", "How often the cluster was recovered by force, as this node knows; a rise means somebody went on with one node", cluster.recovery_epoch.clone());
        registry.register("cluster_version", "The cluster version, as this node has applied it; lower than what all programs understand means an upgrade that nobody finalized", cluster.version.clone());
        registry.register("program_cluster_version", "The newest cluster version that this program understands; higher than konsul_cluster_version on all nodes means that an upgrade waits for konsulctl upgrade finalize", cluster.version_of_program.clone());
        registry.register("join_tokens", "Tokens that still let a node in: not used up, expired or revoked; each is a way in, so revoke what nobody needs", cluster.join_tokens.clone());
        cluster
    }

    /// Counts an attempt to join.
    pub fn join(&self, result: JoinMetric) {
        self.joins.get_or_create(&[("result", result.word())]).inc();
    }
}
