//! When entries were committed and applied, as traces tell it. Nothing is kept while nothing is traced.

use crate::telemetry::trace;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Moments kept: whoever asks does so as soon as its entry is applied.
const MOMENTS_MAX: usize = 4096;

/// From when to when something was done with entries, up to an index.
#[derive(Debug, Default)]
pub(super) struct Moments(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    moments: VecDeque<(u64, SystemTime, SystemTime)>,
    /// The index up to which nothing is known any more.
    forgotten: u64,
}

impl Moments {
    /// Now, if anybody will ask.
    pub(super) fn begin() -> Option<SystemTime> {
        trace::is_on().then(SystemTime::now)
    }

    /// Since `began`, if anybody will ask, this was done with all entries up to `upto`.
    pub(super) fn end(&self, upto: u64, began: Option<SystemTime>) {
        let Some(began) = began else { return };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.moments.push_back((upto, began, SystemTime::now()));
        if kept.moments.len() > MOMENTS_MAX
            && let Some((upto, ..)) = kept.moments.pop_front()
        {
            kept.forgotten = upto;
        }
    }

    /// From when to when it was done with this entry, if that is known.
    pub(super) fn of(&self, index: u64) -> Option<(SystemTime, SystemTime)> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if index <= kept.forgotten {
            return None;
        }
        let at = kept.moments.partition_point(|(upto, ..)| *upto < index);
        kept.moments.get(at).map(|(_, began, ended)| (*began, *ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_of_the_first_moment_that_reaches_it_and_old_ones_are_forgotten() {
        let moments = Moments::default();
        let at = |n| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n);
        let last = u64::try_from(MOMENTS_MAX).unwrap() + 1;
        (1..=last).for_each(|n| moments.end(n * 10, Some(at(n))));
        for (index, began) in
            [(10, None), (11, Some(at(2))), (20, Some(at(2))), (21, Some(at(3))), (last * 10 + 1, None)]
        {
            assert_eq!(moments.of(index).map(|(began, _)| began), began, "{index}");
        }
        moments.end(99_999_999, None);
        assert_eq!(moments.of(99_999_999), None, "nobody asks");
    }
}
