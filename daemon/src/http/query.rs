//! The query string, parsed once: what a request asks for besides its path. Error texts are Consul's.
//!
//! A boolean parameter is set by being there, whatever its value; of a repeated one the first counts.

use super::error::ApiError;
use super::path;
use crate::raft::{Consistency, Contact};
use hyper::header::{CACHE_CONTROL, HeaderMap};
use std::borrow::Cow;
use std::time::Duration;

/// How long a blocking query waits unless it says so.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);
/// How long it may ask for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// A random part of the wait, up to this fraction, is added so that waiters do not come back all at once.
pub(super) const JITTER_FRACTION: u32 = 16;

/// The parameters in the order they came, decoded.
#[derive(Debug, Default)]
pub(super) struct Query<'r> {
    pairs: Vec<(Text<'r>, Text<'r>)>,
}

type Text<'r> = Cow<'r, [u8]>;

/// How fresh an answer the request wants, and whether it waits for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadOptions {
    wish: Wish,
    /// `?index=N`, N > 0: answer when the query's index is greater.
    pub(super) seen: Option<u64>,
    /// How long to wait for that, without the jitter.
    pub(super) wait: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// The configured default.
    Nothing,
    Exactly(Consistency),
    /// `?max_stale=D`: stale while the leader was heard within D, else from the leader.
    StaleWithin(Duration),
}

impl<'r> Query<'r> {
    /// Consul answers a broken escape with 500 and nothing else.
    pub(super) fn parse(raw: Option<&'r str>) -> Result<Query<'r>, ApiError> {
        let mut query = Query::default();
        let Some(raw) = raw.filter(|raw| !raw.is_empty()) else {
            return Ok(query);
        };
        // `;` separates as well, as in the Go that Consul 1.8 was built with.
        for pair in raw.as_bytes().split(|b| matches!(b, b'&' | b';')).filter(|pair| !pair.is_empty()) {
            let split = pair.iter().position(|b| *b == b'=');
            let (name, value) = split.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
            let decode = |part| path::unescape(part, true).ok_or(ApiError::BadQuery);
            query.pairs.push((decode(name)?, decode(value)?));
        }
        Ok(query)
    }

    /// The first value of the parameter, if it is there.
    pub(super) fn first(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(n, _)| &**n == name.as_bytes()).map(|(_, value)| &**value)
    }

    /// Whether the parameter is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// The parameter as an unsigned number; there but not a number: an error with Go's text.
    pub(super) fn uint(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.first(name) else { return Ok(None) };
        parse_uint(text).map(Some).map_err(ApiError::refused)
    }

    /// At most one of these may be there. The text is the whole query, sorted and encoded anew.
    pub(super) fn exclusive(&self, names: &[&str]) -> Result<(), ApiError> {
        if names.iter().filter(|name| self.has(name)).count() < 2 {
            return Ok(());
        }
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut text = "Conflicting flags: ".to_owned();
        for (n, (name, value)) in pairs.into_iter().enumerate() {
            if n > 0 {
                text.push('&');
            }
            path::escape_query(name, &mut text);
            text.push('=');
            path::escape_query(value, &mut text);
        }
        Err(ApiError::bad_request(text))
    }

    /// `?dc=`: there is one datacenter, and it is ours.
    pub(super) fn datacenter(&self, ours: &str) -> Result<(), ApiError> {
        match self.first("dc") {
            None | Some(b"") => Ok(()),
            Some(dc) if dc == ours.as_bytes() => Ok(()),
            Some(_) => Err(ApiError::refused("No path to datacenter")),
        }
    }

    /// What the request says of consistency and waiting, checked in Consul's order.
    pub(super) fn read_options(&self, headers: &HeaderMap) -> Result<ReadOptions, ApiError> {
        let wish = self.wish()?;
        cache_control(headers)?;
        let wait = self.first("wait").filter(|text| !text.is_empty());
        let wait = match wait {
            None => 0,
            Some(text) => parse_duration(text).ok_or_else(|| ApiError::bad_request("Invalid wait time"))?,
        };
        let index = self.first("index").filter(|text| !text.is_empty());
        let seen = match index {
            None => 0,
            Some(text) => parse_uint(text).map_err(|_| ApiError::bad_request("Invalid index"))?,
        };
        Ok(ReadOptions { wish, seen: (seen > 0).then_some(seen), wait: wait_of(wait) })
    }

    fn wish(&self) -> Result<Wish, ApiError> {
        if self.pairs.is_empty() {
            return Ok(Wish::Nothing);
        }
        let named = self.named_consistency()?;
        let stale_within = self.max_stale()?;
        let stale = self.has("stale") || stale_within.is_some() || named == Some(Consistency::Stale);
        let strong = self.has("consistent") || named == Some(Consistency::Strong);
        if stale && strong {
            return Err(ApiError::bad_request("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        if strong && self.has("cached") {
            return Err(ApiError::bad_request("Cannot specify ?cached with ?consistent, conflicting semantics."));
        }
        Ok(match stale_within {
            Some(within) => Wish::StaleWithin(within),
            None if stale => Wish::Exactly(Consistency::Stale),
            None if strong => Wish::Exactly(Consistency::Strong),
            None if self.has("leader") || named.is_some() => Wish::Exactly(Consistency::Leader),
            None => Wish::Nothing,
        })
    }

    /// `?consistency=`, ours.
    fn named_consistency(&self) -> Result<Option<Consistency>, ApiError> {
        Ok(Some(match self.first("consistency") {
            None => return Ok(None),
            Some(b"stale") => Consistency::Stale,
            Some(b"leader") => Consistency::Leader,
            Some(b"strong") => Consistency::Strong,
            Some(other) => {
                let text = format!("Invalid consistency value {}: use stale, leader or strong", quoted(other));
                return Err(ApiError::bad_request(text));
            }
        }))
    }

    fn max_stale(&self) -> Result<Option<Duration>, ApiError> {
        let Some(text) = self.first("max_stale").filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let nanos = parse_duration(text);
        let nanos = nanos.ok_or_else(|| ApiError::bad_request(format!("Invalid max_stale value {}", quoted(text))))?;
        Ok(u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos))
    }
}

impl ReadOptions {
    /// The consistency to ask the gate for.
    pub(super) fn consistency(&self, default: Consistency, contact: impl FnOnce() -> Contact) -> Consistency {
        match self.wish {
            Wish::Nothing => default,
            Wish::Exactly(consistency) => consistency,
            Wish::StaleWithin(max) => {
                let fresh = contact().since_heard.is_some_and(|since| since <= max);
                if fresh { Consistency::Stale } else { Consistency::Leader }
            }
        }
    }
}

fn wait_of(nanos: i64) -> Duration {
    match u64::try_from(nanos) {
        Err(_) | Ok(0) => WAIT_DEFAULT,
        Ok(nanos) => Duration::from_nanos(nanos).min(WAIT_MAX),
    }
}

/// Parsed as Consul parses it, then ignored: there is no agent cache.
fn cache_control(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(text) = headers.get(CACHE_CONTROL) else {
        return Ok(());
    };
    let text = text.to_str().unwrap_or_default().to_ascii_lowercase();
    for directive in text.split(',') {
        let Some((name, value)) = directive.trim().split_once('=') else {
            continue;
        };
        let counts_seconds = matches!(name, "max-age" | "stale-if-error");
        if counts_seconds && value.parse::<i64>().is_err() {
            return Err(ApiError::bad_request("Invalid Cache-Control header."));
        }
    }
    Ok(())
}

/// As Go's `strconv.ParseUint(text, 10, 64)`, with its error text.
pub(super) fn parse_uint(text: &[u8]) -> Result<u64, String> {
    let refuse = |why| Err(format!("strconv.ParseUint: parsing {}: {why}", quoted(text)));
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return refuse("invalid syntax");
    }
    let mut n = 0u64;
    for digit in text {
        let next = n.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
        let Some(next) = next else {
            return refuse("value out of range");
        };
        n = next;
    }
    Ok(n)
}

/// As Go's `strconv.Quote`, for texts that come from a query.
pub(super) fn quoted(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// As Go's `time.ParseDuration`, in nanoseconds; `None` is an error.
pub(super) fn parse_duration(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0i64;
    // At least one number with its unit; Go wants no blanks between.
    loop {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = tail;
        if rest.is_empty() {
            return Some(if negative { -total } else { total });
        }
    }
}

fn nanoseconds(number: &str, unit: &str) -> Option<i64> {
    let scale: i64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(i64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * place)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::super::path;
    use super::*;
    use crate::mangled::survive;
    use hyper::header::HeaderValue;

    fn query(raw: &str) -> Query<'_> {
        Query::parse(Some(raw)).unwrap()
    }

    fn options(raw: &str) -> Result<ReadOptions, String> {
        query(raw).read_options(&HeaderMap::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let query = query("a=1&a=2;b&&c=x%26+y&recurse=false");
        assert_eq!(query.first("a"), Some(&b"1"[..]));
        assert_eq!(query.first("b"), Some(&b""[..]));
        assert_eq!(query.first("c"), Some(&b"x& y"[..]));
        assert!(query.has("recurse") && !query.has("d"));
        assert!(Query::parse(Some("a=%zz")).is_err());
        assert!(!Query::parse(None).unwrap().has("a"));
    }

    #[test]
    fn numbers_fail_with_gos_text() {
        let table = [
            ("-1", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("", "strconv.ParseUint: parsing \"\": invalid syntax"),
            ("a\"b", "strconv.ParseUint: parsing \"a\\\"b\": invalid syntax"),
            ("18446744073709551616", "strconv.ParseUint: parsing \"18446744073709551616\": value out of range"),
        ];
        for (text, error) in table {
            assert_eq!(parse_uint(text.as_bytes()).unwrap_err(), error);
        }
        assert_eq!(parse_uint(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(query("cas=x").uint("cas").unwrap_err().to_string(), parse_uint(b"x").unwrap_err());
        assert_eq!(query("cas=7").uint("cas").unwrap(), Some(7));
        assert_eq!(query("").uint("cas").unwrap(), None);
    }

    #[test]
    fn durations_are_gos() {
        let table: [(&str, Option<i64>); 14] = [
            ("10s", Some(10_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("500ms", Some(500_000_000)),
            ("1µs", Some(1_000)),
            ("-2s", Some(-2_000_000_000)),
            ("0", Some(0)),
            ("10", None),
            ("abc", None),
            ("", None),
            ("1x", None),
            (".s", None),
            ("9999999999h", None),
        ];
        for (text, nanos) in table {
            assert_eq!(parse_duration(text.as_bytes()), nanos, "{text:?}");
        }
    }

    #[test]
    fn waiting_has_a_default_and_a_cap_and_exact_error_texts() {
        let options_of = |raw| options(raw).unwrap();
        assert_eq!(options_of("index=5").wait, Duration::from_secs(300));
        assert_eq!(options_of("index=5&wait=1h").wait, Duration::from_secs(600));
        assert_eq!(options_of("index=5&wait=-1s").wait, Duration::from_secs(300));
        assert_eq!(options_of("index=5&wait=2s").wait, Duration::from_secs(2));
        assert_eq!(options_of("index=5").seen, Some(5));
        assert_eq!(options_of("index=0").seen, None);
        assert_eq!(options_of("index=").seen, None);
        for (raw, error) in [
            ("index=abc", "Invalid index"),
            ("index=-1", "Invalid index"),
            ("index=1&wait=10", "Invalid wait time"),
            ("index=x&wait=x", "Invalid wait time"),
            ("max_stale=x", "Invalid max_stale value \"x\""),
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("consistency=strong&stale", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics."),
        ] {
            assert_eq!(options(raw).unwrap_err(), error, "{raw}");
        }
    }

    #[test]
    fn the_consistency_is_what_the_query_asks_for() {
        let heard = |ms| Contact { known_leader: true, is_leader: false, since_heard: Some(Duration::from_millis(ms)) };
        let table = [
            ("", 0, Consistency::Strong),
            ("cached", 0, Consistency::Strong),
            ("leader", 0, Consistency::Leader),
            ("stale", 0, Consistency::Stale),
            ("consistent=0", 0, Consistency::Strong),
            ("consistency=leader", 0, Consistency::Leader),
            ("consistency=stale", 0, Consistency::Stale),
            ("max_stale=1s", 999, Consistency::Stale),
            ("max_stale=1s", 1001, Consistency::Leader),
        ];
        for (raw, ms, expected) in table {
            let found = options(raw).unwrap().consistency(Consistency::Strong, || heard(ms));
            assert_eq!(found, expected, "{raw}");
        }
    }

    #[test]
    fn a_bad_cache_control_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=x"));
        let error = query("").read_options(&headers).unwrap_err();
        assert_eq!(error.to_string(), "Invalid Cache-Control header.");
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, Max-Age=5"));
        query("").read_options(&headers).unwrap();
    }

    #[test]
    fn conflicting_flags_show_the_query_sorted() {
        let error = |raw, names: &[&str]| query(raw).exclusive(names).unwrap_err().to_string();
        assert_eq!(error("recurse&cas=3", &["recurse", "cas"]), "Conflicting flags: cas=3&recurse=");
        let names = ["cas", "acquire", "release"];
        assert_eq!(error("cas=0&acquire=x&a b", &names), "Conflicting flags: a+b=&acquire=x&cas=0");
        query("cas=0").exclusive(&names).unwrap();
    }

    #[test]
    fn only_our_datacenter_has_a_path() {
        query("dc=dc1").datacenter("dc1").unwrap();
        query("").datacenter("dc1").unwrap();
        assert_eq!(query("dc=x").datacenter("dc1").unwrap_err().to_string(), "No path to datacenter");
    }

    #[test]
    fn a_mangled_query_or_path_is_refused_without_a_panic() {
        let samples =
            ["index=7&wait=10s&stale", "recurse&keys&separator=/&cas=18446744073709551615", "a=%c3%a9+b&near=_agent;x"];
        let samples = samples.map(|text| text.as_bytes().to_vec());
        survive(&samples, |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Ok(query) = Query::parse(Some(text))
            {
                drop(query.read_options(&HeaderMap::new()));
                drop((query.uint("cas"), query.datacenter("dc1"), query.exclusive(&["stale", "consistent"])));
            }
            drop((parse_uint(bytes), quoted(bytes), parse_duration(bytes)));
            if let Some(path) = path::unescape(bytes, false) {
                drop((path::printable(&path), path::cleaned(&path), path::escape_path(&path)));
            }
        });
    }
}
