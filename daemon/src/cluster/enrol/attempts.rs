//! How often strangers may be wrong: failed attempts from one address are few, then none for a while.

use crate::clock::Timestamp;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// So many failures at once.
const BURST: u32 = 10;
/// One is forgotten after this time.
const FORGET_ONE: Duration = Duration::from_secs(6);
/// Addresses that are remembered; when there are more, those that failed least are forgotten.
const ADDRESSES_MAX: usize = 4096;

/// Failed attempts by address.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: HashMap<IpAddr, Failed>,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    count: u32,
    since: Timestamp,
}

impl Failed {
    fn at(self, now: Timestamp) -> Failed {
        let forgotten = now.since(self.since).as_nanos() / FORGET_ONE.as_nanos();
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        match self.count.checked_sub(forgotten) {
            None | Some(0) => Failed { count: 0, since: now },
            Some(count) => Failed { count, since: self.since.plus(FORGET_ONE * forgotten) },
        }
    }
}

impl Attempts {
    /// Whether this address may try once more.
    pub(super) fn may_try(&self, from: IpAddr, now: Timestamp) -> bool {
        self.failed.get(&from).is_none_or(|failed| failed.at(now).count < BURST)
    }

    /// It tried, and was wrong.
    pub(super) fn failed(&mut self, from: IpAddr, now: Timestamp) {
        if self.failed.len() >= ADDRESSES_MAX && !self.failed.contains_key(&from) {
            self.forget(now);
        }
        let before = self.failed.get(&from).map_or(Failed { count: 0, since: now }, |failed| failed.at(now));
        self.failed.insert(from, Failed { count: before.count.saturating_add(1).min(BURST), ..before });
    }

    fn forget(&mut self, now: Timestamp) {
        for threshold in 0..=BURST {
            self.failed.retain(|_, failed| failed.at(now).count > threshold);
            if self.failed.len() < ADDRESSES_MAX {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn an_address_that_is_wrong_too_often_waits_and_others_do_not() {
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut attempts = Attempts::default();
        let tried = (0..1000).filter(|_| {
            let may = attempts.may_try(bad, at(0));
            attempts.failed(bad, at(0));
            may
        });
        assert_eq!(tried.count(), 10);
        assert!(attempts.may_try(good, at(0)));
        assert!(!attempts.may_try(bad, at(5)) && attempts.may_try(bad, at(6)));
        attempts.failed(bad, at(6));
        assert!(!attempts.may_try(bad, at(11)) && attempts.may_try(bad, at(12)));
        assert!(attempts.may_try(bad, at(3600)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut attempts = Attempts::default();
        let guesser = IpAddr::from([10, 0, 0, 1]);
        (0..20).for_each(|_| attempts.failed(guesser, at(0)));
        for n in 0..10_000u32 {
            attempts.failed(IpAddr::from((0x0b00_0000 + n).to_be_bytes()), at(0));
        }
        assert!(attempts.failed.len() <= ADDRESSES_MAX);
        assert!(!attempts.may_try(guesser, at(0)), "who guesses most is forgotten last");
    }
}
