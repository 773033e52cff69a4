//! Time as a value: monotonic moments since the process started, and the wall clock for people.
//!
//! Whoever decides something by time takes a [`Timestamp`], so that a test can hold time still. Only owners of loops
//! ask the [`Clock`].  Knows nothing about: what is measured.

pub mod rate;

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment of this process: nanoseconds since its clock was started. Never goes back, means nothing elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

/// A moment for people and for other hosts: milliseconds since 1970 (UTC). May jump, also backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallMs(u64);

/// The source of moments. Made once, in `main`; copies share its origin.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// Now, since the start.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_start(self.origin.elapsed())
    }

    /// Now, by the wall clock. A clock before 1970 reads 0: it is wrong either way, and nothing is decided by it.
    pub fn wall(&self) -> WallMs {
        WallMs(millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))
    }
}

impl Timestamp {
    /// The moment this long after the start.
    pub fn from_start(elapsed: Duration) -> Timestamp {
        // 2^64 ns are 584 years.
        Timestamp(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Since the start.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Nanoseconds since the start, as an atomic can hold them.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// The opposite of [`Timestamp::as_nanos`].
    pub fn from_nanos(nanos: u64) -> Timestamp {
        Timestamp(nanos)
    }

    /// Milliseconds since the start.
    pub fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long `earlier` is ago; zero if it is not earlier (two threads may look in either order).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, later: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(Timestamp::from_start(later).0))
    }
}

impl WallMs {
    /// Milliseconds since 1970.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// The opposite of [`WallMs::as_millis`].
    pub fn from_millis(millis: u64) -> WallMs {
        WallMs(millis)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after start", self.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_look_never_reads_less() {
        let clock = Clock::start();
        let first = clock.now();
        let second = clock.now();
        assert!(second >= first, "{second} < {first}");
        assert_eq!(Timestamp::default().since(second), Duration::ZERO, "the future is not a negative past");
    }

    #[test]
    fn copies_of_a_clock_agree_on_the_origin() {
        let clock = Clock::start();
        let copy = clock;
        assert_eq!(clock.origin, copy.origin);
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let last = Timestamp::from_nanos(u64::MAX);
        assert_eq!(last.plus(Duration::from_secs(1)), last);
        assert_eq!(Timestamp::from_start(Duration::MAX), last);
        assert_eq!(Timestamp::from_nanos(5_000_000).plus(Duration::from_millis(3)).as_millis(), 8);
    }

    #[test]
    fn the_wall_clock_is_in_this_century() {
        let year_2020 = WallMs::from_millis(1_577_836_800_000);
        let year_2120 = WallMs::from_millis(4_733_510_400_000);
        let now = Clock::start().wall();
        assert!(now > year_2020 && now < year_2120, "{} ms", now.as_millis());
    }
}
