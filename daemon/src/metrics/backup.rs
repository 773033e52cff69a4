//! Backups, as whoever keeps them reports them.

use super::{Gauge, SecondsGauge};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What was done with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupKind {
    /// It was kept.
    Saved,
    /// It was restored on trial.
    Verified,
}

type OneLabel = [(&'static str, &'static str); 1];

/// The last backup that was kept, and the last one that was restored on trial; nothing before the first.
#[derive(Debug, Clone)]
pub struct BackupMetrics {
    saved_at: Family<OneLabel, SecondsGauge>,
    verified_at: Family<OneLabel, SecondsGauge>,
    archived_index: Gauge,
    bytes: Gauge,
    rehearsal_seconds: SecondsGauge,
    failures: Family<OneLabel, Counter>,
}

/// Archives of the whole state; log segments are another kind.
const BASE: OneLabel = [("kind", "base")];
/// A restore on trial.
const REHEARSAL: OneLabel = [("kind", "rehearsal")];

impl BackupMetrics {
    #[rustfmt::skip]
    pub(super) fn new(registry: &mut Registry) -> BackupMetrics {
        let backup = BackupMetrics {
            saved_at: Family::default(),
            verified_at: Family::default(),
            archived_index: Gauge::default(),
            bytes: Gauge::default(),
            rehearsal_seconds: SecondsGauge::default(),
            failures: Family::default(),
        };
        // There from the start, or the first failure would be no increase.
        [BASE, REHEARSAL].iter().for_each(|kind| drop(backup.failures.get_or_create(kind)));
        registry.register("backup_last_success_timestamp_seconds", "When a backup was kept last, as reported; if it grows old, the next disaster costs more", backup.saved_at.clone());
        registry.register("backup_last_verified_timestamp_seconds", "When a backup was restored on trial last, as reported; an older backup may not restore", backup.verified_at.clone());
        registry.register("backup_archived_index", "The log index of the backup that was kept last", backup.archived_index.clone());
        registry.register("backup_size_bytes", "The size of the backup that was kept last", backup.bytes.clone());
        registry.register("backup_rehearsal_seconds", "How long the last restore on trial took", backup.rehearsal_seconds.clone());
        registry.register("backup_failures", "Backups (base) and restores on trial (rehearsal) that failed on this host; a rise means that the next one may be missing", backup.failures.clone());
        backup
    }

    /// It was tried and did not come about.
    pub fn count_failure(&self, kind: BackupKind) {
        let kind = match kind {
            BackupKind::Saved => BASE,
            BackupKind::Verified => REHEARSAL,
        };
        self.failures.get_or_create(&kind).inc();
    }

    /// `(time_ms, took_ms)`: when, and how long it took.
    pub fn set(&self, kind: BackupKind, (time_ms, took_ms): (u64, u64), index: u64, bytes: u64) {
        let seconds = |ms| std::time::Duration::from_millis(ms).as_secs_f64();
        match kind {
            BackupKind::Saved => {
                self.saved_at.get_or_create(&BASE).set(seconds(time_ms));
                self.archived_index.set(index);
                self.bytes.set(bytes);
            }
            BackupKind::Verified => {
                self.verified_at.get_or_create(&BASE).set(seconds(time_ms));
                self.rehearsal_seconds.set(seconds(took_ms));
            }
        }
    }
}
