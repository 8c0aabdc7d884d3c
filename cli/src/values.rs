//! Values as operators write them on a command line, and as we write them back: durations, instants, SPIFFE IDs.

use std::time::Duration;

use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// An instant as written: absolute, or counted from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// RFC 3339 or seconds since 1970.
    At(Timestamp),
    /// A duration from the moment the command runs.
    In(Duration),
    /// No such instant.
    Never,
}

const DURATION_FORM: &str = "write it as 90s, 15m, 1h30m, 7d, or as a number of seconds";

/// `90s`, `15m`, `1h30m`, `7d`, or whole seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let letters = rest[digits..].len()
            - rest[digits..]
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let count: u64 = rest[..digits].parse().map_err(|_| DURATION_FORM.to_owned())?;
        let unit = match &rest[digits..digits + letters] {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(DURATION_FORM.to_owned()),
        };
        // `1m1h` is more likely a slip than an idea.
        if unit >= last_unit {
            return Err(DURATION_FORM.to_owned());
        }
        last_unit = unit;
        total = count
            .checked_mul(unit)
            .and_then(|part| total.checked_add(part))
            .ok_or("this is too long")?;
        rest = &rest[digits + letters..];
    }
    if text.is_empty() {
        Err(DURATION_FORM.to_owned())
    } else {
        Ok(Duration::from_secs(total))
    }
}

/// A lifetime in whole seconds as the wire carries it; `default` stands for the server's own (0).
pub(crate) fn ttl(text: &str) -> Result<i32, String> {
    if text == "default" {
        return Ok(0);
    }
    i32::try_from(duration(text)?.as_secs()).map_err(|_| "this is too long".to_owned())
}

/// RFC 3339, seconds since 1970, a duration from now, or `never`.
pub(crate) fn when(text: &str) -> Result<When, String> {
    if text == "never" {
        return Ok(When::Never);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        // Nobody means 1970; but SPIRE's users give seconds since then.
        return match seconds {
            0 => Ok(When::Never),
            1_000_000_000.. => Ok(When::At(Timestamp::from_unix(seconds))),
            _ => Err("write it as 2030-01-31T12:00:00Z, as seconds since 1970, or from now as 8h".to_owned()),
        };
    }
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(When::At(Timestamp::from_unix(time.unix_timestamp())));
    }
    duration(text.trim_start_matches('+'))
        .map(When::In)
        .map_err(|_| "write it as 2030-01-31T12:00:00Z, as seconds since 1970, from now as 8h, or `never`".to_owned())
}

/// A SPIFFE ID; scheme and trust domain may be in upper case (SPIFFE-ID §2.4).
pub(crate) fn spiffe_id(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::parse_folded(text).map_err(|error| match text.strip_prefix('/') {
        Some(path) => format!("a SPIFFE ID starts with its trust domain: spiffe://example.org/{path}"),
        None if !text.contains("://") => format!("{error}; write it as spiffe://example.org/web"),
        None => error.to_string(),
    })
}

/// How often, at least once.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(count @ 1..) => Ok(count),
        _ => Err("it has to be a number, 1 or more".to_owned()),
    }
}

/// A trust domain, with or without `spiffe://`.
pub(crate) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse_folded(text).map_err(|error| error.to_string())
}

// === impl When ===

impl When {
    /// The instant, or `None` for never.
    pub(crate) fn resolve(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(time) => Some(time),
            Self::In(duration) => Some(now.plus(duration)),
            Self::Never => None,
        }
    }
}

/// `45 s`, `52 min`, `3 h 10 min`, `12 days`: short, rounded down.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 if seconds % 3600 < 60 => format!("{} h", seconds / 3600),
        7_200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A lifetime as one would write it: `1h`, `1h30m`, `default` for 0.
pub(crate) fn ttl_text(seconds: i32) -> String {
    if seconds <= 0 {
        return "default".to_owned();
    }
    let mut rest = seconds;
    let mut text = String::new();
    for (unit, name) in [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')] {
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

/// A path as one word of a shell's command line.
pub(crate) fn shell_word(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// How an instant lies to now: `in 52 min`, `3 h ago`, `now`.
pub(crate) fn relative(time: Timestamp, now: Timestamp) -> String {
    if time == now {
        "now".to_owned()
    } else if time > now {
        format!("in {}", span(time.since(now)))
    } else {
        format!("{} ago", span(now.since(time)))
    }
}

/// RFC 3339 in the zone of `offset`.
pub(crate) fn rfc3339(time: Timestamp, offset: UtcOffset) -> String {
    let local = OffsetDateTime::from_unix_timestamp(time.unix()).map(|utc| utc.to_offset(offset));
    local
        .ok()
        .and_then(|local| local.format(&Rfc3339).ok())
        .unwrap_or_else(|| time.to_string())
}

/// The candidate that `text` is probably a misspelling of.
pub(crate) fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let score = |candidate: &'c str| (strsim::damerau_levenshtein(text, candidate), candidate);
    let (distance, candidate) = candidates.map(score).min_by_key(|(distance, _)| *distance)?;
    // One slip in a short word, three in a long one.
    (distance <= candidate.len().div_ceil(4).min(3)).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("3600", 3600),
            ("1h", 3600),
            ("1h30m", 5400),
            ("90s", 90),
            ("2d", 172_800),
            ("5min", 300),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "h",
            "1x",
            "1h 30m",
            "1m1h",
            "-5",
            "1.5h",
            "99999999999999999999d",
            "1hé",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(ttl("default"), Ok(0));
        assert!(ttl("100000d").is_err());
    }

    #[test]
    fn instants_are_absolute_or_from_now() {
        let now = Timestamp::from_unix(2_000_000_000);
        assert_eq!(
            when("8h").unwrap().resolve(now),
            Some(Timestamp::from_unix(2_000_028_800))
        );
        assert_eq!(
            when("+8h").unwrap().resolve(now),
            Some(Timestamp::from_unix(2_000_028_800))
        );
        assert_eq!(
            when("2030-01-31T12:00:00+01:00").unwrap().resolve(now),
            Some(Timestamp::from_unix(1_896_087_600))
        );
        assert_eq!(
            when("1896087600").unwrap().resolve(now),
            Some(Timestamp::from_unix(1_896_087_600))
        );
        assert_eq!(when("never").unwrap().resolve(now), None);
        assert_eq!(when("0").unwrap().resolve(now), None);
        assert!(when("3600").is_err(), "a bare small number could mean either");
        assert!(when("tomorrow").is_err());
    }

    #[test]
    fn spans_are_short_and_lifetimes_can_be_typed_again() {
        let of = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(
            [of(0), of(119), of(3120), of(7200), of(11_400)],
            ["0 s", "119 s", "52 min", "2 h", "3 h 10 min"]
        );
        assert_eq!(of(14 * 86_400), "14 days");
        for seconds in [1, 60, 3600, 5400, 90_061] {
            assert_eq!(ttl(&ttl_text(seconds)), Ok(seconds));
        }
        assert_eq!(
            relative(Timestamp::from_unix(10), Timestamp::from_unix(310)),
            "5 min ago"
        );
    }

    #[test]
    fn a_path_is_one_word_whatever_is_in_it() {
        for (path, word) in [("/a/b-c.d", "/a/b-c.d"), ("a b", "'a b'"), ("it's", r"'it'\''s'")] {
            assert_eq!(shell_word(path.as_ref()), word);
        }
    }

    #[test]
    fn a_path_alone_is_answered_with_the_whole_form() {
        assert!(spiffe_id("/web").unwrap_err().contains("spiffe://example.org/web"));
        assert_eq!(
            spiffe_id("SPIFFE://Example.Org/Web").unwrap().as_str(),
            "spiffe://example.org/Web"
        );
        assert_eq!(trust_domain("spiffe://Example.Org").unwrap().as_str(), "example.org");
    }
}
