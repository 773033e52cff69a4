//! How long certificates last, and whether they are renewed.

use super::SecondsGauge;
use prometheus_client::metrics::{counter::Counter, family::Family};
use prometheus_client::registry::Registry;

type OneLabel = [(&'static str, &'static str); 1];

/// How long certificates last, and whether they are renewed.
#[derive(Debug, Clone, Default)]
pub struct IdentityMetrics {
    not_after: Family<OneLabel, SecondsGauge>,
    renewals: Family<OneLabel, Counter>,
}

/// Whose end is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateMetric {
    Node,
    Authority,
    NextAuthority,
    RetiringAuthority,
}

impl CertificateMetric {
    const ALL: [CertificateMetric; 4] = [
        CertificateMetric::Node,
        CertificateMetric::Authority,
        CertificateMetric::NextAuthority,
        CertificateMetric::RetiringAuthority,
    ];

    /// The value of the label.
    fn word(self) -> &'static str {
        match self {
            CertificateMetric::Node => "node",
            CertificateMetric::Authority => "authority",
            CertificateMetric::NextAuthority => "next_authority",
            CertificateMetric::RetiringAuthority => "retiring_authority",
        }
    }
}

impl IdentityMetrics {
    pub(super) fn new(registry: &mut Registry) -> IdentityMetrics {
        let identity = IdentityMetrics::default();
        for result in ["ok", "failed"] {
            // From the start: a series that appears with its first failure hides that failure from `rate`.
            drop(identity.renewals.get_or_create(&[("result", result)]));
        }
        let help = "When this node's certificate, and the authorities it believes, expire, in seconds since 1970; less than a third of a certificate's life ahead means that it is not renewed";
        registry.register("tls_cert_not_after_timestamp_seconds", help, identity.not_after.clone());
        let help =
            "Renewals of this node's certificate; a rise of failed means that it will expire, and this node be cut off";
        registry.register("tls_renewals", help, identity.renewals.clone());
        identity
    }

    /// What exists, and when it ends; what is not listed does not exist.
    pub fn ends(&self, ends_ms: &[(CertificateMetric, u64)]) {
        for which in CertificateMetric::ALL {
            let label = [("cert", which.word())];
            match ends_ms.iter().find(|(of, _)| *of == which) {
                Some((_, ms)) => {
                    let whole = std::time::Duration::from_millis(*ms);
                    self.not_after.get_or_create(&label).set(whole.as_secs_f64());
                }
                None => {
                    self.not_after.remove(&label);
                }
            }
        }
    }

    /// A renewal was tried.
    pub fn renewed(&self, ok: bool) {
        self.renewals.get_or_create(&[("result", if ok { "ok" } else { "failed" })]).inc();
    }
}
