//! Who is at the other end: each side checks the other before a single request passes.
//!
//! Wrong node = corruption, so nothing is assumed: cluster ids and epochs are equal, the server is the node that was
//! meant, the certificate's name is the claimed one and so is its node id if it has one, the id was not retired, and
//! nobody talks to itself (openraft panics on that).

use super::frame::{self, Frame, FrameError};
use super::protocol::{
    FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT, Hello, Kind, Purpose, Refused, RefusedCode, VERSION_MAX, VERSION_MIN, Welcome,
};
use super::stream::{Encryption, HandsError, Transport, Wire, set_options};
use crate::metrics::{PeerMetrics, PurposeLabel};
use crate::tls::{Certified, MemberId};
use arc_swap::ArcSwap;
use konsul_state::{DecodeError, Writer};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::timeout;

/// For one address. A SYN is repeated after 1 s: trying anew is as quick, and finds a healed link at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Heartbeats must find a new way soon; a slow disk at the other end does not count, its kernel acknowledges.
const SILENCE_MAX_RAFT: Duration = Duration::from_millis(1_500);
/// A receiver that stalls on its disk closes its window, and that counts as silence.
const SILENCE_MAX_BULK: Duration = Duration::from_secs(30);
/// Unknown at accept: the generous one, the client's own is what matters.
pub(super) const SILENCE_MAX_SERVER: Duration = SILENCE_MAX_BULK;

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalIdentity {
    /// `None` before it is a member.
    pub cluster_id: Option<[u8; 16]>,
    /// Zero before it is a member.
    pub node_id: u64,
    /// The name it is configured with, and its certificate carries.
    pub name: String,
    /// How often the cluster was recovered by force.
    pub epoch: u32,
}

/// What this node's state says of a node id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it may have been admitted a moment ago.
    Stranger,
    Member {
        name: String,
    },
    /// It was removed for good.
    Retired,
}

/// Who a peer is. Exists only after a handshake.
#[expect(clippy::manual_non_exhaustive, reason = "closed to the rest of this crate too")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Zero: not a member yet.
    pub node_id: u64,
    /// With encryption: the name its certificate carries.
    pub name: String,
    /// All zero: in no cluster yet.
    pub cluster_id: [u8; 16],
    /// Where it connected from, or was connected to.
    pub address: SocketAddr,
    pub encryption: Encryption,
    /// Its certificate carries this very cluster and node id; without that the id is believed as far as the name is.
    pub vouched: bool,
    _handshake: (),
}

/// A peer that could not be reached, or is not the one that was meant. Nothing was sent to it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("this node is not a member of a cluster yet")]
    NotMember,
    #[error("this node is stopping")]
    Stopping,
    #[error("node {node_id} is this node itself")]
    Yourself { node_id: u64 },
    #[error("look up {address}")]
    Lookup {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} has no IP address")]
    NoAddress { address: String },
    #[error("connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("no answer from {address} within {} ms; is the host up and port {} open?", CONNECT_TIMEOUT.as_millis(), .address.port())]
    ConnectTimedOut { address: SocketAddr },
    #[error("TLS with {address}")]
    Tls {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("handshake with {address}")]
    Handshake {
        address: SocketAddr,
        #[source]
        source: HandshakeError,
    },
    #[error("no handshake with {address} within {} ms", HANDSHAKE_TIMEOUT.as_millis())]
    HandshakeTimedOut { address: SocketAddr },
}

/// A handshake that ended without a connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("receive the first message")]
    Receive(#[source] FrameError),
    #[error("send the first message")]
    Send(#[source] io::Error),
    #[error("the first message is malformed")]
    Malformed(#[source] DecodeError),
    #[error("the first message is {found:?}, not {expected}")]
    Unexpected { found: String, expected: &'static str },
    #[error("refused by the peer: {text}")]
    Refused { code: RefusedCode, text: String },
    #[error("refused: {text}")]
    Refusing { code: RefusedCode, text: String },
}

/// Which node is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Zero: any.
    pub(super) node_id: u64,
    /// `None`: any.
    pub(super) name: Option<String>,
    /// `host:port`.
    pub(super) address: String,
}

impl Target {
    /// For people.
    pub(super) fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} (node {}) at {}", self.node_id, self.address),
            None => self.address.clone(),
        }
    }
}

/// Makes connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) transport: Transport,
    pub(super) local: Arc<ArcSwap<LocalIdentity>>,
    pub(super) metrics: PeerMetrics,
    /// What protects the newest connection to each node.
    pub(super) encryption: Arc<Mutex<HashMap<u64, Encryption>>>,
    /// That the cluster went on without this node, once a member has said so.
    pub(super) left_behind: watch::Sender<Option<String>>,
}

impl HandshakeError {
    /// A member said that this node is left from before a recovery of the cluster; or it was seen that it is.
    fn says_left_behind(&self) -> Option<&str> {
        match self {
            HandshakeError::Refused { code: RefusedCode::Epoch, text }
            | HandshakeError::Refusing { code: RefusedCode::LeftBehind, text } => Some(text),
            HandshakeError::Refused { .. }
            | HandshakeError::Refusing { .. }
            | HandshakeError::Receive(_)
            | HandshakeError::Send(_)
            | HandshakeError::Malformed(_)
            | HandshakeError::Unexpected { .. } => None,
        }
    }
}

impl Dialer {
    /// A connection to that node for that purpose, handshake done.
    pub(super) async fn dial(&self, target: &Target, purpose: Purpose) -> Result<(Wire, PeerIdentity), ConnectError> {
        let dialed = self.try_dial(target, purpose).await;
        if let Err(ConnectError::Handshake { source, .. }) = &dialed
            && let Some(why) = source.says_left_behind()
        {
            self.left_behind.send_replace(Some(why.to_owned()));
        }
        match &dialed {
            Ok((wire, peer)) => {
                let mut encryption = self.encryption.lock().expect("nothing panics while it holds the lock");
                encryption.insert(peer.node_id, wire.encryption);
            }
            Err(_) => {
                self.metrics.connect_failures.get_or_create(&PurposeLabel { purpose: purpose.as_str() }).inc();
            }
        }
        dialed
    }

    async fn try_dial(&self, target: &Target, purpose: Purpose) -> Result<(Wire, PeerIdentity), ConnectError> {
        let local = self.local.load_full();
        if local.cluster_id.is_none() && purpose != Purpose::Join {
            return Err(ConnectError::NotMember);
        }
        if target.node_id == local.node_id && target.node_id != 0 {
            return Err(ConnectError::Yourself { node_id: target.node_id });
        }
        let silence_max = silence_max(purpose);
        let (stream, address) = connect(&target.address, silence_max).await?;
        let hands = async {
            let mut wire = match self.transport.connect(address, stream).await {
                Ok(wire) => wire,
                Err(HandsError::Failed(source)) => return Err(ConnectError::Tls { address, source }),
                Err(HandsError::SpeaksNoTls(why)) => {
                    tracing::debug!(peer = target.label(), %why, "the peer speaks no TLS yet: in the clear, as permitted");
                    Wire::plain(connect(&target.address, silence_max).await?.0, address)
                }
            };
            let peer = introduce(&mut wire, &local, target, purpose).await;
            Ok((wire, peer.map_err(|source| ConnectError::Handshake { address, source })?))
        };
        timeout(HANDSHAKE_TIMEOUT, hands).await.map_err(|_| ConnectError::HandshakeTimedOut { address })?
    }
}

/// TCP to the first address that answers.
pub(super) async fn connect(target: &str, silence_max: Duration) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let addresses = lookup_host(target).await;
    let addresses = addresses.map_err(|source| ConnectError::Lookup { address: target.to_owned(), source })?;
    let mut failed = ConnectError::NoAddress { address: target.to_owned() };
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                set_options(&stream, silence_max).map_err(|source| ConnectError::Connect { address, source })?;
                return Ok((stream, address));
            }
            Ok(Err(source)) => failed = ConnectError::Connect { address, source },
            Err(_) => failed = ConnectError::ConnectTimedOut { address },
        }
    }
    Err(failed)
}

fn silence_max(purpose: Purpose) -> Duration {
    match purpose {
        Purpose::Append | Purpose::Vote => SILENCE_MAX_RAFT,
        Purpose::Snapshot | Purpose::Forward | Purpose::Join => SILENCE_MAX_BULK,
    }
}

/// The client's side.
async fn introduce(
    wire: &mut Wire,
    local: &LocalIdentity,
    target: &Target,
    purpose: Purpose,
) -> Result<PeerIdentity, HandshakeError> {
    // Before a word is said: a wrong server learns nothing.
    check_name(wire.certified.as_ref(), target.name.as_deref())?;
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        purpose,
        cluster_id: local.cluster_id.unwrap_or_default(),
        node_id: local.node_id,
        name: local.name.clone(),
        expected_node_id: target.node_id,
        epoch: local.epoch,
    };
    say(wire, Kind::Hello, |out| hello.encode(out)).await?;
    let frame = wire.next().await.map_err(HandshakeError::Receive)?;
    let welcome = match frame.kind {
        Kind::Welcome => Welcome::decode(&frame.payload).map_err(HandshakeError::Malformed)?,
        Kind::Refused => {
            let Refused { code, text } = Refused::decode(&frame.payload).map_err(HandshakeError::Malformed)?;
            return Err(HandshakeError::Refused { code, text });
        }
        _ => return Err(unexpected(&frame, "Welcome or Refused")),
    };
    check_welcome(&welcome, wire.certified.as_ref(), local, target)?;
    wire.allow_frames_of(FRAME_BYTES_MAX);
    Ok(identity(wire, welcome.node_id, welcome.name, welcome.cluster_id))
}

fn identity(wire: &Wire, node_id: u64, name: String, cluster_id: [u8; 16]) -> PeerIdentity {
    let certificate = wire.certified.as_ref().and_then(|certified| certified.member);
    let vouched = certificate == Some(MemberId { cluster_id, node_id });
    let (address, encryption) = (wire.address, wire.encryption);
    PeerIdentity { node_id, name, cluster_id, address, encryption, vouched, _handshake: () }
}

fn unexpected(frame: &Frame, expected: &'static str) -> HandshakeError {
    HandshakeError::Unexpected { found: format!("{:?}", frame.kind), expected }
}

fn refusing(code: RefusedCode, text: String) -> HandshakeError {
    HandshakeError::Refusing { code, text }
}

/// Without a certificate there is nothing to check.
fn check_name(certified: Option<&Certified>, claimed: Option<&str>) -> Result<(), HandshakeError> {
    match (certified, claimed) {
        (Some(Certified { name, .. }), Some(claimed)) if name != claimed => Err(refusing(
            RefusedCode::Name,
            format!("the certificate is node {name:?}'s, not node {claimed:?}'s; check its URI SAN and the address"),
        )),
        (Some(_) | None, Some(_) | None) => Ok(()),
    }
}

/// A certificate of the cluster's own authority is good for one member only.
fn check_member(certified: Option<&Certified>, cluster_id: [u8; 16], node_id: u64) -> Result<(), HandshakeError> {
    let claimed = MemberId { cluster_id, node_id };
    match certified.and_then(|certified| certified.member) {
        Some(member) if member != claimed => {
            let text = if node_id == 0 {
                format!(
                    "the certificate is member {member}'s: whoever wants to join anew joins with a token, not with it"
                )
            } else {
                format!("the certificate is member {member}'s, not {claimed}'s")
            };
            Err(refusing(RefusedCode::NodeId, text))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_epoch(ours: u32, theirs: u32) -> Result<(), HandshakeError> {
    let (newer, older, code) = match ours.cmp(&theirs) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => (ours, theirs, RefusedCode::Epoch),
        Ordering::Less => (theirs, ours, RefusedCode::LeftBehind),
    };
    let text = format!(
        "the cluster was recovered and is in epoch {newer}, the other node is left from epoch {older}; that one has to start empty and join anew"
    );
    Err(refusing(code, text))
}

fn check_welcome(
    welcome: &Welcome,
    certified: Option<&Certified>,
    local: &LocalIdentity,
    target: &Target,
) -> Result<(), HandshakeError> {
    if !(VERSION_MIN..=VERSION_MAX).contains(&welcome.version) {
        let text = format!("the peer chose protocol version {}, which was not offered", welcome.version);
        return Err(refusing(RefusedCode::Version, text));
    }
    check_name(certified, Some(&welcome.name))?;
    check_member(certified, welcome.cluster_id, welcome.node_id)?;
    if target.name.as_ref().is_some_and(|name| *name != welcome.name) {
        let text = format!("node {:?} answers at {}, not {:?}", welcome.name, target.address, target.name);
        return Err(refusing(RefusedCode::Name, text));
    }
    check_cluster(local.cluster_id, welcome.cluster_id)?;
    if local.cluster_id.is_some() {
        check_epoch(local.epoch, welcome.epoch)?;
    }
    if target.node_id != 0 && welcome.node_id != target.node_id {
        let text = format!("node {} answers at {}, not {}", welcome.node_id, target.address, target.node_id);
        return Err(refusing(RefusedCode::NodeId, text));
    }
    Ok(())
}

/// A node without a cluster fits everywhere.
fn check_cluster(ours: Option<[u8; 16]>, theirs: [u8; 16]) -> Result<(), HandshakeError> {
    match ours {
        Some(ours) if ours != theirs => Err(refusing(
            RefusedCode::Cluster,
            format!(
                "the nodes belong to different clusters, {} and {}; a node that changes its cluster must start empty",
                uuid::Uuid::from_bytes(ours),
                uuid::Uuid::from_bytes(theirs)
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

async fn say(wire: &mut Wire, kind: Kind, payload: impl FnOnce(&mut Writer)) -> Result<(), HandshakeError> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, 0, |out| frame::with_writer(out, payload)).expect("a handshake message is short");
    wire.send(&out).await.map_err(HandshakeError::Send)
}

/// The server's side. A refusal is told to the client.
pub(super) async fn admit(
    wire: &mut Wire,
    local: &LocalIdentity,
    known: impl Fn(u64) -> Known,
) -> Result<(Purpose, PeerIdentity), HandshakeError> {
    let admitted = hear(wire).await.and_then(|hello| {
        let version = check_hello(&hello, wire.certified.as_ref(), local)?;
        check_known(&hello, &known)?;
        Ok((hello, version))
    });
    let (hello, version) = match admitted {
        Ok(admitted) => admitted,
        Err(error) => {
            refuse(wire, &error).await?;
            return Err(error);
        }
    };
    let welcome = Welcome {
        version,
        cluster_id: local.cluster_id.unwrap_or_default(),
        node_id: local.node_id,
        name: local.name.clone(),
        epoch: local.epoch,
    };
    say(wire, Kind::Welcome, |out| welcome.encode(out)).await?;
    wire.allow_frames_of(FRAME_BYTES_MAX);
    Ok((hello.purpose, identity(wire, hello.node_id, hello.name, hello.cluster_id)))
}

async fn hear(wire: &mut Wire) -> Result<Hello, HandshakeError> {
    let frame = wire.next().await.map_err(HandshakeError::Receive)?;
    if frame.kind != Kind::Hello {
        return Err(unexpected(&frame, "Hello"));
    }
    Hello::decode(&frame.payload).map_err(HandshakeError::Malformed)
}

async fn refuse(wire: &mut Wire, error: &HandshakeError) -> Result<(), HandshakeError> {
    let refused = match error {
        HandshakeError::Refusing { code, text } => Refused { code: *code, text: text.clone() },
        HandshakeError::Malformed(_) | HandshakeError::Unexpected { .. } => {
            Refused { code: RefusedCode::Malformed, text: error.to_string() }
        }
        // Nobody listens.
        HandshakeError::Receive(_) | HandshakeError::Send(_) | HandshakeError::Refused { .. } => return Ok(()),
    };
    say(wire, Kind::Refused, |out| refused.encode(out)).await?;
    wire.close().await.map_err(HandshakeError::Send)
}

fn check_hello(hello: &Hello, certified: Option<&Certified>, local: &LocalIdentity) -> Result<u8, HandshakeError> {
    let version = hello.common_version().ok_or_else(|| {
        let (low, high) = (hello.version_min, hello.version_max);
        let text =
            format!("you speak protocol {low} to {high}, this node {VERSION_MIN} to {VERSION_MAX}; upgrade the older");
        refusing(RefusedCode::Version, text)
    })?;
    check_name(certified, Some(&hello.name))?;
    check_member(certified, hello.cluster_id, hello.node_id)?;
    if hello.name == local.name || (hello.node_id == local.node_id && hello.node_id != 0) {
        let text = format!(
            "this is node {:?} (node {}) and so are you: the address is your own, or two nodes have one name",
            local.name, local.node_id
        );
        return Err(refusing(RefusedCode::Yourself, text));
    }
    // Two nodes that are in no cluster may talk about who forms one, and about nothing else.
    if local.cluster_id.is_none() && hello.purpose != Purpose::Join {
        let text = format!("node {:?} is not a member of a cluster yet", local.name);
        return Err(refusing(RefusedCode::NotMember, text));
    }
    let newcomer = hello.cluster_id == [0; 16];
    if newcomer && hello.purpose != Purpose::Join {
        let text = "you are in no cluster: all you may do is join".to_owned();
        return Err(refusing(RefusedCode::Cluster, text));
    }
    if !newcomer {
        check_cluster(local.cluster_id, hello.cluster_id)?;
    }
    if !newcomer && local.cluster_id.is_some() {
        check_epoch(local.epoch, hello.epoch)?;
    }
    if !newcomer && hello.node_id == 0 {
        return Err(refusing(RefusedCode::NodeId, "a member has a node id".to_owned()));
    }
    if hello.expected_node_id != 0 && hello.expected_node_id != local.node_id {
        let text = format!("you want node {}, this is node {}", hello.expected_node_id, local.node_id);
        return Err(refusing(RefusedCode::NodeId, text));
    }
    Ok(version)
}

/// What the replicated state has to say to the claim.
fn check_known(hello: &Hello, known: &impl Fn(u64) -> Known) -> Result<(), HandshakeError> {
    if hello.node_id == 0 {
        return Ok(());
    }
    match known(hello.node_id) {
        Known::Retired => {
            let text = format!(
                "node id {} was removed from the cluster for good; to come back the node starts empty and joins anew",
                hello.node_id
            );
            Err(refusing(RefusedCode::Retired, text))
        }
        Known::Member { name } if name != hello.name => {
            let text = format!("node {} of this cluster is {name:?}, not {:?}", hello.node_id, hello.name);
            Err(refusing(RefusedCode::Name, text))
        }
        Known::Member { .. } | Known::Stranger => Ok(()),
    }
}
