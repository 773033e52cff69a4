//! How a node that is in no cluster gets into one: it founds one, or a token lets it in.
//!
//! With a join token the cluster is there, and the token names its authority. With a bootstrap token there is none yet:
//! the nodes that hold it find each other, and the one with the lowest address of those in reach forms the cluster, once,
//! when a majority of as many nodes as the token says is in none and leaves it to that one. What was promised to one node is not promised to
//! another while the process lives (see [`Promise`]), so two of them never form.

use super::Promise;
use super::ca::{SealingError, SealingKeys, Subject, Term};
use super::discovery::Discovery;
use super::enrol::{self, Admitted, Answer, Applicant, RefusalCode};
use super::identity::{self, IdentityFiles};
use super::lobby::{EnterError, Lobby};
use super::local::{self, NoAddress};
use super::token::{self, Purpose, Token};
use crate::raft::{Consensus, ProposeError, Understands};
use crate::storage::Identity;
use crate::telemetry::chain;
use crate::tls::{Material, MemberId};
use konsul_state::{Command, Role, TokenWrite};
use rand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// A wish to join is given up after this long; what the configuration says is tried for ever.
const WISH: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Promises older than this are asked for anew before somebody forms on them.
const FRESH: Duration = Duration::from_secs(5);
/// The founder's id.
const FIRST: u64 = 1;

/// The node that wants in.
#[derive(Debug, Clone)]
pub struct Newcomer {
    pub name: String,
    /// What it tells others to connect to; `None`: found out.
    pub rpc: Option<String>,
    pub http: String,
    /// Where its peer listener is bound.
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// Kept by somebody else; `None`: in the data directory.
    pub sealing_key_file: Option<PathBuf>,
    /// Of certificates.
    pub life: Duration,
    /// It may found a cluster.
    pub may_found: bool,
}

/// In a cluster, or about to form one: what is to be kept before anything else happens.
pub struct Entry {
    pub identity: Identity,
    pub material: Material,
    /// What others connect to.
    pub rpc: String,
}

/// Nothing was founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    #[error(transparent)]
    Found(#[from] identity::FoundError),
    #[error("read the sealing keys")]
    Sealing(#[from] SealingError),
    #[error(transparent)]
    Address(#[from] NoAddress),
}

/// This node's sealing keys.
pub fn sealing_keys(data_dir: &Path, file: Option<&Path>) -> Result<SealingKeys, SealingError> {
    match file {
        Some(path) => SealingKeys::external(path),
        None => SealingKeys::in_data_dir(data_dir),
    }
}

impl Newcomer {
    /// Makes a cluster, its authority, and this node's certificate. Everything is on disk when it returns.
    pub fn found(&self, now_ms: u64) -> Result<Entry, FoundError> {
        let rpc = local::advertised(self.rpc.as_deref(), self.listen, None)?;
        let cluster_id = uuid::Uuid::new_v4().into_bytes();
        let mut keys = sealing_keys(&self.data_dir, self.sealing_key_file.as_deref())?;
        let member = MemberId { cluster_id, node_id: FIRST };
        let first = Subject { member, name: self.name.clone() };
        let files = IdentityFiles::in_data_dir(&self.data_dir);
        let material = identity::found(&files, &mut keys, &first, Term { now_ms, life: self.life })?;
        tracing::info!(cluster = %uuid::Uuid::from_bytes(cluster_id), "founding a cluster");
        let identity = Identity { cluster_id, node_id: FIRST, name: self.name.clone(), former: true, epoch: 0 };
        Ok(Entry { identity, material, rpc })
    }
}

/// How long the nodes that hold a bootstrap token may take to join each other.
const BOOTSTRAP: Duration = Duration::from_secs(24 * 3600);

/// As the founder by a bootstrap token: the other nodes join with it, once each.
pub async fn register(consensus: &Consensus, token: &Token, now_ms: u64) -> Result<(), ProposeError> {
    let Purpose::Bootstrap { nodes } = token.purpose() else { return Ok(()) };
    let known = consensus.state().view().and_then(|view| Ok(view.token(&token.id().bytes())?.is_some()));
    if known.unwrap_or(false) || nodes < 2 {
        return Ok(());
    }
    let life_ms = u64::try_from(BOOTSTRAP.as_millis()).unwrap_or(u64::MAX);
    let create = Command::Token(TokenWrite::Create {
        id: token.id().bytes(),
        key: token::public_key(token),
        role: Role::Voter,
        uses_max: nodes - 1,
        created_ms: now_ms,
        expires_ms: now_ms.saturating_add(life_ms),
        by: "bootstrap",
        from: "",
    });
    consensus.propose(&create).await.map(drop)
}

/// Whom one way in asks, and how long.
pub struct Way<'w> {
    pub token: &'w Token,
    /// Asked before those that the token and discovery name.
    pub via: &'w [String],
    pub discovery: &'w Discovery,
    pub lobby: &'w Lobby,
    pub promise: &'w Promise,
    /// Somebody waits for it: a refusal and a long silence are told, not borne.
    pub wished: bool,
}

/// What one round of questions brought.
#[derive(Debug, Default)]
struct Round {
    /// Nodes that are in no cluster, and whether they leave the forming to this one.
    newcomers: BTreeMap<SocketAddr, bool>,
    refused: Option<(RefusalCode, String)>,
    reached: usize,
    /// Why the last one was not reached.
    missed: Option<String>,
}

/// By token, asking until it is let in, or may form.
pub async fn by_token(me: &Newcomer, way: Way<'_>, now_ms: impl Fn() -> u64) -> Result<Entry, EnterError> {
    let failed = |error: &(dyn std::error::Error + 'static)| EnterError::Failed { why: chain(error) };
    // The same after a crash: a token that was used with it once is used with it again.
    let key = IdentityFiles::in_data_dir(&me.data_dir).joining_key().map_err(|error| failed(&error))?;
    let mut applicant = Applicant {
        name: me.name.clone(),
        rpc: String::new(),
        http: me.http.clone(),
        former: false,
        understands: Understands::OWN,
        key,
    };
    let started = Instant::now();
    let (mut pause, mut told) = (PAUSE_MIN, None);
    loop {
        let began = Instant::now();
        let contacts = way.contacts(me.listen).await;
        let rpc = local::advertised(me.rpc.as_deref(), me.listen, contacts.first().map(|(_, at)| *at));
        let mut round = Round::default();
        match rpc {
            Ok(rpc) => {
                applicant.rpc = rpc;
                if let Some(admitted) = way.ask_all(&contacts, &applicant, &mut round).await {
                    return way.entered(me, applicant.rpc, *admitted);
                }
            }
            Err(error) if way.wished => return Err(failed(&error)),
            Err(error) => round.missed = Some(error.to_string()),
        }
        if way.may_form(me, &applicant, &round) && began.elapsed() < FRESH && way.promise.give(&me.name) {
            return me.found(now_ms()).map_err(|error| failed(&error));
        }
        applicant.former = way.is_lowest(me, &applicant, &round);
        if way.wished {
            way.give_up(&round, started)?;
        }
        let said = round.sentence(contacts.len());
        if told.as_ref() != Some(&said) {
            tracing::info!(contacts = contacts.len(), reached = round.reached, "{said}");
            way.lobby.now(said.clone(), false);
            told = Some(said);
            pause = PAUSE_MIN;
        }
        let jitter = rand::rng().random_range(0.75..1.25);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

impl Way<'_> {
    /// Whom to ask, by address: names that mean the same node count once, and this node never.
    async fn contacts(&self, listen: SocketAddr) -> Vec<(String, SocketAddr)> {
        let found = self.discovery.round().await;
        let named = self.via.iter().chain(self.token.contacts());
        let named: Vec<String> = named.cloned().chain(found.into_iter().map(|point| point.address)).collect();
        self.lobby.contacts(named.clone());
        let mut contacts: Vec<(String, SocketAddr)> = Vec::new();
        for name in named {
            // A name that does not resolve now may do so in the next round.
            let Ok(addresses) = tokio::net::lookup_host(&name).await else { continue };
            for address in addresses.take(1) {
                let known = contacts.iter().any(|(_, other)| *other == address);
                if !known && !local::is_own(address, listen) {
                    contacts.push((name.clone(), address));
                }
            }
        }
        contacts
    }

    async fn ask_all(
        &self,
        contacts: &[(String, SocketAddr)],
        me: &Applicant,
        round: &mut Round,
    ) -> Option<Box<Admitted>> {
        for (name, address) in contacts {
            match enrol::join(self.token, name, me).await {
                Ok(Answer::Admitted(admitted)) => return Some(admitted),
                Ok(Answer::NotMember { promised }) => {
                    round.reached += 1;
                    round.newcomers.insert(*address, promised);
                }
                Ok(Answer::NotLeader { .. }) => round.reached += 1,
                Ok(Answer::Refused { code, why }) => {
                    round.reached += 1;
                    tracing::debug!(contact = %name, code = code.word(), %why, "not admitted");
                    round.refused = Some((code, why));
                }
                Err(error) => {
                    let why = chain(&error);
                    tracing::debug!(contact = %name, %why, "contact point not reached");
                    round.missed = Some(why);
                }
            }
        }
        None
    }

    fn nodes(&self) -> Option<usize> {
        match self.token.purpose() {
            Purpose::Join { .. } => None,
            Purpose::Bootstrap { nodes } => usize::try_from(nodes).ok(),
        }
    }

    /// Of those who could form, this node is the one to ask for it: the lowest address.
    fn is_lowest(&self, me: &Newcomer, applicant: &Applicant, round: &Round) -> bool {
        let Ok(own) = applicant.rpc.parse::<SocketAddr>() else { return false };
        self.nodes().is_some() && me.may_found && round.newcomers.keys().all(|other| own < *other)
    }

    fn may_form(&self, me: &Newcomer, applicant: &Applicant, round: &Round) -> bool {
        let Some(nodes) = self.nodes() else { return false };
        let promised = round.newcomers.values().filter(|promised| **promised).count();
        applicant.former && me.may_found && promised + 1 > nodes / 2
    }

    fn give_up(&self, round: &Round, started: Instant) -> Result<(), EnterError> {
        let waits = |code: RefusalCode| matches!(code, RefusalCode::NotNow);
        match &round.refused {
            Some((code, why)) if !waits(*code) || started.elapsed() >= WISH => {
                Err(EnterError::Refused { why: format!("not admitted: {why}") })
            }
            _ if started.elapsed() >= WISH => Err(EnterError::Unreachable { why: round.why_not() }),
            _ => Ok(()),
        }
    }

    fn entered(&self, me: &Newcomer, rpc: String, admitted: Admitted) -> Result<Entry, EnterError> {
        let Admitted { cluster_id, epoch, node_id, material, .. } = admitted;
        let kept = IdentityFiles::in_data_dir(&me.data_dir).store(&material);
        kept.map_err(|error| EnterError::Failed { why: chain(&error) })?;
        tracing::info!(node = node_id, cluster = %uuid::Uuid::from_bytes(cluster_id), "admitted to the cluster");
        let identity = Identity { cluster_id, node_id, name: me.name.clone(), former: false, epoch };
        Ok(Entry { identity, material, rpc })
    }
}

impl Round {
    fn sentence(&self, contacts: usize) -> String {
        match (&self.refused, contacts) {
            (Some((_, why)), _) => format!("joining with a token; not admitted yet: {why}"),
            (None, 0) => {
                "joining with a token; no contact point is known yet: name one, or set up discovery".to_owned()
            }
            (None, _) => {
                format!("joining with a token; {} of {contacts} contact points answer, none of a cluster", self.reached)
            }
        }
    }

    fn why_not(&self) -> String {
        let waited = WISH.as_secs();
        match &self.missed {
            Some(why) => format!("no member was reached for {waited} s: {why}"),
            None if self.reached > 0 => format!("nobody who was reached is in a cluster, for {waited} s"),
            None => "no contact point is known; name one with `--via host:port`".to_owned(),
        }
    }
}
