//! What was read again while the node runs.

use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 2];

/// What was read again while the node runs.
#[derive(Debug, Clone, Default)]
pub struct ReloadMetrics {
    reloads: Family<Labels, Counter>,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadedPart {
    Configuration,
    Certificates,
}

impl ReloadedPart {
    const ALL: [ReloadedPart; 2] = [ReloadedPart::Configuration, ReloadedPart::Certificates];

    /// The value of the label.
    fn word(self) -> &'static str {
        match self {
            ReloadedPart::Configuration => "configuration",
            ReloadedPart::Certificates => "certificates",
        }
    }
}

impl ReloadMetrics {
    pub(super) fn new(registry: &mut Registry) -> ReloadMetrics {
        let reload = ReloadMetrics::default();
        for part in ReloadedPart::ALL {
            // From the start: a series that appears with its first refusal hides that refusal from `rate`.
            for result in ["ok", "refused"] {
                drop(reload.reloads.get_or_create(&[("of", part.word()), ("result", result)]));
            }
        }
        let help = "What was read again while the node runs; a rise of refused means that the files are wrong and the old ones are still in use";
        registry.register("reloads", help, reload.reloads.clone());
        reload
    }

    /// Something was read again.
    pub fn reloaded(&self, part: ReloadedPart, ok: bool) {
        let result = if ok { "ok" } else { "refused" };
        self.reloads.get_or_create(&[("of", part.word()), ("result", result)]).inc();
    }
}
