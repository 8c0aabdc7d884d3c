//! One key: its value, checked step by step, and what to do if it is absent.

use std::any::Any;
use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::Section;
use super::units::format_duration;

/// A key on its way to a setting. Ends with [`required`](Field::required), [`optional`](Field::optional) or
/// [`or`](Field::or); a value that was refused has been reported and counts as absent.
#[derive(Debug)]
#[must_use = "a field becomes a setting by `required`, `optional` or `or`"]
pub struct Field<'r, T> {
    section: Section<'r>,
    key: String,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Absent,
    Refused,
    Present(T),
}

// === impl Field ===

impl<'r, T: 'static> Field<'r, T> {
    pub(super) fn absent(section: Section<'r>, key: &str) -> Self {
        Self {
            section,
            key: key.to_owned(),
            state: State::Absent,
        }
    }

    pub(super) fn refused(section: Section<'r>, key: &str) -> Self {
        Self {
            section,
            key: key.to_owned(),
            state: State::Refused,
        }
    }

    pub(super) fn present(section: Section<'r>, key: &str, value: T) -> Self {
        Self {
            section,
            key: key.to_owned(),
            state: State::Present(value),
        }
    }

    /// Makes the value into one of a stricter type; what `parse` refuses is a problem with its error as text.
    pub fn parse<U: 'static, E: Display>(self, parse: impl FnOnce(T) -> Result<U, E>) -> Field<'r, U> {
        self.parse_with_hint(parse, "")
    }

    /// [`Field::parse`] with advice on what to write instead.
    pub fn parse_with_hint<U: 'static, E: Display>(
        self,
        parse: impl FnOnce(T) -> Result<U, E>,
        hint: &str,
    ) -> Field<'r, U> {
        let Self { section, key, state } = self;
        let state = match state {
            State::Absent => State::Absent,
            State::Refused => State::Refused,
            State::Present(value) => match parse(value) {
                Ok(value) => State::Present(value),
                Err(error) => {
                    section.problem(&key, &error.to_string(), hint);
                    State::Refused
                }
            },
        };
        Field { section, key, state }
    }

    /// Refuses values outside `range`; both ends belong to it.
    pub fn range(self, range: RangeInclusive<T>) -> Self
    where
        T: PartialOrd + Debug,
    {
        let text = format!("from {} to {}", shown(range.start()), shown(range.end()));
        self.parse(move |value| {
            if range.contains(&value) {
                Ok(value)
            } else {
                Err(format!("must be {text}"))
            }
        })
    }

    /// The value; its absence is a problem. `None` only if a problem has been reported.
    pub fn required(self) -> Option<T> {
        if matches!(self.state, State::Absent) {
            self.section.missing(&self.key);
        }
        self.optional()
    }

    /// The value, or `None` if it is absent (or was refused).
    pub fn optional(self) -> Option<T> {
        match self.state {
            State::Present(value) => {
                self.section.note_effective(&self.key, None);
                Some(value)
            }
            State::Absent | State::Refused => None,
        }
    }

    /// The value, or `default` if it is absent (or was refused).
    pub fn or(self, default: T) -> T
    where
        T: Debug,
    {
        let Self { section, key, state } = self;
        match state {
            State::Present(value) => {
                section.note_effective(&key, None);
                value
            }
            State::Absent => {
                section.note_effective(&key, Some(shown(&default)));
                default
            }
            State::Refused => default,
        }
    }
}

impl<'r> Field<'r, Vec<String>> {
    /// Makes each item into one of a stricter type; all that are refused are reported.
    pub fn parse_each<U: 'static, E: Display>(self, parse: impl Fn(&str) -> Result<U, E>) -> Field<'r, Vec<U>> {
        let Self { section, key, state } = self;
        let items = match state {
            State::Absent => return Field::absent(section, &key),
            State::Refused => return Field::refused(section, &key),
            State::Present(items) => items,
        };
        let mut parsed = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match parse(item) {
                Ok(value) => parsed.push(value),
                Err(error) => section.problem_in_list(&key, index, item, &error.to_string()),
            }
        }
        if parsed.len() == items.len() {
            Field::present(section, &key, parsed)
        } else {
            Field::refused(section, &key)
        }
    }
}

/// Durations as they are written in the file, all else as Rust shows it.
fn shown<T: Debug + 'static>(value: &T) -> String {
    match (value as &dyn Any).downcast_ref::<Duration>() {
        Some(duration) => format_duration(*duration),
        None => format!("{value:?}"),
    }
}
