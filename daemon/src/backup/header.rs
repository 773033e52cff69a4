//! What an archive says of itself, ahead of its content.

use crate::raft_types::{CommittedLeaderId, LogId};
use crate::storage::codec;
use konsul_state::{DecodeError, Digest, Reader, Writer};

/// The kind of archive that holds a whole state. A log segment, which holds what came after one, is another kind.
const BASE: u8 = 1;

/// A member at the index of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub rpc: String,
    pub voter: bool,
}

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub cluster_id: [u8; 16],
    /// How often the cluster was recovered by force.
    pub epoch: u32,
    /// Everything up to this log entry is in it, nothing behind it.
    pub last: LogId,
    pub members: Vec<Member>,
    /// By the clock of the node that made it.
    pub created_ms: u64,
    pub made_by: String,
    /// Of the program that made it.
    pub version: String,
    pub keys: u64,
    pub records: u64,
    pub plain_bytes: u64,
    pub content_bytes: u64,
    pub content_sha256: [u8; 32],
    pub digest: Digest,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(BASE);
        out.raw(&self.cluster_id);
        out.u64(u64::from(self.epoch));
        codec::put_log_id(&mut out, &self.last);
        out.usize(self.members.len());
        for member in &self.members {
            out.u64(member.id);
            out.str(&member.name);
            out.str(&member.rpc);
            out.bool(member.voter);
        }
        out.u64(self.created_ms);
        out.str(&self.made_by);
        out.str(&self.version);
        for number in [self.keys, self.records, self.plain_bytes, self.content_bytes] {
            out.u64(number);
        }
        out.raw(&self.content_sha256);
        out.raw(&self.digest.0);
        out.into_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        let mut from = Reader::new(bytes);
        match from.u8("kind of archive")? {
            BASE => {}
            found => {
                return Err(DecodeError::Unknown { what: "kind of archive", found: found.into(), known: BASE.into() });
            }
        }
        let header = Header {
            cluster_id: from.array("cluster id")?,
            epoch: from.u32("epoch")?,
            last: codec::log_id(&mut from)?,
            members: from.list("members", member)?,
            created_ms: from.u64("time")?,
            made_by: from.str("node name")?.to_owned(),
            version: from.str("version")?.to_owned(),
            keys: from.u64("keys")?,
            records: from.u64("records")?,
            plain_bytes: from.u64("bytes")?,
            content_bytes: from.u64("bytes of the content")?,
            content_sha256: from.array("hash of the content")?,
            digest: Digest(from.array("digest")?),
        };
        from.end("archive header")?;
        Ok(header)
    }
}

fn member(from: &mut Reader<'_>) -> Result<Member, DecodeError> {
    Ok(Member {
        id: from.u64("node id")?,
        name: from.str("node name")?.to_owned(),
        rpc: from.str("rpc address")?.to_owned(),
        voter: from.bool("voter")?,
    })
}

/// The log id of an index that no leader wrote: the position of a state before its first entry.
pub(super) fn nowhere() -> LogId {
    LogId::new(CommittedLeaderId { term: 0, node_id: 0 }, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            cluster_id: [7; 16],
            epoch: 3,
            last: LogId::new(CommittedLeaderId { term: 2, node_id: 9 }, 508),
            members: vec![Member { id: 9, name: "n1".to_owned(), rpc: "h:8300".to_owned(), voter: true }],
            created_ms: 1_800_000_000_000,
            made_by: "n1".to_owned(),
            version: "0.1.0".to_owned(),
            keys: 5,
            records: 12,
            plain_bytes: 1000,
            content_bytes: 300,
            content_sha256: [8; 32],
            digest: Digest([9; 32]),
        }
    }

    #[test]
    fn a_mangled_header_is_refused_without_a_panic() {
        crate::mangled::survive(&[header().encode()], |bytes| drop(Header::decode(bytes)));
    }

    #[test]
    fn a_header_survives_the_file_and_nothing_may_follow_it() {
        let header = header();
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes).unwrap(), header);
        bytes.push(0);
        Header::decode(&bytes).unwrap_err();
        bytes[0] = 2;
        assert!(matches!(Header::decode(&bytes), Err(DecodeError::Unknown { found: 2, .. })));
    }
}
