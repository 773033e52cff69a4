//! Log lines in the journal's own protocol: one text for people, and a fixed set of fields to search by.
//!
//! Encoded here and not by a crate: the line is made where the event is, with its place in the code, and sent by another
//! thread, which may wait for a journal that hangs (`relay`); the crates for this send at once, and swallow what fails.

use super::line::{common, priority, put_field};
use super::relay::Relay;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Fields of our events that are fields of the journal, too. All others are only in the text. Never renamed: searches
/// and alerts quote them.
const FIELDS: [(&str, &str); 16] = [
    ("message_id", "MESSAGE_ID"),
    ("term", "KONSUL_TERM"),
    ("index", "KONSUL_INDEX"),
    ("leader", "KONSUL_LEADER"),
    ("peer", "KONSUL_PEER"),
    ("node", "KONSUL_MEMBER"),
    ("name", "KONSUL_MEMBER_NAME"),
    ("error", "KONSUL_ERROR"),
    ("thread", "KONSUL_THREAD"),
    ("event", "KONSUL_EVENT"),
    ("who", "KONSUL_WHO"),
    ("from", "KONSUL_FROM"),
    ("what", "KONSUL_WHAT"),
    ("outcome", "KONSUL_OUTCOME"),
    ("count", "KONSUL_COUNT"),
    ("reason", "KONSUL_REASON"),
];

/// Whether stderr is the journal: systemd says which file that is.
pub(super) fn is_stderr(stderr: impl AsFd) -> bool {
    let Ok(said) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(found) = rustix::fs::fstat(stderr) else { return false };
    said == format!("{}:{}", found.st_dev, found.st_ino)
}

/// Sends each event to the journal.
pub(super) struct Journal {
    relay: Relay,
    /// In every line.
    common: Vec<u8>,
}

impl Journal {
    pub(super) fn open(node: &str) -> io::Result<(Journal, Relay)> {
        let relay = Relay::start(Path::new(SOCKET), node)?;
        Ok((Journal { relay: relay.clone(), common: common(node) }, relay))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        self.relay.put(encode(event, &self.common));
    }
}

fn encode(event: &Event<'_>, common: &[u8]) -> Vec<u8> {
    let mut seen = Seen { fields: Vec::with_capacity(512), message: String::new(), rest: String::new() };
    event.record(&mut seen);
    let Seen { mut fields, mut message, rest } = seen;
    message.push_str(&rest);
    let metadata = event.metadata();
    fields.extend_from_slice(common);
    put_field(&mut fields, "MESSAGE", message.as_bytes());
    put_field(&mut fields, "PRIORITY", priority(*metadata.level()));
    put_field(&mut fields, "KONSUL_PART", metadata.target().as_bytes());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put_field(&mut fields, "CODE_FILE", file.as_bytes());
        put_field(&mut fields, "CODE_LINE", line.to_string().as_bytes());
    }
    fields
}

struct Seen {
    fields: Vec<u8>,
    message: String,
    /// ` name=value` of all fields, for the text.
    rest: String,
}

impl Seen {
    fn put(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
            return;
        }
        if let Some((_, name)) = FIELDS.iter().find(|(known, _)| *known == field.name()) {
            put_field(&mut self.fields, name, value.as_bytes());
        }
        if field.name() != "message_id" {
            write!(self.rest, " {}={value}", field.name()).expect("a String takes everything");
        }
    }
}

impl Visit for Seen {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::events;
    use super::super::line::parse;
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().unwrap().push(encode(event, &common("n1")));
        }
    }

    fn logged(log: impl FnOnce()) -> BTreeMap<String, String> {
        let kept = Kept::default();
        tracing::subscriber::with_default(Registry::default().with(kept.clone()), log);
        let lines = kept.0.lock().unwrap();
        assert_eq!(lines.len(), 1);
        parse(&lines[0])
    }

    #[test]
    fn a_line_has_one_text_for_people_and_fields_to_search_by() {
        let fields = logged(|| {
            tracing::warn!(message_id = events::LEADER_WON, term = 7, leader = %"n2\nREADY=1", took_ms = 12, "leader won");
        });
        assert_eq!(fields["MESSAGE"], "leader won term=7 leader=n2\nREADY=1 took_ms=12");
        assert_eq!(fields["MESSAGE_ID"], events::LEADER_WON);
        assert_eq!((fields["KONSUL_TERM"].as_str(), fields["KONSUL_NODE"].as_str()), ("7", "n1"));
        assert_eq!((fields["PRIORITY"].as_str(), fields["SYSLOG_IDENTIFIER"].as_str()), ("4", "konsuld"));
        assert_eq!(fields["KONSUL_PART"], "konsuld::telemetry::journal::tests");
        assert!(fields["CODE_FILE"].ends_with("journal.rs") && fields["CODE_LINE"].parse::<u32>().unwrap() > 0);
        assert!(!fields.contains_key("TOOK_MS"), "only the fixed set: {fields:?}");
    }

    #[test]
    fn priorities_are_those_of_syslog() {
        assert_eq!(logged(|| tracing::error!("e"))["PRIORITY"], "3");
        assert_eq!(logged(|| tracing::info!("i"))["PRIORITY"], "6");
        assert_eq!(logged(|| tracing::debug!("d"))["PRIORITY"], "7");
    }

    #[test]
    fn an_event_without_a_number_has_none() {
        assert!(!logged(|| tracing::info!(message_id = None::<&str>, "i")).contains_key("MESSAGE_ID"));
    }

    #[test]
    fn stderr_is_the_journal_only_if_systemd_says_this_very_file() {
        // Without JOURNAL_STREAM in the environment, as in tests; with it, it is compared with the file.
        assert!(!is_stderr(std::fs::File::open("/dev/null").unwrap()));
    }
}
