//! Moving leadership. From the moment it begins, the lease proves nothing in this term.

use super::super::forward::{Answer, Request};
use super::super::propose::millis;
use super::super::{Consensus, MemberStatus, Peer};
use bytes::Bytes;
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

impl Consensus {
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
    pub(in crate::raft) async fn begin_transfer(&self, to: u64) -> Answer {
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
            let fenced = self.inner.fenced_members.lock().expect("nothing panics while it holds the lock").clone();
            let may = |m: &MemberStatus| m.voter && m.peer.id != from.id && !fenced.contains(&m.peer.id);
            let others = status.members.into_iter().filter(may);
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
}
