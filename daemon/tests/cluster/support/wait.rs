//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Looks until it sees what it looks for; `look` says what it saw instead.
pub(crate) fn wait_until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    wait_beyond(Duration::ZERO, what, look)
}

/// The same of what by itself begins only after this time.
pub(crate) fn wait_beyond<T>(beyond: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if began.elapsed() > beyond + LIMIT => {
                panic!("waited {:.1} s for this: {what}; last seen: {seen}", began.elapsed().as_secs_f64())
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// `Ok` when it is so, else what was seen.
pub(crate) fn so(is: bool, seen: impl Into<String>) -> Result<(), String> {
    if is { Ok(()) } else { Err(seen.into()) }
}
