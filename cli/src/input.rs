//! Files that are named on the command line, where `-` is stdin.

use std::io::{self, Read};

use mayfly_runtime::files::{self, FileError};

use crate::errors::CliError;

/// Reads at most `limit` bytes. stdin is read in place: nothing else of a command can go on before it has its input.
///
/// # Errors
/// It cannot be read, or is larger.
pub(crate) fn read(name: &str, limit: u64) -> Result<Vec<u8>, CliError> {
    if name != "-" {
        return Ok(files::read_capped(name.as_ref(), limit)?);
    }
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| CliError::System {
        doing: "read",
        path: "stdin".into(),
        source,
    })?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: "stdin".into(),
            limit,
        }
        .into());
    }
    Ok(bytes)
}

/// What to call it in messages.
pub(crate) fn shown(name: &str) -> String {
    if name == "-" {
        "stdin".to_owned()
    } else {
        format!("`{name}`")
    }
}
