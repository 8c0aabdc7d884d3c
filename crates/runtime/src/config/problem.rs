//! What is wrong with a config file.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong, where, and what to do.
///
/// ```text
/// server.toml:14: ca.ttl = "90d": must be from 1m to 24h
///   hint: write a shorter one
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line, counted from 1; `None` if it is about the file or about something that is not there.
    pub line: Option<usize>,
    /// Key with its sections (`ca.ttl`, `role[1].name`); empty if it is about the file.
    pub key: String,
    /// The value as written, shortened.
    pub value: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do; empty if there is nothing to add.
    pub hint: String,
}

/// All that is wrong with a config file, in the order of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            key,
            value,
            what,
            hint,
        } = self;
        write!(f, "{}:", path.display())?;
        if let Some(line) = line {
            write!(f, "{line}:")?;
        }
        match (key.as_str(), value) {
            ("", _) => {}
            (key, None) => write!(f, " {key}:")?,
            (key, Some(value)) => write!(f, " {key} = {value}:")?,
        }
        write!(f, " {what}")?;
        if !hint.is_empty() {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

// === impl Problems ===

impl Problems {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        // What has no line comes first: a file that cannot be read, keys of sections that are missing.
        problems.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        Self(problems)
    }

    /// In the order of lines.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// How many; never 0.
    #[expect(clippy::len_without_is_empty, reason = "there is no empty one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}
