//! The environment: `KONSUL_<SECTION>_<KEY>` for every key, and the names of earlier releases.

use super::hint::did_you_mean;
use super::keys::{self, KEYS, Key};
use super::raw::Raw;
use super::settings::{Given, Origin, Problem};

/// Variables of konsulctl, which an administrator has set beside ours.
const OF_THE_CLI: [&str; 2] = ["KONSUL_HTTP_ADDR", "KONSUL_HTTP_TOKEN"];

/// What a variable of an earlier release means now.
enum Meaning {
    /// Another name of this key.
    Key(&'static str),
    /// The same, spelled like `TLSv1.3`.
    TlsVersion,
    /// Whether there is TLS between nodes. Off is fine on a node without peers.
    TlsEnabled,
    /// A safety that cannot be switched off; the reason.
    AlwaysOn(&'static str),
    /// The one algorithm there is.
    Sha256,
}

#[rustfmt::skip]
const EARLIER: [(&str, Meaning); 19] = [
    ("KONSUL_RAFT_TLS_ENABLED", Meaning::TlsEnabled),
    ("KONSUL_RAFT_TLS_CERT_FILE", Meaning::Key("tls.cert_file")),
    ("KONSUL_RAFT_TLS_KEY_FILE", Meaning::Key("tls.key_file")),
    ("KONSUL_RAFT_TLS_CA_FILE", Meaning::Key("tls.ca_file")),
    ("KONSUL_RAFT_TLS_MIN_VERSION", Meaning::TlsVersion),
    ("KONSUL_RAFT_TLS_VERIFY_PEER", Meaning::AlwaysOn("a peer that is not verified could be anybody, and would get and change all data")),
    ("KONSUL_RAFT_DISCOVERY_METHOD", Meaning::Key("discovery.methods")),
    ("KONSUL_RAFT_DISCOVERY_DNS_DOMAIN", Meaning::Key("discovery.dns_domain")),
    ("KONSUL_RAFT_DISCOVERY_DNS_PORT", Meaning::Key("discovery.dns_port")),
    ("KONSUL_RAFT_DISCOVERY_SEEDS", Meaning::Key("discovery.seeds")),
    ("KONSUL_RAFT_DISCOVERY_AWS_REGION", Meaning::Key("discovery.aws_region")),
    ("KONSUL_RAFT_DISCOVERY_AWS_TAG_KEY", Meaning::Key("discovery.aws_tag_key")),
    ("KONSUL_RAFT_DISCOVERY_AWS_TAG_VALUE", Meaning::Key("discovery.aws_tag_value")),
    ("KONSUL_RAFT_SNAPSHOT_RESTORE_ON_STARTUP", Meaning::AlwaysOn("entries before the snapshot are no longer in the log: without it the node would start with less than it acknowledged")),
    ("KONSUL_RAFT_SNAPSHOT_VALIDATION_ENABLED", Meaning::AlwaysOn("a damaged snapshot would silently become the state")),
    ("KONSUL_RAFT_SNAPSHOT_CHECKSUM_ALGORITHM", Meaning::Sha256),
    ("KONSUL_RAFT_QUORUM_CHECK_ENABLED", Meaning::AlwaysOn("a leader without a quorum would acknowledge what is lost later")),
    ("KONSUL_RAFT_LEADERSHIP_LEASE_ENFORCEMENT", Meaning::AlwaysOn("an old leader would answer reads with outdated data")),
    ("KONSUL_RAFT_STEPDOWN_ON_PARTITION", Meaning::AlwaysOn("two nodes would believe that they lead")),
];

/// What the environment says.
pub(super) struct Environment {
    pub(super) given: Vec<Given>,
    /// Set if a variable of an earlier release switches TLS off.
    pub(super) tls_off: Option<Origin>,
    pub(super) problems: Vec<Problem>,
}

/// Reads the variables that start with `KONSUL_`; all others are none of our business.
pub(super) fn read(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
    let mut environment = Environment { given: Vec::new(), tls_off: None, problems: Vec::new() };
    let mut ours: Vec<(String, String)> =
        variables.into_iter().filter(|(name, _)| name.starts_with("KONSUL_")).collect();
    ours.sort();
    for (name, value) in ours {
        let origin = Origin::Variable { name: name.clone() };
        if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
            environment.give(key, &value, origin);
        } else if let Some((_, meaning)) = EARLIER.iter().find(|(earlier, _)| *earlier == name) {
            environment.give_earlier(meaning, &value, origin);
        } else if !OF_THE_CLI.contains(&name.as_str()) {
            environment.problems.push(Problem::at(&origin, unknown(&name)));
        }
    }
    environment
}

fn unknown(name: &str) -> String {
    let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known: Vec<&str> = variables.iter().map(String::as_str).chain(EARLIER.iter().map(|(name, _)| *name)).collect();
    format!("unknown; {}", did_you_mean(name, &known))
}

impl Environment {
    fn give(&mut self, key: &'static Key, text: &str, origin: Origin) {
        match key.kind.raw_of_text(text) {
            Ok(raw) => self.given.push(Given { key, raw, origin }),
            Err(bad) => self.problems.push(Problem::at(&origin, format!("`{}` {}", key.path, bad.text))),
        }
    }

    fn give_earlier(&mut self, meaning: &Meaning, text: &str, origin: Origin) {
        let find = |path| keys::find(path).expect("earlier names stand for keys of the table");
        match meaning {
            Meaning::Key(path) => self.give(find(path), text, origin),
            Meaning::TlsVersion => {
                let plain = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                self.given.push(Given { key: find("tls.min_version"), raw: Raw::Text(plain.into()), origin });
            }
            Meaning::TlsEnabled => match boolean(text) {
                Some(true) => {}
                Some(false) => self.tls_off = Some(origin),
                None => self.problems.push(Problem::at(&origin, not_boolean(text))),
            },
            Meaning::AlwaysOn(reason) => match boolean(text) {
                Some(true) => {}
                Some(false) => {
                    let text = format!("this cannot be switched off: {reason}; remove the variable");
                    self.problems.push(Problem::at(&origin, text));
                }
                None => self.problems.push(Problem::at(&origin, not_boolean(text))),
            },
            Meaning::Sha256 => {
                if !matches!(text.to_ascii_lowercase().as_str(), "sha256" | "sha-256") {
                    let text =
                        format!("snapshots are checked with sha256, \"{text}\" is not to be had; remove the variable");
                    self.problems.push(Problem::at(&origin, text));
                }
            }
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn not_boolean(text: &str) -> String {
    format!("is \"{text}\", expected true or false")
}
