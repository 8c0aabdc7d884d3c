//! A section and its typed getters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::field::Field;
use super::problem::Problem;
use super::tree::{Node, Table, Value};
use super::{Reader, join, nearest, units};

/// A section of the file, or the keys before the first one. Each getter makes its key known.
#[derive(Debug, Clone)]
pub struct Section<'r> {
    reader: &'r Reader,
    /// `ca`, `attestor.x509pop`, `role[0]`; empty for the root.
    path: String,
    table: Option<&'r Table>,
    /// Byte offset of the section's key.
    start: Option<usize>,
}

// === impl Section ===

impl<'r> Section<'r> {
    pub(super) fn new(reader: &'r Reader, path: String, table: Option<&'r Table>, start: Option<usize>) -> Self {
        reader.notes.borrow_mut().known.entry(path.clone()).or_default();
        Self {
            reader,
            path,
            table,
            start,
        }
    }

    /// A text; may be empty.
    pub fn string(&self, key: &str) -> Field<'r, String> {
        self.text(key, |text| Ok(text.to_owned()))
    }

    /// A path; a relative one starts at the folder of the config file.
    pub fn path(&self, key: &str) -> Field<'r, PathBuf> {
        let folder = self.reader.path.parent().map(PathBuf::from).unwrap_or_default();
        self.text(key, move |text| {
            if text.is_empty() {
                return Err((
                    "is an empty path".to_owned(),
                    "leave the key out for the default".to_owned(),
                ));
            }
            Ok(folder.join(text))
        })
    }

    /// `true` or `false`.
    pub fn bool(&self, key: &str) -> Field<'r, bool> {
        self.value(key, "true or false", |value| match value {
            Value::Boolean(yes) => Some(Ok(*yes)),
            _ => None,
        })
    }

    /// A whole number that fits `T`; narrow it with [`Field::range`].
    pub fn integer<T: TryFrom<i64> + 'static>(&self, key: &str) -> Field<'r, T> {
        self.value(key, "a whole number", |value| match value {
            Value::Integer(Ok(number)) => {
                Some(T::try_from(*number).map_err(|_| ("is out of range".to_owned(), String::new())))
            }
            Value::Integer(Err(_)) => Some(Err(("is out of range".to_owned(), String::new()))),
            _ => None,
        })
    }

    /// `"500ms"`, `"90s"`, `"15m"`, `"24h"`, `"7d"`, `"1h30m"`.
    pub fn duration(&self, key: &str) -> Field<'r, Duration> {
        self.text(key, units::duration)
    }

    /// `"512B"`, `"64KiB"`, `"10MiB"`, `"1GiB"`, in bytes.
    pub fn size(&self, key: &str) -> Field<'r, u64> {
        self.text(key, units::size)
    }

    /// An IP address with a port: `"127.0.0.1:8081"`, `"[::]:8081"`.
    pub fn socket_addr(&self, key: &str) -> Field<'r, SocketAddr> {
        self.text(key, |text| {
            text.parse().map_err(|_| {
                let hint = "write an IP address and a port: 127.0.0.1:8081, 0.0.0.0:8081, [::1]:8081";
                ("is not an address with a port".to_owned(), hint.to_owned())
            })
        })
    }

    /// Permission bits as an octal string: `"0660"`.
    pub fn mode(&self, key: &str) -> Field<'r, u32> {
        self.text(key, |text| match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && text.len() >= 3 && !text.starts_with('+') => Ok(mode),
            _ => Err((
                "is not a file mode".to_owned(),
                "write it in octal: \"0660\"".to_owned(),
            )),
        })
    }

    /// A list of texts; may be empty.
    pub fn string_list(&self, key: &str) -> Field<'r, Vec<String>> {
        self.value(key, "a list of strings", |value| {
            let Value::Array(items) = value else { return None };
            let text = |item: &Node| match &item.value {
                Value::String(text) => Some(text.clone()),
                _ => None,
            };
            items.iter().map(text).collect::<Option<_>>().map(Ok)
        })
    }

    /// A list of whole numbers that fit `T`, with or without quotes; may be empty.
    pub fn integer_list<T: TryFrom<i64> + 'static>(&self, key: &str) -> Field<'r, Vec<T>> {
        self.value(key, "a list of whole numbers", |value| {
            let Value::Array(items) = value else { return None };
            let number = |item: &Node| match &item.value {
                Value::Integer(number) => Some(number.as_ref().ok().copied()),
                Value::String(text) => text.parse().ok().map(Some),
                _ => None,
            };
            let numbers: Vec<Option<i64>> = items.iter().map(number).collect::<Option<_>>()?;
            let fitting = numbers
                .into_iter()
                .map(|number| T::try_from(number?).ok())
                .collect::<Option<_>>();
            Some(fitting.ok_or_else(|| ("has a number that is out of range".to_owned(), String::new())))
        })
    }

    /// One of a few words, each with its meaning.
    pub fn choice<T: Clone + 'static>(&self, key: &str, choices: &[(&str, T)]) -> Field<'r, T> {
        self.text(key, |text| {
            if let Some((_, meaning)) = choices.iter().find(|(word, _)| *word == text) {
                return Ok(meaning.clone());
            }
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            let hint = match nearest(text, words.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => String::new(),
            };
            Err((format!("must be one of {}", words.join(", ")), hint))
        })
    }

    /// The section below this one, which may be absent: its keys are then all missing.
    pub fn section(&self, name: &str) -> Section<'r> {
        let path = join(&self.path, name);
        match self.find(name) {
            None => Section::new(self.reader, path, None, None),
            Some((
                start,
                Node {
                    value: Value::Table(table),
                    ..
                },
            )) => Section::new(self.reader, path, Some(table), Some(start)),
            Some((_, node)) => {
                self.wrong_kind(name, &node.value, "a section");
                Section::new(self.reader, path, None, None)
            }
        }
    }

    /// The section below this one, if it is written in the file.
    pub fn optional_section(&self, name: &str) -> Option<Section<'r>> {
        let section = self.section(name);
        section.table.is_some().then_some(section)
    }

    /// The sections `[[name]]`, in the order of the file.
    pub fn section_list(&self, name: &str) -> Vec<Section<'r>> {
        let Some((start, node)) = self.find(name) else {
            return Vec::new();
        };
        let Value::Array(items) = &node.value else {
            self.wrong_kind(name, &node.value, "a list of sections, each written [[…]]");
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Value::Table(table) = &item.value else {
                self.wrong_kind(name, &node.value, "a list of sections, each written [[…]]");
                return Vec::new();
            };
            let path = format!("{}[{index}]", join(&self.path, name));
            // The first element shares its place with the whole list.
            let start = if index == 0 { start } else { item.start };
            sections.push(Section::new(self.reader, path, Some(table), Some(start)));
        }
        sections
    }

    /// The sections `[name.<any>]` with their last names, in the order of the file.
    pub fn named_sections(&self, name: &str) -> Vec<(String, Section<'r>)> {
        let outer = self.section(name);
        let names: BTreeMap<usize, &String> = outer
            .table
            .into_iter()
            .flatten()
            .map(|(name, entry)| (entry.key_start, name))
            .collect();
        names
            .into_values()
            .map(|name| (name.clone(), outer.section(name)))
            .collect()
    }

    /// True if the section is written in the file.
    pub fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// The full name: `ca`, `attestor.x509pop`, `role[0]`; empty for the root.
    pub fn name(&self) -> &str {
        &self.path
    }

    /// Reports a problem that the getters cannot see, such as two settings that do not fit each other.
    pub fn problem(&self, key: &str, what: &str, hint: &str) {
        let entry = self.table.and_then(|table| table.get(key));
        self.report(key, entry.and_then(|entry| entry.node.value.shown()), what, hint);
    }

    pub(super) fn missing(&self, key: &str) {
        let hint = match (self.path.as_str(), self.table) {
            ("", _) => format!("add `{key} = …` before the first section"),
            (section, None) => format!("add a section [{section}] with `{key} = …`"),
            (section, Some(_)) => format!("add `{key} = …` to [{section}]"),
        };
        self.report(key, None, "is missing", &hint);
    }

    pub(super) fn problem_in_list(&self, key: &str, index: usize, item: &str, what: &str) {
        let item_start = match self
            .table
            .and_then(|table| table.get(key))
            .map(|entry| &entry.node.value)
        {
            Some(Value::Array(items)) => items.get(index).map(|item| item.start),
            _ => None,
        };
        let line = item_start.map(|start| self.reader.lines.line_of(start));
        let key = format!("{}[{index}]", join(&self.path, key));
        self.add(line, key, Some(format!("{item:?}")), what, "");
    }

    /// Notes a setting in force: the value as written, or the given default.
    pub(super) fn note_effective(&self, key: &str, default: Option<String>) {
        let written = || {
            self.table
                .and_then(|table| table.get(key))
                .and_then(|entry| entry.node.value.shown())
        };
        if let Some(value) = default.or_else(written) {
            self.reader.note_effective(join(&self.path, key), value);
        }
    }

    fn text<T: 'static>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, units::Wrong>) -> Field<'r, T> {
        self.value(key, "a string", |value| match value {
            Value::String(text) => Some(parse(text)),
            _ => None,
        })
    }

    /// `read` answers `None` if the value is of the wrong kind, and with what is wrong if its content is.
    fn value<T: 'static>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&Value) -> Option<Result<T, units::Wrong>>,
    ) -> Field<'r, T> {
        let Some((_, node)) = self.find(key) else {
            return Field::absent(self.clone(), key);
        };
        match read(&node.value) {
            Some(Ok(value)) => return Field::present(self.clone(), key, value),
            Some(Err((what, hint))) => self.problem(key, &what, &hint),
            None => self.wrong_kind(key, &node.value, wanted),
        }
        Field::refused(self.clone(), key)
    }

    fn find(&self, key: &str) -> Option<(usize, &'r Node)> {
        self.reader.know(&self.path, key);
        self.table
            .and_then(|table| table.get(key))
            .map(|entry| (entry.key_start, &entry.node))
    }

    fn wrong_kind(&self, key: &str, value: &Value, wanted: &str) {
        let hint = match (wanted, value) {
            ("a string", Value::Integer(_) | Value::Float(_) | Value::Boolean(_)) => "put it in quotes",
            ("true or false", Value::String(_)) => "write it without quotes",
            ("a whole number", Value::String(_)) => "write it without quotes",
            ("a list of strings", Value::String(_)) => "write [\"…\"]",
            ("a list of whole numbers", Value::Integer(_) | Value::String(_)) => "write [1000]",
            _ => "",
        };
        self.problem(key, &format!("is {}, not {wanted}", value.kind()), hint);
    }

    fn report(&self, key: &str, value: Option<String>, what: &str, hint: &str) {
        let entry = self.table.and_then(|table| table.get(key));
        let start = entry.map(|entry| entry.key_start).or(self.start);
        let line = start.map(|start| self.reader.lines.line_of(start));
        self.add(line, join(&self.path, key), value, what, hint);
    }

    fn add(&self, line: Option<usize>, key: String, value: Option<String>, what: &str, hint: &str) {
        let (what, hint) = (what.to_owned(), hint.to_owned());
        self.reader.add(Problem {
            path: self.reader.path.clone(),
            line,
            key,
            value,
            what,
            hint,
        });
    }
}
