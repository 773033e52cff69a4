//! Alive, slow, or stalled: what a series of looks at one pulse means.
//!
//! A disk may take many seconds for a flush, and a restart would not make it faster: whoever waits for it is slow, not
//! stalled. A thread that has work, waits for no disk and does not even move is stalled, and only a restart helps.

use super::pulse::Sample;
use std::time::{Duration, Instant};

/// From here on waiting for a disk is worth telling.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// A disk that has not answered after this long never will; nor does a computation end that ran this long.
const HOPELESS: Duration = Duration::from_secs(300);

/// What is to be thought of a pulse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    /// It waits for a disk.
    Slow {
        since: Duration,
    },
    /// It has work and does nothing about it.
    Stalled {
        since: Duration,
    },
}

/// One pulse over time.
#[derive(Debug)]
pub(super) struct Judge {
    /// How long a thread may stand still with work before it.
    bound: Duration,
    done: u64,
    progress: Instant,
    switches: Option<u64>,
    still: Option<Instant>,
}

impl Judge {
    pub(super) fn new(bound: Duration, now: Instant) -> Judge {
        Judge { bound, done: 0, progress: now, switches: None, still: None }
    }

    /// `disk_waits`: whether anything here waits for a disk; asked only for what is no single thread.
    pub(super) fn look(&mut self, seen: &Sample, now: Instant, disk_waits: impl FnOnce() -> bool) -> Verdict {
        let moved = self.moved(seen);
        if seen.done >= seen.asked || seen.done != self.done {
            (self.done, self.progress, self.still) = (seen.done, now, None);
            return Verdict::Alive;
        }
        let since = now.duration_since(self.progress);
        let waits_for_disk = match seen.thread {
            Some(thread) if matches!(thread.state, 't' | 'T') => false,
            Some(thread) => thread.state == 'D' || seen.in_io,
            None => since >= SLOW && disk_waits(),
        };
        if waits_for_disk || moved {
            self.still = None;
        } else {
            self.still.get_or_insert(now);
        }
        let stands_still = self.still.is_some_and(|still| now.duration_since(still) >= self.bound);
        match since {
            since if stands_still || since >= HOPELESS => Verdict::Stalled { since },
            since if waits_for_disk && since >= SLOW => Verdict::Slow { since },
            _ => Verdict::Alive,
        }
    }

    /// Whether the thread ran since the last look, or does now.
    fn moved(&mut self, seen: &Sample) -> bool {
        let Some(thread) = seen.thread else { return false };
        let before = self.switches.replace(thread.switches);
        before != Some(thread.switches) || thread.state == 'R'
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::pulse::Thread;

    /// Looks once a second at a pulse with one thing to do; the verdict of the last look.
    fn after(seconds: u64, seen: impl Fn(u64) -> Sample, disk_waits: bool) -> Verdict {
        let began = Instant::now();
        let mut judge = Judge::new(Duration::from_secs(5), began);
        let looks = (0..=seconds).map(|s| judge.look(&seen(s), began + Duration::from_secs(s), || disk_waits));
        looks.last().unwrap()
    }

    fn sample(state: char, switches: u64, in_io: bool) -> Sample {
        Sample { asked: 1, done: 0, in_io, thread: Some(Thread { state, switches }) }
    }

    #[test]
    fn a_slow_disk_is_told_and_not_killed() {
        for seen in [sample('D', 7, true), sample('D', 7, false), sample('S', 7, true)] {
            assert_eq!(after(1, |_| seen, false), Verdict::Alive, "{seen:?}");
            assert_eq!(after(200, |_| seen, false), Verdict::Slow { since: Duration::from_secs(200) }, "{seen:?}");
            assert!(matches!(after(300, |_| seen, false), Verdict::Stalled { .. }), "{seen:?}");
        }
    }

    #[test]
    fn a_thread_that_stands_still_with_work_is_stalled() {
        for (seen, why) in [
            (sample('S', 7, false), "waits for something that is no disk"),
            (sample('t', 7, false), "is stopped"),
            (sample('t', 7, true), "is stopped beside a disk"),
        ] {
            assert_eq!(after(5, |_| seen, false), Verdict::Alive, "{why}");
            assert!(matches!(after(7, |_| seen, false), Verdict::Stalled { .. }), "{why}");
        }
    }

    #[test]
    fn a_thread_that_moves_has_time() {
        assert_eq!(after(60, |second| sample('S', second, false), false), Verdict::Alive);
        assert_eq!(after(60, |_| sample('R', 7, false), false), Verdict::Alive);
        assert!(matches!(after(300, |_| sample('R', 7, false), false), Verdict::Stalled { .. }));
    }

    #[test]
    fn progress_and_idleness_are_life() {
        let idle = Sample { asked: 3, done: 3, in_io: false, thread: Some(Thread { state: 'S', switches: 7 }) };
        assert_eq!(after(600, |_| idle, false), Verdict::Alive);
        let steady = |second| Sample { asked: second + 2, done: second, ..sample('S', 7, false) };
        assert_eq!(after(600, steady, false), Verdict::Alive);
    }

    #[test]
    fn what_is_no_single_thread_is_excused_by_any_disk() {
        let seen = Sample { asked: 1, done: 0, in_io: false, thread: None };
        assert!(matches!(after(9, |_| seen, false), Verdict::Stalled { .. }));
        assert!(matches!(after(100, |_| seen, true), Verdict::Slow { .. }));
    }
}
