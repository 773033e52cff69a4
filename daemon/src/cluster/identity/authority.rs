//! The cluster's authority as this node sees it: the record in the replicated state, and the key if this node has it.
//!
//! Voters hold the sealing key, so any of them can lead and sign. Whoever asks over the peer channel gets what its
//! connection proves, never what it says: a certificate for its own node id and name, a sealing key if it votes.

use super::message::{MemberAnswer, MemberRequest, Shown, Signed, Waiting};
use crate::clock::Clock;
use crate::cluster::ca::{
    Ca, CaError, CaRecord, Generation, KEY, RotationError, SealingError, SealingKey, SealingKeyId, SealingKeys, Stage,
    Subject, Term,
};
use crate::raft::{AskError, Asker, Consensus, MemberService, Peer, ProposeError};
use crate::telemetry::chain;
use crate::tls::{Facts, MemberId, Tls, fingerprint};
use bytes::Bytes;
use konsul_state::{Command, DecodeError, Outcome, StateError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Another member answers such a question at once, or is in trouble.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// What the authority does not do, and why.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("read the authority's record from the state")]
    State {
        #[source]
        source: StateError,
    },
    #[error("the authority's record cannot be read")]
    Record {
        #[source]
        source: DecodeError,
    },
    #[error(
        "this cluster has no authority of its own: its nodes use certificates that people bring (tls.cert_file), or none"
    )]
    None,
    #[error(
        "this node lacks sealing key {id}, under which the authority's key is sealed; it asks the other voters for it{hint}"
    )]
    NoSealingKey { id: SealingKeyId, hint: SealingHint },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Sealing(#[from] SealingError),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error("write the authority's record")]
    Propose {
        #[source]
        source: ProposeError,
    },
    #[error("the authority's record was changed by somebody else at the same time; look at `konsulctl ca status`")]
    Raced,
    #[error("the state machine answered {outcome:?} to the authority's record")]
    Unexpected { outcome: Outcome },
    #[error("only the leader does that, and there is none right now; try again")]
    NoLeader,
    #[error("the leader refused: {why}")]
    Refused { why: String },
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("{name} answered something else than it was asked")]
    Answer { name: String },
}

/// What else helps against a missing sealing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealingHint(Option<PathBuf>);

impl std::fmt::Display for SealingHint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(path) => write!(f, ", or add it to {}, which is kept outside of Konsul", path.display()),
            None => Ok(()),
        }
    }
}

/// The record, and the index of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub record: CaRecord,
    pub index: u64,
}

/// What an [`Authority`] is made of.
pub struct AuthorityParts {
    pub consensus: Consensus,
    /// What this node shows and whom it believes.
    pub tls: Tls,
    pub keys: SealingKeys,
    /// Of the certificates it signs.
    pub life: Duration,
    pub clock: Clock,
}

/// Signs, if this node can; asks those who can, if not. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Consensus,
    tls: Tls,
    life: Duration,
    clock: Clock,
    keys: Mutex<SealingKeys>,
    /// The authority that signs, unsealed, and its certificate's fingerprint.
    unsealed: Mutex<Option<([u8; 32], Arc<Ca>)>>,
    /// On the leader: whom a rotation waits for.
    waiting: Mutex<Vec<Waiting>>,
}

impl Authority {
    pub fn new(parts: AuthorityParts) -> Authority {
        let AuthorityParts { consensus, tls, keys, life, clock } = parts;
        let (keys, unsealed, waiting) = (Mutex::new(keys), Mutex::default(), Mutex::default());
        Authority { inner: Arc::new(Inner { consensus, tls, life, clock, keys, unsealed, waiting }) }
    }

    pub fn consensus(&self) -> &Consensus {
        &self.inner.consensus
    }

    pub fn tls(&self) -> &Tls {
        &self.inner.tls
    }

    pub(super) fn life(&self) -> Duration {
        self.inner.life
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.inner.clock.wall().as_millis()
    }

    /// The record as this node's state has it; `None`: the cluster has no authority (yet).
    pub fn stored(&self) -> Result<Option<Stored>, AuthorityError> {
        let view = self.inner.consensus.state().view().map_err(|source| AuthorityError::State { source })?;
        let found = view.record(KEY.as_bytes()).map_err(|source| AuthorityError::State { source })?;
        let Some((value, index)) = found else { return Ok(None) };
        let record = CaRecord::decode(value).map_err(|source| AuthorityError::Record { source })?;
        Ok(Some(Stored { record, index: index.get() }))
    }

    /// What join tokens pin: the public key of the authority that signs; `None`: there is none.
    pub fn pin(&self) -> Result<Option<[u8; 32]>, AuthorityError> {
        let Some(Stored { record, .. }) = self.stored()? else { return Ok(None) };
        let facts = Facts::of(&record.active().certificate).map_err(CaError::Certificate)?;
        Ok(Some(facts.spki_sha256))
    }

    /// Signs a certificate for this member. This node has to have the sealing key.
    pub fn sign(&self, csr: &[u8], node_id: u64, name: &str) -> Result<Signed, AuthorityError> {
        let Stored { record, .. } = self.stored()?.ok_or(AuthorityError::None)?;
        let ca = self.unsealed(record.active())?;
        let member = MemberId { cluster_id: self.cluster_id(), node_id };
        let term = Term { now_ms: self.now_ms(), life: self.inner.life };
        let certificate = ca.issue(csr, &Subject { member, name: name.to_owned() }, term)?;
        tracing::info!(node = node_id, name, authority = record.active().number, "certificate signed");
        Ok(Signed { chain: vec![certificate], roots: record.roots(), bridges: record.bridges() })
    }

    fn cluster_id(&self) -> [u8; 16] {
        self.inner.consensus.identity().cluster_id
    }

    fn unsealed(&self, generation: &Generation) -> Result<Arc<Ca>, AuthorityError> {
        let print = fingerprint(&generation.certificate);
        if let Some((kept, ca)) = lock(&self.inner.unsealed).as_ref()
            && *kept == print
        {
            return Ok(Arc::clone(ca));
        }
        let ca = Arc::new(self.unseal(generation)?);
        *lock(&self.inner.unsealed) = Some((print, Arc::clone(&ca)));
        Ok(ca)
    }

    fn unseal(&self, generation: &Generation) -> Result<Ca, AuthorityError> {
        let keys = lock(&self.inner.keys);
        let key = keys.find(generation.sealing_key).ok_or_else(|| AuthorityError::NoSealingKey {
            id: generation.sealing_key,
            hint: SealingHint(keys.is_external().then(|| keys.path().to_owned())),
        })?;
        Ok(Ca::unseal(self.cluster_id(), generation, key)?)
    }

    /// The sealing keys that the record needs and this node lacks.
    pub(super) fn lacking_keys(&self, record: &CaRecord) -> Vec<SealingKeyId> {
        let keys = lock(&self.inner.keys);
        let needed = record.generations().iter().filter(|generation| generation.stage != Stage::Retiring);
        needed.map(|generation| generation.sealing_key).filter(|id| keys.find(*id).is_none()).collect()
    }

    /// Somebody else keeps the sealing keys: they are not asked for.
    pub(super) fn keys_are_external(&self) -> bool {
        lock(&self.inner.keys).is_external()
    }

    pub(super) fn add_key(&self, key: SealingKey) -> Result<(), SealingError> {
        lock(&self.inner.keys).add(key)
    }

    /// What this node shows, and whom it believes.
    pub fn shown(&self) -> Shown {
        let own = self.inner.tls.own();
        let keys = lock(&self.inner.keys);
        Shown {
            issuer: own.as_ref().and_then(|facts| facts.issuer_key_id.clone()).unwrap_or_default(),
            not_after_ms: own.map_or(0, |facts| facts.validity.not_after_ms),
            roots: self.inner.tls.roots().iter().map(fingerprint).collect(),
            sealing_keys: keys.ids(),
        }
    }

    /// Asks one member, or answers itself if that is this node.
    pub(super) async fn ask(&self, peer: &Peer, request: &MemberRequest) -> Result<MemberAnswer, AuthorityError> {
        if peer.id == self.inner.consensus.identity().node_id {
            let myself = Asker { node_id: peer.id, name: peer.info.name.clone(), vouched: true };
            return Ok(self.serve(&myself, request.clone()).await);
        }
        let answer = self.inner.consensus.ask_member(peer, &request.encode(), ASK_TIMEOUT).await?;
        let answer = MemberAnswer::decode(&answer);
        answer.map_err(|_| AuthorityError::Answer { name: peer.info.name.clone() })
    }

    /// Asks the leader.
    pub(super) async fn ask_leader(&self, request: &MemberRequest) -> Result<MemberAnswer, AuthorityError> {
        let leader = self.inner.consensus.leader().ok_or(AuthorityError::NoLeader)?;
        match self.ask(&leader, request).await? {
            MemberAnswer::NotLeader => Err(AuthorityError::NoLeader),
            MemberAnswer::Refused { why } => Err(AuthorityError::Refused { why }),
            answer => Ok(answer),
        }
    }

    async fn serve(&self, from: &Asker, request: MemberRequest) -> MemberAnswer {
        if !from.vouched {
            let why = "your certificate does not carry your node id: it is not one of the cluster's own authority";
            return MemberAnswer::Refused { why: why.to_owned() };
        }
        match request {
            MemberRequest::Show => MemberAnswer::Shown(self.shown()),
            MemberRequest::SealingKey { id } => self.hand_out(from, id),
            MemberRequest::Renew { .. } | MemberRequest::Rotate | MemberRequest::Progress
                if !self.inner.consensus.contact().is_leader =>
            {
                MemberAnswer::NotLeader
            }
            MemberRequest::Renew { csr } => match self.renew(from, &csr) {
                Ok(signed) => MemberAnswer::Signed(signed),
                Err(error) => self.refused(from, "renew", &error),
            },
            MemberRequest::Rotate => match self.begin_rotation().await {
                Ok(number) => MemberAnswer::Rotating { number },
                Err(error) => self.refused(from, "rotate", &error),
            },
            MemberRequest::Progress => MemberAnswer::Progress { waiting: lock(&self.inner.waiting).clone() },
        }
    }

    fn refused(&self, from: &Asker, what: &str, error: &AuthorityError) -> MemberAnswer {
        let why = chain(error);
        tracing::warn!(node = from.node_id, name = %from.name, what, %why, "a member's request to the authority failed");
        MemberAnswer::Refused { why }
    }

    /// For the node id and the name that the connection proved, if they are still a member's.
    fn renew(&self, from: &Asker, csr: &[u8]) -> Result<Signed, AuthorityError> {
        let member = self.inner.consensus.member(from.node_id).filter(|member| member.info.name == from.name);
        if member.is_none() {
            let why = format!("node {} ({:?}) is no member of this cluster (any more)", from.node_id, from.name);
            return Err(AuthorityError::Refused { why });
        }
        self.sign(csr, from.node_id, &from.name)
    }

    /// A sealing key goes to voters only.
    fn hand_out(&self, to: &Asker, id: SealingKeyId) -> MemberAnswer {
        let members = self.inner.consensus.status().members;
        if !members.iter().any(|member| member.voter && member.peer.id == to.node_id) {
            return MemberAnswer::Refused { why: "sealing keys are for voters".to_owned() };
        }
        match lock(&self.inner.keys).find(id) {
            Some(key) => {
                tracing::info!(key = %id, node = to.node_id, name = %to.name, "sealing key handed to a voter");
                MemberAnswer::SealingKey(key.clone())
            }
            None => MemberAnswer::Refused { why: format!("this node lacks sealing key {id} itself") },
        }
    }
}

impl MemberService for Authority {
    async fn answer(&self, from: Asker, request: Bytes) -> Bytes {
        let answer = match MemberRequest::decode(&request) {
            Ok(request) => self.serve(&from, request).await,
            Err(error) => MemberAnswer::Refused { why: error.to_string() },
        };
        Bytes::from(answer.encode())
    }
}

/// Changing the authority.
impl Authority {
    /// Puts the record of a new cluster into the replicated state, unless there is one. Harmless to repeat.
    pub async fn write_founding(&self, record: &CaRecord) -> Result<(), AuthorityError> {
        match self.write(record, 0).await {
            Ok(()) | Err(AuthorityError::Raced) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins to replace the authority, on the leader wherever that is; the number of the next one.
    pub async fn rotate(&self) -> Result<u64, AuthorityError> {
        match self.ask_leader(&MemberRequest::Rotate).await? {
            MemberAnswer::Rotating { number } => Ok(number),
            _other => Err(AuthorityError::Answer { name: "the leader".to_owned() }),
        }
    }

    /// Whom a rotation waits for, as the leader knows it.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, AuthorityError> {
        match self.ask_leader(&MemberRequest::Progress).await? {
            MemberAnswer::Progress { waiting } => Ok(waiting),
            _other => Err(AuthorityError::Answer { name: "the leader".to_owned() }),
        }
    }

    pub(super) fn note_waiting(&self, waiting: Vec<Waiting>) {
        *lock(&self.inner.waiting) = waiting;
    }

    /// On the leader: a new authority, under a new sealing key, so that whoever knows the old one gains nothing.
    async fn begin_rotation(&self) -> Result<u64, AuthorityError> {
        let Stored { record, index } = self.stored()?.ok_or(AuthorityError::None)?;
        if let Some(busy) = record.generations().iter().find(|generation| generation.stage != Stage::Active) {
            return Err(RotationError::UnderWay { number: busy.number, stage: busy.stage }.into());
        }
        let old = self.unsealed(record.active())?;
        let next = Ca::create(self.cluster_id(), self.now_ms())?;
        let sealing_key = self.sealing_key_for_next()?;
        let number = record.next_number();
        let generation = next.seal(self.cluster_id(), (number, Stage::Next), &sealing_key, Some(&old))?;
        self.write(&record.with_next(generation)?, index).await?;
        tracing::info!(authority = number, sealing_key = %sealing_key.id(), "the authority is being replaced");
        Ok(number)
    }

    fn sealing_key_for_next(&self) -> Result<SealingKey, AuthorityError> {
        let mut keys = lock(&self.inner.keys);
        match keys.newest() {
            Some(newest) if keys.is_external() => Ok(newest.clone()),
            Some(_) | None => {
                let fresh = SealingKey::create()?;
                keys.add(fresh.clone())?;
                Ok(fresh)
            }
        }
    }

    /// Compare and set.
    pub(super) async fn write(&self, record: &CaRecord, index: u64) -> Result<(), AuthorityError> {
        let value = record.encode();
        let command = Command::Record { key: KEY.as_bytes(), value: &value, index };
        let committed = self.inner.consensus.propose(&command).await;
        match committed.map_err(|source| AuthorityError::Propose { source })?.outcome {
            Outcome::Written(true) => Ok(()),
            Outcome::Written(false) => Err(AuthorityError::Raced),
            outcome => Err(AuthorityError::Unexpected { outcome }),
        }
    }
}

/// Whole at every point where a panic could occur.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
