//! SIGTERM or SIGINT asks the process to stop; a second one makes it stop at once. SIGHUP asks for something else.
//!
//! Knows nothing about: what stopping means. Whoever holds the token decides.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: the drain was cut short, and systemd shall see it.
pub const EXIT_AT_ONCE: i32 = 130;

/// A signal handler was not installed.
#[derive(Debug, thiserror::Error)]
#[error("install the handler of {signal}")]
pub struct ShutdownError {
    pub signal: &'static str,
    #[source]
    pub source: io::Error,
}

/// The token that the first signal cancels. Call once, inside the runtime, before anything that needs draining.
pub fn on_signal() -> Result<CancellationToken, ShutdownError> {
    let mut signals = Signals::install()?;
    let token = CancellationToken::new();
    let stop = token.clone();
    #[expect(clippy::disallowed_methods, reason = "lives as long as the process: its end is the end of the process")]
    tokio::spawn(async move {
        let first = signals.next().await;
        tracing::info!(signal = first, "stopping; a second signal stops at once");
        stop.cancel();
        let second = signals.next().await;
        tracing::warn!(signal = second, "stopped at once");
        #[expect(clippy::exit, clippy::disallowed_methods, reason = "what the second signal asks for")]
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(token)
}

/// SIGHUPs. As long as it lives, none ends the process; one that comes while nobody waits is not lost.
#[derive(Debug)]
pub struct Hangups(Signal);

/// SIGHUPs from now on. Call inside the runtime.
pub fn hangups() -> Result<Hangups, ShutdownError> {
    let signal = signal(SignalKind::hangup()).map_err(|source| ShutdownError { signal: "SIGHUP", source })?;
    Ok(Hangups(signal))
}

impl Hangups {
    /// The next one, or several that came close together.
    pub async fn next(&mut self) {
        // None comes only when the runtime ends, and this with it.
        self.0.recv().await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Signals, ShutdownError> {
        let terminate =
            signal(SignalKind::terminate()).map_err(|source| ShutdownError { signal: "SIGTERM", source })?;
        let interrupt = signal(SignalKind::interrupt()).map_err(|source| ShutdownError { signal: "SIGINT", source })?;
        Ok(Signals { terminate, interrupt })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal as Number, kill_process};
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    /// What `a_second_signal_exits_at_once` runs in a process of its own: it never drains.
    #[tokio::test]
    #[ignore = "the other half of a_second_signal_exits_at_once"]
    async fn child_that_never_drains() {
        let token = on_signal().unwrap();
        eprintln!("ready");
        token.cancelled().await;
        eprintln!("draining");
        std::future::pending::<()>().await;
    }

    #[test]
    fn the_first_signal_cancels_and_a_second_one_exits_at_once() {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown::tests::child_that_never_drains", "--ignored", "--nocapture"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
        assert!(lines.any(|line| line == "ready"));
        kill_process(pid, Number::TERM).unwrap();
        assert!(lines.any(|line| line == "draining"), "the token was not cancelled");
        kill_process(pid, Number::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(EXIT_AT_ONCE));
    }
}
