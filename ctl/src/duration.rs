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

/// A duration as it goes into a query string.
pub(crate) fn query(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::parse;
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
}
