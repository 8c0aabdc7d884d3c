//! Reads a TOML file and reports every problem in one run, each with its line and a hint.
//!
//! A getter names a key, checks its value and remembers that the key is known; nothing fails on the way. At the end
//! [`Reader::finish`] returns either the caller's settings or all problems, unknown keys included.
//!
//! ```
//! use std::path::{Path, PathBuf};
//! use std::time::Duration;
//! use mayfly_runtime::config::{Problems, Reader};
//!
//! struct Settings { data_dir: PathBuf, ttl: Duration }
//!
//! fn check(path: &Path, text: &str) -> Result<Settings, Problems> {
//!     let reader = Reader::parse(path, text)?;
//!     let data_dir = reader.root().path("data_dir").required();
//!     let ca = reader.section("ca");
//!     let minutes = |n: u64| Duration::from_secs(60 * n);
//!     let ttl = ca.duration("ttl").range(minutes(1)..=minutes(60)).or(minutes(15));
//!     if ttl.as_secs() % 60 != 0 {
//!         ca.problem("ttl", "is not in whole minutes", "write it in minutes");
//!     }
//!     reader.finish(|| Some(Settings { data_dir: data_dir?, ttl }))
//! }
//!
//! assert!(check(Path::new("server.toml"), "data_dir = 'data'\n[ca]\nttl = '15m'\n").is_ok());
//! let problems = check(Path::new("server.toml"), "[ca]\ntll = '15m'\n").err().expect("two problems");
//! assert_eq!(problems.len(), 2);
//! ```
//!
//! A secret is never a value here: keys are called `token_file`, `key_file`, and values may be shown.

mod field;
mod problem;
mod section;
mod tree;
mod units;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use field::Field;
pub use problem::{Problem, Problems};
pub use section::Section;
pub use units::{format_duration, parse_duration, parse_size};

use tree::{Node, Table, Value};

/// Largest config file that is read.
const MAX_BYTES: u64 = 1024 * 1024;

/// One config file while it is being read. Not for sharing between threads.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    root: Table,
    lines: Lines,
    notes: RefCell<Notes>,
}

/// What the getters leave behind.
#[derive(Debug, Default)]
struct Notes {
    problems: Vec<Problem>,
    /// Keys that the program knows, by section (`""` is the root, `role[0]` an element).
    known: BTreeMap<String, BTreeSet<String>>,
    /// Settings in force, as `ca.ttl` and text, in the order in which they were read.
    effective: Vec<(String, String)>,
}

/// Byte offsets at which lines begin.
#[derive(Debug)]
struct Lines(Vec<usize>);

// === impl Reader ===

impl Reader {
    /// Reads the file `path`, of at most 1 MiB.
    ///
    /// # Errors
    /// It cannot be read, or is not TOML.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = crate::files::read_text(path, MAX_BYTES).map_err(|error| {
            let hint = match &error {
                crate::files::FileError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    "create it, or name another file with --config"
                }
                crate::files::FileError::Read { source, .. }
                    if source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    "let this user read it, or run as its owner"
                }
                _ => "a config file is UTF-8 text",
            };
            let what = crate::telemetry::Chain(&error).to_string();
            Problem {
                path: path.to_owned(),
                line: None,
                key: String::new(),
                value: None,
                what,
                hint: hint.to_owned(),
            }
        })?;
        Self::parse(path, &text)
    }

    /// Reads `text`, which came from `path`. Relative paths in it start at the folder of `path`.
    ///
    /// # Errors
    /// It is not TOML. All syntax errors are reported; the keys are then not checked.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let lines = Lines::of(text);
        let (root, errors) = toml::de::DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let problem = |error: &toml::de::Error| Problem {
                path: path.to_owned(),
                line: error.span().map(|span| lines.line_of(span.start)),
                key: String::new(),
                value: None,
                // Without the excerpt that its `Display` would add: the line may hold anything.
                what: error.message().trim().replace('\n', ", "),
                hint: "strings are quoted, sections are written `[name]`; see https://toml.io".to_owned(),
            };
            return Err(Problems::new(errors.iter().map(problem).collect()));
        }
        let root = tree::table(root.into_inner());
        Ok(Self {
            path: path.to_owned(),
            root,
            lines,
            notes: RefCell::default(),
        })
    }

    /// The keys before the first section.
    pub fn root(&self) -> Section<'_> {
        Section::new(self, String::new(), Some(&self.root), None)
    }

    /// The section `[name]`, which may be absent: its keys are then all missing.
    pub fn section(&self, name: &str) -> Section<'_> {
        self.root().section(name)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the reading: reports unknown keys, then returns all problems, or what `build` makes if there are none.
    ///
    /// # Errors
    /// There were problems.
    ///
    /// # Panics
    /// `build` returned `None` without a problem: the caller dropped a value that it had.
    pub fn finish<T>(&self, build: impl FnOnce() -> Option<T>) -> Result<T, Problems> {
        self.report_unknown("", &self.root);
        let problems = std::mem::take(&mut self.notes.borrow_mut().problems);
        if !problems.is_empty() {
            return Err(Problems::new(problems));
        }
        Ok(build().expect("a value that is missing has been reported as a problem"))
    }

    /// All settings that were read, defaults included, as `ca.ttl` and `15m`: for the log at start.
    pub fn effective(&self) -> Vec<(String, String)> {
        self.notes.borrow().effective.clone()
    }

    fn report_unknown(&self, section: &str, table: &Table) {
        for (key, entry) in table {
            let known = self
                .notes
                .borrow()
                .known
                .get(section)
                .is_some_and(|known| known.contains(key));
            let path = join(section, key);
            if known {
                self.report_unknown_below(&path, &entry.node);
                continue;
            }
            let noun = if matches!(entry.node.value, Value::Table(_)) {
                "section"
            } else {
                "key"
            };
            let hint = self.hint_for_unknown(section, key);
            self.add(Problem {
                path: self.path.clone(),
                line: Some(self.lines.line_of(entry.key_start)),
                key: path,
                // Not shown: an unknown key may well hold a secret that was meant for a file.
                value: None,
                what: format!("unknown {noun}"),
                hint,
            });
        }
    }

    fn report_unknown_below(&self, path: &str, node: &Node) {
        match &node.value {
            // Only where the program looked: what was wanted as a string and is a table has been reported.
            Value::Table(table) if self.notes.borrow().known.contains_key(path) => self.report_unknown(path, table),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.report_unknown_below(&format!("{path}[{index}]"), item);
                }
            }
            _ => {}
        }
    }

    fn hint_for_unknown(&self, section: &str, key: &str) -> String {
        let notes = self.notes.borrow();
        let known = notes.known.get(section);
        if let Some(near) = known.and_then(|known| nearest(key, known.iter().map(String::as_str))) {
            return format!("did you mean `{near}`?");
        }
        if let Some((home, _)) = notes
            .known
            .iter()
            .find(|(home, keys)| *home != section && keys.contains(key))
        {
            let home = if home.is_empty() {
                "the top of the file".to_owned()
            } else {
                format!("[{home}]")
            };
            return format!("`{key}` belongs to {home}");
        }
        match known {
            Some(known) if !known.is_empty() => {
                let names: Vec<_> = known.iter().map(String::as_str).collect();
                format!("known here: {}", names.join(", "))
            }
            _ => "remove it".to_owned(),
        }
    }

    fn add(&self, problem: Problem) {
        self.notes.borrow_mut().problems.push(problem);
    }

    fn know(&self, section: &str, key: &str) {
        self.notes
            .borrow_mut()
            .known
            .entry(section.to_owned())
            .or_default()
            .insert(key.to_owned());
    }

    fn note_effective(&self, key: String, value: String) {
        self.notes.borrow_mut().effective.push((key, value));
    }
}

// === impl Lines ===

impl Lines {
    fn of(text: &str) -> Self {
        Self(
            std::iter::once(0)
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// Counted from 1.
    fn line_of(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}

// === helpers ===

fn join(section: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if section.is_empty() {
        key
    } else {
        format!("{section}.{key}")
    }
}

/// The name that was probably meant, if one is close enough.
fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let close = |name: &&str| {
        let distance = strsim::damerau_levenshtein(word, name);
        // A third of the word may be wrong; `-` for `_` and a missing unit suffix are common.
        distance <= (word.len().max(name.len()) / 3).max(1)
    };
    names
        .filter(close)
        .min_by_key(|name| strsim::damerau_levenshtein(word, name))
}

#[cfg(test)]
mod tests;
