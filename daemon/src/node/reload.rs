//! SIGHUP: the configuration is read again, and what may change while the node runs does.
//!
//! First everything is read and checked, then everything is put into force, and nothing of that can fail: a reload is
//! whole or does nothing.  Knows nothing about: what a key means; the parts that own it do.

use crate::cluster::identity::Brought;
use crate::config::{Again, ConfigError, Loaded};
use crate::http::LiveLimits;
use crate::metrics::{ReloadMetrics, ReloadedPart};
use crate::shutdown::Hangups;
use crate::systemd::Supervisor;
use crate::telemetry::{self, FilterError, chain};
use crate::tls::TlsError;
use tokio_util::sync::CancellationToken;

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reloaded {
    /// Keys whose new values are in force.
    pub(super) changed: Vec<&'static str>,
    /// Keys whose new values are not: a restart puts them into force.
    pub(super) pending: Vec<&'static str>,
    /// Whether other certificates are in use now.
    pub(super) certificates: bool,
}

/// A reload that did nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error("the configuration is not valid")]
    Config(#[source] ConfigError),
    #[error("the certificate files cannot be used")]
    Certificates(#[source] TlsError),
    #[error("the log")]
    Log(#[source] FilterError),
}

/// What a reload reaches.
pub(super) struct Reloader {
    loaded: Loaded,
    limits: LiveLimits,
    /// There if certificates are brought by people.
    brought: Option<Brought>,
    metrics: ReloadMetrics,
    supervisor: Supervisor,
}

impl Reloader {
    pub(super) fn new(
        loaded: Loaded,
        limits: LiveLimits,
        brought: Option<Brought>,
        metrics: ReloadMetrics,
        supervisor: Supervisor,
    ) -> Reloader {
        Reloader { loaded, limits, brought, metrics, supervisor }
    }

    /// Reloads at each SIGHUP until `stop`.
    pub(super) async fn run(mut self, mut hangups: Hangups, stop: CancellationToken) {
        while stop.run_until_cancelled(hangups.next()).await.is_some() {
            // Not on a thread that serves peers: files are read.
            let reload = tokio::task::spawn_blocking(move || {
                self.supervisor.reloading();
                let reloaded = self.reload();
                self.tell(&reloaded);
                // Refused or not, it is over.
                self.supervisor.reloaded();
                self
            });
            let Ok(me) = reload.await else { return };
            self = me;
        }
    }

    /// Reads everything again and puts into force what may change.
    pub(super) fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let Again { loaded, changed, pending } = self.loaded.again().map_err(ReloadError::Config)?;
        let config = loaded.config();
        let files = self.brought.as_ref().zip(config.tls.files.as_ref());
        let fresh = files.map(|(brought, files)| Ok((brought, brought.read(files)?))).transpose();
        let fresh = fresh.map_err(ReloadError::Certificates)?;
        // Everything is read and good. The log comes first: it is the one step that could fail.
        telemetry::filter(&config.log.filter).map_err(ReloadError::Log)?;
        let certificates = fresh.is_some_and(|(brought, (fresh, read))| brought.take(fresh, read));
        self.limits.set(config.http.limits.clone());
        self.loaded = loaded;
        Ok(Reloaded { changed, pending, certificates })
    }
    /// Tells the log and the metrics.
    fn tell(&self, reloaded: &Result<Reloaded, ReloadError>) {
        self.metrics.reloaded(ReloadedPart::Configuration, reloaded.is_ok());
        match reloaded {
            Ok(Reloaded { changed, pending, certificates }) => {
                tracing::info!(changed = changed.join(" "), certificates, "configuration reloaded");
                if !pending.is_empty() {
                    let keys = pending.join(" ");
                    tracing::warn!(
                        keys,
                        "these keys changed and cannot while the node runs: a restart puts them into force"
                    );
                }
            }
            Err(error) => {
                tracing::error!(error = chain(error), "the configuration is not reloaded; all is as it was");
            }
        }
    }
}
