//! How long ago the log ended at some index: the lag of a peer as time, and the age of the oldest entry.

use crate::clock::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// Looks kept; the longer ago, the fewer: a look is missed the less, the smaller the gap is against how long ago it is.
const LOOKS_MAX: usize = 7200;

/// Where this node's log ended at the moments it was seen to have grown, oldest first.
#[derive(Debug, Default)]
pub(super) struct LogEnds(VecDeque<(Timestamp, u64)>);

impl LogEnds {
    /// The log ends at `end` now.
    pub(super) fn look(&mut self, now: Timestamp, end: u64) {
        let before = self.0.back().map(|(_, end)| *end);
        if before.is_some_and(|before| end < before) {
            // Cut back under another leader: what was seen is of another log.
            self.0.clear();
        }
        if before != Some(end) {
            self.0.push_back((now, end));
        }
        if self.0.len() > LOOKS_MAX {
            self.thin(now);
        }
    }

    /// Drops the look that is missed least; never the first or the last one.
    fn thin(&mut self, now: Timestamp) {
        let loss = |at: usize| {
            let gap = self.0[at + 1].0.since(self.0[at - 1].0).as_secs_f64();
            gap / now.since(self.0[at].0).as_secs_f64()
        };
        let least = (1..self.0.len() - 1).map(|at| (at, loss(at))).min_by(|(_, a), (_, b)| a.total_cmp(b));
        if let Some((at, _)) = least {
            self.0.remove(at);
        }
    }

    /// Since the log was seen to have grown beyond `matched`; at least so long it is behind. Zero if it has not.
    pub(super) fn since(&self, now: Timestamp, matched: u64) -> Duration {
        let first_beyond = self.0.partition_point(|(_, end)| *end <= matched);
        self.0.get(first_beyond).map_or(Duration::ZERO, |(at, _)| now.since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(s))
    }

    fn looked(ends: &[(u64, u64)]) -> LogEnds {
        let mut log = LogEnds::default();
        ends.iter().for_each(|(s, end)| log.look(at(*s), *end));
        log
    }

    #[test]
    fn a_peer_is_behind_since_the_log_grew_beyond_what_it_has() {
        let log = looked(&[(1, 10), (2, 20), (3, 20), (4, 20), (5, 30)]);
        for (matched, seconds) in [(30, 0), (29, 4), (20, 4), (19, 7), (10, 7), (9, 8), (0, 8)] {
            assert_eq!(log.since(at(9), matched), Duration::from_secs(seconds), "has {matched}");
        }
        assert_eq!(LogEnds::default().since(at(9), 0), Duration::ZERO, "nothing was seen yet");
    }

    #[test]
    fn a_log_that_was_cut_back_is_another_log() {
        let log = looked(&[(1, 10), (2, 50), (3, 40), (4, 45)]);
        assert_eq!(log.since(at(9), 20), Duration::from_secs(6), "since it was first seen");
        assert_eq!(log.since(at(9), 44), Duration::from_secs(5));
    }

    #[test]
    fn what_is_kept_is_bounded_and_reaches_back_to_the_start() {
        let mut log = LogEnds::default();
        (0..8_000).for_each(|s| log.look(at(s), s));
        assert_eq!(log.0.len(), LOOKS_MAX);
        assert_eq!(log.since(at(8_000), 7_998), Duration::from_secs(1));
        let far = log.since(at(8_000), 1_999).as_secs();
        assert!((5_950..=6_000).contains(&far), "of {far} s ago there is a look");
        assert_eq!(log.0.front(), Some(&(at(0), 0)));
    }

    #[test]
    fn the_oldest_entry_is_as_old_as_the_first_look_behind_what_was_purged() {
        let log = looked(&[(1, 10), (2, 20), (9, 30)]);
        assert_eq!(log.since(at(10), 0), Duration::from_secs(9), "from before the start: at least so old");
        assert_eq!(log.since(at(10), 20), Duration::from_secs(1));
        assert_eq!(log.since(at(10), 30), Duration::ZERO, "everything is purged");
    }
}
