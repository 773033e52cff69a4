//! What autopilot knows of the members: what the leader sees now, and since when it is so.
//!
//! A new leader knows nothing of the past: every member is heard anew, and its time of stability begins with the term.

use super::Limits;
use super::plan::{Inputs, Server};
use super::report::{Report, ServerReport};
use crate::clock::Timestamp;
use crate::raft::{MemberSeen, Seen};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Entries younger than this do not count as missing: under load some are always on their way.
const GRACE: Duration = Duration::from_millis(200);

/// What was seen of the members in this term.
#[derive(Debug)]
pub(super) struct Tracker {
    /// When the term began.
    began: Timestamp,
    members: BTreeMap<u64, History>,
    /// Where the log ended at the moments of the last rounds, oldest first.
    ends: VecDeque<(Timestamp, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct History {
    healthy: bool,
    /// Since when it is so.
    since: Timestamp,
    heard_at: Timestamp,
}

impl Tracker {
    pub(super) fn new(began: Timestamp) -> Tracker {
        Tracker { began, members: BTreeMap::new(), ends: VecDeque::new() }
    }

    /// Takes over what is seen now.
    pub(super) fn look(&mut self, seen: &Seen, limits: &Limits, now: Timestamp) {
        self.ends.push_back((now, seen.last_index));
        // The newest that is old enough, and all younger ones.
        while self.ends.get(1).is_some_and(|(at, _)| now.since(*at) >= GRACE) {
            self.ends.pop_front();
        }
        let due = self.ends.front().map_or(seen.last_index, |(_, end)| *end);
        self.members.retain(|id, _| seen.member(*id).is_some());
        for member in &seen.members {
            let healthy = is_healthy(member, due, limits);
            let history = self.members.entry(member.peer.id).or_insert(History { healthy, since: now, heard_at: now });
            if history.healthy != healthy {
                *history = History { healthy, since: now, ..*history };
            }
            if let Some(silent) = member.silent {
                let heard_at = Timestamp::from_start(now.elapsed().saturating_sub(silent));
                history.heard_at = history.heard_at.max(heard_at).max(self.began);
            }
        }
    }

    fn history(&self, member: &MemberSeen) -> History {
        let unseen = History { healthy: false, since: self.began, heard_at: self.began };
        self.members.get(&member.peer.id).copied().unwrap_or(unseen)
    }

    /// What the plan is made of.
    pub(super) fn inputs(&self, seen: &Seen, seats: usize) -> Inputs {
        let server = |member: &MemberSeen| {
            let History { healthy, since, heard_at } = self.history(member);
            Server {
                id: member.peer.id,
                name: member.peer.info.name.clone(),
                voter: member.voter,
                leader: member.leader,
                stays_learner: member.stays_learner,
                retired: member.retired,
                healthy,
                stable_since: since.as_millis(),
                heard_at: heard_at.as_millis(),
            }
        };
        let servers = seen.members.iter().map(server).collect();
        Inputs { seats, joint: seen.joint, settled: seen.settled, servers }
    }

    /// What others are told. `wall`: milliseconds since 1970, now.
    pub(super) fn report(&self, seen: &Seen, now: Timestamp, wall: u64, notes: &[String]) -> Report {
        let server = |member: &MemberSeen| {
            let History { healthy, since, heard_at } = self.history(member);
            let stable_ms = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
            let silent = if member.leader { Duration::ZERO } else { now.since(heard_at) };
            ServerReport {
                id: member.peer.id,
                name: member.peer.info.name.clone(),
                rpc: member.peer.info.rpc.clone(),
                http: member.peer.info.http.clone(),
                leader: member.leader,
                voter: member.voter,
                stays_learner: member.stays_learner,
                alive: member.answers,
                healthy,
                stable_since_ms: wall.saturating_sub(stable_ms),
                last_contact_us: u64::try_from(silent.as_micros()).unwrap_or(u64::MAX),
                last_term: member.matched.map_or(0, |at| at.term),
                last_index: member.matched.map_or(0, |at| at.index),
            }
        };
        Report::new(seen.term, seen.members.iter().map(server).collect(), notes.to_vec())
    }
}

fn is_healthy(member: &MemberSeen, due: u64, limits: &Limits) -> bool {
    let near = member.matched.is_some_and(|at| at.index.saturating_add(limits.trailing_max) >= due);
    let well = member.leader || (near && member.silent.is_some_and(|silent| silent <= limits.contact_max));
    well && !member.fenced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Peer, Position};
    use crate::raft_types::NodeInfo;

    const LIMITS: Limits = Limits { contact_max: Duration::from_millis(700), trailing_max: 250 };

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(ms))
    }

    fn member(id: u64, matched: Option<u64>, silent_ms: Option<u64>) -> MemberSeen {
        MemberSeen {
            peer: Peer { id, info: NodeInfo { name: format!("n{id}"), ..NodeInfo::default() } },
            voter: true,
            leader: id == 1,
            stays_learner: false,
            retired: false,
            matched: matched.map(|index| Position { term: 2, index }),
            silent: silent_ms.map(Duration::from_millis),
            answers: silent_ms.is_some(),
            fenced: false,
        }
    }

    fn seen(last_index: u64, members: Vec<MemberSeen>) -> Seen {
        Seen::of(2, last_index, members)
    }

    fn server(tracker: &Tracker, seen: &Seen, id: u64) -> Server {
        tracker.inputs(seen, 3).servers.into_iter().find(|server| server.id == id).unwrap()
    }

    #[test]
    fn stability_begins_anew_with_each_change_of_health() {
        let mut tracker = Tracker::new(at(0));
        for (ms, silent, healthy, since) in [
            (100, 10, true, 100),
            (200, 20, true, 100),
            (900, 701, false, 900),
            (1000, 800, false, 900),
            (1100, 5, true, 1100),
        ] {
            let seen = seen(10, vec![member(1, Some(10), Some(0)), member(2, Some(10), Some(silent))]);
            tracker.look(&seen, &LIMITS, at(ms));
            let two = server(&tracker, &seen, 2);
            assert_eq!((two.healthy, two.stable_since), (healthy, since), "at {ms}");
        }
    }

    #[test]
    fn entries_on_their_way_are_not_missing_and_a_log_that_stays_behind_is() {
        let mut tracker = Tracker::new(at(0));
        let look = |tracker: &mut Tracker, ms, end, matched| {
            let seen = seen(end, vec![member(1, Some(end), Some(0)), member(2, matched, Some(1))]);
            tracker.look(&seen, &LIMITS, at(ms));
            server(tracker, &seen, 2).healthy
        };
        assert!(!look(&mut tracker, 0, 1000, None), "nothing of its log is known");
        assert!(look(&mut tracker, 100, 5000, Some(1000)), "4000 entries came within the last moment");
        assert!(look(&mut tracker, 200, 9000, Some(1000)));
        assert!(!look(&mut tracker, 300, 9000, Some(1000)), "by now it should have those of the second round");
        assert!(look(&mut tracker, 500, 9000, Some(8750)));
        assert!(!look(&mut tracker, 600, 9000, Some(8749)));
    }

    #[test]
    fn a_member_that_is_fenced_is_not_well_however_quickly_it_answers() {
        let mut tracker = Tracker::new(at(0));
        for (ms, fenced) in [(100, false), (200, true), (300, false)] {
            let two = MemberSeen { fenced, ..member(2, Some(10), Some(1)) };
            let seen = seen(10, vec![member(1, Some(10), Some(0)), two]);
            tracker.look(&seen, &LIMITS, at(ms));
            assert_eq!(server(&tracker, &seen, 2).healthy, !fenced, "at {ms}");
        }
    }

    #[test]
    fn silence_is_counted_from_the_last_word_or_from_when_it_was_first_expected() {
        let mut tracker = Tracker::new(at(1000));
        let members = vec![member(1, Some(9), Some(0)), member(2, Some(9), Some(3000)), member(3, None, None)];
        let first = seen(9, members);
        tracker.look(&first, &LIMITS, at(5000));
        assert_eq!(server(&tracker, &first, 2).heard_at, 5000, "it was first seen now");
        assert_eq!(server(&tracker, &first, 3).heard_at, 5000);
        let later = seen(9, vec![member(1, Some(9), Some(0)), member(2, Some(9), Some(500)), member(3, None, None)]);
        tracker.look(&later, &LIMITS, at(7000));
        assert_eq!(server(&tracker, &later, 2).heard_at, 6500);
        assert_eq!(server(&tracker, &later, 3).heard_at, 5000);
        tracker.look(&seen(9, vec![member(1, Some(9), Some(0))]), &LIMITS, at(8000));
        tracker.look(&later, &LIMITS, at(9000));
        assert_eq!(server(&tracker, &later, 3).heard_at, 9000, "a member that was away is a new one");
    }
}
