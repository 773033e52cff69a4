//! One value: what the written text means for a key of some kind.

use crate::telemetry::LogFilter;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::raw::{Node, Raw};
use super::{StaticPeer, Timing};

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Letters, digits, `-`, `_`, `.`; at most 63.
    Name,
    Path,
    Count {
        min: u64,
        max: u64,
    },
    /// `64MiB`, or a number of bytes.
    Bytes {
        min: u64,
        max: u64,
    },
    /// `10s`, `250ms`, `5m`.
    Duration {
        min_ms: u64,
        max_ms: u64,
    },
    /// `ip:port`, something to listen on.
    Address,
    /// A list of those, at least one.
    Addresses,
    /// `host:port`, something to connect to.
    HostPort,
    /// `http://host:port` or `https://…`, without a path.
    Url,
    Choice(&'static [&'static str]),
    /// Some of these.
    Choices(&'static [&'static str]),
    /// A list of `host:port`.
    HostPorts,
    /// A list of networks: `10.0.0.0/8`, or an address.
    Networks,
    /// A DNS server: `ip` or `ip:port`.
    Server,
    /// A DNS name.
    Domain,
    /// Any printable text, for the names of others.
    Label,
    /// From 0 to 1.
    Share,
    /// `true` or `false`.
    Flag,
    /// Log levels.
    Filter,
    Timing,
    Peers,
}

/// What a key is set to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Texts(Vec<String>),
    Networks(Vec<IpNet>),
    Path(PathBuf),
    Number(u64),
    Share(f64),
    Flag(bool),
    Duration(Duration),
    Addresses(Vec<SocketAddr>),
    Filter(LogFilter),
    Timing(Timing),
    Peers(Vec<StaticPeer>),
}

/// A value that does not do, and the line it is on if that is another than the key's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BadValue {
    pub(super) line: Option<usize>,
    pub(super) text: String,
}

impl BadValue {
    fn new(text: impl Into<String>) -> BadValue {
        BadValue { line: None, text: text.into() }
    }

    fn on(line: usize, text: impl Into<String>) -> BadValue {
        BadValue { line: Some(line), text: text.into() }
    }
}

impl Kind {
    pub(super) fn expected(self) -> String {
        match self {
            Kind::Name => "a name of at most 63 letters, digits, `-`, `_` and `.`".into(),
            Kind::Path => "an absolute path".into(),
            Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Bytes { min, max } => format!("a size from {} to {}, like \"64MiB\"", human(min), human(max)),
            Kind::Duration { min_ms, max_ms } => format!("a duration from {min_ms}ms to {max_ms}ms, like \"10s\""),
            Kind::Address => "an address to listen on, like \"0.0.0.0:8300\"".into(),
            Kind::Addresses => "a list of addresses to listen on, like [\"127.0.0.1:8500\"]".into(),
            Kind::HostPort => "host:port, like \"n1.example.net:8300\"".into(),
            Kind::Url => "a URL without a path, like \"http://n1.example.net:8500\"".into(),
            Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
            Kind::Choices(choices) => format!("a list of some of {}", choices.join(", ")),
            Kind::HostPorts => "a list of host:port, like [\"n1.example.net:8300\"]".into(),
            Kind::Networks => "a list of networks or addresses, like [\"10.0.0.0/8\"]".into(),
            Kind::Server => "the address of a DNS server, like \"10.0.0.2\" or \"10.0.0.2:53\"".into(),
            Kind::Domain => "a DNS name, like \"example.net\"".into(),
            Kind::Label => "a text of at most 256 printable characters".into(),
            Kind::Share => "a number from 0 to 1, like 0.1".into(),
            Kind::Flag => "true or false".into(),
            Kind::Filter => "a log level: off, error, warn, info, debug, trace, or `part=level`".into(),
            Kind::Timing => "\"lan\", \"wan\" or { heartbeat_ms, election_ms_min, election_ms_max }".into(),
            Kind::Peers => "a list of { id, name, rpc } or of \"ID=NAME@HOST:PORT\"".into(),
        }
    }

    /// What this means for a key of this kind.
    pub(super) fn read(self, raw: &Raw) -> Result<Value, BadValue> {
        let value = match (self, raw) {
            (Kind::Name, Raw::Text(text)) if is_name(text) => Some(Value::Text(text.clone())),
            (Kind::Path, Raw::Text(text)) if text.starts_with('/') => Some(Value::Path(text.into())),
            (Kind::Count { min, max }, Raw::Number(number)) => within(*number, min, max),
            (Kind::Bytes { min, max }, Raw::Number(number)) => within(*number, min, max),
            (Kind::Bytes { min, max }, Raw::Text(text)) => size(text).and_then(|bytes| within(bytes, min, max)),
            (Kind::Duration { min_ms, max_ms }, Raw::Text(text)) => duration_ms(text)
                .filter(|ms| (min_ms..=max_ms).contains(ms))
                .map(|ms| Value::Duration(Duration::from_millis(ms))),
            (Kind::Address, Raw::Text(text)) => text.parse().ok().map(|address| Value::Addresses(vec![address])),
            (Kind::Addresses, Raw::List(items)) => return addresses(items),
            (Kind::HostPort, Raw::Text(text)) if is_host_port(text) => Some(Value::Text(text.clone())),
            (Kind::Url, Raw::Text(text)) if is_url(text) => Some(Value::Text(text.clone())),
            (Kind::Choice(choices), Raw::Text(text)) if choices.contains(&text.as_str()) => {
                Some(Value::Text(text.clone()))
            }
            (Kind::Choices(choices), Raw::List(items)) => {
                return texts(items, self, |text| choices.contains(&text));
            }
            (Kind::HostPorts, Raw::List(items)) => return texts(items, self, is_host_port),
            (Kind::Networks, Raw::List(items)) => return networks(items),
            (Kind::Server, Raw::Text(text)) => server(text).map(|address| Value::Addresses(vec![address])),
            (Kind::Domain, Raw::Text(text)) if is_domain(text) => Some(Value::Text(text.clone())),
            (Kind::Label, Raw::Text(text)) if is_label(text) => Some(Value::Text(text.clone())),
            (Kind::Share, Raw::Fraction(text)) => share(text),
            (Kind::Share, Raw::Number(number)) => share(&number.to_string()),
            (Kind::Flag, Raw::Flag(flag)) => Some(Value::Flag(*flag)),
            (Kind::Filter, Raw::Text(text)) => text.parse().ok().map(Value::Filter),
            (Kind::Timing, raw) => return timing(raw).map(Value::Timing),
            (Kind::Peers, Raw::List(items)) => {
                return items.iter().map(peer).collect::<Result<_, _>>().map(Value::Peers);
            }
            (
                _,
                Raw::Text(_)
                | Raw::Number(_)
                | Raw::Fraction(_)
                | Raw::Flag(_)
                | Raw::List(_)
                | Raw::Table(_)
                | Raw::Other { .. },
            ) => None,
        };
        value.ok_or_else(|| BadValue::new(format!("is {}, expected {}", raw.describe(), self.expected())))
    }

    /// What a variable or a flag says: TOML for what is a list or a table in the file, with shorter forms.
    pub(super) fn raw_of_text(self, text: &str) -> Result<Raw, BadValue> {
        match self {
            Kind::Addresses | Kind::Peers | Kind::Timing | Kind::Choices(_) | Kind::HostPorts | Kind::Networks
                if text.starts_with(['[', '{']) =>
            {
                super::raw::value(text).map_err(BadValue::new)
            }
            Kind::Addresses | Kind::Peers | Kind::Choices(_) | Kind::HostPorts | Kind::Networks => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(Raw::List(items.map(|item| Node { line: 1, raw: Raw::Text(item.into()) }).collect()))
            }
            Kind::Count { .. } | Kind::Bytes { .. } => {
                Ok(text.parse().map_or_else(|_not_a_number| Raw::Text(text.into()), Raw::Number))
            }
            Kind::Share => Ok(match share(text) {
                Some(_) => Raw::Fraction(text.into()),
                None => Raw::Text(text.into()),
            }),
            Kind::Flag => Ok(text.parse().map_or_else(|_not_a_flag| Raw::Text(text.into()), Raw::Flag)),
            Kind::Name | Kind::Path | Kind::Duration { .. } | Kind::Address | Kind::HostPort | Kind::Url => {
                Ok(Raw::Text(text.into()))
            }
            Kind::Choice(_) | Kind::Server | Kind::Domain | Kind::Label | Kind::Filter | Kind::Timing => {
                Ok(Raw::Text(text.into()))
            }
        }
    }
}

fn within(number: u64, min: u64, max: u64) -> Option<Value> {
    (min..=max).contains(&number).then_some(Value::Number(number))
}

fn share(text: &str) -> Option<Value> {
    let number: f64 = text.replace('_', "").parse().ok()?;
    (0.0..=1.0).contains(&number).then_some(Value::Share(number))
}

pub(super) fn is_name(text: &str) -> bool {
    crate::tls::is_node_name(text)
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    // Brackets are for IPv6 alone; without them its colons would be taken for the port's.
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')),
    };
    host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Labels of letters, digits, `-` and `_`, as service names have it.
fn is_domain(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(fits)
}

fn is_label(text: &str) -> bool {
    (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn server(text: &str) -> Option<SocketAddr> {
    let with_port = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53)))
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|host| is_host_port(host) || is_name(host))
}

/// Powers of 1024 only: "64MB" would leave open which is meant.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.replace('_', "").parse::<u64>().ok()?.checked_mul(factor)
}

fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The size in its largest whole unit.
pub(super) fn human(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

fn addresses(items: &[Node]) -> Result<Value, BadValue> {
    if items.is_empty() {
        return Err(BadValue::new(format!("is empty, expected {}", Kind::Addresses.expected())));
    }
    let read = |node: &Node| match &node.raw {
        Raw::Text(text) => text.parse().map_err(|_no_address| {
            BadValue::on(node.line, format!("holds \"{text}\", expected ip:port, like \"127.0.0.1:8500\""))
        }),
        other => Err(BadValue::on(node.line, format!("holds {}, expected \"ip:port\"", other.describe()))),
    };
    items.iter().map(read).collect::<Result<_, _>>().map(Value::Addresses)
}

fn networks(items: &[Node]) -> Result<Value, BadValue> {
    let expected = || Kind::Networks.expected();
    let read = |node: &Node| match &node.raw {
        Raw::Text(text) => text
            .parse::<IpNet>()
            .or_else(|_no_network| text.parse::<IpAddr>().map(IpNet::from))
            .map_err(|_no_address| BadValue::on(node.line, format!("holds \"{text}\", expected {}", expected()))),
        other => Err(BadValue::on(node.line, format!("holds {}, expected {}", other.describe(), expected()))),
    };
    items.iter().map(read).collect::<Result<_, _>>().map(Value::Networks)
}

fn texts(items: &[Node], kind: Kind, fits: impl Fn(&str) -> bool) -> Result<Value, BadValue> {
    let read = |node: &Node| match &node.raw {
        Raw::Text(text) if fits(text) => Ok(text.clone()),
        other => Err(BadValue::on(node.line, format!("holds {}, expected {}", other.describe(), kind.expected()))),
    };
    items.iter().map(read).collect::<Result<_, _>>().map(Value::Texts)
}

fn timing(raw: &Raw) -> Result<Timing, BadValue> {
    match raw {
        Raw::Text(text) if text == "lan" => Ok(Timing::LAN),
        Raw::Text(text) if text == "wan" => Ok(Timing::WAN),
        Raw::Table(entries) => {
            let fields =
                Fields::check("raft.timing", entries, None, &["heartbeat_ms", "election_ms_min", "election_ms_max"])?;
            let ms = |name| fields.number(name, Kind::Count { min: 1, max: 600_000 }).map(Duration::from_millis);
            Ok(Timing {
                heartbeat: ms("heartbeat_ms")?,
                election_min: ms("election_ms_min")?,
                election_max: ms("election_ms_max")?,
            })
        }
        Raw::Text(_) | Raw::Number(_) | Raw::Fraction(_) | Raw::Flag(_) | Raw::List(_) | Raw::Other { .. } => {
            Err(BadValue::new(format!("is {}, expected {}", raw.describe(), Kind::Timing.expected())))
        }
    }
}

fn peer(node: &Node) -> Result<StaticPeer, BadValue> {
    let bad = |text: String| BadValue::on(node.line, text);
    match &node.raw {
        Raw::Text(text) => short_peer(text)
            .ok_or_else(|| bad(format!("holds \"{text}\", expected ID=NAME@HOST:PORT, like \"1=n1@10.0.0.1:8300\""))),
        Raw::Table(entries) => {
            let fields = Fields::check("cluster.peers", entries, Some(node.line), &["id", "name", "rpc"])?;
            Ok(StaticPeer {
                id: fields.number("id", Kind::Count { min: 1, max: u64::MAX >> 1 })?,
                name: fields.text("name", Kind::Name)?,
                rpc: fields.text("rpc", Kind::HostPort)?,
            })
        }
        other => Err(bad(format!("holds {}, expected {{ id, name, rpc }}", other.describe()))),
    }
}

fn short_peer(text: &str) -> Option<StaticPeer> {
    let (id, rest) = text.split_once('=')?;
    let (name, rpc) = rest.split_once('@')?;
    let id = id.trim().parse().ok().filter(|id| *id > 0)?;
    (is_name(name) && is_host_port(rpc)).then(|| StaticPeer { id, name: name.into(), rpc: rpc.into() })
}

/// The entries of a table whose names were checked.
struct Fields<'a> {
    entries: &'a [(String, Node)],
    line: Option<usize>,
}

impl<'a> Fields<'a> {
    fn check(
        path: &str,
        entries: &'a [(String, Node)],
        line: Option<usize>,
        known: &[&str],
    ) -> Result<Fields<'a>, BadValue> {
        match entries.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(Fields { entries, line }),
            Some((name, node)) => {
                let hint = super::hint::did_you_mean(name, known);
                Err(BadValue::on(node.line, format!("has an unknown key `{path}.{name}`; {hint}")))
            }
        }
    }

    fn number(&self, name: &str, kind: Kind) -> Result<u64, BadValue> {
        match self.read(name, kind)? {
            Value::Number(number) => Ok(number),
            other => unreachable!("{kind:?} gives numbers, not {other:?}"),
        }
    }

    fn text(&self, name: &str, kind: Kind) -> Result<String, BadValue> {
        match self.read(name, kind)? {
            Value::Text(text) => Ok(text),
            other => unreachable!("{kind:?} gives texts, not {other:?}"),
        }
    }

    fn read(&self, name: &str, kind: Kind) -> Result<Value, BadValue> {
        let Some((_, node)) = self.entries.iter().find(|(known, _)| known == name) else {
            return Err(BadValue { line: self.line, text: format!("lacks `{name}`") });
        };
        kind.read(&node.raw).map_err(|bad| BadValue::on(node.line, format!("`{name}` {}", bad.text)))
    }
}
