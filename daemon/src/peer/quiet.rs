//! Says the same thing once a while: a peer that is refused tries again many times a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the same refusal of the same address is not repeated.
const QUIET: Duration = Duration::from_secs(30);
/// More different refusals than this are all said: that is news in itself.
const REMEMBERED_MAX: usize = 256;

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    said: Mutex<HashMap<(IpAddr, String), Instant>>,
}

impl Quiet {
    /// Whether to say it; then it is remembered.
    pub(super) fn is_news(&self, from: IpAddr, text: &str, now: Instant) -> bool {
        let mut said = self.said.lock().expect("nothing panics while it holds the lock");
        if said.get(&(from, text.to_owned())).is_some_and(|at| now.duration_since(*at) < QUIET) {
            return false;
        }
        if said.len() >= REMEMBERED_MAX {
            said.clear();
        }
        said.insert((from, text.to_owned()), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_is_said_once_a_while_and_another_at_once() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        let home = IpAddr::from([127, 0, 0, 1]);
        assert!(quiet.is_news(home, "a", now));
        assert!(!quiet.is_news(home, "a", now + QUIET / 2));
        assert!(quiet.is_news(home, "b", now));
        assert!(quiet.is_news(home, "a", now + QUIET));
    }
}
