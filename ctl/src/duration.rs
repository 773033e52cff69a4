//! Durations as Consul's users write them: `500ms`, `10s`, `1m30s`.

use std::time::Duration;

/// Reads a duration; a bare number is refused, for nobody can tell its unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(wrong(text));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| wrong(text))?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong(text))?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total = unit(&rest[..letters], number).and_then(|part| total.checked_add(part)).ok_or_else(|| wrong(text))?;
        rest = &rest[letters..];
    }
    Ok(total)
}

fn unit(name: &str, number: u64) -> Option<Duration> {
    match name {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

fn wrong(text: &str) -> String {
    format!("'{text}' is no duration; write it like 500ms, 10s or 1m30s")
}

/// Reads a duration as Go prints it and as servers tell theirs: `1m2.5s`, `35.371µs`, `0s`.
pub(crate) fn parse_go(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_s = match &rest[..letters] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit_s).ok()?)?;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(total)
}

/// A duration as it goes into a query string.
pub(crate) fn query(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_go};
    use std::time::Duration;

    #[test]
    fn durations_are_read_with_their_units_and_nothing_else() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("1m30s", 90_000), ("2h", 7_200_000), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 s", "5d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn durations_of_servers_are_read_as_go_prints_them() {
        let table = [("0s", 0), ("1ns", 1), ("35.371µs", 35_371), ("2.2ms", 2_200_000), ("3.3s", 3_300_000_000)];
        for (text, nanos) in table {
            assert_eq!(parse_go(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(parse_go("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
        for text in ["", "10", "s", "-1s", "1..5s", "5d", "1e999s"] {
            assert_eq!(parse_go(text), None, "{text}");
        }
    }
}
