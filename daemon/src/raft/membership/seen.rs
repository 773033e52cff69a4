//! The members as the leader sees them, and the changes it can carry out. Which change is due, others decide.
//!
//! A change is always based on what was seen: if the membership is another one by then, it is not made.

use super::super::Consensus;
use super::super::propose::{ProposeError, millis};
use super::super::status::Peer;
use crate::raft_types::{LogId, NodeInfo, TypeConfig};
use konsul_state::{Command, StateError};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::errors::ChangeMembershipError;
use openraft::{ChangeMembers, Instant as _, Precondition, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A membership change that takes longer is left to the next round, or the next leader.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose vote is counted on was heard within this time.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(10);

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// One member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSeen {
    pub peer: Peer,
    pub voter: bool,
    pub leader: bool,
    /// It is meant to stay a learner.
    pub stays_learner: bool,
    /// Its id may not speak again: it is about to be removed.
    pub retired: bool,
    /// How far its log is known to be the leader's.
    pub matched: Option<Position>,
    /// Since it last answered this leader; zero for the leader itself.
    pub silent: Option<Duration>,
    /// It did so lately: its vote can be counted on.
    pub answers: bool,
    /// Its state is not that of the others: it answers no clients, and does not vote.
    pub fenced: bool,
}

/// The membership and its members, at one moment, as the leader sees them.
#[derive(Debug, Clone)]
pub struct Seen {
    pub term: u64,
    pub last_index: u64,
    /// A change was begun and not finished.
    pub joint: bool,
    /// The newest membership is committed.
    pub settled: bool,
    pub members: Vec<MemberSeen>,
    /// Where the membership was set: what a change is based on.
    log_id: Option<LogId>,
    /// Who votes when a change that was begun is finished.
    voters: BTreeSet<u64>,
}

/// A change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Finish what was begun.
    Flatten,
    /// A learner becomes a voter; those it replaces are removed.
    Promote { id: u64, replaces: BTreeSet<u64> },
    /// A voter becomes a learner.
    Demote { id: u64 },
    /// A member is removed.
    Remove { id: u64 },
    /// A member is somewhere else.
    Move { id: u64, info: NodeInfo },
}

/// A change that was not made, or perhaps was.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("this node does not lead any more")]
    NotLeader,
    #[error("the membership is another one by now")]
    Overtaken,
    #[error("read the state")]
    State {
        #[source]
        source: StateError,
    },
    #[error("retire node {id}")]
    Retire {
        id: u64,
        #[source]
        source: ProposeError,
    },
    #[error("openraft refused the change")]
    Refused {
        #[source]
        source: Box<RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    },
    #[error("the change was not committed within {waited_ms} ms; whoever leads finishes it or drops it")]
    TimedOut { waited_ms: u64 },
}

impl Seen {
    /// As a test sees it.
    #[cfg(test)]
    pub fn of(term: u64, last_index: u64, members: Vec<MemberSeen>) -> Seen {
        let voters = members.iter().filter(|member| member.voter).map(|member| member.peer.id).collect();
        Seen { term, last_index, joint: false, settled: true, members, log_id: None, voters }
    }

    /// The member with this id.
    pub fn member(&self, id: u64) -> Option<&MemberSeen> {
        self.members.iter().find(|member| member.peer.id == id)
    }
}

impl Consensus {
    /// The term this node leads, acknowledged by a majority; `None`: it does not.
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.inner.raft.server_metrics();
        let (state, term) = {
            let now = metrics.borrow_watched();
            (now.state, now.vote.leader_id.term)
        };
        (state == ServerState::Leader && self.contact().is_leader).then_some(term)
    }

    /// Returns when leader, term or role changed.
    pub async fn leadership_changed(&self) {
        let mut changes = self.inner.leader_changes.clone();
        changes.mark_unchanged();
        if changes.changed().await.is_err() {
            // The node is stopping: whoever waits is told otherwise.
            std::future::pending::<()>().await;
        }
    }

    /// One membership change at a time: held while one is decided on and made. `None`: the node is stopping.
    pub async fn change_turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.inner.changing.acquire().await.ok()
    }

    /// A server that was silent for longer does not answer. What the policy says, but not less than two leases: on a busy
    /// machine a heartbeat may be late without anything being wrong, and elections allow for that as well.
    pub fn contact_max(&self, threshold: Duration) -> Duration {
        threshold.max(self.inner.config.lease * 2)
    }

    /// The members as this leader sees them; `None` if it does not lead.
    pub fn seen(&self) -> Result<Option<Seen>, StateError> {
        let now = self.inner.raft.metrics().borrow_watched().clone();
        if now.state != ServerState::Leader || !self.contact().is_leader {
            return Ok(None);
        }
        let view = self.inner.state.view()?;
        let learners = self.learners_in(&view)?.ids;
        let fenced = self.inner.fenced_members.lock().expect("nothing panics while it holds the lock").clone();
        let membership = now.membership_config.membership();
        let mut members = Vec::new();
        for (id, info) in membership.nodes() {
            let leader = *id == now.id;
            let matched = if leader { now.last_applied } else { matched(&now, *id) };
            let heard = now.heartbeat.as_ref().and_then(|h| h.get(id)).copied().flatten();
            let silent = if leader { Some(Duration::ZERO) } else { heard.map(|at| at.elapsed()) };
            members.push(MemberSeen {
                peer: Peer { id: *id, info: info.clone() },
                voter: membership.voter_ids().any(|voter| voter == *id),
                leader,
                stays_learner: learners.contains(id),
                retired: view.is_retired(*id)?,
                matched: matched.map(|at| Position { term: at.committed_leader_id().term, index: at.index }),
                silent,
                answers: silent.is_some_and(|silent| silent <= self.contact_max(SILENT_MAX)),
                fenced: fenced.contains(id),
            });
        }
        let joint = membership.get_joint_config();
        Ok(Some(Seen {
            term: now.current_term,
            last_index: now.last_log_index.unwrap_or(0),
            joint: joint.len() > 1,
            settled: *now.membership_config.log_id() <= now.local_committed,
            members,
            log_id: *now.membership_config.log_id(),
            voters: joint.last().cloned().unwrap_or_default(),
        }))
    }

    /// The members, and who of them answers from now on: a voter that died a moment ago must not be counted on when
    /// another one's vote is taken away. Waits for the next heartbeat, or for those who miss it.
    pub(super) async fn seen_afresh(&self) -> Result<Option<Seen>, StateError> {
        let (started, longest) = (Instant::now(), self.contact_max(SILENT_MAX));
        loop {
            let waited = started.elapsed();
            let Some(mut seen) = self.seen()? else { return Ok(None) };
            for member in &mut seen.members {
                member.answers = member.leader || member.silent.is_some_and(|silent| silent < waited);
            }
            if waited >= longest || seen.members.iter().all(|member| member.answers) {
                return Ok(Some(seen));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// As the leader: makes this change, if the membership is still the one that was seen. Ids that are removed are
    /// retired first: from then on they are removed whoever leads, and are never spoken with again.
    pub async fn carry_out(&self, seen: &Seen, change: &Change) -> Result<(), ChangeError> {
        for gone in removed_by(change) {
            self.retire(gone).await?;
        }
        let (change, retain) = to_openraft(seen, change);
        tracing::info!(?change, "the membership changes");
        let based_on = [Precondition::LastMembershipLogId { last_membership_log_id: seen.log_id }];
        let changed = self.inner.raft.change_membership_if(change, retain, based_on);
        match tokio::time::timeout(CHANGE_TIMEOUT, changed).await {
            Ok(Ok(_)) => {
                tracing::info!("the membership has changed");
                Ok(())
            }
            Ok(Err(error)) => Err(why_not(error)),
            Err(_) => Err(ChangeError::TimedOut { waited_ms: millis(CHANGE_TIMEOUT) }),
        }
    }

    async fn retire(&self, id: u64) -> Result<(), ChangeError> {
        let retired = self.inner.state.view().and_then(|view| view.is_retired(id));
        if retired.map_err(|source| ChangeError::State { source })? {
            return Ok(());
        }
        let written = self.propose(&Command::Retire { node_id: id }).await;
        written.map(drop).map_err(|source| ChangeError::Retire { id, source })
    }
}

fn matched(now: &openraft::RaftMetrics<TypeConfig>, id: u64) -> Option<LogId> {
    now.replication.as_ref().and_then(|replication| replication.get(&id)).copied().flatten()
}

fn removed_by(change: &Change) -> Vec<u64> {
    match change {
        Change::Promote { replaces, .. } => replaces.iter().copied().collect(),
        Change::Remove { id } => vec![*id],
        Change::Flatten | Change::Demote { .. } | Change::Move { .. } => Vec::new(),
    }
}

/// openraft's words for it, and whether voters that go stay as learners.
fn to_openraft(seen: &Seen, change: &Change) -> (ChangeMembers<u64, NodeInfo>, bool) {
    let voters = &seen.voters;
    let without = |gone: &BTreeSet<u64>| voters.difference(gone).copied().collect::<BTreeSet<u64>>();
    match change {
        // Whoever lost its vote stays until it is known why: who is retired is removed next, who was demoted is not.
        Change::Flatten => (ChangeMembers::ReplaceAllVoters(voters.clone()), true),
        Change::Promote { id, replaces } => {
            let mut voters = without(replaces);
            voters.insert(*id);
            (ChangeMembers::ReplaceAllVoters(voters), false)
        }
        Change::Demote { id } => (ChangeMembers::RemoveVoters(BTreeSet::from([*id])), true),
        Change::Remove { id } if voters.contains(id) => (ChangeMembers::RemoveVoters(BTreeSet::from([*id])), false),
        Change::Remove { id } => (ChangeMembers::RemoveNodes(BTreeSet::from([*id])), false),
        Change::Move { id, info } => (ChangeMembers::SetNodes(BTreeMap::from([(*id, info.clone())])), true),
    }
}

pub(super) fn why_not(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ChangeError::NotLeader,
        RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => ChangeError::Overtaken,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => ChangeError::Overtaken,
        source => ChangeError::Refused { source: Box::new(source) },
    }
}
