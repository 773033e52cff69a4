//! Snapshot files: written, verified, kept.
//!
//! `<index>-<term>.snap`: a header with the snapshot's metadata, then a zstd stream of records in table and key order,
//! then a trailer: record count and the SHA-256 of everything before. A file without a right trailer is no snapshot.
//!
//! A file is written under a temporary name, synced, renamed, and its directory synced: under its final name it is
//! whole. Two are kept, so that a damaged one can be set aside and the other used.

use super::codec;
use super::records::{Hashing, RecordReader, RecordWriter};
use super::snapshot_file::SnapshotFile;
use crate::metrics::{Recovering, StorageMetrics};
use crate::raft_types::SnapshotMeta;
use konsul_state::{DecodeError, Loader, Reader, StateError, Store, View, Writer};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"KNSLSNAP";
const VERSION: u8 = 1;
const END_MAGIC: &[u8; 8] = b"KNSLSEND";
const TRAILER_BYTES: u64 = 8 + 8 + 32;
const ZSTD_LEVEL: i32 = 1;
const META_BYTES_MAX: usize = 1 << 20;
/// How many snapshots are kept.
const KEPT: usize = 2;

/// A snapshot that cannot be written, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{op} {path}")]
    File {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("snapshot {path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("snapshot {path} cannot be decoded")]
    Decode {
        path: PathBuf,
        #[source]
        source: DecodeError,
    },
    #[error("read the state for a snapshot")]
    Read {
        #[source]
        source: StateError,
    },
    #[error("load snapshot {path} into the state")]
    Load {
        path: PathBuf,
        #[source]
        source: StateError,
    },
}

impl From<StateError> for SnapshotError {
    fn from(source: StateError) -> Self {
        SnapshotError::Read { source }
    }
}

/// A verified snapshot.
#[derive(Debug, Clone)]
pub struct Verified {
    pub meta: SnapshotMeta,
    pub file: SnapshotFile,
    pub records: u64,
}

/// The directory of snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    path: PathBuf,
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::File { op, path, source }
}

/// Reads from a file and tells how far it is.
struct Advancing<R> {
    inner: R,
    progress: Recovering,
}

impl<R: Read> Read for Advancing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.progress.advance(u64::try_from(n).expect("a length fits 64 bits"));
        Ok(n)
    }
}

impl SnapshotDir {
    /// Opens (or makes) the directory and drops what an interrupted write left.
    pub fn open(path: PathBuf) -> Result<SnapshotDir, SnapshotError> {
        fs::create_dir_all(&path).map_err(failed("make directory", &path))?;
        for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
            let entry = entry.map_err(failed("list", &path))?.path();
            if entry.extension().is_some_and(|e| e == "tmp") {
                fs::remove_file(&entry).map_err(failed("remove", &entry))?;
            }
        }
        Ok(SnapshotDir { path })
    }

    /// To look at it: nothing is dropped.
    pub(super) fn at(path: PathBuf) -> SnapshotDir {
        SnapshotDir { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Final names, newest first.
    pub fn list(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed("list", &self.path))? {
            let path = entry.map_err(failed("list", &self.path))?.path();
            if path.extension().is_some_and(|e| e == "snap") {
                found.push(path);
            }
        }
        // Names are zero-padded: their order is the order of the log.
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// The newest snapshot that verifies. Damaged ones are set aside under another name and handed to `damaged`.
    pub fn newest(
        &self,
        metrics: &StorageMetrics,
        mut damaged: impl FnMut(&SnapshotError),
    ) -> Result<Option<Verified>, SnapshotError> {
        for path in self.list()? {
            match verify(&path, Some(metrics)) {
                Ok(verified) => return Ok(Some(verified)),
                Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Decode { .. })) => {
                    damaged(&error);
                    self.set_aside(&path)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Renames a damaged snapshot so that it is not used again and can be looked at.
    pub fn set_aside(&self, path: &Path) -> Result<(), SnapshotError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        fs::rename(path, &aside).map_err(failed("set aside", path))?;
        self.sync()
    }

    /// Writes a snapshot of `view`.
    pub fn write(&self, meta: &SnapshotMeta, view: &View) -> Result<Verified, SnapshotError> {
        let path = self.final_path(meta);
        let tmp = path.with_extension("tmp");
        let (records, sha256, len) = write_file(&tmp, meta, view)?;
        self.publish(&tmp, &path)?;
        Ok(Verified { meta: meta.clone(), file: SnapshotFile { path, len, sha256 }, records })
    }

    /// Takes over a received file that was verified.
    pub fn adopt(&self, verified: &Verified) -> Result<SnapshotFile, SnapshotError> {
        let path = self.final_path(&verified.meta);
        if path != verified.file.path {
            self.publish(&verified.file.path, &path)?;
        }
        Ok(SnapshotFile { path, ..verified.file.clone() })
    }

    /// Removes all but the newest ones.
    pub fn retain(&self) -> Result<(), SnapshotError> {
        for old in self.list()?.into_iter().skip(KEPT) {
            fs::remove_file(&old).map_err(failed("remove", &old))?;
        }
        self.sync()
    }

    fn final_path(&self, meta: &SnapshotMeta) -> PathBuf {
        let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.committed_leader_id().term));
        self.path.join(format!("{index:020}-{term:010}.snap"))
    }

    fn publish(&self, tmp: &Path, path: &Path) -> Result<(), SnapshotError> {
        fs::rename(tmp, path).map_err(failed("rename", tmp))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(failed("sync", &self.path))
    }
}

fn write_file(tmp: &Path, meta: &SnapshotMeta, view: &View) -> Result<(u64, [u8; 32], u64), SnapshotError> {
    #[expect(clippy::disallowed_methods, reason = "a temporary file, which is synced and renamed when it is whole")]
    let file = File::create(tmp).map_err(failed("create", tmp))?;
    let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, file));
    let mut head = Writer::new();
    codec::put_snapshot_meta(&mut head, meta);
    let head = head.into_vec();
    let len = u32::try_from(head.len()).expect("a membership is small");
    [&MAGIC[..], &[VERSION], &len.to_le_bytes(), &head]
        .into_iter()
        .try_for_each(|part| out.write_all(part))
        .map_err(failed("write", tmp))?;

    let mut stream = zstd::Encoder::new(&mut out, ZSTD_LEVEL).map_err(failed("compress", tmp))?;
    let mut records = 0;
    let mut lines = RecordWriter::default();
    view.records(|record| {
        lines.put(&record, &mut stream).map_err(failed("write", tmp))?;
        records += 1;
        Ok::<(), SnapshotError>(())
    })?;
    stream.finish().map_err(failed("compress", tmp))?;

    out.write_all(END_MAGIC).and_then(|()| out.write_all(&u64::to_le_bytes(records))).map_err(failed("write", tmp))?;
    let digest = out.sum();
    out.write_all(&digest).and_then(|()| out.flush()).map_err(failed("write", tmp))?;
    let (out, sha256, bytes) = out.into_parts();
    out.get_ref().sync_all().map_err(failed("sync", tmp))?;
    Ok((records, sha256, bytes))
}

/// Reads the whole file once and checks its trailer; nothing in it is believed before.
pub fn verify(path: &Path, metrics: Option<&StorageMetrics>) -> Result<Verified, SnapshotError> {
    let damaged = |why: String| SnapshotError::Damaged { path: path.to_owned(), why };
    let mut file = File::open(path).map_err(failed("open", path))?;
    let len = file.metadata().map_err(failed("stat", path))?.len();
    let Some(content) = len.checked_sub(32) else { return Err(damaged(format!("only {len} bytes"))) };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = content;
    let mut progress = metrics.map(|metrics| metrics.recovering(content));
    while left > 0 {
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = file.read(&mut buffer[..want]).map_err(failed("read", path))?;
        if n == 0 {
            return Err(damaged("it became shorter while it was read".to_owned()));
        }
        hash.update(&buffer[..n]);
        let n = u64::try_from(n).expect("a length fits 64 bits");
        progress.iter_mut().for_each(|progress| progress.advance(n));
        left -= n;
    }
    let mut expected = [0; 32];
    file.read_exact(&mut expected).map_err(failed("read", path))?;
    let found: [u8; 32] = hash.clone().finalize().into();
    if found != expected {
        return Err(damaged("its content does not match its SHA-256".to_owned()));
    }
    hash.update(expected);
    let (meta, records) = read_ends(path, len)?;
    Ok(Verified { meta, file: SnapshotFile { path: path.to_owned(), len, sha256: hash.finalize().into() }, records })
}

/// The digest of a file that was not read yet.
pub(super) const UNVERIFIED: [u8; 32] = [0; 32];

/// What a snapshot says of itself, unverified: enough to offer it; whoever receives it verifies.
pub fn peek(path: &Path) -> Result<Verified, SnapshotError> {
    let len = fs::metadata(path).map_err(failed("stat", path))?.len();
    let (meta, records) = read_ends(path, len)?;
    Ok(Verified { meta, file: SnapshotFile { path: path.to_owned(), len, sha256: UNVERIFIED }, records })
}

fn read_head(path: &Path, from: &mut impl Read) -> Result<SnapshotMeta, SnapshotError> {
    let damaged = |why: &str| SnapshotError::Damaged { path: path.to_owned(), why: why.to_owned() };
    let mut fixed = [0; 13];
    from.read_exact(&mut fixed).map_err(failed("read", path))?;
    if &fixed[..8] != MAGIC {
        return Err(damaged("it does not begin like a snapshot"));
    }
    if fixed[8] != VERSION {
        let source = DecodeError::Unknown { what: "snapshot version", found: fixed[8].into(), known: VERSION.into() };
        return Err(SnapshotError::Decode { path: path.to_owned(), source });
    }
    let len = u32::from_le_bytes(fixed[9..13].try_into().expect("four bytes"));
    let len = usize::try_from(len).expect("32 bits fit usize");
    if len > META_BYTES_MAX {
        return Err(damaged("its header is too long"));
    }
    let mut head = vec![0; len];
    from.read_exact(&mut head).map_err(failed("read", path))?;
    codec::snapshot_meta(&mut Reader::new(&head))
        .map_err(|source| SnapshotError::Decode { path: path.to_owned(), source })
}

fn read_ends(path: &Path, len: u64) -> Result<(SnapshotMeta, u64), SnapshotError> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path).map_err(failed("open", path))?;
    let meta = read_head(path, &mut file)?;
    file.seek(SeekFrom::Start(len.saturating_sub(TRAILER_BYTES))).map_err(failed("seek", path))?;
    let mut end = [0; 16];
    file.read_exact(&mut end).map_err(failed("read", path))?;
    if &end[..8] != END_MAGIC {
        return Err(SnapshotError::Damaged { path: path.to_owned(), why: "it has no trailer".to_owned() });
    }
    Ok((meta, u64::from_le_bytes(end[8..].try_into().expect("eight bytes"))))
}

/// Fills an empty store with a verified snapshot.
pub fn load(verified: &Verified, store: &Store, metrics: &StorageMetrics) -> Result<(), SnapshotError> {
    let path = &verified.file.path;
    let damaged = |why: String| SnapshotError::Damaged { path: path.clone(), why };
    let file = File::open(path).map_err(failed("open", path))?;
    let progress = metrics.recovering(verified.file.len);
    let mut from = BufReader::with_capacity(1 << 20, Advancing { inner: file, progress });
    read_head(path, &mut from)?;
    let content = zstd::Decoder::with_buffer(from).map_err(failed("decompress", path))?.single_frame();
    let content = BufReader::with_capacity(1 << 20, content);
    let load_failed = |source| SnapshotError::Load { path: path.clone(), source };
    let mut loader = Loader::new(store).map_err(load_failed)?;
    let mut content = RecordReader::new(content);
    for _ in 0..verified.records {
        let record = content.read().map_err(failed("read", path))?;
        loader.put(record).map_err(load_failed)?;
    }
    let loaded = loader.finish().map_err(load_failed)?;
    if loaded != verified.records {
        return Err(damaged(format!("{loaded} records, its trailer says {}", verified.records)));
    }
    Ok(())
}
