//! The cluster as this node sees it, for people and programs.

use super::forward::{Answer, Request};
use super::propose::millis;
use super::{Consensus, ReadError};
use crate::raft_types::NodeInfo;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// Not (yet) a member, or stopping.
    Joining,
}

impl Role {
    pub(super) fn of(state: ServerState) -> Role {
        match state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Joining,
        }
    }
}

/// A member as the answering node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub id: u64,
    pub info: NodeInfo,
}

/// What this node knows of its leader right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// A leader is known and, if it is this node, a quorum acknowledged it within a lease.
    pub known_leader: bool,
    /// This node leads.
    pub is_leader: bool,
    /// Since the leader was heard; zero on the leader; `None` if never.
    pub since_heard: Option<Duration>,
}

/// One member in a [`Status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub peer: Peer,
    pub voter: bool,
    pub is_leader: bool,
    /// Entries behind the leader; only the leader knows.
    pub lag: Option<u64>,
    /// Since it last answered the leader; only the leader knows.
    pub last_contact: Option<Duration>,
}

/// The cluster as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// A UUID; `None` before the node is a member.
    pub cluster_id: Option<[u8; 16]>,
    pub node: Peer,
    pub role: Role,
    pub term: u64,
    pub last_log_index: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub contact: Contact,
    pub leader: Option<Peer>,
    pub members: Vec<MemberStatus>,
    /// Voters of whom a majority has to agree; two sets, and a majority of each, while the members change.
    pub voter_sets: Vec<BTreeSet<u64>>,
    /// The membership is committed and no change of it is under way.
    pub settled: bool,
    /// Log index that set the membership.
    pub membership_index: u64,
    /// Why this node takes no writes, if so ("disk full: …").
    pub read_only: Option<String>,
    /// Why this node answers nobody, if so: its state is not that of the others.
    pub fenced: Option<String>,
}

/// A snapshot of this node's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub index: u64,
    pub term: u64,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

/// How often the core is asked again for a snapshot that is waited for.
const SNAPSHOT_LOOK: Duration = Duration::from_millis(200);
/// How long the leader may take to answer with its report.
const REPORT: Duration = Duration::from_secs(2);
/// A voter that was silent for longer does not answer.
const ANSWERS: Duration = Duration::from_secs(1);
/// A node that is further behind than this is not ready.
const LAG_MAX: u64 = 1000;

/// A node's UUID, as Consul's clients expect one: it follows from the cluster and the node id, and never changes.
pub fn node_uuid(cluster_id: [u8; 16], node_id: u64) -> String {
    let hash = Sha256::new().chain_update(cluster_id).chain_update(node_id.to_be_bytes()).finalize();
    let bytes: [u8; 16] = hash[..16].try_into().expect("a SHA-256 has 32 bytes");
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

impl Status {
    /// One line for people: what this node does, in which term, and how far it is.
    pub fn in_words(&self) -> String {
        let role = match self.role {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
            Role::Joining => "member that hears nothing of its cluster yet",
        };
        let who = match &self.leader {
            Some(_) if self.contact.is_leader => {
                let answers = |m: &&MemberStatus| m.voter && m.last_contact.is_some_and(|age| age < ANSWERS);
                let (voters, answer) =
                    (self.members.iter().filter(|m| m.voter).count(), self.members.iter().filter(answers).count());
                format!("leader, {answer} of {voters} voters answer")
            }
            Some(leader) => format!("{role} of {}", leader.info.name),
            None if self.role == Role::Leader => "leader whom no majority answers: takes no writes".to_owned(),
            None => format!("{role}, no leader is known"),
        };
        let behind = match self.contact.is_leader {
            true => self.members.iter().filter_map(|m| Some((m.lag?, &m.peer.info.name))).max(),
            false => None,
        };
        let lag = match behind {
            Some((lag, name)) if lag > LAG_MAX => format!(", {name} is {lag} entries behind"),
            Some(_) => String::new(),
            None => format!(", {} entries behind", self.commit_index.saturating_sub(self.applied_index)),
        };
        let read_only = self.read_only.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        let fenced = if self.fenced.is_some() { "; fenced: its state is not that of the others" } else { "" };
        format!("{who}, term {}{lag}{read_only}{fenced}", self.term)
    }
}

impl Consensus {
    /// Cheap: a few atomics.
    pub fn contact(&self) -> Contact {
        let myself = self.inner.identity.node_id;
        let leader = self.inner.leadership.leader(myself);
        let is_leader = leader == Some(myself);
        let since_heard = if is_leader { Some(Duration::ZERO) } else { self.inner.leadership.since_heard() };
        Contact { known_leader: leader.is_some(), is_leader, since_heard }
    }

    /// This node leads, as far as openraft knows; whether it may answer is another question.
    pub(super) fn leads(&self) -> bool {
        self.inner.leadership.claimed() == Some(self.inner.identity.node_id)
    }

    /// Another node that openraft takes for the leader, acknowledged or not: where to try.
    pub(super) fn claimed_leader(&self) -> Option<Peer> {
        let id = self.inner.leadership.claimed().filter(|id| *id != self.inner.identity.node_id)?;
        self.peer(id)
    }

    /// The acknowledged leader, if one is known.
    pub fn leader(&self) -> Option<Peer> {
        self.peer(self.inner.leadership.leader(self.inner.identity.node_id)?)
    }

    /// The member with this id.
    pub fn member(&self, id: u64) -> Option<Peer> {
        self.peer(id)
    }

    pub(super) fn peer(&self, id: u64) -> Option<Peer> {
        let metrics = self.inner.raft.server_metrics();
        let now = metrics.borrow_watched();
        now.membership_config.membership().get_node(&id).map(|info| Peer { id, info: info.clone() })
    }

    /// What this node does.
    pub fn role(&self) -> Role {
        Role::of(self.inner.raft.server_metrics().borrow_watched().state)
    }

    /// As the leader of this term: what others are told when they ask for the report.
    pub fn publish_report(&self, term: u64, report: Bytes) {
        *self.inner.report.lock().expect("nothing panics while it holds the lock") = Some((term, report));
    }

    /// The report of the term this node leads.
    pub(super) fn published_report(&self) -> Option<Bytes> {
        let term = self.leading_term()?;
        let report = self.inner.report.lock().expect("nothing panics while it holds the lock");
        report.as_ref().filter(|(of, _)| *of == term).map(|(_, report)| report.clone())
    }

    /// What the leader's autopilot published last; from whichever node is asked. `None`: there is no leader, or it has
    /// published nothing yet.
    pub async fn report(&self) -> Option<Bytes> {
        if let Some(report) = self.published_report() {
            return Some(report);
        }
        let leader = self.claimed_leader()?;
        let request = Bytes::from(Request::Report.encode());
        let answer = self.inner.pool.call(leader.id, &leader.info, request, REPORT).await.ok()?;
        match Answer::decode(&answer) {
            Ok(Answer::Report(report)) => Some(report),
            Ok(_) | Err(_) => None,
        }
    }

    /// Everything about the cluster as seen from here.
    pub fn status(&self) -> Status {
        let now = self.inner.raft.metrics().borrow_watched().clone();
        let membership = now.membership_config.membership();
        let last = now.last_log_index.unwrap_or(0);
        let leader = self.leader();
        let leading = now.state == ServerState::Leader;
        let members = membership.nodes().map(|(id, info)| {
            let myself = leading && *id == now.id;
            let matched = now.replication.as_ref().and_then(|r| r.get(id)).map(|m| m.map_or(0, |m| m.index));
            let heard = now.heartbeat.as_ref().and_then(|h| h.get(id)).copied().flatten();
            MemberStatus {
                peer: Peer { id: *id, info: info.clone() },
                voter: membership.voter_ids().any(|voter| voter == *id),
                is_leader: leader.as_ref().is_some_and(|l| l.id == *id),
                lag: if myself { Some(0) } else { matched.map(|m| last.saturating_sub(m)) },
                last_contact: if myself { Some(Duration::ZERO) } else { heard.map(|at| at.elapsed()) },
            }
        });
        let members = members.collect();
        let index = |id: Option<crate::raft_types::LogId>| id.map_or(0, |id| id.index);
        let voter_sets = membership.get_joint_config().clone();
        Status {
            settled: voter_sets.len() == 1 && *now.membership_config.log_id() <= now.local_committed,
            voter_sets,
            membership_index: index(*now.membership_config.log_id()),
            cluster_id: Some(self.inner.identity.cluster_id),
            node: Peer { id: now.id, info: self.inner.info.clone() },
            role: Role::of(now.state),
            term: now.current_term,
            last_log_index: last,
            commit_index: index(now.local_committed),
            applied_index: index(now.last_applied),
            snapshot_index: index(now.snapshot),
            contact: self.contact(),
            leader,
            members,
            read_only: self.inner.space.read_only(),
            fenced: self.fenced(),
        }
    }

    /// Why this node is not ready to serve, one sentence a reason; empty = ready.
    pub fn not_ready(&self) -> Vec<String> {
        let status = self.status();
        let mut reasons = Vec::new();
        if self.inner.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            reasons.push("the node is stopping".to_owned());
        }
        if let Some(reason) = &*self.inner.departed.borrow() {
            reasons.push(reason.clone());
        }
        if !status.members.iter().any(|m| m.peer.id == status.node.id) {
            reasons.push("the node is not a member of the cluster yet".to_owned());
        }
        if !status.contact.known_leader {
            let heard = status.contact.since_heard;
            let since = heard.map_or_else(|| "since its start".to_owned(), |age| format!("for {} ms", millis(age)));
            reasons.push(format!("no cluster leader: none was heard {since}"));
        }
        let behind = status.commit_index.saturating_sub(status.applied_index);
        if behind > LAG_MAX {
            reasons.push(format!("the node is catching up: {behind} committed entries are not applied yet"));
        }
        reasons.extend(status.read_only);
        reasons.extend(status.fenced.map(|why| format!("the node is fenced: {why}")));
        reasons
    }

    /// Builds a snapshot of this node's state now.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, ReadError> {
        self.unfenced()?;
        let applied = self.inner.raft.metrics().borrow_watched().last_applied.map_or(0, |id| id.index);
        let mut metrics = self.inner.raft.metrics();
        while metrics.borrow_watched().snapshot.map_or(0, |id| id.index) < applied {
            // Asked again while it waits: a snapshot that was being built already may end before this index.
            self.inner.raft.trigger().snapshot().await.map_err(|_| ReadError::Stopping)?;
            if let Ok(gone) = tokio::time::timeout(SNAPSHOT_LOOK, metrics.changed()).await {
                gone.map_err(|_| ReadError::Stopping)?;
            }
        }
        let newest = self.inner.state.newest_snapshot().ok_or(ReadError::Stopping)?;
        let last = newest.meta.last_log_id;
        Ok(SnapshotInfo {
            index: last.map_or(0, |id| id.index),
            term: last.map_or(0, |id| id.committed_leader_id().term),
            bytes: newest.file.len,
            sha256: newest.file.sha256,
        })
    }
}
