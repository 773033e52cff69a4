//! The space that is left: read-only before the disk is full, and a ballast to let go so that purging still works.
//!
//! LMDB reports a full disk as an I/O error in the middle of a commit, which has to stop the node. So writes end while
//! there is still room for what must go on: votes, purging, a snapshot.

use crate::metrics::StorageMetrics;
use crate::telemetry::events;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// When writes end and resume.
#[derive(Debug, Clone)]
pub struct SpaceConfig {
    pub data_dir: PathBuf,
    /// Below this much free space the node takes no writes.
    pub reserve_bytes: u64,
    /// Size of a file that is deleted when even the reserve is nearly gone; 0 = none.
    pub ballast_bytes: u64,
}

/// The free space of the data directory, looked at every second.
#[derive(Debug)]
pub struct Space {
    config: SpaceConfig,
    level: AtomicU8,
    metrics: StorageMetrics,
}

const ENOUGH: u8 = 0;
const LOW: u8 = 1;
const CRITICAL: u8 = 2;

impl Space {
    /// Looks once and puts the ballast in its place if there is room for it.
    pub fn open(config: SpaceConfig, metrics: StorageMetrics) -> io::Result<Space> {
        let space = Space { config, level: AtomicU8::new(ENOUGH), metrics };
        space.look()?;
        Ok(space)
    }

    /// Why this node takes no writes, if so.
    pub fn read_only(&self) -> Option<String> {
        if self.level.load(Ordering::Relaxed) == ENOUGH {
            return None;
        }
        let (dir, reserve) = (self.config.data_dir.display(), self.config.reserve_bytes >> 20);
        Some(format!(
            "disk full: less than {reserve} MiB free below {dir}; free space there, writes resume by themselves"
        ))
    }

    /// Cheap: whether proposals are taken.
    pub fn is_enough(&self) -> bool {
        self.level.load(Ordering::Relaxed) == ENOUGH
    }

    /// Whether not even entries from the leader fit any more: better no answer than a failed flush.
    pub fn is_critical(&self) -> bool {
        self.level.load(Ordering::Relaxed) == CRITICAL
    }

    /// Looks at the free space; to be called every second.
    pub fn look(&self) -> io::Result<()> {
        let free = self.free()?;
        let reserve = self.config.reserve_bytes;
        let before = self.level.load(Ordering::Relaxed);
        // Resuming takes a quarter more than stopping, so that the state does not flap at the border.
        let enough = if before == ENOUGH { reserve } else { reserve + reserve / 4 };
        let now = match free {
            free if free < reserve / 8 => CRITICAL,
            free if free < enough => LOW,
            _ => ENOUGH,
        };
        if now == CRITICAL && before != CRITICAL {
            self.release_ballast()?;
        } else if now == ENOUGH && free > reserve + reserve / 4 + self.config.ballast_bytes {
            self.place_ballast()?;
        }
        self.level.store(now, Ordering::Relaxed);
        self.metrics.free_bytes.set(free);
        self.metrics.read_only.set(u64::from(now != ENOUGH));
        match (before, now) {
            (ENOUGH, LOW | CRITICAL) => {
                let message_id = events::DISK_FULL;
                tracing::error!(message_id, free_bytes = free, reserve_bytes = reserve, "disk full: read-only")
            }
            (LOW | CRITICAL, ENOUGH) => {
                let message_id = events::DISK_FREED;
                tracing::info!(message_id, free_bytes = free, "space returned: writes are taken again");
            }
            _ => {}
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.config.data_dir)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn ballast(&self) -> PathBuf {
        self.config.data_dir.join("ballast")
    }

    fn release_ballast(&self) -> io::Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Ok(()) => {
                tracing::warn!("ballast released so that the log can still be purged");
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn place_ballast(&self) -> io::Result<()> {
        if self.config.ballast_bytes == 0 || has_len(&self.ballast(), self.config.ballast_bytes) {
            return Ok(());
        }
        let file: File = OpenOptions::new().create(true).truncate(false).write(true).open(self.ballast())?;
        // Allocated, not written: it only has to occupy the space.
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.config.ballast_bytes)?;
        Ok(())
    }
}

fn has_len(path: &Path, len: u64) -> bool {
    path.metadata().is_ok_and(|m| m.len() == len)
}
