//! What one method has found, when it is to be asked again, and what of an answer is news. Pure: time and chance come
//! in as values.

use crate::clock::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// What one method answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// `ip:port`, the one to try first in front.
    pub(super) points: Vec<String>,
    /// How long this holds, as far as whoever answered knows.
    pub(super) ttl: Duration,
    /// What was there but leads nowhere, in words.
    pub(super) wrong: Vec<String>,
}

/// Why a method gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What was attempted; the same as long as the same thing fails.
    pub(super) what: String,
    /// With all its causes, which may differ each time.
    pub(super) why: String,
}

/// What is worth saying aloud; repeats are for the curious.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Other contact points than before, or the same after a failure.
    Points,
    /// There are none.
    Empty,
    /// It failed, or in another way than before.
    Failing,
    /// As before.
    Nothing,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Points,
    Empty,
    Failing { what: String, why: String },
}

/// The memory of one method.
#[derive(Debug)]
pub(super) struct Track {
    points: Vec<String>,
    wrong: BTreeSet<String>,
    due: Timestamp,
    /// Without contact points, in a row.
    failures: u32,
    said: Said,
}

const BACKOFF_MIN: Duration = Duration::from_millis(250);
/// Records that were just added are seen after this long at the latest.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A TTL of zero means "do not keep"; asking more often than this helps nobody.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);
/// What was wrong may be mended at any time.
const WRONG_TTL_MAX: Duration = Duration::from_secs(30);

/// How long to wait after so many tries in vain: doubles up to `max`; `chance`, from 0 to 1, takes up to a half of it,
/// so that nodes that were started together do not ask together.
pub(super) fn backoff(tries: u32, max: Duration, chance: f64) -> Duration {
    let full = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(tries)).min(max);
    full.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
}

impl Track {
    pub(super) fn new() -> Track {
        Track {
            points: Vec::new(),
            wrong: BTreeSet::new(),
            due: Timestamp::default(),
            failures: 0,
            said: Said::Nothing,
        }
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due <= now
    }

    pub(super) fn points(&self) -> &[String] {
        &self.points
    }

    /// Why the last attempt failed, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        match &self.said {
            Said::Failing { why, .. } => Some(why),
            Said::Nothing | Said::Points | Said::Empty => None,
        }
    }

    /// Takes an answer; tells what is new, and which wrong records were not there before.
    pub(super) fn answered(&mut self, answer: Answer, now: Timestamp, chance: f64) -> (News, Vec<String>) {
        let wrong: BTreeSet<String> = answer.wrong.into_iter().collect();
        let new_wrong = wrong.difference(&self.wrong).cloned().collect();
        let pause = if answer.points.is_empty() {
            // Not the TTL of "there is nothing": records are added while nodes wait for them.
            let pause = backoff(self.failures, BACKOFF_MAX, chance);
            self.failures = self.failures.saturating_add(1);
            pause
        } else {
            self.failures = 0;
            answer.ttl.clamp(TTL_MIN, if wrong.is_empty() { TTL_MAX } else { WRONG_TTL_MAX })
        };
        let (said, news) = if answer.points.is_empty() {
            (Said::Empty, if self.said == Said::Empty { News::Nothing } else { News::Empty })
        } else {
            let same = self.said == Said::Points && sorted(&self.points) == sorted(&answer.points);
            (Said::Points, if same { News::Nothing } else { News::Points })
        };
        self.due = now.plus(pause);
        self.wrong = wrong;
        self.points = answer.points;
        self.said = said;
        (news, new_wrong)
    }

    /// Takes a failure. What was found before stays: an old contact point is better than none.
    pub(super) fn failed(&mut self, failure: Failure, now: Timestamp, chance: f64) -> News {
        self.due = now.plus(backoff(self.failures, BACKOFF_MAX, chance));
        self.failures = self.failures.saturating_add(1);
        let same = matches!(&self.said, Said::Failing { what, .. } if *what == failure.what);
        self.said = Said::Failing { what: failure.what, why: failure.why };
        if same { News::Nothing } else { News::Failing }
    }
}

/// Weights shuffle the order each time; that is no news.
fn sorted(points: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = points.iter().collect();
    sorted.sort();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_millis(ms))
    }

    fn answer(points: &[&str], ttl_s: u64, wrong: &[&str]) -> Answer {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Answer { points: owned(points), ttl: Duration::from_secs(ttl_s), wrong: owned(wrong) }
    }

    fn failure(what: &str) -> Failure {
        Failure { what: what.into(), why: format!("{what}: refused") }
    }

    /// From when on it is due, in milliseconds.
    fn due(track: &Track) -> u64 {
        (0..10_000_000).step_by(125).find(|ms| track.is_due(at(*ms))).unwrap()
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_chance_takes_up_to_a_half() {
        let table = [(0, 0.0, 250), (0, 1.0, 125), (0, 0.5, 187), (1, 0.0, 500), (5, 0.0, 8_000), (5, 1.0, 4_000)];
        let long = [(6, 0.0, 15_000), (6, 1.0, 7_500), (40, 0.0, 15_000), (u32::MAX, 0.0, 15_000), (0, 7.0, 125)];
        for (tries, chance, ms) in table.into_iter().chain(long) {
            assert_eq!(backoff(tries, BACKOFF_MAX, chance).as_millis(), ms, "{tries} tries, chance {chance}");
        }
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds() {
        let table = [
            (answer(&["a:1"], 60, &[]), 60_000),
            (answer(&["a:1"], 0, &[]), 1_000),
            (answer(&["a:1"], 86_400, &[]), 3_600_000),
            (answer(&["a:1"], 3_600, &["b does not resolve"]), 30_000),
            (answer(&["a:1"], 5, &["b does not resolve"]), 5_000),
            (answer(&[], 3_600, &[]), 250),
        ];
        for (answer, ms) in table {
            let mut track = Track::new();
            assert!(track.is_due(at(0)));
            track.answered(answer.clone(), at(0), 0.0);
            assert_eq!(due(&track), ms, "{answer:?}");
        }
    }

    #[test]
    fn only_changes_are_news() {
        let mut track = Track::new();
        let steps = [
            (answer(&[], 60, &[]), News::Empty),
            (answer(&[], 60, &[]), News::Nothing),
            (answer(&["a:1", "b:1"], 60, &[]), News::Points),
            (answer(&["b:1", "a:1"], 60, &[]), News::Nothing),
            (answer(&["a:1"], 60, &[]), News::Points),
            (answer(&[], 60, &[]), News::Empty),
        ];
        for (step, (answer, news)) in steps.into_iter().enumerate() {
            assert_eq!(track.answered(answer.clone(), at(0), 0.0), (news, Vec::new()), "step {step}: {answer:?}");
        }
    }

    #[test]
    fn a_failure_keeps_what_was_found_and_is_said_once() {
        let mut track = Track::new();
        track.answered(answer(&["a:1"], 60, &[]), at(0), 0.0);
        assert_eq!(track.failed(failure("ask x"), at(60_000), 0.0), News::Failing);
        assert_eq!(track.failed(failure("ask x"), at(60_250), 0.0), News::Nothing);
        assert_eq!(due(&track), 60_750, "the second pause is twice the first");
        assert_eq!(track.failed(failure("ask y"), at(60_750), 0.0), News::Failing);
        assert_eq!(track.points(), ["a:1"]);
        assert_eq!(track.failure(), Some("ask y: refused"));
        let (news, _) = track.answered(answer(&["a:1"], 60, &[]), at(70_000), 0.0);
        assert_eq!((news, track.failure()), (News::Points, None), "the same points after a failure are news");
        assert_eq!(track.failed(failure("ask x"), at(130_000), 0.0), News::Failing);
        assert_eq!(due(&track), 130_250, "pauses start anew");
    }

    #[test]
    fn a_wrong_record_is_said_once_and_again_when_it_comes_back() {
        let mut track = Track::new();
        let mut wrong = |records: &[&str]| track.answered(answer(&["a:1"], 60, records), at(0), 0.0).1;
        assert_eq!(wrong(&["b", "c"]), ["b", "c"]);
        assert_eq!(wrong(&["b", "c"]), [""; 0]);
        assert_eq!(wrong(&["c", "d"]), ["d"]);
        assert_eq!(wrong(&["b"]), ["b"]);
    }
}
