//! Out of touch: a node that moved tells the others where it is, and one that was removed hears that it was.
//!
//! A node that hears no leader, whose address is not the one in the membership, or whose own state says that it is to
//! go, greets the other members: "I am node 7, at this address". Whoever is greeted remembers the address, so that the
//! two can talk, elect a leader, and let that one write the address into the membership. And it tells whether node 7
//! still belongs to the cluster: if not, that is final, because ids are never granted twice, and node 7 ends.
//!
//! An address is believed from the node itself only, over a connection that proved who it is. Where a member is said to
//! be elsewhere by this node's own configuration, it is tried there, too.

use super::super::Consensus;
use super::super::forward::{Answer, Request};
use super::super::status::Peer;
use super::seen::{Change, ChangeError};
use crate::peer::{CallError, ConnectError, HandshakeError, NotSentReason, RefusedCode};
use crate::raft_types::NodeInfo;
use bytes::Bytes;
use konsul_state::StateError;
use openraft::async_runtime::watch::WatchReceiver;
use rand::Rng;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

/// What a node is to the one that was greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Member,
    /// Not in the membership as far as the answering node knows; it may be behind.
    Stranger,
    /// Removed for good.
    Gone,
}

/// How often it is looked whether greeting is due.
const LOOK: Duration = Duration::from_millis(250);
/// Between two rounds of greetings, growing from the one to the other.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A node that is leaving waits for a change that takes a few round trips.
const PAUSE_LEAVING_MAX: Duration = Duration::from_secs(1);
/// For one greeting.
const ANSWER: Duration = Duration::from_secs(2);
/// Leases without a leader before the others are asked: an election takes two or three.
const LEASES_SILENT: u32 = 6;

/// Why others are greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Moved,
    Leaderless,
    Leaving,
}

impl Consensus {
    /// Waits until this node hears that it belongs to the cluster no more: the reason, for people.
    pub async fn departure(&self) -> String {
        let mut departed = self.inner.departed.subscribe();
        let reason = departed.wait_for(Option::is_some).await.map(|reason| reason.clone());
        // The sender lives in `inner`, which `self` holds.
        reason.ok().flatten().unwrap_or_default()
    }

    /// Whether it has heard that.
    pub(in crate::raft) fn has_departed(&self) -> bool {
        self.inner.departed.borrow().is_some()
    }

    /// Waits until a member says that the cluster was recovered and went on without this node: from then on it neither
    /// votes nor answers.
    pub(in crate::raft) async fn stay_behind(self) {
        let why = tokio::select! {
            () = self.inner.stop.cancelled() => return,
            why = self.inner.pool.left_behind() => why,
        };
        tracing::error!(%why, "left behind: this node stops for good; its data is kept");
        self.inner.left_behind.store(true, Ordering::SeqCst);
        self.departs(why);
    }

    /// Whether it departs because the cluster went on without it, and not because it was removed.
    pub fn is_left_behind(&self) -> bool {
        self.inner.left_behind.load(Ordering::SeqCst)
    }

    /// Speaks to every other member once.
    pub(in crate::raft) async fn hear_all(&self) {
        self.greet_all(Why::Leaderless).await;
    }

    pub(super) fn departs(&self, reason: String) {
        // What it is no member of, it must not disturb either.
        self.inner.raft.runtime_config().elect(false);
        self.inner.departed.send_replace(Some(reason));
    }

    /// Whether this id was removed for good: retired, and in no membership that is committed. While its removal is under
    /// way its vote may still be needed.
    pub fn is_gone(&self, id: u64) -> Result<bool, StateError> {
        if !self.inner.state.view()?.is_retired(id)? {
            return Ok(false);
        }
        let now = self.inner.raft.metrics().borrow_watched().clone();
        let memberships = [now.membership_config, now.committed_membership_config];
        Ok(memberships.iter().all(|stored| stored.membership().get_node(&id).is_none()))
    }

    /// Greets the others whenever there is reason to, as long as the node runs.
    pub(in crate::raft) async fn keep_in_touch(self) {
        let mut state = self.watches().on_cluster();
        let mut pause = PAUSE_MIN;
        loop {
            let wait = match self.reason_to_greet() {
                Some(why) => {
                    self.greet_all(why).await;
                    let jittered = pause.mul_f64(rand::rng().random_range(0.75..1.25));
                    let longest = if why == Why::Leaving { PAUSE_LEAVING_MAX } else { PAUSE_MAX };
                    pause = (pause * 2).min(longest);
                    jittered
                }
                None => {
                    pause = PAUSE_MIN;
                    LOOK
                }
            };
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // Its own retirement may be in it: no need to wait.
                _ = state.changed() => pause = PAUSE_MIN,
            }
        }
    }

    fn reason_to_greet(&self) -> Option<Why> {
        if self.has_departed() {
            return None;
        }
        let (myself, contact) = (self.inner.identity.node_id, self.contact());
        match self.inner.state.view().and_then(|view| view.is_retired(myself)) {
            Ok(true) => return Some(Why::Leaving),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot read whether this node was retired"),
        }
        if self.stated(myself).is_some_and(|stated| stated != self.inner.info) {
            return Some(Why::Moved);
        }
        let silent_max = self.inner.config.lease * LEASES_SILENT;
        let up_long = self.inner.clock.now().since(self.inner.votes_from) >= silent_max;
        let silent = contact.since_heard.map_or(up_long, |since| since >= silent_max);
        (!contact.known_leader && silent).then_some(Why::Leaderless)
    }

    /// What the membership says of this node.
    fn stated(&self, id: u64) -> Option<NodeInfo> {
        self.peer(id).map(|peer| peer.info)
    }

    async fn greet_all(&self, why: Why) {
        let myself = self.inner.identity.node_id;
        if why == Why::Moved && self.leading_term().is_some() {
            // Nobody else has to be told: the membership tells them.
            self.write_address(myself, self.inner.info.clone()).await;
            return;
        }
        let others: Vec<Peer> = self.status().members.into_iter().map(|member| member.peer).collect();
        let mut greetings = JoinSet::new();
        for other in others.into_iter().filter(|other| other.id != myself) {
            let elsewhere = self.inner.hints.get(&other.info.name).filter(|rpc| **rpc != other.info.rpc).cloned();
            let (this, target) = (self.clone(), other.clone());
            greetings.spawn(async move { this.greet(target, None).await });
            if let Some(address) = elsewhere {
                let this = self.clone();
                greetings.spawn(async move { this.greet(other, Some(address)).await });
            }
        }
        while let Some(greeted) = greetings.join_next().await {
            if let Ok(Some((by, Standing::Gone))) = greeted {
                let name = &self.inner.identity.name;
                self.departs(format!("node {myself} ({name}) was removed from the cluster, says {by}"));
                return;
            }
        }
    }

    /// `at`: another address than the one that is known, tried over a connection of its own.
    async fn greet(&self, other: Peer, at: Option<String>) -> Option<(String, Standing)> {
        let request = Bytes::from(Request::Greet { info: self.inner.info.clone() }.encode());
        let answer = match &at {
            None => self.inner.pool.call(other.id, &other.info, request, ANSWER).await,
            Some(address) => {
                let info = NodeInfo { rpc: address.clone(), ..other.info.clone() };
                self.inner.pool.call_apart(other.id, &info, request, ANSWER).await
            }
        };
        let name = other.info.name;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if is_refused_as_gone(&error) => return Some((name, Standing::Gone)),
            Err(error) => {
                tracing::debug!(peer = %name, %error, "not greeted");
                return None;
            }
        };
        if let Some(address) = at {
            tracing::info!(node = other.id, %name, %address, "a member is where the configuration says");
            self.inner.pool.heard_at(other.id, &address);
        }
        match Answer::decode(&answer) {
            Ok(Answer::Greeted(standing)) => Some((name, standing)),
            Ok(_) | Err(_) => None,
        }
    }

    /// A member says where it is.
    pub(in crate::raft) async fn greeted(&self, id: u64, info: NodeInfo) -> Answer {
        match self.is_gone(id) {
            Ok(true) => return Answer::Greeted(Standing::Gone),
            Ok(false) => {}
            Err(error) => return Answer::Unreadable(error.to_string()),
        }
        let Some(stated) = self.stated(id) else { return Answer::Greeted(Standing::Stranger) };
        if stated != info && stated.name == info.name {
            if stated.rpc != info.rpc {
                self.inner.pool.heard_at(id, &info.rpc);
            }
            if self.leading_term().is_some() {
                let this = self.clone();
                self.inner.tasks.spawn_on(async move { this.write_address(id, info).await }, &self.inner.runtime);
            }
        }
        Answer::Greeted(Standing::Member)
    }

    /// As the leader: what it says of itself is what the membership says from now on.
    async fn write_address(&self, id: u64, info: NodeInfo) {
        let Some(_turn) = self.change_turn().await else { return };
        let seen = match self.seen() {
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read the membership");
                return;
            }
        };
        // Said twice, written once; and what was begun is finished first, by autopilot.
        let news = seen.member(id).is_some_and(|member| member.peer.info != info && member.peer.info.name == info.name);
        if !news || seen.joint || !seen.settled {
            return;
        }
        let (rpc, http) = (info.rpc.clone(), info.http.clone());
        match self.carry_out(&seen, &Change::Move { id, info }).await {
            Ok(()) => tracing::info!(node = id, %rpc, %http, "a member has another address"),
            Err(ChangeError::NotLeader | ChangeError::Overtaken) => {}
            Err(error) => {
                tracing::warn!(node = id, %error, "the address of a member was not written; it will say it again")
            }
        }
    }
}

fn is_refused_as_gone(error: &CallError) -> bool {
    let CallError::NotSent { reason: NotSentReason::Connect(error), .. } = error else { return false };
    let ConnectError::Handshake { source: HandshakeError::Refused { code, .. }, .. } = error.as_ref() else {
        return false;
    };
    *code == RefusedCode::Retired
}
