//! Who belongs to the cluster: admitting, promoting, replacing, and moving leadership. One change at a time.

use super::forward::{Answer, Request};
use super::propose::{ProposeError, millis};
use super::{Consensus, Peer, Role};
use crate::raft_types::{NodeInfo, TypeConfig};
use crate::storage::Identity;
use bytes::Bytes;
use konsul_state::{Command, Outcome};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _, RaftMetrics, ServerState};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// A leadership transfer that did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("no leader to transfer from; wait for an election or check `konsulctl cluster status`")]
    NoLeader,
    #[error("no member {to:?}; members are {members}")]
    NoSuchMember { to: String, members: String },
    #[error("{to:?} is a learner: it cannot lead")]
    Learner { to: String },
    #[error("{to:?} leads already")]
    AlreadyLeads { to: String },
    #[error("no other voter to transfer to")]
    Alone,
    #[error("leadership did not move within {waited_ms} ms; {to:?} may be slow or unreachable, the old leader goes on")]
    TimedOut { to: String, waited_ms: u64 },
}

/// A node that was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("this node does not lead")]
    NotLeader,
    #[error("write the admission")]
    Propose {
        #[source]
        source: ProposeError,
    },
    #[error("add the node as a learner")]
    Learner {
        #[source]
        source: Box<RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    },
    #[error("membership change took longer than {waited_ms} ms")]
    TimedOut { waited_ms: u64 },
    #[error("the state machine answered {outcome:?} to an admission")]
    Unexpected { outcome: Outcome },
}

/// A learner this close to the end of the log is caught up.
const CAUGHT_UP: u64 = 100;
/// A membership change that takes longer is left to the next round.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The next step towards the membership that shall be; pure, so that it can be tested as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A change was begun by another leader and not finished.
    Flatten { voters: BTreeSet<u64> },
    /// A learner is caught up: it becomes a voter in place of nodes of the same name.
    Promote { learner: u64, voters: BTreeSet<u64> },
    /// Learners that were replaced before they ever voted.
    Forget { learners: BTreeSet<u64> },
}

/// What one round looks at.
#[derive(Debug, Clone)]
struct Seen {
    id: u64,
    name: String,
    voter: bool,
    /// Caught up and heard within a lease.
    sound: bool,
}

/// One change per round: first finish what was begun, then promote, then tidy up.
fn next_step(joint: bool, last_config: &BTreeSet<u64>, members: &[Seen]) -> Option<Step> {
    if joint {
        return Some(Step::Flatten { voters: last_config.clone() });
    }
    let newest = |name: &str| members.iter().filter(|m| m.name == name).map(|m| m.id).max();
    let ready = members.iter().find(|m| !m.voter && m.sound && newest(&m.name) == Some(m.id));
    if let Some(learner) = ready {
        let replaced = |id: &u64| members.iter().any(|m| m.id == *id && m.name == learner.name);
        let mut voters: BTreeSet<u64> = last_config.iter().copied().filter(|id| !replaced(id)).collect();
        voters.insert(learner.id);
        return Some(Step::Promote { learner: learner.id, voters });
    }
    let stale = members.iter().filter(|m| !m.voter && newest(&m.name) != Some(m.id));
    let learners: BTreeSet<u64> = stale.map(|m| m.id).collect();
    (!learners.is_empty()).then_some(Step::Forget { learners })
}

impl Consensus {
    /// As the first member of a new cluster: writes which one it is and that its own id is taken.
    pub async fn write_formation(&self) -> Result<(), ProposeError> {
        let Identity { cluster_id, node_id, name, .. } = &self.inner.identity;
        self.propose(&Command::Form { cluster_id: *cluster_id }).await?;
        self.propose(&Command::Admit { wished: *node_id, name }).await.map(drop)
    }

    /// Whether the state says which cluster it belongs to.
    pub fn is_formed(&self) -> bool {
        self.inner.state.view().and_then(|view| view.cluster_id()).is_ok_and(|id| id.is_some())
    }

    /// As the leader: grants a node id to a new node and makes it a learner. It is promoted when it is caught up.
    pub async fn admit(&self, wished: u64, info: NodeInfo) -> Result<u64, AdmitError> {
        if !self.leads() {
            return Err(AdmitError::NotLeader);
        }
        let admission = Command::Admit { wished, name: &info.name };
        let committed = self.propose(&admission).await.map_err(|source| AdmitError::Propose { source })?;
        let Outcome::Admitted { node_id } = committed.outcome else {
            return Err(AdmitError::Unexpected { outcome: committed.outcome });
        };
        tracing::info!(node = node_id, name = %info.name, rpc = %info.rpc, "node admitted");
        // Not blocking: openraft calls a learner caught up that it never reached.
        let added = tokio::time::timeout(CHANGE_TIMEOUT, self.inner.raft.add_learner(node_id, info, false)).await;
        let added = added.map_err(|_| AdmitError::TimedOut { waited_ms: millis(CHANGE_TIMEOUT) })?;
        added.map_err(|source| AdmitError::Learner { source: Box::new(source) })?;
        Ok(node_id)
    }

    /// One step of settling the membership, if one is due; only the leader does it.
    pub async fn settle_membership(&self) {
        let now = self.inner.raft.metrics().borrow_watched().clone();
        if now.state != ServerState::Leader || !self.contact().is_leader {
            return;
        }
        let membership = now.membership_config.membership();
        let joint = membership.get_joint_config();
        let last_config = joint.last().cloned().unwrap_or_default();
        let Some(step) = next_step(joint.len() > 1, &last_config, &self.seen(&now)) else { return };
        tracing::info!(?step, "membership changes");
        let change = match step {
            Step::Flatten { voters } | Step::Promote { voters, .. } => ChangeMembers::ReplaceAllVoters(voters),
            Step::Forget { learners } => ChangeMembers::RemoveNodes(learners),
        };
        match tokio::time::timeout(CHANGE_TIMEOUT, self.inner.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => tracing::info!("membership changed"),
            Ok(Err(error)) => tracing::warn!(%error, "membership was not changed; it is tried again"),
            Err(_) => tracing::warn!(waited_ms = millis(CHANGE_TIMEOUT), "membership change is not committed yet"),
        }
    }

    fn seen(&self, now: &RaftMetrics<TypeConfig>) -> Vec<Seen> {
        let membership = now.membership_config.membership();
        let last = now.last_log_index.unwrap_or(0);
        let seen = membership.nodes().map(|(id, info)| {
            let matched = now.replication.as_ref().and_then(|r| r.get(id)).copied().flatten();
            let heard = now.heartbeat.as_ref().and_then(|h| h.get(id)).copied().flatten();
            let near = matched.is_some_and(|m| m.index + CAUGHT_UP >= last);
            Seen {
                id: *id,
                name: info.name.clone(),
                voter: membership.voter_ids().any(|voter| voter == *id),
                sound: near && heard.is_some_and(|at| at.elapsed() < self.inner.config.lease * 2),
            }
        });
        seen.collect()
    }

    /// Moves leadership to the named member (id or name), or to the best follower. Works on every node.
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<(Peer, Peer, Duration), TransferError> {
        let started = Instant::now();
        let from = self.leader().ok_or(TransferError::NoLeader)?;
        let target = self.transfer_target(to, &from)?;
        let wait = self.inner.config.lease * 4;
        let timed_out = || TransferError::TimedOut { to: target.info.name.clone(), waited_ms: millis(wait) };
        let answer = if self.leads() {
            self.begin_transfer(target.id).await
        } else {
            let request = Bytes::from(Request::Transfer { to: target.id }.encode());
            let answer = self.inner.pool.call(from.id, &from.info, request, wait).await;
            let answer = answer.map_err(|_| TransferError::NoLeader)?;
            Answer::decode(&answer).map_err(|_| timed_out())?
        };
        if answer != Answer::Transferring {
            return Err(TransferError::NoLeader);
        }
        let mut changes = self.inner.leader_changes.clone();
        while self.leader().is_none_or(|leader| leader.id != target.id) {
            let left = wait.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(timed_out());
            }
            // Whether it changed or a moment passed: look again.
            let pause = left.min(Duration::from_millis(5));
            drop(tokio::time::timeout(pause, changes.changed()).await);
        }
        Ok((from, target, started.elapsed()))
    }

    /// As the leader: hands over. From here on the lease proves nothing in this term, whether or not it succeeds.
    pub(super) async fn begin_transfer(&self, to: u64) -> Answer {
        if !self.leads() {
            return Answer::NotLeader;
        }
        self.inner.leadership.transfer_begins();
        match self.inner.raft.trigger().transfer_leader(to).await {
            Ok(()) => Answer::Transferring,
            Err(_) => Answer::NotLeader,
        }
    }

    fn transfer_target(&self, to: Option<&str>, from: &Peer) -> Result<Peer, TransferError> {
        let status = self.status();
        let Some(to) = to else {
            let others = status.members.into_iter().filter(|m| m.voter && m.peer.id != from.id);
            // The one with the least to catch up; on a follower, who cannot tell, the lowest id.
            let best = others.min_by_key(|m| (m.lag.unwrap_or(u64::MAX), m.peer.id));
            return best.map(|m| m.peer).ok_or(TransferError::Alone);
        };
        let to = to.to_owned();
        let found = status.members.iter().find(|m| m.peer.info.name == to || m.peer.id.to_string() == to);
        let Some(member) = found else {
            let names: Vec<&str> = status.members.iter().map(|m| m.peer.info.name.as_str()).collect();
            return Err(TransferError::NoSuchMember { to, members: names.join(", ") });
        };
        match member {
            m if !m.voter => Err(TransferError::Learner { to }),
            m if m.peer.id == from.id => Err(TransferError::AlreadyLeads { to }),
            m => Ok(m.peer.clone()),
        }
    }

    /// What this node does.
    pub fn role(&self) -> Role {
        Role::of(self.inner.raft.server_metrics().borrow_watched().state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: u64, name: &str, voter: bool, sound: bool) -> Seen {
        Seen { id, name: name.to_owned(), voter, sound }
    }

    #[test]
    fn one_change_per_round_and_a_leftover_first() {
        let voters = BTreeSet::from([1, 2]);
        let members = [seen(1, "a", true, true), seen(2, "b", true, true), seen(9, "c", false, true)];
        let promoted = Step::Promote { learner: 9, voters: BTreeSet::from([1, 2, 9]) };
        assert_eq!(next_step(false, &voters, &members), Some(promoted));
        assert_eq!(next_step(true, &voters, &members), Some(Step::Flatten { voters }));
    }

    #[test]
    fn a_wiped_node_replaces_its_former_self_only_when_it_is_caught_up() {
        let voters = BTreeSet::from([1, 2, 3]);
        let mut members = vec![seen(1, "a", true, true), seen(2, "b", true, true), seen(3, "c", true, false)];
        members.push(seen(40, "c", false, false));
        assert_eq!(next_step(false, &voters, &members), None);
        members[3].sound = true;
        let replaced = Step::Promote { learner: 40, voters: BTreeSet::from([1, 2, 40]) };
        assert_eq!(next_step(false, &voters, &members), Some(replaced));
    }

    #[test]
    fn a_learner_that_was_replaced_is_forgotten() {
        let voters = BTreeSet::from([1]);
        let members = [seen(1, "a", true, true), seen(5, "b", false, true), seen(6, "b", false, false)];
        assert_eq!(next_step(false, &voters, &members), Some(Step::Forget { learners: BTreeSet::from([5]) }));
    }
}
