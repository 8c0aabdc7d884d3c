//! Durations and sizes as people write them.

use std::time::Duration;

const DURATION_HINT: &str = "write a number and a unit: 500ms, 90s, 15m, 24h, 7d";
const SIZE_HINT: &str = "write a number and a unit: 512B, 64KiB, 10MiB, 1GiB";

/// What is wrong with a value, and what to write instead.
pub(super) type Wrong = (String, String);

/// Reads `500ms`, `90s`, `15m`, `24h`, `7d`, or several of them one after another (`1h30m`).
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let one = match unit.trim() {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            "d" => Duration::from_secs(86_400),
            _ => return None,
        };
        let millis = number.checked_mul(u64::try_from(one.as_millis()).ok()?)?;
        total = total.checked_add(Duration::from_millis(millis))?;
        rest = tail.trim_start();
    }
    Some(total)
}

/// Reads `512B`, `64KiB`, `10MiB`, `1GiB`: powers of 1,024.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let shift = match unit.trim() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Writes a duration as [`parse_duration`] reads it; below a millisecond nothing is shown.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        let count = millis / length;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            millis %= length;
        }
    }
    text
}

pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    parse_duration(text).ok_or_else(|| ("is not a duration".to_owned(), DURATION_HINT.to_owned()))
}

pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    parse_size(text).ok_or_else(|| ("is not a size".to_owned(), SIZE_HINT.to_owned()))
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_written_and_shown_as_they_are_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
            let shown = format_duration(Duration::from_millis(millis));
            assert_eq!(parse_duration(&shown), Some(Duration::from_millis(millis)), "{shown}");
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn what_has_no_unit_or_does_not_fit_is_not_a_duration_or_size() {
        for text in [
            "",
            "90",
            "s",
            "-1s",
            "1.5h",
            "1w",
            "1h 30",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        for text in [
            "",
            "64",
            "64KB",
            "KiB",
            "99999999999999999999B",
            "18446744073709551615GiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
    }
}
