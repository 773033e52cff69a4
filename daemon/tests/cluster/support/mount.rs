//! File systems of a test's own: small ones, and one whose power can be cut.

use super::wait::{so, wait_until};
use rustix::ioctl::{Setter, ioctl};
use rustix::process::geteuid;
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Why nothing can be mounted here, if so.
pub(crate) fn missing() -> Option<String> {
    if !geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    let runs = |program: &str, arg: &str| Command::new(program).arg(arg).output().is_ok_and(|o| o.status.success());
    if !runs("mkfs.ext4", "-V") {
        return Some("not installed: e2fsprogs".to_owned());
    }
    (!runs("losetup", "--find")).then(|| "there is no free loop device".to_owned())
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    so(output.status.success(), format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file system in memory.
pub(crate) fn small(dir: &Path) {
    run("mount", &["-t", "tmpfs", "-o", "size=96m", "tmpfs", text(dir)]).unwrap();
}

/// An ext4 file system in a file beside `dir`.
pub(crate) fn ext4(dir: &Path) {
    let image = dir.with_extension("img");
    File::create(&image).unwrap().set_len(512 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", text(&image)]).unwrap();
    mount_ext4(dir);
}

fn mount_ext4(dir: &Path) {
    run("mount", &["-o", "loop", text(&dir.with_extension("img")), text(dir)]).unwrap();
}

/// After a power cut: what the disk holds, mounted anew. A copy of it, because a process elsewhere on the machine may
/// have inherited the old mount, and the kernel would give its dead superblock back.
pub(crate) fn mount_again(dir: &Path) {
    wait_until(&format!("{} is unmounted", dir.display()), || run("umount", &[text(dir)]));
    let (image, copy) = (dir.with_extension("img"), dir.with_extension("copy"));
    run("cp", &["--sparse=always", text(&image), text(&copy)]).unwrap();
    std::fs::rename(&copy, &image).unwrap();
    mount_ext4(dir);
}

/// The file system keeps what it flushed, as after a power cut; everything that is asked of it from now on fails.
#[expect(unsafe_code, reason = "an ioctl")]
pub(crate) fn cut_power(dir: &Path) {
    /// `EXT4_IOC_SHUTDOWN`
    const SHUTDOWN: u32 = 0x8004_587d;
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not flushed either.
    const NO_LOG_FLUSH: u32 = 2;
    let root = File::open(dir).unwrap();
    // SAFETY: this ioctl reads one u32, which lives until it returns.
    let cut = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
    cut.unwrap();
}
