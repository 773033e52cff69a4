//! What nodes say to each other, version 1.
//!
//! A connection is TCP, then TLS with certificates on both sides (or neither, where encryption is switched off), then
//! frames:
//!
//! ```text
//! frame   = length: u32 LE (of what follows, at most 64 MiB)  kind: u8  id: varint  payload
//! ```
//!
//! The client's first frame is `Hello`, the server's first is `Welcome` or `Refused`; these may have 4 KiB and 5 s at
//! most. The purpose in `Hello` decides what follows. A request's answer is a frame `Answer` or `Failed` with its id.
//!
//! | purpose  | requests                                 | order                                                      |
//! |----------|------------------------------------------|------------------------------------------------------------|
//! | append   | `Append`                                 | one at a time                                              |
//! | vote     | `Vote`, `PreVote`, `TransferLeader`      | one at a time                                              |
//! | snapshot | `SnapshotBegin`, `SnapshotData`…, `SnapshotEnd` | one transfer at a time; `Working` while it installs |
//! | forward  | `Forward`                                | any number at once, answers in any order                   |
//! | join     | `Join`                                   | one at a time; the only purpose of a node without a cluster |
//!
//! An unknown kind ends the connection. Payloads start with a version of their own (see `codec`).
//!
//! Whoever has no certificate yet asks for the TLS protocol (ALPN) `konsul-join/1`. Such a connection carries one frame
//! `Enrol`, answered by one `Answer`, and nothing else; elsewhere `Enrol` is an unexpected kind.

use konsul_state::{DecodeError, Reader, Writer};
use std::time::Duration;

/// Oldest protocol version this node speaks.
pub(super) const VERSION_MIN: u8 = 1;
/// Newest protocol version this node speaks.
pub(super) const VERSION_MAX: u8 = 1;
/// First bytes of a `Hello`.
pub(super) const MAGIC: [u8; 4] = *b"KNSL";
/// Longest frame: the value of its length field.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Longest frame before the handshake is done: a stranger gets no more memory than this.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 4 << 10;
/// Time for TLS and the handshake together.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of snapshot in one frame.
pub(super) const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Hello,
    Welcome,
    Refused,
    Append,
    Vote,
    PreVote,
    TransferLeader,
    Forward,
    Join,
    /// The one request of somebody without a certificate.
    Enrol,
    SnapshotBegin,
    SnapshotData,
    SnapshotEnd,
    /// The answer to the request with the same id.
    Answer,
    /// The request with the same id failed; the payload is a text for people.
    Failed,
    /// The request with the same id is still being worked on.
    Working,
}

impl Kind {
    pub(super) fn byte(self) -> u8 {
        match self {
            Kind::Hello => 0x01,
            Kind::Welcome => 0x02,
            Kind::Refused => 0x03,
            Kind::Append => 0x10,
            Kind::Vote => 0x11,
            Kind::PreVote => 0x12,
            Kind::TransferLeader => 0x13,
            Kind::Forward => 0x14,
            Kind::Join => 0x15,
            Kind::Enrol => 0x16,
            Kind::SnapshotBegin => 0x18,
            Kind::SnapshotData => 0x19,
            Kind::SnapshotEnd => 0x1a,
            Kind::Answer => 0x80,
            Kind::Failed => 0x81,
            Kind::Working => 0x82,
        }
    }

    pub(super) fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            0x01 => Kind::Hello,
            0x02 => Kind::Welcome,
            0x03 => Kind::Refused,
            0x10 => Kind::Append,
            0x11 => Kind::Vote,
            0x12 => Kind::PreVote,
            0x13 => Kind::TransferLeader,
            0x14 => Kind::Forward,
            0x15 => Kind::Join,
            0x16 => Kind::Enrol,
            0x18 => Kind::SnapshotBegin,
            0x19 => Kind::SnapshotData,
            0x1a => Kind::SnapshotEnd,
            0x80 => Kind::Answer,
            0x81 => Kind::Failed,
            0x82 => Kind::Working,
            _ => return None,
        })
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    Append,
    Vote,
    Snapshot,
    Forward,
    Join,
}

impl Purpose {
    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Append => "append",
            Purpose::Vote => "vote",
            Purpose::Snapshot => "snapshot",
            Purpose::Forward => "forward",
            Purpose::Join => "join",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Purpose::Append => 1,
            Purpose::Vote => 2,
            Purpose::Snapshot => 3,
            Purpose::Forward => 4,
            Purpose::Join => 5,
        }
    }

    fn from_byte(byte: u8) -> Result<Purpose, DecodeError> {
        Ok(match byte {
            1 => Purpose::Append,
            2 => Purpose::Vote,
            3 => Purpose::Snapshot,
            4 => Purpose::Forward,
            5 => Purpose::Join,
            found => {
                return Err(DecodeError::Unknown { what: "purpose", found: u64::from(found), known: 5 });
            }
        })
    }
}

/// Why a handshake was refused, for programs; the text beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedCode {
    /// No protocol version in common.
    Version,
    /// Another cluster.
    Cluster,
    /// Another node lives at this address.
    NodeId,
    /// The certificate is another node's.
    Name,
    /// The node dialled itself.
    Yourself,
    /// The server is in no cluster yet.
    NotMember,
    /// A message that cannot be.
    Malformed,
    /// The cluster went on without the client: it was recovered, and the client is left from an older epoch.
    Epoch,
    /// This id was removed from the cluster for good.
    Retired,
    /// The server itself is left from an older epoch than the client's.
    LeftBehind,
    /// A code of a newer version.
    Other(u8),
}

impl RefusedCode {
    fn byte(self) -> u8 {
        match self {
            RefusedCode::Version => 1,
            RefusedCode::Cluster => 2,
            RefusedCode::NodeId => 3,
            RefusedCode::Name => 4,
            RefusedCode::Yourself => 5,
            RefusedCode::NotMember => 6,
            RefusedCode::Malformed => 7,
            RefusedCode::Epoch => 8,
            RefusedCode::Retired => 9,
            RefusedCode::LeftBehind => 10,
            RefusedCode::Other(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> RefusedCode {
        match byte {
            1 => RefusedCode::Version,
            2 => RefusedCode::Cluster,
            3 => RefusedCode::NodeId,
            4 => RefusedCode::Name,
            5 => RefusedCode::Yourself,
            6 => RefusedCode::NotMember,
            7 => RefusedCode::Malformed,
            8 => RefusedCode::Epoch,
            9 => RefusedCode::Retired,
            10 => RefusedCode::LeftBehind,
            other => RefusedCode::Other(other),
        }
    }
}

/// The client introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version_min: u8,
    pub(super) version_max: u8,
    pub(super) purpose: Purpose,
    /// Zero: not a member yet, allowed for `Join` only.
    pub(super) cluster_id: [u8; 16],
    pub(super) node_id: u64,
    pub(super) name: String,
    /// Zero: any.
    pub(super) expected_node_id: u64,
    /// How often the cluster was recovered by force, as far as this node knows.
    pub(super) epoch: u32,
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.raw(&MAGIC);
        out.u8(self.version_min);
        out.u8(self.version_max);
        out.u8(self.purpose.byte());
        out.raw(&self.cluster_id);
        out.u64(self.node_id);
        out.str(&self.name);
        out.u64(self.expected_node_id);
        out.u64(u64::from(self.epoch));
    }

    /// What follows the known fields is a newer version's: it is not read.
    pub(super) fn decode(bytes: &[u8]) -> Result<Hello, DecodeError> {
        let mut from = Reader::new(bytes);
        if from.array("magic")? != MAGIC {
            return Err(DecodeError::Invalid { what: "magic" });
        }
        Ok(Hello {
            version_min: from.u8("oldest version")?,
            version_max: from.u8("newest version")?,
            purpose: Purpose::from_byte(from.u8("purpose")?)?,
            cluster_id: from.array("cluster id")?,
            node_id: from.u64("node id")?,
            name: from.str("node name")?.to_owned(),
            expected_node_id: from.u64("expected node id")?,
            epoch: epoch(&mut from)?,
        })
    }

    /// The version both sides speak.
    pub(super) fn common_version(&self) -> Option<u8> {
        let version = self.version_max.min(VERSION_MAX);
        (version >= self.version_min.max(VERSION_MIN)).then_some(version)
    }
}

/// Older versions do not say it: to them it is zero.
fn epoch(from: &mut Reader<'_>) -> Result<u32, DecodeError> {
    if from.rest().is_empty() { Ok(0) } else { from.u32("epoch") }
}

/// The server introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) version: u8,
    pub(super) cluster_id: [u8; 16],
    pub(super) node_id: u64,
    pub(super) name: String,
    pub(super) epoch: u32,
}

impl Welcome {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u8(self.version);
        out.raw(&self.cluster_id);
        out.u64(self.node_id);
        out.str(&self.name);
        out.u64(u64::from(self.epoch));
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Welcome, DecodeError> {
        let mut from = Reader::new(bytes);
        Ok(Welcome {
            version: from.u8("version")?,
            cluster_id: from.array("cluster id")?,
            node_id: from.u64("node id")?,
            name: from.str("node name")?.to_owned(),
            epoch: epoch(&mut from)?,
        })
    }
}

/// The server says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: RefusedCode,
    pub(super) text: String,
}

impl Refused {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u8(self.code.byte());
        out.str(&self.text);
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Refused, DecodeError> {
        let mut from = Reader::new(bytes);
        Ok(Refused { code: RefusedCode::from_byte(from.u8("code")?), text: from.str("text")?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_survives_its_byte_and_no_two_share_one() {
        let known: Vec<Kind> = (0..=u8::MAX).filter_map(Kind::from_byte).collect();
        assert_eq!(known.len(), 16);
        known.iter().for_each(|kind| assert_eq!(Kind::from_byte(kind.byte()), Some(*kind)));
    }

    #[test]
    fn versions_meet_at_the_newest_in_common_or_not_at_all() {
        let hello = |version_min, version_max| Hello {
            version_min,
            version_max,
            purpose: Purpose::Join,
            cluster_id: [0; 16],
            node_id: 0,
            name: String::new(),
            expected_node_id: 0,
            epoch: 0,
        };
        assert_eq!(hello(1, 1).common_version(), Some(1));
        assert_eq!(hello(1, 9).common_version(), Some(1));
        assert_eq!(hello(2, 9).common_version(), None);
        assert_eq!(hello(0, 0).common_version(), None);
    }

    #[test]
    fn the_first_version_knew_no_epoch() {
        let mut old = b"KNSL\x01\x01\x04".to_vec();
        old.extend_from_slice(&[7; 16]);
        old.extend_from_slice(b"\x02\x04beta\x01");
        let hello = Hello::decode(&old).unwrap();
        assert_eq!((hello.node_id, hello.name.as_str(), hello.expected_node_id, hello.epoch), (2, "beta", 1, 0));
        let mut old = vec![1];
        old.extend_from_slice(&[7; 16]);
        old.extend_from_slice(b"\x01\x05alpha");
        assert_eq!(Welcome::decode(&old).unwrap().epoch, 0);
    }

    #[test]
    fn mangled_handshakes_are_refused_without_a_panic() {
        let mut hello = b"KNSL\x01\x01\x04".to_vec();
        hello.extend_from_slice(&[7; 16]);
        hello.extend_from_slice(b"\x02\x04beta\x01\x03");
        let welcome = [&[1], [7; 16].as_slice(), b"\x01\x05alpha\x03"].concat();
        crate::mangled::survive(&[hello, welcome], |bytes| {
            let _ = (Hello::decode(bytes), Welcome::decode(bytes), Refused::decode(bytes));
        });
    }

    proptest! {
        #[test]
        fn handshake_messages_survive_the_wire(
            purpose in 1..=5u8, cluster_id: [u8; 16], node_id: u64, name in ".{0,40}", code: u8, version: u8, epoch: u32,
        ) {
            let purpose = Purpose::from_byte(purpose).unwrap();
            let hello = Hello {
                version_min: version, version_max: 9, purpose, cluster_id, node_id, name: name.clone(), expected_node_id: 7,
                epoch,
            };
            let mut out = Writer::new();
            hello.encode(&mut out);
            prop_assert_eq!(Hello::decode(&out.into_vec()).unwrap(), hello);
            let welcome = Welcome { version, cluster_id, node_id, name: name.clone(), epoch };
            let mut out = Writer::new();
            welcome.encode(&mut out);
            prop_assert_eq!(Welcome::decode(&out.into_vec()).unwrap(), welcome);
            let refused = Refused { code: RefusedCode::from_byte(code), text: name };
            let mut out = Writer::new();
            refused.encode(&mut out);
            prop_assert_eq!(Refused::decode(&out.into_vec()).unwrap(), refused);
        }

        #[test]
        fn random_bytes_are_an_error_never_a_panic(bytes: Vec<u8>) {
            let _ = (Hello::decode(&bytes), Welcome::decode(&bytes), Refused::decode(&bytes));
        }
    }
}
