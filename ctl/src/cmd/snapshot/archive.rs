//! The archive `GET /v1/snapshot` gives: a gzipped tar of `meta.json`, `state.bin` and the `SHA256SUMS` of both.
//!
//! Knows nothing about: what the state's bytes mean.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Larger than any `meta.json` or `SHA256SUMS`: a damaged archive shall not fill the memory.
const SMALL_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file is no good archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error("open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no snapshot, or cut off")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no snapshot: it has no {member}")]
    Missing { path: PathBuf, member: &'static str },
    #[error("{path} is damaged: the SHA-256 of {member} is {found}, expected {expected}")]
    Damaged { path: PathBuf, member: &'static str, found: String, expected: String },
    #[error("{path}: read meta.json")]
    Meta {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// What `meta.json` tells, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    version: u64,
    #[serde(rename = "ID")]
    id: String,
    index: u64,
    term: u64,
}

/// A verified archive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Archive {
    pub(super) id: String,
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) version: u64,
    /// Bytes of the state, unpacked.
    pub(super) state_bytes: u64,
    /// Bytes of the file.
    pub(super) file_bytes: u64,
    /// SHA-256 of the state, hex.
    pub(super) state_sha256: String,
}

/// Reads the whole archive and compares the sums.
pub(super) fn verify(path: &Path) -> Result<Archive, ArchiveError> {
    let open = |source| ArchiveError::Open { path: path.to_owned(), source };
    let read = |source| ArchiveError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(open)?;
    let file_bytes = file.metadata().map_err(open)?.len();
    let members = members(file).map_err(read)?;
    let meta = compare(path, &members, "meta.json")?;
    let state = compare(path, &members, "state.bin")?;
    let told: Meta =
        serde_json::from_slice(&meta.head).map_err(|source| ArchiveError::Meta { path: path.to_owned(), source })?;
    Ok(Archive {
        id: told.id,
        index: told.index,
        term: told.term,
        version: told.version,
        state_bytes: state.bytes,
        file_bytes,
        state_sha256: state.sha256.clone(),
    })
}

/// A file in the archive.
struct Member {
    sha256: String,
    bytes: u64,
    /// Its content, of the small ones.
    head: Vec<u8>,
}

fn members(file: fs::File) -> io::Result<BTreeMap<String, Member>> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(io::BufReader::new(file)));
    let mut members = BTreeMap::new();
    for entry in tar.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let mut head = Vec::new();
        if name != "state.bin" {
            (&mut entry).take(SMALL_BYTES_MAX).read_to_end(&mut head)?;
        }
        let mut hash = Hashing(Sha256::new_with_prefix(&head));
        let rest = io::copy(&mut entry, &mut hash)?;
        let bytes = rest + u64::try_from(head.len()).unwrap_or(u64::MAX);
        members.insert(name, Member { sha256: hex(&hash.0.finalize()), bytes, head });
    }
    // The trailer's checksum is compared only when the end is read: past tar's own end marker.
    io::copy(&mut tar.into_inner(), &mut io::sink())?;
    Ok(members)
}

struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The member, if its sum is the promised one.
fn compare<'a>(
    path: &Path,
    members: &'a BTreeMap<String, Member>,
    member: &'static str,
) -> Result<&'a Member, ArchiveError> {
    let missing = |member| ArchiveError::Missing { path: path.to_owned(), member };
    let found = members.get(member).ok_or_else(|| missing(member))?;
    let sums = members.get("SHA256SUMS").ok_or_else(|| missing("SHA256SUMS"))?;
    let sums = String::from_utf8_lossy(&sums.head);
    let expected = sums.lines().filter_map(|line| line.split_once(char::is_whitespace));
    let mut expected = expected.filter(|(_, name)| name.trim().trim_start_matches('*') == member);
    let (expected, _) = expected.next().ok_or_else(|| missing("line for it in SHA256SUMS"))?;
    if !found.sha256.eq_ignore_ascii_case(expected) {
        let (found, expected) = (found.sha256.clone(), expected.to_owned());
        return Err(ArchiveError::Damaged { path: path.to_owned(), member, found, expected });
    }
    Ok(found)
}
