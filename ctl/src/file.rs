//! Files: read whole from anywhere, written whole or not at all.

use anyhow::Context as _;
use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Bytes of a file, or of stdin for `-`.
pub(crate) fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    if path != "-" {
        return fs::read(path).with_context(|| format!("read {path}"));
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("read stdin")?;
    Ok(bytes)
}

/// A file that appears under its name only when it is complete and on disk.
pub(crate) struct WholeFile {
    file: Option<io::BufWriter<fs::File>>,
    partial: PathBuf,
    path: PathBuf,
}

impl WholeFile {
    /// Starts `path`; whatever stands there now stays until `finish`.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let mut name = path.file_name().with_context(|| format!("{} is no file name", path.display()))?.to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        #[expect(clippy::disallowed_methods, reason = "synced and renamed when it is whole")]
        let file = fs::File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
        Ok(Self { file: Some(io::BufWriter::new(file)), partial, path: path.to_owned() })
    }

    /// Where somebody else writes the bytes.
    pub(crate) fn handle(&self) -> anyhow::Result<fs::File> {
        let file = self.file.as_ref().context("the file is complete")?;
        file.get_ref().try_clone().with_context(|| format!("write {}", self.partial.display()))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let file = self.file.as_mut().context("the file is complete")?;
        file.write_all(bytes).with_context(|| format!("write {}", self.partial.display()))
    }

    /// Where the bytes are until `finish`, all written so far.
    pub(crate) fn flushed(&mut self) -> anyhow::Result<&Path> {
        let file = self.file.as_mut().context("the file is complete")?;
        file.flush().with_context(|| format!("write {}", self.partial.display()))?;
        Ok(&self.partial)
    }

    /// Makes the file durable under its name.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let partial = self.flushed()?.to_owned();
        let file = self.file.take().context("the file is complete")?;
        file.get_ref().sync_all().with_context(|| format!("sync {}", partial.display()))?;
        fs::rename(&partial, &self.path).with_context(|| format!("rename {}", partial.display()))?;
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            Some(_) | None => Path::new("."),
        };
        let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
        synced.with_context(|| format!("sync {}", dir.display()))
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            // Unfinished: the error that led here is the one to tell.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// A file that has no name when the first byte is written: nobody else finds it, and it goes with this process.
#[derive(Debug)]
pub(crate) struct Scratch(fs::File);

impl Scratch {
    /// In the directory for temporary files.
    pub(crate) fn create() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir();
        for n in 0..100 {
            let path = dir.join(format!("konsulctl-{}-{n}", std::process::id()));
            let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            match made {
                Ok(file) => {
                    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                    return Ok(Self(file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("create {}", path.display())),
            }
        }
        anyhow::bail!("cannot make a temporary file in {}", dir.display())
    }

    /// Where somebody else writes the bytes, or reads them.
    pub(crate) fn handle(&self) -> anyhow::Result<fs::File> {
        self.0.try_clone().context("hand over a temporary file")
    }

    /// The same file, held once more.
    #[cfg(feature = "object-store")]
    pub(crate) fn again(&self) -> anyhow::Result<Self> {
        self.handle().map(Self)
    }

    #[cfg(feature = "object-store")]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(bytes).context("write a temporary file")
    }

    /// Where this process, and no other, reads it from its beginning.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}
