//! Where the data is: what kind of file system, how much is free, how long a flush takes.

use super::finding::{Finding, ok, problem, unknown, warning};
use super::settings::Settings;
use indicatif::HumanBytes;
use rustix::fs::{Mode, OFlags, StatVfs};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A write waits for a flush on a majority: this long is felt by everybody.
const SLOW: Duration = Duration::from_millis(10);
/// And with this one heartbeats and elections are at risk.
const TOO_SLOW: Duration = Duration::from_millis(50);
/// As many flushes as tell something, but not for longer than people wait.
const FLUSHES: usize = 40;
const PATIENCE: Duration = Duration::from_secs(4);
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// File systems by the number that the kernel gives them (statfs(2)).
const UNFIT: [(u64, &str, &str); 8] = [
    (0x0102_1994, "tmpfs", "it is gone after a power cut"),
    (0x8584_58f6, "ramfs", "it is gone after a power cut"),
    (0x6969, "nfs", "a flush there promises little, and locks less"),
    (0xff53_4d42, "cifs", "a flush there promises little, and locks less"),
    (0xfe53_4d42, "smb2", "a flush there promises little, and locks less"),
    (0x0102_1997, "9p", "memory maps there do not see each other's writes"),
    (0x6573_5546, "fuse", "what a flush means there depends on a program"),
    (0x794c_7630, "overlayfs", "it goes with the container; mount a volume"),
];

pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    let data_dir = settings.data_dir();
    let place = existing(&data_dir);
    vec![file_system(&data_dir, &place), free_space(&place, settings.free_reserve_bytes()), flush(&place)]
}

/// The directory, or before the installation the one above it that is there.
fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|dir| dir.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

fn file_system(data_dir: &Path, place: &Path) -> Finding {
    const CHECK: &str = "file system";
    let kind = match rustix::fs::statfs(place) {
        Ok(found) => u64::try_from(found.f_type).unwrap_or(0) & 0xffff_ffff,
        Err(error) => return unknown(CHECK, format!("{}: {error}", place.display()), "run it as root"),
    };
    match UNFIT.iter().find(|(number, ..)| *number == kind) {
        Some((_, name, why)) => problem(
            CHECK,
            format!("{} is on {name}: {why}", data_dir.display()),
            "put storage.data_dir on a local ext4 or xfs",
        ),
        None => ok(CHECK, format!("{} is on a local file system", data_dir.display())),
    }
}

fn free_space(place: &Path, reserve: u64) -> Finding {
    const CHECK: &str = "free space";
    let StatVfs { f_frsize, f_bavail, f_favail, f_files, .. } = match rustix::fs::statvfs(place) {
        Ok(found) => found,
        Err(error) => return unknown(CHECK, format!("{}: {error}", place.display()), "run it as root"),
    };
    let free = f_bavail.saturating_mul(f_frsize);
    let found = format!("{} free in {}", HumanBytes(free), place.display());
    if f_files > 0 && f_favail == 0 {
        return problem(CHECK, format!("no inode is free in {}", place.display()), "delete files there");
    }
    let remedy = "make room there, or put storage.data_dir on a larger disk";
    if free < reserve {
        let found =
            format!("{found}: less than storage.free_reserve, {}, so the node takes no writes", HumanBytes(reserve));
        return problem(CHECK, found, remedy);
    }
    if free < reserve.saturating_mul(4) {
        return warning(CHECK, format!("{found}: with {} it takes no more writes", HumanBytes(reserve)), remedy);
    }
    ok(CHECK, found)
}

/// As the log does it: a block, then a flush, again and again.
fn flush(place: &Path) -> Finding {
    const CHECK: &str = "flush";
    let mut took = match flushes(place) {
        Ok(took) => took,
        Err(error) => {
            let found = format!("cannot write in {}: {error}", place.display());
            return unknown(CHECK, found, "run it as root, or as the user of konsuld");
        }
    };
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let found = format!("a flush takes {}, at worst {} ({} tries)", ms(median), ms(worst), took.len());
    let remedy = "use a local SSD, best with power-loss protection; nothing else should write to it much";
    if median >= TOO_SLOW {
        problem(CHECK, found, remedy)
    } else if median >= SLOW {
        warning(CHECK, found, remedy)
    } else {
        ok(CHECK, found)
    }
}

/// In a file without a name: nothing is left behind, whatever happens.
fn flushes(place: &Path) -> io::Result<Vec<Duration>> {
    let file: OwnedFd = rustix::fs::open(place, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR)?;
    let (mut took, began) = (Vec::with_capacity(FLUSHES), Instant::now());
    let mut at = 0;
    while took.len() < FLUSHES && (took.is_empty() || began.elapsed() < PATIENCE) {
        let before = Instant::now();
        rustix::io::pwrite(&file, &BLOCK, at)?;
        rustix::fs::fdatasync(&file)?;
        took.push(before.elapsed());
        at += 4096;
    }
    Ok(took)
}
