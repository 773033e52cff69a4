//! The configuration that holds, in the form of the file, each value with where it comes from.

use super::keys::{KEYS, Key, SECTIONS};
use super::settings::Settings;
use super::value::{Kind, Value};
use std::fmt::Write as _;
use std::time::Duration;
use toml::Value as Toml;

/// Keys that nobody set and that have no default are left out.
pub(super) fn shown(settings: &Settings) -> String {
    let mut text = String::new();
    for (section, _) in SECTIONS {
        let line = |key: &Key| {
            let value = toml(key.kind, settings.get(key.path)?);
            Some(format!("{} = {value} # {}\n", key.name(), settings.origin(key.path)))
        };
        let lines: String = KEYS.iter().filter(|key| key.section() == section).filter_map(line).collect();
        if !lines.is_empty() {
            let gap = if text.is_empty() { "" } else { "\n" };
            write!(text, "{gap}[{section}]\n{lines}").expect("a String takes everything");
        }
    }
    text
}

fn toml(kind: Kind, value: &Value) -> Toml {
    let list = |texts: Vec<String>| Toml::Array(texts.into_iter().map(Toml::String).collect());
    match value {
        Value::Text(text) => Toml::String(text.clone()),
        Value::Texts(texts) => list(texts.clone()),
        Value::Networks(networks) => list(networks.iter().map(ToString::to_string).collect()),
        Value::Path(path) => Toml::String(path.display().to_string()),
        // What TOML cannot hold as a number is more than any key takes.
        Value::Number(number) => {
            i64::try_from(*number).map_or_else(|_| Toml::String(number.to_string()), Toml::Integer)
        }
        Value::Share(share) => Toml::Float(*share),
        Value::Flag(flag) => Toml::Boolean(*flag),
        Value::Duration(duration) => Toml::String(format!("{}ms", duration.as_millis())),
        Value::Addresses(addresses) if matches!(kind, Kind::Address | Kind::Server) => {
            Toml::String(addresses.iter().map(ToString::to_string).collect())
        }
        Value::Addresses(addresses) => list(addresses.iter().map(ToString::to_string).collect()),
        Value::Filter(filter) => Toml::String(filter.to_string()),
        Value::Timing(timing) => {
            let ms = |duration: Duration| Toml::Integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX));
            let parts = [
                ("heartbeat_ms", timing.heartbeat),
                ("election_ms_min", timing.election_min),
                ("election_ms_max", timing.election_max),
            ];
            Toml::Table(parts.into_iter().map(|(name, duration)| (name.to_owned(), ms(duration))).collect())
        }
        Value::Peers(peers) => {
            list(peers.iter().map(|peer| format!("{}={}@{}", peer.id, peer.name, peer.rpc)).collect())
        }
    }
}
