//! Whether the threads that everything depends on make progress.

use super::SecondsGauge;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What the supervisor sees.
#[derive(Debug, Clone)]
pub struct SupervisionMetrics {
    pub waiting_seconds: Family<ThreadLabel, SecondsGauge>,
}

/// Which thread.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ThreadLabel {
    pub thread: &'static str,
}

impl SupervisionMetrics {
    pub(super) fn new(registry: &mut Registry) -> SupervisionMetrics {
        let supervision = SupervisionMetrics { waiting_seconds: Family::default() };
        registry.register(
            "thread_waiting_seconds",
            "How long a thread has made no progress with work before it; 0 if it does: a rise means a slow disk, or a stall",
            supervision.waiting_seconds.clone(),
        );
        supervision
    }
}
