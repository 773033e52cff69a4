//! Log lines: to the journal, or on stderr, as JSON for machines or as text for people; and a panic is logged before the
//! process aborts. And traces, for those who want them.
//!
//! Knows nothing about: what is logged.

pub mod events;
mod journal;
mod line;
mod relay;
pub mod trace;

pub use relay::dropped_lines;

use journal::Journal;
use relay::Relay;
use std::backtrace::Backtrace;
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

/// Levels in the order of the amount they let through.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The filter in force. There is one log per process, as there is one subscriber.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, to the journal where stderr is the journal, JSON elsewhere.
    #[default]
    Auto,
    /// To the journal, with fields.
    Journal,
    Text,
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub filter: LogFilter,
    pub format: LogFormat,
    /// In each line for the journal: which node it is of.
    pub node: String,
}

/// `info`, or `info,konsuld::raft=debug`: a level, and levels of parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    text: String,
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A filter that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{directive}` is no log level; use one of off, error, warn, info, debug, trace, or `part=level`")]
pub struct BadFilter {
    pub directive: String,
}

/// Logging cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("start logging a second time")]
    Started {
        #[source]
        source: tracing::subscriber::SetGlobalDefaultError,
    },
    #[error("reach the journal at {}; set log.format to \"json\" where there is none", journal::SOCKET)]
    Journal {
        #[source]
        source: io::Error,
    },
}

/// A filter that could not be exchanged.
#[derive(Debug, thiserror::Error)]
#[error("exchange the filter of the log; `log.level` changes with the next start")]
pub struct FilterError {
    #[source]
    source: reload::Error,
}
/// Of this process, if it logs to the journal.
static RELAY: OnceLock<Relay> = OnceLock::new();
/// Lines that are on their way when the process ends have so long to arrive.
const FLUSH: Duration = Duration::from_secs(1);

impl FromStr for LogFilter {
    type Err = BadFilter;

    /// Stricter than `Targets`, which takes a misspelt level for the name of a part and then logs nothing.
    fn from_str(text: &str) -> Result<LogFilter, BadFilter> {
        let bad = |directive: &str| BadFilter { directive: directive.to_owned() };
        for directive in text.split(',').map(str::trim) {
            let (target, level) = directive.rsplit_once('=').unwrap_or(("all", directive));
            if target.trim().is_empty() || !LEVELS.contains(&level.trim()) {
                return Err(bad(directive));
            }
        }
        let _checked: Targets = text.parse().map_err(|_unparsable| bad(text))?;
        Ok(LogFilter { text: text.to_owned() })
    }
}

impl LogFilter {
    /// openraft tells every step of its own at `info` and every failed try at `warn`; what operators need of it, konsuld
    /// says itself.
    fn targets(&self) -> Targets {
        let targets: Targets = self.text.parse().expect("was parsed when the filter was made");
        let everything_at_info = self.text.split(',').any(|directive| directive.trim() == "info");
        if everything_at_info && !self.text.contains("openraft") {
            return targets.with_target("openraft", LevelFilter::ERROR);
        }
        targets
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Sends log lines where they belong from now on. Once per process.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let (filter, handle) = reload::Layer::new(config.filter.targets());
    let subscriber = Registry::default().with(target(config)?.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(|source| TelemetryError::Started { source })?;
    assert!(FILTER.set(handle).is_ok(), "the first subscriber of the process is the only one");
    Ok(())
}

/// From now on this is what is logged. Nothing happens in a process that logs nothing.
pub fn filter(filter: &LogFilter) -> Result<(), FilterError> {
    FILTER.get().map_or(Ok(()), |log| log.reload(filter.targets())).map_err(|source| FilterError { source })
}

/// Waits until the journal has the lines that were logged, but not for long. For those who end the process.
pub fn flush() {
    if let Some(relay) = RELAY.get() {
        relay.flush(FLUSH);
    }
}

fn target(config: &LogConfig) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
    let terminal = io::stderr().is_terminal();
    let found = config.format == LogFormat::Auto && !terminal && journal::is_stderr(io::stderr());
    if config.format != LogFormat::Journal && !found {
        return Ok(layer(config.format, terminal, io::stderr));
    }
    match Journal::open(&config.node) {
        Ok((journal, relay)) => {
            RELAY.get_or_init(|| relay);
            Ok(journal.boxed())
        }
        // What nobody asked for need not be there.
        Err(_) if found => Ok(layer(config.format, terminal, io::stderr)),
        Err(source) => Err(TelemetryError::Journal { source }),
    }
}

/// On a stream.
fn layer<W>(format: LogFormat, terminal: bool, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> lines::MakeWriter<'a> + Send + Sync + 'static,
{
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json | LogFormat::Journal => true,
    };
    if json {
        lines::layer().json().flatten_event(true).with_current_span(false).with_writer(writer).boxed()
    } else {
        lines::layer().with_ansi(terminal).with_writer(writer).boxed()
    }
}

/// From now on a panic in any thread is logged with its backtrace and ends the process: a half-dead node is worse than
/// a restarted one, and a task that panics alone would otherwise just be missing.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        log_panic(panic);
        flush();
        std::process::abort();
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = match panic.payload().downcast_ref::<String>() {
        Some(text) => text,
        None => panic.payload().downcast_ref::<&str>().copied().unwrap_or("a value that is no text"),
    };
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let backtrace = Backtrace::force_capture();
    let message_id = events::PANICKED;
    tracing::error!(message_id, message_of_panic = message, location, thread, %backtrace, "panicked; the process aborts");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, terminal: bool, filter: &str) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let filter: LogFilter = filter.parse().unwrap();
        let subscriber =
            Registry::default().with(layer(format, terminal, move || writer.clone()).with_filter(filter.targets()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(term = 7, "leader elected");
            tracing::debug!("too much to tell");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_at_the_top() {
        let text = logged(LogFormat::Auto, false, "info");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(line["message"], "leader elected");
        assert_eq!(line["term"], 7);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "konsuld::telemetry::tests");
    }

    #[test]
    fn a_terminal_gets_text_with_colour_and_a_file_without() {
        assert!(logged(LogFormat::Auto, true, "info").contains("\u{1b}["));
        let text = logged(LogFormat::Text, false, "info");
        assert!(!text.contains('\u{1b}') && text.contains("leader elected term=7"), "{text}");
    }

    #[test]
    fn a_part_may_have_its_own_level() {
        assert_eq!(logged(LogFormat::Json, false, "info,konsuld::telemetry=debug").lines().count(), 2);
        assert_eq!(logged(LogFormat::Json, false, "info,konsuld::telemetry=warn").lines().count(), 0);
        assert_eq!(logged(LogFormat::Json, false, "off").lines().count(), 0);
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for bad in ["infoo", "", "info,", "konsuld=loud", "=info", "info;debug"] {
            let error = bad.parse::<LogFilter>().unwrap_err();
            assert!(error.to_string().contains("no log level"), "{bad}: {error}");
        }
    }

    /// What `a_panic_is_logged_and_aborts` runs in a process of its own.
    #[test]
    #[ignore = "the other half of a_panic_is_logged_and_aborts"]
    fn child_that_panics() {
        let node = "n1".to_owned();
        init(&LogConfig { filter: "info".parse().unwrap(), format: LogFormat::Json, node }).unwrap();
        abort_on_panic();
        std::thread::Builder::new().name("storage".into()).spawn(|| panic!("log has a hole")).unwrap().join().unwrap();
    }

    #[test]
    fn a_panic_in_any_thread_is_logged_and_aborts() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "telemetry::tests::child_that_panics", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let line: serde_json::Value = serde_json::from_str(stderr.lines().next().unwrap()).unwrap();
        assert_eq!(line["message"], "panicked; the process aborts");
        assert_eq!(line["message_of_panic"], "log has a hole");
        assert_eq!(line["thread"], "storage");
        assert!(line["location"].as_str().unwrap().contains("telemetry.rs"), "{line}");
        assert_eq!(output.status.signal(), Some(6), "SIGABRT");
    }
}
