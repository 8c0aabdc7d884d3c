//! What a service says about itself.

use std::path::PathBuf;
use std::time::Duration;

/// What holds when there is no fresh word on what is revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Staleness {
    /// Task SVIDs are refused and their connections ended as soon as the last word has run out.
    #[default]
    Strict,
    /// What was known last goes on being enforced. Revocations reach the service late, or not before certificates
    /// expire.
    BestEffort,
}

/// How long a connection may live that a task SVID opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// To the end of its window, also when the certificate that opened it has been renewed since.
    Window,
    /// To the end of its certificate, or of its window if that is earlier.
    Svid,
}

/// Settings of a [`Source`](super::Source).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The agent's workload socket.
    pub socket: PathBuf,
    /// The name under which the service registers, of `[a-z0-9._/-]`, 1 to 128 bytes. Definitions say under
    /// `ending.checkpoints` whose word they believe: its SPIFFE ID, or a name with an ID.
    pub checkpoint: String,
    /// [`Staleness::Strict`] unless changed.
    pub staleness: Staleness,
    /// Unless set: [`Lifetime::Window`] for a strict service, which hears of everything that ends a window, and
    /// [`Lifetime::Svid`] otherwise.
    pub lifetime: Option<Lifetime>,
    /// How long [`Source::connect`](super::Source::connect) waits for what it needs. 30 s unless changed.
    pub first_word: Duration,
    /// How long a handshake may take. 10 s unless changed.
    pub handshake: Duration,
}

/// The settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The socket is not a path, and not `unix:` with one.
    #[error("`{text}` is not the address of a Unix socket; write /path or unix:///path")]
    Socket {
        /// What was given.
        text: String,
    },
    /// The name of the checkpoint has other characters, or is empty or too long.
    #[error("`{text}` is not the name of a checkpoint: 1 to 128 of a-z 0-9 . _ / -")]
    Checkpoint {
        /// What was given.
        text: String,
    },
}

impl Settings {
    /// For the agent at `socket` and a service that registers as `checkpoint`: strict, with the usual times.
    pub fn new(socket: impl Into<PathBuf>, checkpoint: impl Into<String>) -> Self {
        Self {
            socket: socket.into(),
            checkpoint: checkpoint.into(),
            staleness: Staleness::Strict,
            lifetime: None,
            first_word: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
        }
    }

    /// [`new`](Self::new) with the address as `SPIFFE_ENDPOINT_SOCKET` has it: `unix:///path`, `unix:/path`, or a path.
    ///
    /// # Errors
    /// It is no address of a Unix socket.
    pub fn from_endpoint(endpoint: &str, checkpoint: impl Into<String>) -> Result<Self, SettingsError> {
        let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(SettingsError::Socket { text: endpoint.into() });
        }
        Ok(Self::new(path, checkpoint))
    }

    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._/-".contains(&b);
        if !(1..=128).contains(&self.checkpoint.len()) || !self.checkpoint.bytes().all(known) {
            return Err(SettingsError::Checkpoint {
                text: self.checkpoint.clone(),
            });
        }
        Ok(())
    }

    pub(crate) fn lifetime(&self) -> Lifetime {
        self.lifetime.unwrap_or(match self.staleness {
            Staleness::Strict => Lifetime::Window,
            Staleness::BestEffort => Lifetime::Svid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets() {
        for text in ["/run/a.sock", "unix:/run/a.sock", "unix:///run/a.sock"] {
            let settings = Settings::from_endpoint(text, "x").unwrap();
            assert_eq!(settings.socket, PathBuf::from("/run/a.sock"));
        }
        for text in ["", "a.sock", "tcp://127.0.0.1:8000", "unix:a.sock", "unix://a.sock"] {
            assert!(Settings::from_endpoint(text, "x").is_err(), "{text}");
        }
        for name in ["", "Pay", "a b", &"a".repeat(129)] {
            assert!(Settings::new("/x", name).check().is_err(), "{name}");
        }
        assert!(Settings::new("/x", "pay/db-proxy.1").check().is_ok());
    }
}
