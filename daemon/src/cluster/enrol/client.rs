//! The side that asks: proves the token's secret over a connection to whom the token names, and believes nobody else.

use super::message::{EnrolAnswer, EnrolRequest, Envelope, Granted, RefusalCode};
use crate::cluster::ca::{self, CaError};
use crate::cluster::token::{Bound, Purpose, Signer, Token, prove, public_key, verify_proof};
use crate::peer::{self, EnrolError};
use crate::raft::Understands;
use crate::tls::{Certified, Facts, JoinTrust, Material, MemberId, verify_chain};
use konsul_state::DecodeError;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::time::Duration;

/// The leader writes log entries and changes the membership for it.
const ASK: Duration = Duration::from_secs(30);
/// A redirection to the leader is followed this often in a row.
const HOPS_MAX: usize = 3;

/// Who asks.
pub struct Applicant {
    pub name: String,
    /// `host:port` of its peer listener.
    pub rpc: String,
    /// URL of its HTTP API.
    pub http: String,
    /// It forms the cluster if a majority of those asked is in none and leaves it to this node.
    pub former: bool,
    /// The cluster versions that its program understands.
    pub understands: Understands,
    /// The same in every attempt: a token that was used with it once is used with it again.
    pub key: KeyPair,
}

/// An answer that can be trusted as far as the token goes.
pub enum Answer {
    Admitted(Box<Admitted>),
    /// In no cluster itself. `promised`: it leaves forming to this node.
    NotMember {
        promised: bool,
    },
    /// A member, but not the leader; `rpc`: where the leader listens, if known.
    NotLeader {
        rpc: Option<String>,
    },
    Refused {
        code: RefusalCode,
        why: String,
    },
}

/// Membership.
pub struct Admitted {
    pub cluster_id: [u8; 16],
    pub epoch: u32,
    pub node_id: u64,
    pub role: konsul_state::Role,
    /// To be kept, and used from now on.
    pub material: Material,
    /// Where the members listen, `host:port`.
    pub contacts: Vec<String>,
}

/// Nobody answered, or nobody who may.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("make a certificate signing request")]
    Request(#[source] CaError),
    #[error("ask {address} for admission")]
    Ask {
        address: String,
        #[source]
        source: EnrolError,
    },
    #[error("the answer of {address} is malformed")]
    Malformed {
        address: SocketAddr,
        #[source]
        source: DecodeError,
    },
    #[error("{address} does not hold the token that this node was given: it is not believed")]
    NotProven { address: SocketAddr },
    #[error("{address} granted something else than was asked for: {what}")]
    Granted { address: SocketAddr, what: &'static str },
    #[error(
        "the certificate that {address} gave does not lead to the authority that the token names; is this host's clock right?"
    )]
    Chain {
        address: SocketAddr,
        #[source]
        source: rustls::Error,
    },
}

impl Applicant {
    fn request(&self, token: &Token) -> Result<EnrolRequest, AskError> {
        let csr = ca::request_with(&self.key).map_err(AskError::Request)?;
        let (name, rpc, http) = (self.name.clone(), self.rpc.clone(), self.http.clone());
        let (former, understands) = (self.former, self.understands);
        Ok(EnrolRequest { token: token.id().bytes(), name, rpc, http, former, csr, understands })
    }
}

/// Asks whoever answers at `address`, and the leader that is named there.
pub async fn join(token: &Token, address: &str, me: &Applicant) -> Result<Answer, AskError> {
    let mut address = address.to_owned();
    for _ in 1..HOPS_MAX {
        match ask(token, &address, me).await? {
            Answer::NotLeader { rpc: Some(rpc) } if rpc != address => address = rpc,
            answer => return Ok(answer),
        }
    }
    ask(token, &address, me).await
}

/// Asks whoever answers at `address`.
pub async fn ask(token: &Token, address: &str, me: &Applicant) -> Result<Answer, AskError> {
    let body = me.request(token)?.encode();
    let trust = match token.purpose() {
        Purpose::Join { pin } => JoinTrust::Pinned(pin),
        Purpose::Bootstrap { .. } => JoinTrust::Proven,
    };
    let request = |exporter: &[u8; 32]| {
        let proof = prove(token, Signer::Asker, Bound { exporter, request: &body });
        Envelope { body: &body, proof: Some(proof) }.encode()
    };
    let enrolled = peer::enrol(address, &trust, request, ASK).await;
    let enrolled = enrolled.map_err(|source| AskError::Ask { address: address.to_owned(), source })?;
    let address = enrolled.address;
    let malformed = |source| AskError::Malformed { address, source };
    let envelope = Envelope::decode(&enrolled.answer).map_err(malformed)?;
    let answer = EnrolAnswer::decode(envelope.body).map_err(malformed)?;
    let proven = match trust {
        JoinTrust::Pinned(_) => true,
        JoinTrust::Proven => {
            let bound = Bound { exporter: &enrolled.exporter, request: envelope.body };
            let proof = envelope.proof.as_ref().map_or(&[][..], |proof| proof);
            verify_proof(&public_key(token), Signer::Answerer, bound, proof).is_ok()
        }
    };
    match answer {
        // Where to ask on is a hint: whoever is there has to prove itself anew. A refusal grants nothing.
        EnrolAnswer::NotLeader { rpc } => Ok(Answer::NotLeader { rpc }),
        EnrolAnswer::Refused { code, why } => Ok(Answer::Refused { code, why }),
        EnrolAnswer::Granted(_) | EnrolAnswer::NotMember { .. } if !proven => Err(AskError::NotProven { address }),
        EnrolAnswer::NotMember { promised } => Ok(Answer::NotMember { promised }),
        EnrolAnswer::Granted(granted) => check(granted, &trust, me, address),
    }
}

/// Nothing that is granted is believed beyond what the token says.
fn check(granted: Granted, trust: &JoinTrust, me: &Applicant, address: SocketAddr) -> Result<Answer, AskError> {
    let Granted { cluster_id, epoch, node_id, role, chain, roots, bridges, contacts } = granted;
    let other = |what| AskError::Granted { address, what };
    let leaf = chain.first().ok_or_else(|| other("no certificate"))?;
    let facts = Facts::of(leaf).map_err(|_| other("something that is no certificate"))?;
    if facts.spki_sha256 != ca::spki_sha256(&me.key) {
        return Err(other("a certificate for another key"));
    }
    let member = Some(MemberId { cluster_id, node_id });
    if facts.certified != Some(Certified { name: me.name.clone(), member }) {
        return Err(other("a certificate for another node"));
    }
    let anchors: Vec<CertificateDer<'static>> = match trust {
        JoinTrust::Pinned(pin) => {
            let pinned = |authority: &&CertificateDer<'_>| Facts::of(authority).is_ok_and(|f| f.spki_sha256 == *pin);
            roots.iter().chain(&bridges).filter(pinned).cloned().collect()
        }
        JoinTrust::Proven => roots.clone(),
    };
    verify_chain(leaf, &bridges, &anchors).map_err(|source| AskError::Chain { address, source })?;
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(me.key.serialize_der().into());
    let material = Material { chain, key, roots, bridges };
    Ok(Answer::Admitted(Box::new(Admitted { cluster_id, epoch, node_id, role, material, contacts })))
}
