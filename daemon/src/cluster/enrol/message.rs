//! What somebody without a certificate says, and what it is told.
//!
//! ```text
//! envelope = version: u8 (1)  body: bytes  proven: bool  proof: 64 bytes if proven
//! ```
//!
//! The proof is over the body and over the TLS connection it is sent on (see `token`): a recorded envelope is worth
//! nothing on another connection. A request is always proven; an answer is, where the asker could not verify the
//! server's certificate.

use crate::cluster::token::PROOF_BYTES;
use crate::raft::Understands;
use konsul_state::{DecodeError, Reader, Role, Writer};
use rustls::pki_types::CertificateDer;

const VERSION: u8 = 1;

/// A body and the proof that it was said on this connection by somebody who holds the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub body: &'a [u8],
    pub proof: Option<[u8; PROOF_BYTES]>,
}

impl<'a> Envelope<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.bytes(self.body);
        out.bool(self.proof.is_some());
        if let Some(proof) = &self.proof {
            out.raw(proof);
        }
        out.into_vec()
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Envelope<'a>, DecodeError> {
        let mut from = Reader::new(bytes);
        from.version("enrolment version", VERSION)?;
        let body = from.bytes("body")?;
        let proof = if from.bool("proven")? { Some(from.array("proof")?) } else { None };
        from.end("enrolment")?;
        Ok(Envelope { body, proof })
    }
}

/// A node that is no member asks for membership; or, if it means to form the cluster, for the promise not to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// The token's id, as its users see it.
    pub token: [u8; 8],
    pub name: String,
    /// `host:port` of its peer listener.
    pub rpc: String,
    /// URL of its HTTP API.
    pub http: String,
    /// Forms the cluster if a majority of those asked is in none and leaves it to this node.
    pub former: bool,
    /// The certificate signing request (DER).
    pub csr: Vec<u8>,
    /// The cluster versions that its program understands.
    pub understands: Understands,
}

impl EnrolRequest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&self.token);
        out.str(&self.name);
        out.str(&self.rpc);
        out.str(&self.http);
        out.bool(self.former);
        out.bytes(&self.csr);
        self.understands.encode(&mut out);
        out.into_vec()
    }

    pub fn decode(body: &[u8]) -> Result<EnrolRequest, DecodeError> {
        let mut from = Reader::new(body);
        Ok(EnrolRequest {
            token: from.array("token id")?,
            name: from.str("node name")?.to_owned(),
            rpc: from.str("rpc address")?.to_owned(),
            http: from.str("http address")?.to_owned(),
            former: from.bool("former")?,
            csr: from.bytes("certificate signing request")?.to_vec(),
            understands: Understands::decode(&mut from)?,
        })
    }
}

/// Membership, and what a member needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub cluster_id: [u8; 16],
    pub epoch: u32,
    pub node_id: u64,
    /// What it becomes when it is caught up.
    pub role: Role,
    /// Its certificate, then any intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The authorities of the cluster.
    pub roots: Vec<CertificateDer<'static>>,
    /// What leads from an authority that is pinned no more to the one that signs.
    pub bridges: Vec<CertificateDer<'static>>,
    /// Where the members listen, `host:port`.
    pub contacts: Vec<String>,
}

/// The answer of whoever was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolAnswer {
    Granted(Granted),
    /// In no cluster itself. `promised`: it leaves forming to the one who asked.
    NotMember {
        promised: bool,
    },
    /// A member, but not the leader; `rpc`: where the leader listens, if known.
    NotLeader {
        rpc: Option<String>,
    },
    /// No, and why.
    Refused {
        code: RefusalCode,
        why: String,
    },
}

/// Why a node is not admitted, for programs; the text beside it is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// Not a request this node can read.
    Malformed,
    /// No such token, or a proof that does not fit: which of the two, strangers are not told.
    Token,
    /// The token was good once: expired, used up or revoked.
    Spent,
    /// The name is no name, or a living member has it.
    Name,
    /// The certificate signing request.
    Csr,
    /// Too many attempts from there.
    TooMany,
    /// This cluster has no authority of its own: certificates are brought.
    NoAuthority,
    /// Not now: it may be tried again.
    NotNow,
    /// Its program is too old for what the log may hold, or too new.
    Version,
    /// A code of a newer version.
    Other(u8),
}

impl RefusalCode {
    fn byte(self) -> u8 {
        match self {
            RefusalCode::Malformed => 1,
            RefusalCode::Token => 2,
            RefusalCode::Spent => 3,
            RefusalCode::Name => 4,
            RefusalCode::Csr => 5,
            RefusalCode::TooMany => 6,
            RefusalCode::NoAuthority => 7,
            RefusalCode::NotNow => 8,
            RefusalCode::Version => 9,
            RefusalCode::Other(byte) => byte,
        }
    }

    fn from_byte(byte: u8) -> RefusalCode {
        match byte {
            1 => RefusalCode::Malformed,
            2 => RefusalCode::Token,
            3 => RefusalCode::Spent,
            4 => RefusalCode::Name,
            5 => RefusalCode::Csr,
            6 => RefusalCode::TooMany,
            7 => RefusalCode::NoAuthority,
            8 => RefusalCode::NotNow,
            9 => RefusalCode::Version,
            other => RefusalCode::Other(other),
        }
    }

    /// The word in the audit and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            RefusalCode::Malformed => "malformed",
            RefusalCode::Token => "token",
            RefusalCode::Spent => "spent",
            RefusalCode::Name => "name",
            RefusalCode::Csr => "csr",
            RefusalCode::TooMany => "too_many",
            RefusalCode::NoAuthority => "no_authority",
            RefusalCode::NotNow => "not_now",
            RefusalCode::Version => "version",
            RefusalCode::Other(_) => "other",
        }
    }
}

fn put_certificates(out: &mut Writer, certificates: &[CertificateDer<'_>]) {
    out.usize(certificates.len());
    certificates.iter().for_each(|certificate| out.bytes(certificate));
}

fn certificates(from: &mut Reader<'_>, what: &'static str) -> Result<Vec<CertificateDer<'static>>, DecodeError> {
    from.list(what, |from| Ok(CertificateDer::from(from.bytes("certificate")?.to_vec())))
}

impl EnrolAnswer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            EnrolAnswer::Granted(granted) => {
                out.u8(1);
                out.raw(&granted.cluster_id);
                out.u64(u64::from(granted.epoch));
                out.u64(granted.node_id);
                granted.role.encode(&mut out);
                put_certificates(&mut out, &granted.chain);
                put_certificates(&mut out, &granted.roots);
                put_certificates(&mut out, &granted.bridges);
                out.usize(granted.contacts.len());
                granted.contacts.iter().for_each(|contact| out.str(contact));
            }
            EnrolAnswer::NotMember { promised } => {
                out.u8(2);
                out.bool(*promised);
            }
            EnrolAnswer::NotLeader { rpc } => {
                out.u8(3);
                out.str(rpc.as_deref().unwrap_or_default());
            }
            EnrolAnswer::Refused { code, why } => {
                out.u8(4);
                out.u8(code.byte());
                out.str(why);
            }
        }
        out.into_vec()
    }

    pub fn decode(body: &[u8]) -> Result<EnrolAnswer, DecodeError> {
        let mut from = Reader::new(body);
        Ok(match from.u8("enrolment answer")? {
            1 => EnrolAnswer::Granted(granted(&mut from)?),
            2 => EnrolAnswer::NotMember { promised: from.bool("promised")? },
            3 => {
                let rpc = from.str("leader address")?.to_owned();
                EnrolAnswer::NotLeader { rpc: Some(rpc).filter(|rpc| !rpc.is_empty()) }
            }
            4 => EnrolAnswer::Refused {
                code: RefusalCode::from_byte(from.u8("code")?),
                why: from.str("reason")?.to_owned(),
            },
            found => return Err(DecodeError::Unknown { what: "enrolment answer", found: found.into(), known: 4 }),
        })
    }
}

fn granted(from: &mut Reader<'_>) -> Result<Granted, DecodeError> {
    Ok(Granted {
        cluster_id: from.array("cluster id")?,
        epoch: from.u32("epoch")?,
        node_id: from.u64("node id")?,
        role: Role::decode(from)?,
        chain: certificates(from, "certificate chain")?,
        roots: certificates(from, "authorities")?,
        bridges: certificates(from, "bridges")?,
        contacts: from.list("contacts", |from| Ok(from.str("contact")?.to_owned()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> EnrolRequest {
        let (name, rpc, http) = ("n4".to_owned(), "h:1".to_owned(), "http://h:2".to_owned());
        let understands = Understands { oldest: 1, newest: 2 };
        EnrolRequest { token: *b"abcdefgh", name, rpc, http, former: true, csr: vec![1, 2, 3], understands }
    }

    fn answers() -> Vec<EnrolAnswer> {
        let certificate = |byte| CertificateDer::from(vec![byte; 2]);
        let granted = Granted {
            cluster_id: [7; 16],
            epoch: 3,
            node_id: 9,
            role: Role::Learner,
            chain: vec![certificate(1)],
            roots: vec![certificate(2), certificate(3)],
            bridges: vec![certificate(4)],
            contacts: vec!["h:1".to_owned()],
        };
        let codes =
            (1..=10).map(|byte| EnrolAnswer::Refused { code: RefusalCode::from_byte(byte), why: "no".to_owned() });
        let others = [
            EnrolAnswer::Granted(granted),
            EnrolAnswer::NotMember { promised: true },
            EnrolAnswer::NotLeader { rpc: None },
            EnrolAnswer::NotLeader { rpc: Some("h:1".to_owned()) },
        ];
        others.into_iter().chain(codes).collect()
    }

    #[test]
    fn messages_survive_the_wire() {
        let body = request().encode();
        for proof in [None, Some([5; PROOF_BYTES])] {
            let envelope = Envelope { body: &body, proof };
            assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
        }
        assert_eq!(EnrolRequest::decode(&body), Ok(request()));
        for answer in answers() {
            assert_eq!(EnrolAnswer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let body = b"abcdefgh\x02n4\x03h:1\x0ahttp://h:2\x01\x03\x01\x02\x03";
        assert_eq!(EnrolRequest::decode(body), Ok(EnrolRequest { understands: Understands::UNSAID, ..request() }));
        // What was added since stands behind that.
        assert_eq!(request().encode(), [body.as_slice(), &[1, 2]].concat());
        let length = u8::try_from(body.len()).unwrap();
        let envelope = [&[1, length], body.as_slice(), &[1], &[5; PROOF_BYTES]].concat();
        assert_eq!(Envelope { body, proof: Some([5; PROOF_BYTES]) }.encode(), envelope);
        let granted =
            [&[1], [7; 16].as_slice(), &[3, 9, 2, 1, 2, 1, 1, 2, 2, 2, 2, 2, 3, 3, 1, 2, 4, 4, 1, 3], b"h:1"].concat();
        assert_eq!(answers()[0].encode(), granted);
        assert_eq!(answers()[1].encode(), [2, 1]);
        assert_eq!(answers()[3].encode(), b"\x03\x03h:1");
        assert_eq!(answers()[4].encode(), b"\x04\x01\x02no");
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error_never_a_panic(bytes: Vec<u8>) {
            let _ = (Envelope::decode(&bytes), EnrolRequest::decode(&bytes), EnrolAnswer::decode(&bytes));
        }
    }

    #[test]
    fn mangled_messages_are_refused_without_a_panic() {
        let body = request().encode();
        let envelope = Envelope { body: &body, proof: Some([5; PROOF_BYTES]) }.encode();
        crate::mangled::survive(&[body, envelope], |bytes| {
            let _ = (Envelope::decode(bytes), EnrolRequest::decode(bytes));
        });
        let samples: Vec<Vec<u8>> = answers().iter().map(EnrolAnswer::encode).collect();
        crate::mangled::survive(&samples, |bytes| drop(EnrolAnswer::decode(bytes)));
    }
}
