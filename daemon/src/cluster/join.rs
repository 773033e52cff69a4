//! What a node that wants to become a member says, and what it is told.

use crate::clock::{Clock, Timestamp};
use crate::raft::Understands;
use konsul_state::{DecodeError, Reader, Writer};
use std::sync::Mutex;
use std::time::Duration;

const VERSION: u8 = 1;

/// A node that is no member asks for membership; or, if it means to form the cluster, for the promise not to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    pub name: String,
    /// The id it would like; 0 = no wish.
    pub wished: u64,
    pub rpc: String,
    pub http: String,
    /// Forms the cluster if a majority of the peers is in none and promises to leave it to this node.
    pub former: bool,
    /// The cluster versions that its program understands.
    pub understands: Understands,
}

/// The answer of whoever was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    /// A learner from now on, a voter when it is caught up.
    Granted {
        cluster_id: [u8; 16],
        /// How often the cluster was recovered by force.
        epoch: u32,
        node_id: u64,
    },
    /// In no cluster itself. `promised`: it leaves forming to the one who asked.
    NotMember { promised: bool },
    /// A member, but not the leader; `rpc`: where the leader listens, if known.
    NotLeader { rpc: Option<String> },
    /// No, and why.
    Refused { why: String },
}

fn version(from: &mut Reader<'_>) -> Result<(), DecodeError> {
    from.version("join version", VERSION)
}

impl JoinRequest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        out.str(&self.name);
        out.u64(self.wished);
        out.str(&self.rpc);
        out.str(&self.http);
        out.bool(self.former);
        self.understands.encode(&mut out);
        out.into_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<JoinRequest, DecodeError> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        Ok(JoinRequest {
            name: from.str("node name")?.to_owned(),
            wished: from.u64("node id")?,
            rpc: from.str("rpc address")?.to_owned(),
            http: from.str("http address")?.to_owned(),
            former: from.bool("former")?,
            understands: Understands::decode(&mut from)?,
        })
    }
}

impl JoinAnswer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION);
        match self {
            JoinAnswer::Granted { cluster_id, epoch, node_id } => {
                out.u8(0);
                out.raw(cluster_id);
                out.u64(*node_id);
                out.u64(u64::from(*epoch));
            }
            JoinAnswer::NotMember { promised } => {
                out.u8(1);
                out.bool(*promised);
            }
            JoinAnswer::NotLeader { rpc } => {
                out.u8(2);
                out.str(rpc.as_deref().unwrap_or_default());
            }
            JoinAnswer::Refused { why } => {
                out.u8(3);
                out.str(why);
            }
        }
        out.into_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<JoinAnswer, DecodeError> {
        let mut from = Reader::new(bytes);
        version(&mut from)?;
        Ok(match from.u8("join answer")? {
            0 => JoinAnswer::Granted {
                cluster_id: from.array("cluster id")?,
                node_id: from.u64("node id")?,
                // The first version knew no epoch.
                epoch: if from.rest().is_empty() { 0 } else { from.u32("epoch")? },
            },
            1 => JoinAnswer::NotMember { promised: from.bool("promised")? },
            2 => {
                let rpc = from.str("leader address")?.to_owned();
                JoinAnswer::NotLeader { rpc: Some(rpc).filter(|rpc| !rpc.is_empty()) }
            }
            3 => JoinAnswer::Refused { why: from.str("reason")?.to_owned() },
            found => return Err(DecodeError::Unknown { what: "join answer", found: found.into(), known: 3 }),
        })
    }
}

/// To whom a node that is no member leaves the forming: to one at a time.
#[derive(Debug)]
pub struct Promise {
    clock: Clock,
    holds: Duration,
    to: Mutex<Option<(String, Timestamp)>>,
}

/// Far longer than a former needs from its first promise to its first entry. Only one of the static peers ever asks.
const AMONG_PEERS: Duration = Duration::from_secs(10);
/// Any of the nodes with a bootstrap token may ask: if the first is cut off right after it formed, the others shall not
/// form a second cluster meanwhile.
const AMONG_NEWCOMERS: Duration = Duration::from_secs(600);

impl Promise {
    /// Among static peers.
    pub fn new(clock: Clock) -> Promise {
        Promise { clock, holds: AMONG_PEERS, to: Mutex::new(None) }
    }

    /// Among nodes that find each other by a bootstrap token.
    pub fn among_newcomers(clock: Clock) -> Promise {
        Promise { holds: AMONG_NEWCOMERS, ..Promise::new(clock) }
    }

    /// Whether `name` may form as far as this node is concerned; then nobody else may for a while.
    pub fn give(&self, name: &str) -> bool {
        let now = self.clock.now();
        let mut to = self.to.lock().expect("nothing panics while it holds the lock");
        if to.as_ref().is_some_and(|(other, until)| other != name && now < *until) {
            return false;
        }
        *to = Some((name.to_owned(), now.plus(self.holds)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled::survive;

    #[test]
    fn a_promise_is_given_to_one_node_at_a_time() {
        let promise = Promise::new(Clock::start());
        assert!(promise.give("a"));
        assert!(!promise.give("b"));
        assert!(promise.give("a"));
    }

    #[test]
    fn messages_survive_the_wire() {
        let (name, rpc, http) = ("a".to_owned(), "h:1".to_owned(), "http://h:2".to_owned());
        let request = JoinRequest { name, wished: 3, rpc, http, former: true, understands: Understands::OWN };
        assert_eq!(JoinRequest::decode(&request.encode()), Ok(request));
        // Programs of before say nothing of versions.
        let old = JoinRequest::decode(b"\x01\x01a\x03\x03h:1\x0ahttp://h:2\x01").unwrap();
        assert_eq!((old.http.as_str(), old.understands), ("http://h:2", Understands::UNSAID));
        for answer in [
            JoinAnswer::Granted { cluster_id: [7; 16], epoch: 2, node_id: 9 },
            JoinAnswer::NotMember { promised: true },
            JoinAnswer::NotLeader { rpc: None },
            JoinAnswer::NotLeader { rpc: Some("h:1".into()) },
            JoinAnswer::Refused { why: "no".into() },
        ] {
            assert_eq!(JoinAnswer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn mangled_messages_are_refused_without_a_panic() {
        let (name, rpc, http) = ("a".to_owned(), "h:1".to_owned(), "http://h:2".to_owned());
        let request = JoinRequest { name, wished: 3, rpc, http, former: true, understands: Understands::OWN };
        survive(&[request.encode()], |bytes| drop(JoinRequest::decode(bytes)));
        let answers = [
            JoinAnswer::Granted { cluster_id: [7; 16], epoch: 2, node_id: 9 },
            JoinAnswer::NotLeader { rpc: Some("h:1".into()) },
            JoinAnswer::Refused { why: "no".into() },
        ];
        survive(&answers.map(|answer| answer.encode()), |bytes| drop(JoinAnswer::decode(bytes)));
    }
}
