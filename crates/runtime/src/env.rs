//! The one door to environment variables.
//!
//! Settings live in the config file; only what must be known before it is read, or what other tools define
//! (a socket's address, a colour switch), comes through here.

use std::path::PathBuf;

/// A variable whose value cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("environment variable `{name}` is not valid UTF-8")]
pub struct NotUtf8 {
    /// Name of the variable. Its value is not repeated: it may be a secret.
    pub name: String,
}

/// The value of `name`; `None` if it is unset or empty.
///
/// # Errors
/// The value is not UTF-8.
pub fn var(name: &str) -> Result<Option<String>, NotUtf8> {
    match os_var(name) {
        None => Ok(None),
        Some(value) => value
            .into_string()
            .map(Some)
            .map_err(|_| NotUtf8 { name: name.to_owned() }),
    }
}

/// The value of `name` as a path; `None` if it is unset or empty.
pub fn path(name: &str) -> Option<PathBuf> {
    os_var(name).map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "this is the door")]
fn os_var(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_variable_is_none_and_not_an_error() {
        assert_eq!(var("MAYFLY_TEST_SURELY_UNSET").expect("unset is fine"), None);
        assert_eq!(path("MAYFLY_TEST_SURELY_UNSET"), None);
        assert!(path("PATH").is_some());
    }
}
