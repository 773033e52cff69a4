//! The state environment: disposable, replaced as a whole, trusted only by rule.
//!
//! It is written without syncing, which is safe for everything that this boot of the machine sees. After a machine stop
//! it is silently wrong in most cases, and no scan can tell: so it is used only if the `TRUST` file names this boot and
//! this mount, or says that it was synced by a clean stop. Otherwise it is discarded unseen and rebuilt.
//!
//! A service manager gives each process of a service mounts of its own, so that the mount is another one after each
//! restart. What was kept open since tells more there: as long as a descriptor of the directory is open, its file system
//! stays mounted somewhere, with all its pages.
//!
//! Each content lives in a directory of its own, `gen-<n>`; the `TRUST` file names the one in use. To replace the
//! content is to fill a new directory, sync it, and write a new `TRUST` file: atomic against a crash.

use super::env::{self, EnvError, EnvOptions};
use konsul_state::{StateError, Store};
use rustix::fs::{AtFlags, StatxFlags};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TRUST: &str = "TRUST";

/// The state environment cannot be opened or replaced.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error("{op} {path}")]
    File {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("open the state")]
    Env {
        #[source]
        source: EnvError,
    },
    #[error("open the tables of the state")]
    Tables {
        #[source]
        source: StateError,
    },
    #[error("sync the state in {path}")]
    Sync {
        path: PathBuf,
        #[source]
        source: heed::Error,
    },
}

/// One content of the state.
#[derive(Debug)]
pub(super) struct Generation {
    number: u64,
    path: PathBuf,
    store: Store,
}

impl Generation {
    /// Its tables.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

/// Makes, trusts and replaces generations.
#[derive(Debug, Clone)]
pub(super) struct Generations {
    dir: PathBuf,
    options: EnvOptions,
    witnesses: Vec<Arc<OwnedFd>>,
}

/// Why a state was not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Distrust {
    /// There was none.
    Absent,
    /// The machine or the mount is another than the one that wrote it, and it was not closed cleanly.
    AnotherBoot,
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GenerationError {
    let path = path.to_owned();
    move |source| GenerationError::File { op, path, source }
}

impl Generations {
    /// Below `dir`, which may be on tmpfs: a machine stop then discards it by nature.
    pub(super) fn new(dir: PathBuf, options: EnvOptions) -> Result<Generations, GenerationError> {
        fs::create_dir_all(&dir).map_err(failed("make directory", &dir))?;
        Ok(Generations { dir, options, witnesses: Vec::new() })
    }

    /// With the directory, as it was kept open since an earlier process of this node wrote there.
    pub(super) fn with_witnesses(self, witnesses: Vec<Arc<OwnedFd>>) -> Generations {
        Generations { witnesses, ..self }
    }

    /// Whether one of them is this directory: then its file system was mounted without a break.
    pub(super) fn is_witnessed(&self) -> Result<bool, GenerationError> {
        let here = rustix::fs::stat(&self.dir).map_err(|e| failed("stat", &self.dir)(e.into()))?;
        Ok(self.witnesses.iter().any(|kept| {
            rustix::fs::fstat(kept).is_ok_and(|there| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
        }))
    }

    /// The generation in use, if it may be trusted; whatever else lies there is removed.
    pub(super) fn open(&self) -> Result<Result<Generation, Distrust>, GenerationError> {
        let trusted = self.read_trust()?;
        let keep = trusted.as_ref().ok().map(|n| self.path(*n));
        self.remove_others(keep.as_deref())?;
        match trusted {
            Ok(number) => {
                let generation = self.open_dir(number)?;
                // From here on it is written to: the mark of a clean stop must go before the first write.
                self.trust(&generation, false)?;
                Ok(Ok(generation))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    /// An empty generation, not yet trusted.
    pub(super) fn fresh(&self, above: Option<&Generation>) -> Result<Generation, GenerationError> {
        let number = above.map_or(1, |g| g.number + 1);
        let path = self.path(number);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
        self.open_dir(number)
    }

    /// Makes a filled generation the one in use.
    pub(super) fn adopt(&self, generation: &Generation) -> Result<(), GenerationError> {
        self.sync(generation)?;
        self.trust(generation, false)
    }

    /// After the last write: the content survives a machine stop.
    pub(super) fn close(&self, generation: &Generation) -> Result<(), GenerationError> {
        self.sync(generation)?;
        self.trust(generation, true)
    }

    /// Surfaces I/O errors; not part of what makes the state safe.
    pub(super) fn sync(&self, generation: &Generation) -> Result<(), GenerationError> {
        let sync = generation.store.env().force_sync();
        sync.map_err(|source| GenerationError::Sync { path: generation.path.clone(), source })
    }

    /// Removes every generation but this one.
    pub(super) fn remove_others(&self, keep: Option<&Path>) -> Result<(), GenerationError> {
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            let ours = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("gen-"));
            if ours && Some(path.as_path()) != keep {
                fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Where a generation lies.
    pub(super) fn path_of(&self, generation: &Generation) -> PathBuf {
        generation.path.clone()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("gen-{number}"))
    }

    fn open_dir(&self, number: u64) -> Result<Generation, GenerationError> {
        let path = self.path(number);
        let env = env::open(&path, &self.options).map_err(|source| GenerationError::Env { source })?;
        let store = Store::open(env).map_err(|source| GenerationError::Tables { source })?;
        Ok(Generation { number, path, store })
    }

    fn read_trust(&self) -> Result<Result<u64, Distrust>, GenerationError> {
        let path = self.dir.join(TRUST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(Distrust::Absent)),
            Err(e) => return Err(failed("read", &path)(e)),
        };
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        let number = field("generation").and_then(|n| n.parse().ok());
        let Some(number) = number.filter(|n| self.path(*n).join("data.mdb").exists()) else {
            return Ok(Err(Distrust::Absent));
        };
        let (disk, place) = place(&self.dir)?;
        let is_of_disk = |found: &str| found.strip_prefix(&disk).is_some_and(|mount| mount.starts_with(' '));
        let here = field("place") == Some(&place) || (field("place").is_some_and(is_of_disk) && self.is_witnessed()?);
        let clean = field("clean") == Some("yes");
        Ok(if here || clean { Ok(number) } else { Err(Distrust::AnotherBoot) })
    }

    fn trust(&self, generation: &Generation, clean: bool) -> Result<(), GenerationError> {
        let path = self.dir.join(TRUST);
        let (_, place) = place(&self.dir)?;
        let clean = if clean { "yes" } else { "no" };
        let text = format!("generation={}\nplace={place}\nclean={clean}\n", generation.number);
        crate::durable::write(&path, text.as_bytes()).map_err(|source| failed("write", &path)(io::Error::other(source)))
    }
}

/// This boot of the machine with this device, and with this mount of its file system, too.
fn place(dir: &Path) -> Result<(String, String), GenerationError> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    // STATX_MNT_ID_UNIQUE (Linux 6.8): a mount id that is not used again after an unmount. Older kernels ignore the
    // bit and give the plain id.
    const MNT_ID_UNIQUE: u32 = 0x4000;
    let boot = fs::read_to_string(BOOT_ID).map_err(failed("read", Path::new(BOOT_ID)))?;
    let mask = StatxFlags::MNT_ID | StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
    let stat =
        rustix::fs::statx(rustix::fs::CWD, dir, AtFlags::empty(), mask).map_err(|e| failed("stat", dir)(e.into()))?;
    let disk = format!("{} dev {}:{}", boot.trim(), stat.stx_dev_major, stat.stx_dev_minor);
    let place = format!("{disk} mount {}", stat.stx_mnt_id);
    Ok((disk, place))
}
