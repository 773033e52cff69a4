//! The container of a snapshot, which Consul's tools verify: a gzip'd tar of `meta.json`, `state.bin`, `SHA256SUMS`.
//!
//! Nothing is ever whole in memory: files are streamed to and from unnamed temporary files.

use super::cluster::hex;
use super::state_file::{StateFileError, StateReader, Written};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::path::Path;

const META: &str = "meta.json";
const STATE: &str = "state.bin";
const SUMS: &str = "SHA256SUMS";
/// More than a list of members and sums ever takes.
const SMALL_BYTES_MAX: u64 = 1024 * 1024;

/// `meta.json`, with the members of Consul's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Meta {
    pub(super) version: u32,
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) index: u64,
    pub(super) term: u64,
    /// Of an old protocol: always null.
    pub(super) peers: Option<String>,
    pub(super) configuration: Configuration,
    pub(super) configuration_index: u64,
    pub(super) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Configuration {
    pub(super) servers: Vec<Server>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Server {
    /// 0 = voter, 1 = learner.
    pub(super) suffrage: u8,
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) address: String,
}

/// Why an archive is not restored. The texts are Consul's where clients know them.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error("failed to decompress snapshot: {why}")]
    NotGzip { why: &'static str },
    #[error("failed to read snapshot file")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("failed to write a temporary file")]
    WorkFile {
        #[source]
        source: io::Error,
    },
    #[error("failed to read snapshot file: unexpected file {name:?} in snapshot")]
    Unexpected { name: String },
    #[error("failed to read snapshot file: {name} is missing")]
    Missing { name: &'static str },
    #[error("failed to read snapshot file: {name} has {bytes} bytes, at most {max} are accepted")]
    TooLarge { name: String, bytes: u64, max: u64 },
    #[error("failed to read snapshot file: the hash of {name} is not the one in {SUMS}")]
    Hash { name: &'static str },
    #[error("failed to read snapshot file: {META} is damaged")]
    Meta {
        #[source]
        source: serde_json::Error,
    },
    #[error("failed to read snapshot file")]
    State {
        #[source]
        source: StateFileError,
    },
}

/// A file without a name: it is gone when it is closed, also by a crash.
pub(super) fn unnamed_file(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!("http-{}.tmp", uuid::Uuid::new_v4()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Writes the archive around a finished state file.
pub(super) fn pack(meta: &Meta, mut state: File, written: Written, out: impl Write) -> io::Result<()> {
    let meta = serde_json::to_vec(meta).expect("strings and numbers are JSON");
    let meta_sum: [u8; 32] = Sha256::digest(&meta).into();
    let sums = format!("{}  {META}\n{}  {STATE}\n", hex(&meta_sum), hex(&written.sha256));
    state.seek(SeekFrom::Start(0))?;
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
    append(&mut tar, META, length(&meta), &meta[..])?;
    append(&mut tar, STATE, written.bytes, BufReader::with_capacity(64 * 1024, state))?;
    append(&mut tar, SUMS, length(sums.as_bytes()), sums.as_bytes())?;
    tar.into_inner()?.finish()?.flush()
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, bytes: u64, from: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, from)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("usize is at most 64 bits")
}

/// Limits of an archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) state_bytes_max: u64,
    pub(super) value_bytes_max: u64,
}

/// A verified state file: every byte of the archive was checked before anything is done with it.
#[derive(Debug)]
pub(super) struct Verified {
    state: File,
    /// How many records it holds.
    pub(super) records: u64,
    value_bytes_max: u64,
}

impl Verified {
    /// The records, from the first.
    pub(super) fn reader(mut self) -> Result<StateReader<BufReader<File>>, ArchiveError> {
        self.state.seek(SeekFrom::Start(0)).map_err(|source| ArchiveError::Read { source })?;
        StateReader::start(BufReader::with_capacity(64 * 1024, self.state), self.value_bytes_max)
            .map_err(|source| ArchiveError::State { source })
    }
}

/// Takes an archive apart and verifies everything in it.
pub(super) fn unpack(mut archive: File, work_dir: &Path, limits: Limits) -> Result<Verified, ArchiveError> {
    let read = |source| ArchiveError::Read { source };
    archive.seek(SeekFrom::Start(0)).map_err(read)?;
    check_magic(&mut archive)?;
    archive.seek(SeekFrom::Start(0)).map_err(read)?;
    let mut tar = tar::Archive::new(GzDecoder::new(BufReader::with_capacity(64 * 1024, archive)));
    let (mut meta, mut state, mut sums) = (None, None, None);
    for entry in tar.entries().map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match name.as_str() {
            META => meta = Some(small(META, entry)?),
            STATE => state = Some(spool(entry, work_dir, limits.state_bytes_max)?),
            SUMS => sums = Some(small(SUMS, entry)?),
            _ => return Err(ArchiveError::Unexpected { name }),
        }
    }
    // To the very end: only there does gzip tell whether its checksum holds.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(read)?;
    let meta = meta.ok_or(ArchiveError::Missing { name: META })?;
    let (state, state_sum) = state.ok_or(ArchiveError::Missing { name: STATE })?;
    let sums = sums.ok_or(ArchiveError::Missing { name: SUMS })?;
    check_sum(&sums, META, &Sha256::digest(&meta).into())?;
    check_sum(&sums, STATE, &state_sum)?;
    serde_json::from_slice::<Meta>(&meta).map_err(|source| ArchiveError::Meta { source })?;
    check_records(Verified { state, records: 0, value_bytes_max: limits.value_bytes_max })
}

/// Reads every record, and goes back to the first.
fn check_records(unchecked: Verified) -> Result<Verified, ArchiveError> {
    let failed = |source| ArchiveError::State { source };
    let value_bytes_max = unchecked.value_bytes_max;
    let again = unchecked.state.try_clone().map_err(|source| ArchiveError::Read { source })?;
    let mut reader = unchecked.reader()?;
    while reader.next().map_err(failed)?.is_some() {}
    Ok(Verified { state: again, records: reader.records(), value_bytes_max })
}

/// As Go's gzip reader tells what is no gzip.
fn check_magic(archive: &mut File) -> Result<(), ArchiveError> {
    let mut head = Vec::with_capacity(10);
    archive.take(10).read_to_end(&mut head).map_err(|source| ArchiveError::Read { source })?;
    let why = match head.as_slice() {
        [] => "EOF",
        short if short.len() < 10 => "unexpected EOF",
        [0x1f, 0x8b, 8, ..] => return Ok(()),
        _ => "gzip: invalid header",
    };
    Err(ArchiveError::NotGzip { why })
}

fn small(name: &'static str, entry: impl Read) -> Result<Vec<u8>, ArchiveError> {
    let mut content = Vec::new();
    entry.take(SMALL_BYTES_MAX + 1).read_to_end(&mut content).map_err(|source| ArchiveError::Read { source })?;
    let bytes = length(&content);
    if bytes > SMALL_BYTES_MAX {
        return Err(ArchiveError::TooLarge { name: name.to_owned(), bytes, max: SMALL_BYTES_MAX });
    }
    Ok(content)
}

/// Copies the state into a file of its own, and hashes it on the way.
fn spool(mut entry: impl Read, dir: &Path, bytes_max: u64) -> Result<(File, [u8; 32]), ArchiveError> {
    let mut file = unnamed_file(dir).map_err(|source| ArchiveError::WorkFile { source })?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = entry.read(&mut chunk).map_err(|source| ArchiveError::Read { source })?;
        if read == 0 {
            return Ok((file, hash.finalize().into()));
        }
        bytes += length(&chunk[..read]);
        if bytes > bytes_max {
            return Err(ArchiveError::TooLarge { name: STATE.to_owned(), bytes, max: bytes_max });
        }
        hash.update(&chunk[..read]);
        file.write_all(&chunk[..read]).map_err(|source| ArchiveError::WorkFile { source })?;
    }
}

fn check_sum(sums: &[u8], name: &'static str, sum: &[u8; 32]) -> Result<(), ArchiveError> {
    let wanted = format!("{}  {name}", hex(sum));
    let listed = sums.split(|b| *b == b'\n').any(|line| line == wanted.as_bytes());
    if listed { Ok(()) } else { Err(ArchiveError::Hash { name }) }
}

#[cfg(test)]
mod tests {
    use super::super::state_file::StateWriter;
    use super::*;
    use crate::mangled::survive;
    use konsul_state::{Entry, Index};

    const LIMITS: Limits = Limits { state_bytes_max: 1 << 20, value_bytes_max: 100 };

    fn meta(size: u64) -> Meta {
        let server = Server { suffrage: 0, id: "1".to_owned(), address: "127.0.0.1:8300".to_owned() };
        Meta {
            version: 1,
            id: "2-508-1".to_owned(),
            index: 508,
            term: 2,
            peers: None,
            configuration: Configuration { servers: vec![server] },
            configuration_index: 0,
            size,
        }
    }

    fn packed(dir: &Path, keys: usize) -> Vec<u8> {
        let file = unnamed_file(dir).unwrap();
        let mut writer = StateWriter::start(&file).unwrap();
        for n in 0..keys {
            let key = format!("key-{n:05}");
            let entry = Entry {
                key: key.as_bytes(),
                value: b"v",
                flags: 0,
                lock_index: 0,
                session: None,
                create_index: Index::new(1),
                modify_index: Index::new(1),
            };
            writer.record(&entry).unwrap();
        }
        let written = writer.finish().unwrap();
        let mut out = Vec::new();
        pack(&meta(written.bytes), file, written, &mut out).unwrap();
        out
    }

    fn unpacked(dir: &Path, archive: &[u8]) -> Result<Verified, ArchiveError> {
        let mut file = unnamed_file(dir).unwrap();
        file.write_all(archive).unwrap();
        unpack(file, dir, LIMITS)
    }

    #[test]
    fn an_archive_is_taken_apart_as_it_was_packed_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let verified = unpacked(dir.path(), &packed(dir.path(), 1000)).unwrap();
        assert_eq!(verified.records, 1000);
        let mut reader = verified.reader().unwrap();
        assert_eq!(reader.next().unwrap().unwrap().key, b"key-00000");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_container_is_consuls() {
        let dir = tempfile::tempdir().unwrap();
        let archive = packed(dir.path(), 1);
        let mut tar = tar::Archive::new(GzDecoder::new(&archive[..]));
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            if names.len() == 1 {
                let meta: serde_json::Value = serde_json::from_reader(&mut entry).unwrap();
                assert_eq!(meta["ID"], "2-508-1");
                assert_eq!(meta["Configuration"]["Servers"][0]["Address"], "127.0.0.1:8300");
                assert_eq!((&meta["Version"], &meta["Peers"]), (&1.into(), &serde_json::Value::Null));
            }
        }
        assert_eq!(names, [META, STATE, SUMS]);
    }

    #[test]
    fn garbage_has_consuls_text() {
        let dir = tempfile::tempdir().unwrap();
        let error = |archive: &[u8]| unpacked(dir.path(), archive).unwrap_err().to_string();
        assert_eq!(error(b"garbage"), "failed to decompress snapshot: unexpected EOF");
        assert_eq!(error(b""), "failed to decompress snapshot: EOF");
        assert_eq!(error(b"longer garbage"), "failed to decompress snapshot: gzip: invalid header");
    }

    fn decompressed(archive: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        GzDecoder::new(archive).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_cut_or_changed_archive_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let archive = packed(dir.path(), 100);
        for cut in [11, archive.len() / 2, archive.len() - 1] {
            unpacked(dir.path(), &archive[..cut]).unwrap_err();
        }
        for at in (10..archive.len()).step_by(7) {
            let mut changed = archive.clone();
            changed[at] ^= 0x10;
            // Deflate has several spellings of the same bytes; those are no damage.
            let same = decompressed(&changed).is_ok_and(|bytes| bytes == decompressed(&archive).unwrap());
            assert_eq!(unpacked(dir.path(), &changed).is_ok(), same, "byte {at}");
        }
    }

    #[test]
    fn an_archive_of_consul_itself_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = unnamed_file(dir.path()).unwrap();
        let state = b"\x82\xa9LastIndex";
        file.write_all(state).unwrap();
        let written = Written { bytes: length(state), sha256: Sha256::digest(state).into() };
        let mut out = Vec::new();
        pack(&meta(written.bytes), file, written, &mut out).unwrap();
        let error = unpacked(dir.path(), &out).unwrap_err();
        assert!(matches!(error, ArchiveError::State { source: StateFileError::Foreign }), "{error:?}");
    }

    #[test]
    fn a_mangled_archive_is_refused_without_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        survive(&[packed(dir.path(), 2)], |bytes| {
            let mut file = unnamed_file(dir.path()).unwrap();
            file.write_all(bytes).unwrap();
            drop(unpack(file, dir.path(), LIMITS));
        });
    }
}
