//! Who leads, and may this node answer for it right now: a few atomics, so that a read costs no trip to the raft core.
//!
//! `state == Leader` proves nothing: an isolated leader stays in that state. A leader may answer while a quorum
//! acknowledged it less than a lease ago, since no other can be elected before the lease ends. Three things end that
//! promise, and each has its rule here:
//! - a transfer lets another be elected at once: no lease for the rest of the term, once one was started;
//! - a new leader has not yet applied what the old one acknowledged: no lease before openraft confirmed a read index;
//! - a restarted voter has forgotten whom it promised: it neither votes nor campaigns for one lease (see `node`).

use crate::clock::Clock;
use crate::raft_types::TypeConfig;
use openraft::{Instant as _, RaftMetrics, ServerState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// It never happened.
const NEVER: u64 = 0;
/// The only voter is its own quorum: it is acknowledged at any time.
const ALWAYS: u64 = u64::MAX;

/// What this node knows of the leadership. Written by one task (see `tracker`), read by everybody.
#[derive(Debug)]
pub(super) struct Leadership {
    clock: Clock,
    lease: Duration,
    /// Nanoseconds of the process clock at which a quorum last acknowledged this leader; NEVER if it does not lead.
    quorum_acked: AtomicU64,
    /// Term for which openraft confirmed that everything acknowledged before is applied here.
    confirmed_term: AtomicU64,
    /// Term in which a transfer was started.
    transfer_term: AtomicU64,
    term: AtomicU64,
    leader: AtomicU64,
    /// When this node last heard from a leader.
    heard: AtomicU64,
}

/// No node has this id: ids begin at 1.
const NOBODY: u64 = 0;

impl Leadership {
    pub(super) fn new(clock: Clock, lease: Duration) -> Leadership {
        Leadership {
            clock,
            lease,
            quorum_acked: AtomicU64::new(NEVER),
            confirmed_term: AtomicU64::new(0),
            transfer_term: AtomicU64::new(0),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(NOBODY),
            heard: AtomicU64::new(NEVER),
        }
    }

    /// Whether this node leads and a quorum acknowledged it within a lease.
    pub(super) fn has_quorum(&self) -> bool {
        self.age(&self.quorum_acked).is_some_and(|age| age < self.lease)
    }

    /// Whether a read may be answered here now, on the strength of the lease alone.
    pub(super) fn has_lease(&self) -> bool {
        // An eighth of the lease is left for clocks that run at different rates.
        let fresh = self.age(&self.quorum_acked).is_some_and(|age| age < self.lease - self.lease / 8);
        let term = self.term.load(Ordering::Acquire);
        fresh
            && self.confirmed_term.load(Ordering::Acquire) == term
            && self.transfer_term.load(Ordering::SeqCst) != term
    }

    /// The leader this node believes in, itself included; stale beliefs are none.
    pub(super) fn leader(&self, myself: u64) -> Option<u64> {
        match self.leader.load(Ordering::Acquire) {
            NOBODY => None,
            id if id == myself => self.has_quorum().then_some(id),
            id => self.heard_recently().then_some(id),
        }
    }

    /// As openraft says, believed or not: where to try.
    pub(super) fn claimed(&self) -> Option<u64> {
        Some(self.leader.load(Ordering::Acquire)).filter(|id| *id != NOBODY)
    }

    /// Since this node last heard from a leader.
    pub(super) fn since_heard(&self) -> Option<Duration> {
        self.age(&self.heard)
    }

    fn heard_recently(&self) -> bool {
        self.since_heard().is_some_and(|age| age < self.lease * 2)
    }

    /// A message of a leader arrived.
    pub(super) fn heard_now(&self) {
        self.heard.store(self.clock.now().as_nanos(), Ordering::Release);
    }

    /// The lease proves nothing from now on, until another term.
    pub(super) fn transfer_begins(&self) {
        self.transfer_term.store(self.term.load(Ordering::Acquire), Ordering::SeqCst);
    }

    /// Everything acknowledged before this term is applied here.
    pub(super) fn confirm(&self, term: u64) {
        self.confirmed_term.store(term, Ordering::Release);
    }

    pub(super) fn is_confirmed(&self, term: u64) -> bool {
        self.confirmed_term.load(Ordering::Acquire) == term
    }

    /// Takes over what openraft says.
    pub(super) fn update(&self, metrics: &RaftMetrics<TypeConfig>) {
        let leads = metrics.state == ServerState::Leader;
        if !leads {
            // First: a reader that sees the new term must not see the old acknowledgement.
            self.quorum_acked.store(NEVER, Ordering::Release);
        }
        self.term.store(metrics.current_term, Ordering::Release);
        self.leader.store(metrics.current_leader.unwrap_or(NOBODY), Ordering::Release);
        if leads {
            let now = self.clock.now().as_nanos();
            let acked = metrics.last_quorum_acked.map_or(NEVER, |at| now.saturating_sub(nanos(at.elapsed())));
            let acked = match Vote::of(metrics) {
                Vote::Only => ALWAYS,
                Vote::OneOfSeveral => acked,
                // Removed from the voters: openraft is about to hand leadership over by itself.
                Vote::None => NEVER,
            };
            self.quorum_acked.store(acked, Ordering::Release);
        }
    }

    fn age(&self, at: &AtomicU64) -> Option<Duration> {
        match at.load(Ordering::Acquire) {
            NEVER => None,
            ALWAYS => Some(Duration::ZERO),
            at => Some(Duration::from_nanos(self.clock.now().as_nanos().saturating_sub(at))),
        }
    }
}

/// What this node's vote counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vote {
    Only,
    OneOfSeveral,
    None,
}

impl Vote {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Vote {
        let membership = metrics.membership_config.membership();
        match (membership.voter_ids().any(|id| id == metrics.id), membership.voter_ids().count()) {
            (true, 1) => Vote::Only,
            (true, _) => Vote::OneOfSeveral,
            (false, _) => Vote::None,
        }
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
