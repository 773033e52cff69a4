//! Whether the threads that everything depends on make progress, and whether tasks are served in time.

use super::SecondsGauge;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What the supervisor sees.
#[derive(Debug, Clone)]
pub struct SupervisionMetrics {
    pub waiting_seconds: Family<ThreadLabel, SecondsGauge>,
    pub runtime_lag_seconds: Family<RuntimeLabel, SecondsGauge>,
}

/// Which threads that share tasks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuntimeLabel {
    pub runtime: &'static str,
}

/// Which thread.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ThreadLabel {
    pub thread: &'static str,
}

impl SupervisionMetrics {
    pub(super) fn new(registry: &mut Registry) -> SupervisionMetrics {
        let supervision =
            SupervisionMetrics { waiting_seconds: Family::default(), runtime_lag_seconds: Family::default() };
        registry.register(
            "runtime_lag_seconds",
            "How late tasks were woken, at worst, in the last ten to twenty seconds; above a heartbeat on raft means that the host is short of processor, and elections come near",
            supervision.runtime_lag_seconds.clone(),
        );
        registry.register(
            "thread_waiting_seconds",
            "How long a thread has made no progress with work before it; 0 if it does: a rise means a slow disk, or a stall",
            supervision.waiting_seconds.clone(),
        );
        supervision
    }
}
