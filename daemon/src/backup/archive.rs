//! The file: a head, then the content.
//!
//! Head: magic, format version, length of the header (u32, little-endian), the header, SHA-256 of all of that. Content: a
//! zstd stream of records in table and key order. Every version keeps this frame of the head, so that each can tell a
//! damaged archive from one that a newer version made.

use super::header::{Header, Member, nowhere};
use crate::storage::position_of;
use crate::storage::records::{Hashing, RecordReader, RecordWriter};
use crate::storage::{Scratch, ScratchError};
use konsul_api::archive::MAGIC;
use konsul_state::{DecodeError, Digest, Digester, Loader, StateError, Store, View};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The format this version writes, and the only one it reads.
pub const FORMAT: u8 = 1;
/// Magic, version and length.
const FIXED_BYTES: usize = 13;
const SUM_BYTES: usize = 32;
/// Far more than a header takes; a damaged length shall not fill the memory.
const HEADER_BYTES_MAX: usize = 1 << 20;
const ZSTD_LEVEL: i32 = 3;
const CHUNK_BYTES: usize = 1 << 20;

/// An archive that was not made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("read the state")]
    State {
        #[source]
        source: StateError,
    },
    #[error("write the archive")]
    Write {
        #[source]
        source: io::Error,
    },
}

impl From<StateError> for MakeError {
    fn from(source: StateError) -> MakeError {
        MakeError::State { source }
    }
}

/// An archive that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("read the archive")]
    Read {
        #[source]
        source: io::Error,
    },
    #[error("this is no archive of Konsul, or its first bytes are damaged")]
    Foreign,
    #[error("the archive is damaged: {why}")]
    Damaged { why: String },
    #[error("the archive has format {found}, this version reads format {FORMAT}: use a newer version")]
    Format { found: u8 },
    #[error("the header of the archive cannot be read")]
    Header {
        #[source]
        source: DecodeError,
    },
    #[error("make a scratch state")]
    Scratch {
        #[source]
        source: ScratchError,
    },
    #[error("restore the records of the archive")]
    Load {
        #[source]
        source: StateError,
    },
}

/// What an [`ArchiveError`] means for whoever holds the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFault {
    /// The archive is no good.
    Damaged,
    /// A newer version wrote it.
    Unsupported,
    /// This host could not tell.
    Host,
}

impl ArchiveError {
    /// Whose fault it is.
    pub fn fault(&self) -> ArchiveFault {
        match self {
            ArchiveError::Foreign | ArchiveError::Damaged { .. } => ArchiveFault::Damaged,
            ArchiveError::Format { .. } => ArchiveFault::Unsupported,
            // Its hash is right: so it is not damaged, but says what this version does not know.
            ArchiveError::Header { .. } => ArchiveFault::Unsupported,
            ArchiveError::Read { .. } | ArchiveError::Scratch { .. } => ArchiveFault::Host,
            ArchiveError::Load { source } => match source {
                StateError::UnknownTable { .. } | StateError::Format { .. } | StateError::Version { .. } => {
                    ArchiveFault::Unsupported
                }
                StateError::Record { .. } | StateError::Order { .. } | StateError::Command { .. } => {
                    ArchiveFault::Damaged
                }
                StateError::Begin { .. }
                | StateError::OpenTable { .. }
                | StateError::Table { .. }
                | StateError::Commit { .. }
                | StateError::NotEmpty { .. } => ArchiveFault::Host,
            },
        }
    }
}

/// Who makes an archive, of which cluster, when.
#[derive(Debug, Clone)]
pub struct Maker {
    pub cluster_id: [u8; 16],
    pub epoch: u32,
    pub node: String,
    pub now_ms: u64,
}

/// A finished archive: the head and, in a file, the content.
#[derive(Debug)]
pub struct Made {
    pub header: Header,
    pub head: Vec<u8>,
    /// SHA-256 of the head; names the archive.
    pub id: [u8; SUM_BYTES],
    /// Of all of it.
    pub sha256: [u8; SUM_BYTES],
    /// At its beginning.
    pub content: File,
}

/// Makes an archive of one moment of the state; `content` is an empty file for its content.
pub fn make(view: &View, maker: Maker, content: File) -> Result<Made, MakeError> {
    let write = |source| MakeError::Write { source };
    let (last, membership) = position_of(view)?;
    let mut out = Hashing::new(BufWriter::with_capacity(CHUNK_BYTES, content));
    let mut stream = zstd::Encoder::new(&mut out, ZSTD_LEVEL).map_err(write)?;
    let (mut lines, mut digester) = (RecordWriter::default(), Digester::default());
    let (mut records, mut plain_bytes) = (0, 0);
    view.records(|record| {
        digester.add(&record);
        plain_bytes += wide(lines.put(&record, &mut stream).map_err(write)?);
        records += 1;
        Ok::<(), MakeError>(())
    })?;
    stream.finish().map_err(write)?;
    out.flush().map_err(write)?;
    let (out, content_sha256, content_bytes) = out.into_parts();
    let mut content = out.into_inner().map_err(|failed| write(failed.into_error()))?;
    content.seek(SeekFrom::Start(0)).map_err(write)?;
    let voters: Vec<u64> = membership.voter_ids().collect();
    let members = membership.nodes().map(|(id, node)| Member {
        id: *id,
        name: node.name.clone(),
        rpc: node.rpc.clone(),
        voter: voters.contains(id),
    });
    let header = Header {
        cluster_id: maker.cluster_id,
        epoch: maker.epoch,
        last: last.unwrap_or_else(nowhere),
        members: members.collect(),
        created_ms: maker.now_ms,
        made_by: maker.node,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keys: view.key_count()?,
        records,
        plain_bytes,
        content_bytes,
        content_sha256,
        digest: digester.finish(),
    };
    let (head, id) = head(&header);
    let mut whole = Hashing::new(io::sink());
    whole.write_all(&head).map_err(write)?;
    let (_, sha256, _) = sums(&mut content, whole).map_err(write)?;
    content.seek(SeekFrom::Start(0)).map_err(write)?;
    Ok(Made { header, head, id, sha256, content })
}

/// The bytes ahead of the content, and their hash.
fn head(header: &Header) -> (Vec<u8>, [u8; SUM_BYTES]) {
    let header = header.encode();
    let len = u32::try_from(header.len()).expect("a list of members is small");
    let mut head = [&MAGIC[..], &[FORMAT], &len.to_le_bytes(), &header].concat();
    let id: [u8; SUM_BYTES] = Sha256::digest(&head).into();
    head.extend_from_slice(&id);
    (head, id)
}

impl Made {
    /// Bytes of the whole archive.
    pub fn bytes(&self) -> u64 {
        wide(self.head.len()) + self.header.content_bytes
    }
}

/// An archive of which every byte was read and compared.
#[derive(Debug)]
pub struct Archive {
    pub header: Header,
    /// SHA-256 of the head; names the archive.
    pub id: [u8; SUM_BYTES],
    /// Of all of it.
    pub sha256: [u8; SUM_BYTES],
    file: File,
    content_at: u64,
}

/// A state that was restored on trial; its directory is gone with this value.
#[derive(Debug)]
pub struct Restored {
    scratch: Scratch,
    pub digest: Digest,
}

impl Restored {
    /// What is in it.
    pub fn store(&self) -> &Store {
        self.scratch.store()
    }
}

impl Archive {
    /// Reads all of it and compares the hashes. Whether its records make the state it names, only a trial tells.
    pub fn open(mut file: File) -> Result<Archive, ArchiveError> {
        let read = |source| ArchiveError::Read { source };
        let len = file.metadata().map_err(read)?.len();
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let mut head = vec![0; FIXED_BYTES];
        fill(&mut file, &mut head, "the head")?;
        if head[..8] != MAGIC {
            return Err(ArchiveError::Foreign);
        }
        let header_len = u32::from_le_bytes(head[9..FIXED_BYTES].try_into().expect("four bytes"));
        let header_len = usize::try_from(header_len).expect("32 bits fit usize");
        if header_len > HEADER_BYTES_MAX {
            return Err(damaged(format!("its header has {header_len} bytes")));
        }
        head.resize(FIXED_BYTES + header_len, 0);
        fill(&mut file, &mut head[FIXED_BYTES..], "the header")?;
        let mut expected = [0; SUM_BYTES];
        fill(&mut file, &mut expected, "the hash of the header")?;
        let id: [u8; SUM_BYTES] = Sha256::digest(&head).into();
        if id != expected {
            return Err(damaged("the header does not match its SHA-256".to_owned()));
        }
        if head[8] != FORMAT {
            return Err(ArchiveError::Format { found: head[8] });
        }
        let header = Header::decode(&head[FIXED_BYTES..]).map_err(|source| ArchiveError::Header { source })?;
        let content_at = wide(head.len() + SUM_BYTES);
        let said = content_at.saturating_add(header.content_bytes);
        if len != said {
            return Err(damaged(format!("it has {len} bytes, its header says {said}")));
        }
        let mut whole = Hashing::new(io::sink());
        [&head[..], &id].into_iter().try_for_each(|part| whole.write_all(part)).map_err(read)?;
        let (content_sha256, sha256, bytes) = sums(&mut file, whole).map_err(read)?;
        if bytes != said || content_sha256 != header.content_sha256 {
            return Err(damaged("its content does not match its SHA-256".to_owned()));
        }
        Ok(Archive { header, id, sha256, file, content_at })
    }

    /// Bytes of the whole archive.
    pub fn bytes(&self) -> u64 {
        self.content_at.saturating_add(self.header.content_bytes)
    }

    /// The proof: every record is read back into an empty state below `scratch`, and that state has the digest that the
    /// archive names.
    pub fn restore_on_trial(&mut self, scratch: &Path) -> Result<Restored, ArchiveError> {
        let scratch = Scratch::make(scratch).map_err(|source| ArchiveError::Scratch { source })?;
        self.load(scratch.store())?;
        let load = |source| ArchiveError::Load { source };
        let view = scratch.store().view().map_err(load)?;
        let digest = view.digest().map_err(load)?;
        let header = &self.header;
        if digest != header.digest {
            return Err(damaged(format!("it restores to digest {digest}, its header says {}", header.digest)));
        }
        let applied = view.applied().map_err(load)?.get();
        if applied != header.last.index {
            return Err(damaged(format!("it restores to index {applied}, its header says {}", header.last.index)));
        }
        if view.cluster_id().map_err(load)?.is_some_and(|id| id != header.cluster_id) {
            return Err(damaged("the state in it is another cluster's than its header says".to_owned()));
        }
        let keys = view.key_count().map_err(load)?;
        if keys != header.keys {
            return Err(damaged(format!("it restores to {keys} keys, its header says {}", header.keys)));
        }
        drop(view);
        Ok(Restored { scratch, digest })
    }

    fn load(&mut self, store: &Store) -> Result<(), ArchiveError> {
        let load = |source| ArchiveError::Load { source };
        self.file.seek(SeekFrom::Start(self.content_at)).map_err(|source| ArchiveError::Read { source })?;
        let content = BufReader::with_capacity(CHUNK_BYTES, &self.file);
        let content = zstd::Decoder::with_buffer(content).map_err(unpack)?.single_frame();
        let mut records = RecordReader::new(BufReader::with_capacity(CHUNK_BYTES, content));
        let mut loader = Loader::new(store).map_err(load)?;
        for _ in 0..self.header.records {
            loader.put(records.read().map_err(unpack)?).map_err(load)?;
        }
        if !records.is_at_end().map_err(unpack)? {
            return Err(damaged("something follows its last record".to_owned()));
        }
        loader.finish().map(drop).map_err(load)
    }
}

/// SHA-256 of what follows in the file, that of the whole, and its length.
fn sums(file: &mut File, mut whole: Hashing<io::Sink>) -> io::Result<([u8; SUM_BYTES], [u8; SUM_BYTES], u64)> {
    let mut content = Hashing::new(&mut whole);
    io::copy(&mut BufReader::with_capacity(CHUNK_BYTES, file), &mut content)?;
    let content = content.sum();
    let (_, whole, bytes) = whole.into_parts();
    Ok((content, whole, bytes))
}

fn damaged(why: String) -> ArchiveError {
    ArchiveError::Damaged { why }
}

/// An error of the disk has a number; what has none is what the content says.
fn unpack(source: io::Error) -> ArchiveError {
    if source.raw_os_error().is_some() {
        return ArchiveError::Read { source };
    }
    damaged(format!("its content cannot be unpacked: {source}"))
}

fn fill(file: &mut File, bytes: &mut [u8], what: &str) -> Result<(), ArchiveError> {
    file.read_exact(bytes).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => damaged(format!("it ends in the middle of {what}")),
        _ => ArchiveError::Read { source },
    })
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).expect("usize is at most 64 bits")
}

#[cfg(test)]
mod tests;
