//! The side that is asked: who proves a token's secret over this very connection becomes a member.
//!
//! A stranger learns nothing before the proof: an unknown token and a wrong secret are one refusal. After it, every
//! refusal says why.

use super::attempts::Attempts;
use super::message::{EnrolAnswer, EnrolRequest, Envelope, Granted, RefusalCode};
use crate::clock::Clock;
use crate::clock::rate::{Rate, RateConfig};
use crate::cluster::audit::{Audit, Refusal};
use crate::cluster::ca::ProvenKey;
use crate::cluster::identity::{Authority, AuthorityError};
use crate::cluster::join::Promise;
use crate::cluster::token::{Bound, Purpose, Signer, Token, TokenId, prove, public_key, verify_proof};
use crate::raft::{AdmitError, Consensus, Consistency};
use crate::raft_types::NodeInfo;
use crate::telemetry::chain;
use crate::tls::is_node_name;
use bytes::Bytes;
use konsul_state::{Command, Outcome, Role, TokenRefusal, TokenWrite};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A member that answered within this time is alive: nobody takes its name.
const ALIVE: Duration = Duration::from_secs(2);

/// What a member needs to admit others.
pub struct EnrollerParts {
    pub consensus: Consensus,
    /// `None`: the nodes of this cluster use certificates that people bring.
    pub authority: Option<Authority>,
    pub audit: Audit,
    pub clock: Clock,
    /// How often one address may try.
    pub rate: RateConfig,
    /// The bootstrap token this node was started with, if so: whoever joins with it wants it proven.
    pub token: Option<Token>,
    /// How often the cluster was recovered by force.
    pub epoch: u32,
}

/// Admits nodes to this cluster.
pub struct Enroller {
    parts: EnrollerParts,
    rate: Rate,
    attempts: Mutex<Attempts>,
}

/// A refusal on its way: told to whoever asked, and to the audit.
struct Denied {
    code: RefusalCode,
    why: String,
    audited: Refusal,
}

/// Why not, before the leader decides.
enum NotGranted {
    Denied(Denied),
    NotLeader,
}

impl From<Denied> for NotGranted {
    fn from(denied: Denied) -> NotGranted {
        NotGranted::Denied(denied)
    }
}

fn denied(code: RefusalCode, audited: Refusal, why: impl Into<String>) -> Denied {
    Denied { code, why: why.into(), audited }
}

fn not_now(why: impl Into<String>) -> Denied {
    denied(RefusalCode::NotNow, Refusal::NotAllowed, why)
}

/// An unknown token, or a proof that does not fit: told alike.
fn no_token(audited: Refusal) -> Denied {
    let why = "the token is not one of this cluster, or was damaged on its way; copy it again, or make one with \
               `konsulctl cluster generate-token`";
    denied(RefusalCode::Token, audited, why)
}

impl Enroller {
    pub fn new(parts: EnrollerParts) -> Enroller {
        Enroller { rate: Rate::new(parts.rate.clone()), parts, attempts: Mutex::default() }
    }

    /// Whether somebody at this address may try: asked before anything costs time.
    pub fn may_try(&self, from: IpAddr) -> bool {
        let may = self.rate.ask(from).is_ok() && self.lock_attempts().may_try(from, self.parts.clock.now());
        if !may {
            self.parts.audit.refused(&from.to_string(), "", None, Refusal::TooMany);
        }
        may
    }

    /// Somebody was not let in at the peer port, before they could say what they want.
    pub fn turned_away(&self, from: SocketAddr, why: &str) {
        self.parts.audit.turned_away(&from.ip().to_string(), why);
    }

    /// The answer to a request that arrived on a connection with this exporter.
    pub async fn answer(&self, from: SocketAddr, exporter: &[u8; 32], request: &[u8]) -> Bytes {
        let (answer, token) = match read(request) {
            Ok((envelope, request)) => {
                let token = token_id(&request);
                (self.decide(from, exporter, &envelope, &request).await, token)
            }
            Err(why) => {
                self.note_refused(from, "", None, Refusal::Malformed);
                (EnrolAnswer::Refused { code: RefusalCode::Malformed, why }, None)
            }
        };
        let own = self.parts.token.as_ref().filter(|own| Some(own.id()) == token);
        Bytes::from(sealed(&answer, own, exporter))
    }

    async fn decide(
        &self,
        from: SocketAddr,
        exporter: &[u8; 32],
        envelope: &Envelope<'_>,
        request: &EnrolRequest,
    ) -> EnrolAnswer {
        let token = token_id(request);
        match self.grant(from, exporter, envelope, request).await {
            Ok(granted) => {
                self.parts.audit.granted(&from.ip().to_string(), &request.name, token, granted.node_id);
                EnrolAnswer::Granted(granted)
            }
            Err(NotGranted::NotLeader) => {
                EnrolAnswer::NotLeader { rpc: self.parts.consensus.leader().map(|leader| leader.info.rpc) }
            }
            Err(NotGranted::Denied(Denied { code, why, audited })) => {
                self.note_refused(from, &request.name, token, audited);
                EnrolAnswer::Refused { code, why }
            }
        }
    }

    fn note_refused(&self, from: SocketAddr, name: &str, token: Option<TokenId>, why: Refusal) {
        let now = self.parts.clock.now();
        match why {
            // These are guesses; the others proved that they hold a token.
            Refusal::BadProof | Refusal::Malformed | Refusal::Token(TokenRefusal::Unknown) => {
                self.lock_attempts().failed(from.ip(), now);
            }
            Refusal::Token(TokenRefusal::Expired | TokenRefusal::UsedUp | TokenRefusal::Revoked)
            | Refusal::TooMany
            | Refusal::OtherCluster
            | Refusal::NotAllowed => {}
        }
        self.parts.audit.refused(&from.ip().to_string(), name, token, why);
    }

    /// Whole at every point where a panic could occur.
    fn lock_attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn grant(
        &self,
        from: SocketAddr,
        exporter: &[u8; 32],
        envelope: &Envelope<'_>,
        request: &EnrolRequest,
    ) -> Result<Granted, NotGranted> {
        let consensus = &self.parts.consensus;
        if !self.lock_attempts().may_try(from.ip(), self.parts.clock.now()) {
            let why = "too many failed attempts from this address; try again in a minute";
            return Err(denied(RefusalCode::TooMany, Refusal::TooMany, why).into());
        }
        if !consensus.contact().is_leader {
            return Err(NotGranted::NotLeader);
        }
        let Some(authority) = &self.parts.authority else {
            let why = "this cluster has no authority of its own: bring a certificate of its people's authority \
                       (tls.cert_file), and join with that";
            return Err(denied(RefusalCode::NoAuthority, Refusal::NotAllowed, why).into());
        };
        let used_before = self.verify(exporter, envelope, request).await?;
        let key = ProvenKey::of_csr(&request.csr);
        let key = key.map_err(|error| denied(RefusalCode::Csr, Refusal::Malformed, error.to_string()))?;
        self.check_name(request)?;
        self.check_program(request)?;
        let role = self.use_token(from, request, key.spki_sha256()).await?;
        let node_id = match self.admitted_before(request).filter(|_| used_before.contains(&key.spki_sha256())) {
            Some(node_id) => node_id,
            None => self.admit(request, role).await?,
        };
        let signed = authority.sign(&request.csr, node_id, &request.name);
        let signed = signed.map_err(|error: AuthorityError| not_now(chain(&error)))?;
        let contacts = consensus.status().members.into_iter().map(|member| member.peer.info.rpc).collect();
        let (cluster_id, epoch) = (consensus.identity().cluster_id, self.parts.epoch);
        let (chain, roots, bridges) = (signed.chain, signed.roots, signed.bridges);
        Ok(Granted { cluster_id, epoch, node_id, role, chain, roots, bridges, contacts })
    }

    /// Whether the secret was proven; the keys that joined with the token before.
    async fn verify(
        &self,
        exporter: &[u8; 32],
        envelope: &Envelope<'_>,
        request: &EnrolRequest,
    ) -> Result<Vec<[u8; 32]>, NotGranted> {
        let consensus = &self.parts.consensus;
        // What other leaders wrote is applied here before a token is called unknown.
        let permit = consensus.permit(Consistency::Leader).await.map_err(|error| not_now(chain(&error)))?;
        let view = consensus.view(&permit).map_err(|error| not_now(chain(&error)))?;
        let token = view.token(&request.token).map_err(|error| not_now(chain(&error)))?;
        let Some(token) = token else { return Err(no_token(Refusal::Token(TokenRefusal::Unknown)).into()) };
        let bound = Bound { exporter, request: envelope.body };
        let proof = envelope.proof.as_ref().map_or(&[][..], |proof| proof);
        verify_proof(&token.key, Signer::Asker, bound, proof).map_err(|_| no_token(Refusal::BadProof))?;
        Ok(token.uses.iter().map(|used| used.spki).collect())
    }

    fn check_name(&self, request: &EnrolRequest) -> Result<(), Denied> {
        let name = &request.name;
        if !is_node_name(name) {
            let why = format!("{name:?} is no name of a node: 1 to 63 letters, digits, '-', '_' and '.'");
            return Err(denied(RefusalCode::Name, Refusal::NotAllowed, why));
        }
        let alive = |member: &crate::raft::MemberStatus| {
            member.is_leader || member.last_contact.is_some_and(|since| since < ALIVE)
        };
        let members = self.parts.consensus.status().members;
        if members.iter().any(|member| member.peer.info.name == *name && alive(member)) {
            let why = format!(
                "a member named {name:?} is alive; give the node another name, or, if it is the same host, wait until \
                 the old one is gone"
            );
            return Err(denied(RefusalCode::Name, Refusal::NotAllowed, why));
        }
        Ok(())
    }

    /// Before the token is used: with another program it is good.
    fn check_program(&self, request: &EnrolRequest) -> Result<(), Denied> {
        match self.parts.consensus.misfit(request.understands).map_err(|error| not_now(chain(&error)))? {
            None => Ok(()),
            Some(why) => Err(denied(RefusalCode::Version, Refusal::NotAllowed, why)),
        }
    }

    async fn use_token(&self, from: SocketAddr, request: &EnrolRequest, spki: [u8; 32]) -> Result<Role, NotGranted> {
        let (id, name, address) = (request.token, request.name.as_str(), from.ip().to_string());
        let now_ms = self.parts.clock.wall().as_millis();
        let used = Command::Token(TokenWrite::Use { id, now_ms, name, spki, from: &address });
        let committed = self.parts.consensus.propose(&used).await.map_err(|error| not_now(error.to_string()))?;
        match committed.outcome {
            Outcome::TokenUsed(Ok(role)) => Ok(role),
            Outcome::TokenUsed(Err(refusal)) => {
                Err(denied(RefusalCode::Spent, Refusal::Token(refusal), refusal.to_string()).into())
            }
            other => Err(not_now(format!("the state machine answered {other:?} to the use of a token")).into()),
        }
    }

    /// The node was admitted and never heard the answer: it has a place already.
    fn admitted_before(&self, request: &EnrolRequest) -> Option<u64> {
        let members = self.parts.consensus.status().members.into_iter();
        let mut same = members.filter(|member| {
            !member.voter && member.peer.info.name == request.name && member.peer.info.rpc == request.rpc
        });
        same.next().map(|member| member.peer.id)
    }

    async fn admit(&self, request: &EnrolRequest, role: Role) -> Result<u64, NotGranted> {
        let (name, rpc, http) = (request.name.clone(), request.rpc.clone(), request.http.clone());
        match self.parts.consensus.admit(0, NodeInfo { name, rpc, http }, role).await {
            Ok(node_id) => Ok(node_id),
            Err(AdmitError::NotLeader) => Err(NotGranted::NotLeader),
            Err(error) => Err(not_now(chain(&error)).into()),
        }
    }
}

/// `None`: what was sent is no token's id.
fn token_id(request: &EnrolRequest) -> Option<TokenId> {
    TokenId::parse(std::str::from_utf8(&request.token).ok()?)
}

fn read(request: &[u8]) -> Result<(Envelope<'_>, EnrolRequest), String> {
    let envelope = Envelope::decode(request).map_err(|error| error.to_string())?;
    let request = EnrolRequest::decode(envelope.body).map_err(|error| error.to_string())?;
    Ok((envelope, request))
}

/// An answer; proven if the asker wants that, because it could verify no certificate.
fn sealed(answer: &EnrolAnswer, token: Option<&Token>, exporter: &[u8; 32]) -> Vec<u8> {
    let body = answer.encode();
    let proof = token.filter(|token| matches!(token.purpose(), Purpose::Bootstrap { .. }));
    let proof = proof.map(|token| prove(token, Signer::Answerer, Bound { exporter, request: &body }));
    Envelope { body: &body, proof }.encode()
}

/// What a node answers that is no member itself: with the same bootstrap token, two such nodes agree on who forms.
pub fn answer_as_newcomer(token: Option<&Token>, promise: &Promise, exporter: &[u8; 32], request: &[u8]) -> Bytes {
    let refused = |code, why: &str| EnrolAnswer::Refused { code, why: why.to_owned() };
    let (envelope, request) = match read(request) {
        Ok(read) => read,
        Err(why) => return Bytes::from(sealed(&refused(RefusalCode::Malformed, &why), None, exporter)),
    };
    let own = token.filter(|token| token.id().bytes() == request.token);
    let proven = own.is_some_and(|token| {
        let bound = Bound { exporter, request: envelope.body };
        let proof = envelope.proof.as_ref().map_or(&[][..], |proof| proof);
        verify_proof(&public_key(token), Signer::Asker, bound, proof).is_ok()
    });
    let answer = match proven {
        true => EnrolAnswer::NotMember { promised: request.former && promise.give(&request.name) },
        // Without a cluster there is nothing to join; whoever has another token asks on elsewhere.
        false => refused(RefusalCode::NotNow, "this node is in no cluster yet, and has no such token"),
    };
    Bytes::from(sealed(&answer, own.filter(|_| proven), exporter))
}
