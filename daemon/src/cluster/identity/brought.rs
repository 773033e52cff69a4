//! Certificates that people bring as files: exchanged when the files change, and when somebody asks for it.
//!
//! The files are looked at from time to time. Notices of the kernel would come sooner, but not from every file system,
//! not for a link whose target is replaced, and only for directories that still are what they were; three looks at
//! inodes every two seconds cost nothing and miss nothing.

use crate::metrics::{CertificateMetric, Metrics, ReloadedPart};
use crate::telemetry::chain;
use crate::tls::{Facts, Fresh, Tls, TlsConfig, TlsError, date};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks. Files have to be the same at two of them: somebody may be in the middle of replacing the three.
const LOOK: Duration = Duration::from_secs(2);

/// A node's certificate files. Cheap to clone.
#[derive(Clone)]
pub struct Brought {
    inner: Arc<Inner>,
}

struct Inner {
    tls: Tls,
    metrics: Metrics,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// At the last look.
    last: Option<Stamp>,
    /// What was read last, used or refused.
    read: Option<Stamp>,
    /// Why that was refused.
    refused: Option<String>,
}

/// Changes whenever one of the files does: device, inode, size, modification and change of each; `None`: not there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp([Option<[i128; 7]>; 3]);

impl Stamp {
    fn of(config: &TlsConfig) -> Stamp {
        Stamp([&config.cert_file, &config.key_file, &config.ca_file].map(|path| Stamp::of_file(path)))
    }

    fn of_file(path: &Path) -> Option<[i128; 7]> {
        let found = std::fs::metadata(path).ok()?;
        let (dev, ino, size) = (found.dev(), found.ino(), found.size());
        let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()].map(i128::from);
        let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
        Some([dev.into(), ino.into(), size.into(), mtime, mtime_nsec, ctime, ctime_nsec])
    }
}

impl Brought {
    /// Of a node that read its files just now; `None`: it uses no files.
    pub fn of(tls: &Tls, metrics: &Metrics) -> Option<Brought> {
        let config = tls.files()?;
        let seen = Seen { read: Some(Stamp::of(&config)), ..Seen::default() };
        let inner = Inner { tls: tls.clone(), metrics: metrics.clone(), seen: Mutex::new(seen) };
        let brought = Brought { inner: Arc::new(inner) };
        brought.show();
        Some(brought)
    }

    /// Follows the files until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
            let me = self.clone();
            // Not on a thread that serves peers: the files may lie on a network.
            if tokio::task::spawn_blocking(move || me.look()).await.is_err() {
                return;
            }
        }
    }

    /// Reads and checks these files; uses nothing yet. Refused files are told of, and the old certificate stays.
    pub fn read(&self, config: &TlsConfig) -> Result<(Fresh, Read), TlsError> {
        let stamp = Stamp::of(config);
        match self.inner.tls.fresh(config.clone()) {
            Ok(fresh) => Ok((fresh, Read(stamp))),
            Err(error) => {
                self.refuse(stamp, &error);
                Err(error)
            }
        }
    }

    /// Uses what was read for connections made from now on. Whether it is anything new.
    pub fn take(&self, fresh: Fresh, read: Read) -> bool {
        let new = self.inner.tls.take(fresh);
        let mut seen = self.seen();
        (seen.read, seen.refused) = (Some(read.0), None);
        drop(seen);
        self.inner.metrics.reload.reloaded(ReloadedPart::Certificates, true);
        self.show();
        if let Some(own) = self.inner.tls.own().filter(|_| new) {
            tracing::info!(valid_until = date(own.validity.not_after_ms), "new certificate files are in use");
        }
        new
    }

    /// Why the files, as they are now, are not used.
    pub fn refused(&self) -> Option<String> {
        self.seen().refused.clone()
    }

    fn look(&self) {
        let Some(config) = self.inner.tls.files() else { return };
        let now = Stamp::of(&config);
        let mut seen = self.seen();
        let quiet = seen.last.as_ref() == Some(&now);
        let known = seen.read.as_ref() == Some(&now);
        seen.last = Some(now);
        drop(seen);
        if known || !quiet {
            return;
        }
        if let Ok((fresh, read)) = self.read(&config) {
            self.take(fresh, read);
        }
    }

    fn refuse(&self, stamp: Stamp, error: &TlsError) {
        let why = chain(error);
        let mut seen = self.seen();
        (seen.read, seen.refused) = (Some(stamp), Some(why.clone()));
        drop(seen);
        self.inner.metrics.reload.reloaded(ReloadedPart::Certificates, false);
        tracing::error!(error = why, "changed certificate files cannot be used; the old certificate stays in use");
    }

    /// When what is in use ends.
    fn show(&self) {
        let tls = &self.inner.tls;
        let own = tls.own().map(|own| (CertificateMetric::Node, own.validity.not_after_ms));
        let end = |root| Facts::of(root).ok().map(|facts| facts.validity.not_after_ms);
        let first = tls.roots().iter().filter_map(end).min().map(|ms| (CertificateMetric::Authority, ms));
        self.inner.metrics.identity.ends(&own.into_iter().chain(first).collect::<Vec<_>>());
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which state of the files was read.
#[derive(Debug)]
pub struct Read(Stamp);
