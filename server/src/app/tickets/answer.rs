//! What a tracker answers, as JSON.

use mayfly_svid::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest kind or owner, in bytes.
const WORD_MAX: usize = 128;

/// A tracker's answer. Fields that are not known here are for others and do not matter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// There is such a ticket.
    #[serde(default = "yes")]
    pub present: bool,
    /// Work under it may go on. There is no default: a tracker that does not say so has not been understood.
    pub open: bool,
    /// Such as `change` or `incident`.
    #[serde(default)]
    pub kind: String,
    /// Who works on it.
    #[serde(default)]
    pub owner: Option<String>,
    /// Not open from this instant on: RFC 3339, or Unix seconds.
    #[serde(default, deserialize_with = "instant")]
    pub expires: Option<Timestamp>,
}

/// Text that is not a tracker's answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadAnswer {
    /// It is not the JSON.
    #[error("it is not JSON such as {{\"open\": true, \"kind\": \"change\"}}")]
    Json(#[source] serde_json::Error),
    /// A word that would do things to an operator's terminal, or is too long.
    #[error("`{0}` is not {WORD_MAX} bytes at most without control characters")]
    Word(&'static str),
}

impl Answer {
    /// Reads an answer.
    pub(super) fn parse(text: &[u8]) -> Result<Self, BadAnswer> {
        let answer: Self = serde_json::from_slice(text).map_err(BadAnswer::Json)?;
        let is_word = |word: &str| word.len() <= WORD_MAX && !word.chars().any(char::is_control);
        if !is_word(&answer.kind) {
            return Err(BadAnswer::Word("kind"));
        }
        if !answer.owner.as_deref().is_none_or(is_word) {
            return Err(BadAnswer::Word("owner"));
        }
        Ok(answer)
    }
}

fn yes() -> bool {
    true
}

fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Seconds(i64),
        Text(String),
    }
    match Option::<Written>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Written::Seconds(seconds)) => Ok(Some(Timestamp::from_unix(seconds))),
        Some(Written::Text(text)) => match OffsetDateTime::parse(&text, &Rfc3339) {
            Ok(at) => Ok(Some(Timestamp::from_unix(at.unix_timestamp()))),
            Err(_) => Err(D::Error::custom("`expires` is neither RFC 3339 nor Unix seconds")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_work_may_go_on_and_may_say_more() {
        let answer = Answer::parse(br#"{"open": true, "severity": 2}"#).unwrap();
        assert!(answer.present && answer.open && answer.kind.is_empty() && answer.expires.is_none());
        for expires in ["\"2027-06-30T00:00:00Z\"", "1814313600"] {
            let text =
                format!("{{\"open\": false, \"kind\": \"change\", \"owner\": \"alice\", \"expires\": {expires}}}");
            let answer = Answer::parse(text.as_bytes()).unwrap();
            assert_eq!(answer.expires, Some(Timestamp::from_unix(1_814_313_600)));
            assert_eq!((answer.open, answer.owner.as_deref()), (false, Some("alice")));
        }
        assert_eq!(
            Answer::parse(br#"{"open": true, "expires": null}"#).unwrap().expires,
            None
        );
    }

    #[test]
    fn what_does_not_say_it_is_no_answer() {
        let long = format!("{{\"open\": true, \"kind\": \"{}\"}}", "x".repeat(129));
        for text in [
            "",
            "yes",
            "true",
            "[]",
            "{}",
            "{\"state\": \"open\"}",
            "{\"open\": \"true\"}",
            "{\"open\": 1}",
            "{\"open\": true} {\"open\": false}",
            "{\"open\": true, \"open\": true}",
            "{\"open\": true, \"expires\": \"soon\"}",
            "{\"open\": true, \"expires\": -1.5}",
            "{\"open\": true, \"kind\": \"\\u001b[31m\"}",
            "{\"open\": true, \"owner\": \"a\\nb\"}",
            &long,
        ] {
            assert!(Answer::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
