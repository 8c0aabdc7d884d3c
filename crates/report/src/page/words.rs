//! How values are written for people: instants, durations, shares, and text that others chose.

use maud::{Markup, html};
use time::OffsetDateTime;

/// The most characters of a text that somebody else chose. The JSON has all of it.
const SHOWN_MAX: usize = 240;
/// The same of sentences in which such texts stand.
const PROSE_MAX: usize = 2_000;

/// `2026-11-02 08:30:00`, UTC.
pub(super) fn moment(at: i64) -> String {
    let Ok(when) = OffsetDateTime::from_unix_timestamp(at) else {
        return format!("second {at}");
    };
    let (date, clock) = (when.date(), when.time());
    format!("{date} {:02}:{:02}:{:02}", clock.hour(), clock.minute(), clock.second())
}

/// `2026-11-02`, UTC.
pub(super) fn day(at: i64) -> String {
    OffsetDateTime::from_unix_timestamp(at).map_or_else(|_| format!("second {at}"), |when| when.date().to_string())
}

/// An instant with its exact value for machines.
pub(super) fn time(at: i64) -> Markup {
    let text = moment(at);
    match text.starts_with("second") {
        true => html! { (text) },
        false => html! { time datetime=(format!("{}Z", text.replace(' ', "T"))) { (text) } },
    }
}

pub(super) fn time_or_dash(at: Option<i64>) -> Markup {
    at.map_or_else(dash, time)
}

/// `45 s`, `12 min 30 s`, `3 h 05 min`, `4 d 6 h`.
pub(super) fn span(seconds: i64) -> String {
    let (minute, hour, day) = (60, 3_600, 86_400);
    match seconds {
        i64::MIN..60 => format!("{seconds} s"),
        _ if seconds < hour => two(seconds / minute, "min", seconds % minute, "s"),
        _ if seconds < day => two(seconds / hour, "h", seconds % hour / minute, "min"),
        _ => two(seconds / day, "d", seconds % day / hour, "h"),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

/// Thousandths as percent: `12.5 %`.
pub(super) fn percent(permille: u64) -> String {
    match permille % 10 {
        0 => format!("{} %", permille / 10),
        rest => format!("{}.{rest} %", permille / 10),
    }
}

/// `12 345`, with spaces that do not break.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1 window`, `2 windows`.
pub(super) fn many(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{} {one}s", count(number)),
    }
}

/// Text that somebody else chose, as plain text: what is unseen or turns the direction of other text is spelt out, and
/// what is too long is cut.
pub(super) fn plain(text: &str) -> String {
    shortened(text, SHOWN_MAX)
}

/// The same, of at most `most` characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.chars().map(seen).collect();
    }
    let (head, tail) = (most * 2 / 3, most / 3 - 1);
    let begin = text.chars().take(head).map(seen);
    let end = text.chars().skip(length - tail).map(seen);
    begin.chain(["…".to_owned()]).chain(end).collect()
}

fn seen(c: char) -> String {
    let is_unseen = c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    match is_unseen {
        true => format!("⟨U+{:04X}⟩", u32::from(c)),
        false => c.to_string(),
    }
}

/// The same on a page, with a direction of its own.
pub(super) fn text(text: &str) -> Markup {
    match text.is_empty() {
        true => dash(),
        false => html! { bdi { (plain(text)) } },
    }
}

/// Whole sentences, with names of others in them: begun large, and what stands between backticks as it is in a log.
pub(super) fn prose(text: &str) -> Markup {
    if text.is_empty() {
        return dash();
    }
    let text = shortened(text, PROSE_MAX);
    // A name stays as it is.
    let word = text.split(' ').next().unwrap_or_default();
    let is_word = word.len() < text.len() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let text = match is_word {
        true => format!("{}{}", text[..1].to_ascii_uppercase(), &text[1..]),
        false => text,
    };
    // Without a partner a backtick is one.
    let is_paired = text.matches('`').count() % 2 == 0;
    html! {
        bdi {
            @if is_paired {
                @for (place, part) in text.split('`').enumerate() {
                    @if place % 2 == 1 { code { (part) } } @else { (part) }
                }
            } @else { (text) }
        }
    }
}

/// A name of ours: an identity, a window, a hash.
pub(super) fn code(text: &str) -> Markup {
    match text.is_empty() {
        true => dash(),
        false => html! { code { bdi { (plain(text)) } } },
    }
}

/// Several names.
pub(super) fn codes<'a>(names: impl IntoIterator<Item = &'a String>) -> Markup {
    let names: Vec<&String> = names.into_iter().collect();
    if names.is_empty() {
        return dash();
    }
    html! {
        @for (place, name) in names.iter().take(20).enumerate() { @if place > 0 { ", " } (code(name)) }
        @if names.len() > 20 { " and " (names.len() - 20) " more" }
    }
}

/// Places in the log.
pub(super) fn entries(indexes: &[u64]) -> Markup {
    if indexes.is_empty() {
        return dash();
    }
    html! {
        span.entries {
            @for (place, index) in indexes.iter().take(12).enumerate() { @if place > 0 { ", " } (index) }
            @if indexes.len() > 12 { ", …" }
        }
    }
}

/// Nothing to be said, in so many words for those who hear the page.
pub(super) fn dash() -> Markup {
    html! { span.none aria-label="none" { "–" } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let written = [0, 59, 60, 3_905, 7_200, 93_600].map(span);
        assert_eq!(written, ["0 s", "59 s", "1 min", "1 h 5 min", "2 h", "1 d 2 h"]);
        assert_eq!([0, 5, 125, 1000].map(percent), ["0 %", "0.5 %", "12.5 %", "100 %"]);
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn any_instant_can_be_written() {
        assert_eq!(moment(1_793_700_000), "2026-11-03 10:00:00");
        for at in [i64::MIN, i64::MAX] {
            assert!(moment(at).starts_with("second ") && time(at).into_string() == moment(at));
        }
    }

    #[test]
    fn text_of_others_cannot_turn_the_text_around_it() {
        assert_eq!(plain("a\u{202e}b\0"), "a⟨U+202E⟩b⟨U+0000⟩");
        assert_eq!(plain("עברית"), "עברית");
        let long = shortened(&"x".repeat(1000), 30);
        assert_eq!(long.chars().count(), 20 + 1 + 9);
        assert_eq!(text("<b>").into_string(), "<bdi>&lt;b&gt;</bdi>");
    }
}
