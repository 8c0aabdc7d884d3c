//! What is where in the folder of `mayfly dev`.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use mayfly_runtime::files::{self, DirLock, FileError};
use mayfly_runtime::{Chain, env};
use mayfly_svid::TrustDomain;

use crate::connect::DEV_DIR;
use crate::errors::CliError;
use crate::values;

/// The trust domain, unless told otherwise.
const TRUST_DOMAIN: &str = "dev.mayfly.local";
/// The longest path of a socket that every kernel takes, in bytes, without the end mark.
const SOCKET_PATH_MAX: usize = 107;

/// The folder, locked for this process.
pub(super) struct Layout {
    /// As it was given, for messages.
    given: PathBuf,
    /// Absolute.
    dir: PathBuf,
    /// Where the sockets are: the folder itself, or a short one elsewhere.
    sockets: PathBuf,
    _lock: DirLock,
}

/// A port of the loopback address that is free now. Somebody may take it before the server does; then the server says so.
pub(super) fn free_port() -> Result<u16, CliError> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(|source| CliError::System {
            doing: "listen at",
            path: "127.0.0.1".into(),
            source,
        })
}

impl Layout {
    /// Makes and locks the folder; puts the sockets elsewhere if their paths would be too long for the kernel.
    ///
    /// # Errors
    /// Another `mayfly dev` uses the folder, or it cannot be used.
    pub(super) fn prepare(given: &Path) -> Result<Self, CliError> {
        let lock = files::lock_dir(given).map_err(|error| match error {
            FileError::Locked { path, pid } => {
                let who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                CliError::failed(
                    format!("`mayfly dev` runs in {} already{who}", path.display()),
                    "use it: mayfly svid fetch; or stop it with ctrl-C; or choose another folder with --dir",
                )
            }
            error => CliError::failed(
                Chain(&error).to_string(),
                "start it in a folder that you may write to, or name one with --dir",
            ),
        })?;
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| CliError::System { doing, path, source }
        };
        let dir = fs::canonicalize(given).map_err(failed("find", given))?;
        let sockets = if dir.join("server.sock").as_os_str().len() <= SOCKET_PATH_MAX {
            dir.clone()
        } else {
            let short = short_dir(&dir)?;
            for name in ["server.sock", "agent.sock"] {
                let link = dir.join(name);
                match fs::remove_file(&link) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed("replace", &link)(error));
                    }
                    _ => symlink(short.join(name), &link).map_err(failed("link", &link))?,
                }
            }
            short
        };
        Ok(Self {
            given: given.to_owned(),
            dir,
            sockets,
            _lock: lock,
        })
    }

    /// The trust domain of what is here already, else `wanted`, else the usual one.
    ///
    /// # Errors
    /// What is here has another than `wanted`.
    pub(super) fn trust_domain(&self, wanted: Option<&TrustDomain>) -> Result<TrustDomain, CliError> {
        let own = self.recorded_trust_domain();
        match (own, wanted) {
            (Some(own), Some(wanted)) if own != *wanted => Err(CliError::failed(
                format!("{} belongs to the trust domain {own}", self.given.display()),
                format!("leave out --trust-domain, or start {wanted} in another folder with --dir"),
            )),
            (Some(own), _) => Ok(own),
            (None, Some(wanted)) => Ok(wanted.clone()),
            (None, None) => Ok(TRUST_DOMAIN.parse().expect("the default is a trust domain")),
        }
    }

    /// As the file of the last start says; only if a server has kept something since.
    fn recorded_trust_domain(&self) -> Option<TrustDomain> {
        if !has_state(&self.server_data()) {
            return None;
        }
        let text = fs::read_to_string(self.server_toml()).ok()?;
        let table: toml::Table = text.parse().ok()?;
        table.get("trust_domain")?.as_str()?.parse().ok()
    }

    pub(super) fn server_toml(&self) -> PathBuf {
        self.dir.join("server.toml")
    }

    pub(super) fn agent_toml(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    pub(super) fn server_data(&self) -> PathBuf {
        self.dir.join("server")
    }

    pub(super) fn agent_data(&self) -> PathBuf {
        self.dir.join("agent")
    }

    pub(super) fn server_socket(&self) -> PathBuf {
        self.sockets.join("server.sock")
    }

    pub(super) fn agent_socket(&self) -> PathBuf {
        self.sockets.join("agent.sock")
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.dir.join("bundle.pem")
    }

    pub(super) fn join_token(&self) -> PathBuf {
        self.dir.join("join-token")
    }

    /// The log of the daemon `name`; as it was given, for messages.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.given.join(format!("{name}.log"))
    }

    /// Whether an agent kept something here.
    pub(super) fn agent_has_state(&self) -> bool {
        has_state(&self.agent_data())
    }

    /// What other commands need to find the sockets, with a leading space; empty where they find them by themselves.
    pub(super) fn options(&self) -> String {
        if self.given == Path::new(DEV_DIR) {
            return String::new();
        }
        format!(
            " --server-socket {} --agent-socket {}",
            values::shell_word(&self.server_socket()),
            values::shell_word(&self.agent_socket())
        )
    }
}

/// Whether a daemon kept something in its folder.
fn has_state(data_dir: &Path) -> bool {
    let is_state = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != ".lock");
    fs::read_dir(data_dir).is_ok_and(|mut entries| entries.any(is_state))
}

/// A folder of ours with a short path that stands for `dir`: the same each time.
fn short_dir(dir: &Path) -> Result<PathBuf, CliError> {
    let base = env::path("XDG_RUNTIME_DIR").unwrap_or_else(|| PathBuf::from("/tmp"));
    let short = base.join(format!(
        "mayfly-dev-{}-{:016x}",
        nix::unistd::Uid::effective(),
        fnv1a(dir)
    ));
    let failed = |source| CliError::System {
        doing: "use folder",
        path: short.clone(),
        source,
    };
    match DirBuilder::new().mode(0o700).create(&short) {
        Ok(()) => {}
        // Anybody can make a folder in /tmp: it has to be ours, and a folder.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let meta = fs::symlink_metadata(&short).map_err(failed)?;
            let ours =
                meta.is_dir() && meta.uid() == nix::unistd::Uid::effective().as_raw() && meta.mode() & 0o077 == 0;
            if !ours {
                return Err(failed(io::Error::other("it belongs to somebody else")));
            }
        }
        Err(error) => return Err(failed(error)),
    }
    if short.join("server.sock").as_os_str().len() > SOCKET_PATH_MAX {
        return Err(CliError::failed(
            format!("the path of {} is too long for sockets (107 bytes)", short.display()),
            "set XDG_RUNTIME_DIR to a folder with a short path, or choose one with --dir",
        ));
    }
    Ok(short)
}

/// FNV-1a, 64 bits: names a folder, protects nothing.
fn fnv1a(path: &Path) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, fold)
}
