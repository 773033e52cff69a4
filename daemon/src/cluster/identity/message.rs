//! What members ask of each other about identity, over the connection that both prove theirs on.

use crate::cluster::ca::{SealingKey, SealingKeyId};
use konsul_state::{DecodeError, Reader, Writer};
use rustls::pki_types::CertificateDer;

const VERSION: u8 = 1;

/// A request to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberRequest {
    /// The leader signs for whoever asks: for the node id and the name of the connection, and no other.
    Renew { csr: Vec<u8> },
    /// A voter hands a sealing key to another voter.
    SealingKey { id: SealingKeyId },
    /// What the node shows and whom it believes right now.
    Show,
    /// The leader begins to replace the authority.
    Rotate,
    /// Whom the leader waits for while the authority is replaced.
    Progress,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberAnswer {
    Signed(Signed),
    SealingKey(SealingKey),
    Shown(Shown),
    /// Authority number so-and-so is on its way in.
    Rotating {
        number: u64,
    },
    Progress {
        waiting: Vec<Waiting>,
    },
    /// Only the leader does that.
    NotLeader,
    /// No, and why.
    Refused {
        why: String,
    },
}

/// A certificate and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate, then any intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The authorities to trust.
    pub roots: Vec<CertificateDer<'static>>,
    /// What leads from an older authority to the one that signed.
    pub bridges: Vec<CertificateDer<'static>>,
}

/// What a node shows, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Key identifier of the authority that signed its certificate; empty if the certificate does not tell.
    pub issuer: Vec<u8>,
    pub not_after_ms: u64,
    /// SHA-256 of each authority it believes.
    pub roots: Vec<[u8; 32]>,
    pub sealing_keys: Vec<SealingKeyId>,
}

/// A member that keeps a rotation from going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub node_id: u64,
    pub name: String,
    /// What it lacks, or why it was not asked.
    pub why: String,
}

impl MemberRequest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            MemberRequest::Renew { csr } => {
                out.u8(1);
                out.bytes(csr);
            }
            MemberRequest::SealingKey { id } => {
                out.u8(2);
                out.raw(&id.0);
            }
            MemberRequest::Show => out.u8(3),
            MemberRequest::Rotate => out.u8(4),
            MemberRequest::Progress => out.u8(5),
        }
        out.into_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<MemberRequest, DecodeError> {
        let mut from = Reader::new(bytes);
        from.version("member request version", VERSION)?;
        let request = match from.u8("member request")? {
            1 => MemberRequest::Renew { csr: from.bytes("certificate signing request")?.to_vec() },
            2 => MemberRequest::SealingKey { id: SealingKeyId(from.array("sealing key id")?) },
            3 => MemberRequest::Show,
            4 => MemberRequest::Rotate,
            5 => MemberRequest::Progress,
            found => return Err(DecodeError::Unknown { what: "member request", found: found.into(), known: 5 }),
        };
        from.end("member request")?;
        Ok(request)
    }
}

impl MemberAnswer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            MemberAnswer::Signed(Signed { chain, roots, bridges }) => {
                out.u8(1);
                put_certificates(&mut out, chain);
                put_certificates(&mut out, roots);
                put_certificates(&mut out, bridges);
            }
            MemberAnswer::SealingKey(key) => {
                out.u8(2);
                out.raw(&key.to_bytes());
            }
            MemberAnswer::Shown(Shown { issuer, not_after_ms, roots, sealing_keys }) => {
                out.u8(3);
                out.bytes(issuer);
                out.u64(*not_after_ms);
                out.usize(roots.len());
                roots.iter().for_each(|root| out.raw(root));
                out.usize(sealing_keys.len());
                sealing_keys.iter().for_each(|key| out.raw(&key.0));
            }
            MemberAnswer::Rotating { number } => {
                out.u8(4);
                out.u64(*number);
            }
            MemberAnswer::Progress { waiting } => {
                out.u8(5);
                out.usize(waiting.len());
                for Waiting { node_id, name, why } in waiting {
                    out.u64(*node_id);
                    out.str(name);
                    out.str(why);
                }
            }
            MemberAnswer::NotLeader => out.u8(6),
            MemberAnswer::Refused { why } => {
                out.u8(7);
                out.str(why);
            }
        }
        out.into_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<MemberAnswer, DecodeError> {
        let mut from = Reader::new(bytes);
        from.version("member answer version", VERSION)?;
        Ok(match from.u8("member answer")? {
            1 => MemberAnswer::Signed(Signed {
                chain: certificates(&mut from)?,
                roots: certificates(&mut from)?,
                bridges: certificates(&mut from)?,
            }),
            2 => MemberAnswer::SealingKey(SealingKey::from_bytes(from.array("sealing key")?)),
            3 => MemberAnswer::Shown(Shown {
                issuer: from.bytes("issuer")?.to_vec(),
                not_after_ms: from.u64("end of the certificate")?,
                roots: from.list("authorities", |from| from.array("authority"))?,
                sealing_keys: from.list("sealing keys", |from| from.array("sealing key id").map(SealingKeyId))?,
            }),
            4 => MemberAnswer::Rotating { number: from.u64("authority number")? },
            5 => MemberAnswer::Progress { waiting: from.list("members", waiting)? },
            6 => MemberAnswer::NotLeader,
            7 => MemberAnswer::Refused { why: from.str("reason")?.to_owned() },
            found => return Err(DecodeError::Unknown { what: "member answer", found: found.into(), known: 7 }),
        })
    }
}

fn waiting(from: &mut Reader<'_>) -> Result<Waiting, DecodeError> {
    let node_id = from.u64("node id")?;
    Ok(Waiting { node_id, name: from.str("node name")?.to_owned(), why: from.str("reason")?.to_owned() })
}

fn put_certificates(out: &mut Writer, certificates: &[CertificateDer<'_>]) {
    out.usize(certificates.len());
    certificates.iter().for_each(|certificate| out.bytes(certificate));
}

fn certificates(from: &mut Reader<'_>) -> Result<Vec<CertificateDer<'static>>, DecodeError> {
    from.list("certificates", |from| Ok(CertificateDer::from(from.bytes("certificate")?.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn requests() -> [MemberRequest; 5] {
        [
            MemberRequest::Renew { csr: vec![1, 2] },
            MemberRequest::SealingKey { id: SealingKeyId([3; 8]) },
            MemberRequest::Show,
            MemberRequest::Rotate,
            MemberRequest::Progress,
        ]
    }

    fn answers() -> [MemberAnswer; 7] {
        let certificate = |byte| CertificateDer::from(vec![byte]);
        let waiting = Waiting { node_id: 9, name: "n".to_owned(), why: "y".to_owned() };
        [
            MemberAnswer::Signed(Signed {
                chain: vec![certificate(1)],
                roots: vec![certificate(2), certificate(3)],
                bridges: Vec::new(),
            }),
            MemberAnswer::SealingKey(SealingKey::from_bytes([4; 32])),
            MemberAnswer::Shown(Shown {
                issuer: vec![5],
                not_after_ms: 6,
                roots: vec![[7; 32]],
                sealing_keys: vec![SealingKeyId([8; 8])],
            }),
            MemberAnswer::Rotating { number: 2 },
            MemberAnswer::Progress { waiting: vec![waiting] },
            MemberAnswer::NotLeader,
            MemberAnswer::Refused { why: "no".to_owned() },
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for request in requests() {
            assert_eq!(MemberRequest::decode(&request.encode()), Ok(request));
        }
        for answer in answers() {
            assert_eq!(MemberAnswer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn the_bytes_of_version_1_do_not_change() {
        let requests = requests().map(|request| request.encode());
        let expected: [&[u8]; 5] = [&[1, 1, 2, 1, 2], &[1, 2, 3, 3, 3, 3, 3, 3, 3, 3], &[1, 3], &[1, 4], &[1, 5]];
        assert_eq!(requests, expected);
        let answers = answers().map(|answer| answer.encode());
        let shown = [&[1, 3, 1, 5, 6, 1], [7; 32].as_slice(), &[1], &[8; 8]].concat();
        let expected = [
            vec![1, 1, 1, 1, 1, 2, 1, 2, 1, 3, 0],
            [&[1, 2], [4; 32].as_slice()].concat(),
            shown,
            vec![1, 4, 2],
            b"\x01\x05\x01\x09\x01n\x01y".to_vec(),
            vec![1, 6],
            b"\x01\x07\x02no".to_vec(),
        ];
        assert_eq!(answers, expected);
    }

    proptest! {
        #[test]
        fn random_bytes_are_an_error_never_a_panic(bytes: Vec<u8>) {
            let _ = (MemberRequest::decode(&bytes), MemberAnswer::decode(&bytes));
        }
    }

    #[test]
    fn mangled_messages_are_refused_without_a_panic() {
        let samples: Vec<Vec<u8>> = requests().iter().map(MemberRequest::encode).collect();
        crate::mangled::survive(&samples, |bytes| drop(MemberRequest::decode(bytes)));
        let samples: Vec<Vec<u8>> = answers().iter().map(MemberAnswer::encode).collect();
        crate::mangled::survive(&samples, |bytes| drop(MemberAnswer::decode(bytes)));
    }
}
