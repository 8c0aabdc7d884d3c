//! What is wrong with policies as written.

use std::fmt;

/// One thing that is wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// From 1; 0 if the file as a whole is meant.
    pub line: usize,
    /// The policy's `@id`, or its number in the file, if it is of one.
    pub policy: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What to do, if that is known.
    pub hint: Option<String>,
}

/// All that is wrong, in the order of files and lines. Nothing was loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PolicyErrors(pub Vec<PolicyError>);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(policy) = &self.policy {
            write!(f, ": {policy}")?;
        }
        write!(f, ": {}", self.problem)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
