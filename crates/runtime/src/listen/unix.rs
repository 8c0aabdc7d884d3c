//! A listening Unix socket that replaces a dead predecessor and never a living one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tracing::{debug, warn};

use crate::telemetry::Chain;

/// Longest path of a socket: `sun_path` has 108 bytes and a final zero (unix(7)).
const MAX_PATH: usize = 107;

/// A socket that is listened on; its file is removed on drop, unless somebody else has put another there.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file.
    identity: (u64, u64),
}

/// Why a Unix socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixBindError {
    /// Somebody answers there.
    #[error("socket `{path}` is already in use by a running process")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has that name; it is left alone.
    #[error("`{path}` exists and is not a socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel takes at most 107 bytes.
    #[error("socket path `{path}` has {length} bytes; the most is 107, and its folder needs room for 10 more")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Any other failure.
    #[error("cannot listen on socket `{path}`")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

// === impl UnixSocket ===

impl UnixSocket {
    /// Listens on `path`; `mode` says who may connect (for example 0o666, 0o660, 0o600). The folder must exist.
    ///
    /// The socket appears at `path` in one step and is open for connections by then. Two processes that start in the
    /// same instant could both find the path free; what keeps them apart is
    /// [`lock_dir`](crate::files::lock_dir) on their data folder.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the kernel refuses. Must be called within a tokio runtime.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, UnixBindError> {
        let failed = |source| UnixBindError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let neighbour = folder.join(format!(".s{:08x}", rand::random::<u32>()));
        let length = path.as_os_str().len();
        if length.max(neighbour.as_os_str().len()) > MAX_PATH {
            return Err(UnixBindError::PathTooLong {
                path: path.to_owned(),
                length,
            });
        }
        refuse_the_living(path)?;
        let bound = (|| {
            let listener = UnixListener::bind(&neighbour)?;
            fs::set_permissions(&neighbour, fs::Permissions::from_mode(mode))?;
            let meta = fs::symlink_metadata(&neighbour)?;
            fs::rename(&neighbour, path)?;
            Ok(Self {
                listener,
                path: path.to_owned(),
                identity: (meta.dev(), meta.ino()),
            })
        })();
        bound.map_err(|source| {
            // Best effort: it may not have come into being.
            let _ = fs::remove_file(&neighbour);
            failed(source)
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
        if !ours {
            debug!(path = %self.path.display(), "socket file is not ours any more and stays");
        } else if let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), error = %Chain(&error), "socket file could not be removed");
        }
    }
}

fn refuse_the_living(path: &Path) -> Result<(), UnixBindError> {
    let path = || path.to_owned();
    match fs::symlink_metadata(path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(UnixBindError::Io { path: path(), source }),
        Ok(meta) if !meta.file_type().is_socket() => return Err(UnixBindError::NotASocket { path: path() }),
        Ok(_) => {}
    }
    // Non-blocking would be wrong: a full queue must count as alive. It cannot hang either: connect(2) on a stream
    // socket waits only while the queue of a living listener is full.
    match StdUnixStream::connect(path()) {
        Ok(_) => Err(UnixBindError::InUse { path: path() }),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::WouldBlock => Err(UnixBindError::InUse { path: path() }),
            _ => Err(UnixBindError::Io {
                path: path(),
                source: error,
            }),
        },
    }
}
