//! The archive `GET /v1/snapshot` gives: a gzipped tar of `meta.json`, `state.bin` and the `SHA256SUMS` of both.
//!
//! Knows nothing about: what the state's bytes mean.

use super::PATIENCE;
use crate::{
    Context,
    client::{Ask, Payload},
    exit::Exit,
    file::WholeFile,
    output,
};
use anyhow::Context as _;
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

/// Saves what `/v1/snapshot` gives.
pub(super) async fn save(path: &Path, stale: bool, context: &Context) -> anyhow::Result<Exit> {
    let ask = Ask::get(crate::path::Path::new("/v1/snapshot").flag("stale", stale)).patient(PATIENCE);
    let mut answer = context.client.ask(&ask).await?;
    let bar = context.output.progress(answer.length());
    let mut file = WholeFile::create(path)?;
    while let Some(chunk) = answer.chunk().await? {
        bar.inc(u64::try_from(chunk.len()).unwrap_or(0));
        file.write(&chunk)?;
    }
    bar.finish_and_clear();
    let archive = verify(file.flushed()?).context("the server's answer is no backup; nothing was saved")?;
    file.finish()?;
    show(&archive, context)?;
    Ok(Exit::Done)
}

pub(super) fn show(archive: &Archive, context: &Context) -> anyhow::Result<()> {
    context.output.result(archive, || {
        output::fields(&[
            ("Id", archive.id.clone()),
            ("Index", archive.index.to_string()),
            ("Term", archive.term.to_string()),
            ("Version", archive.version.to_string()),
            ("State", format!("{} bytes, SHA-256 {}", archive.state_bytes, archive.state_sha256)),
            ("File", format!("{} bytes, sums verified", archive.file_bytes)),
        ])
    })
}

/// Sends it back.
pub(super) async fn restore(path: &Path, archive: &Archive, context: &Context) -> anyhow::Result<Exit> {
    let bar = context.output.progress(Some(archive.file_bytes));
    let payload = Payload::File { path: path.to_owned(), length: archive.file_bytes, bar: bar.clone() };
    let ask = Ask::put(crate::path::Path::new("/v1/snapshot"), payload).patient(PATIENCE);
    context.client.ask(&ask).await?.bytes().await?;
    bar.finish_and_clear();
    context.output.result(archive, || format!("restored {} of index {}", path.display(), archive.index))?;
    Ok(Exit::Done)
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
