//! Durations as Go prints them: `1h2m3.5s`, `200ms`, `35.371µs`, `0s`.

use std::time::Duration;

/// As Go's `Duration.String`.
pub(super) fn text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, scale) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => return seconds(duration),
    };
    format!("{}{unit}", decimal(nanos / scale, nanos % scale, scale))
}

fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    let seconds = decimal(u128::from(whole % 60), u128::from(duration.subsec_nanos()), 1_000_000_000);
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        (_, _) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `whole` and the fraction `rest / scale`, without zeros at the end.
fn decimal(whole: u128, rest: u128, scale: u128) -> String {
    if rest == 0 {
        return whole.to_string();
    }
    let digits = scale.ilog10();
    let fraction = format!("{rest:0width$}", width = usize::try_from(digits).expect("at most nine"));
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::query::parse_duration;

    #[test]
    fn durations_look_as_go_prints_them() {
        let table = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (35_371, "35.371µs"),
            (2_200_000, "2.2ms"),
            (200_000_000, "200ms"),
            (3_300_000_000, "3.3s"),
            (10_000_000_000, "10s"),
            (60_000_000_000, "1m0s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (259_200_000_000_000, "72h0m0s"),
        ];
        for (nanos, expected) in table {
            let printed = text(Duration::from_nanos(nanos));
            assert_eq!(printed, expected);
            assert_eq!(parse_duration(printed.as_bytes()), i64::try_from(nanos).ok(), "{printed} is read again");
        }
    }
}
