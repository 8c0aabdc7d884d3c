//! Files that survive a power cut, and folders that belong to one process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Mode of a file with a secret: its owner only.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everybody may read.
pub const PUBLIC: u32 = 0o644;
/// Name of the lock file in a locked folder.
const LOCK_FILE: &str = ".lock";

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written. The old one, if any, is as it was.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than it can sensibly be.
    #[error("`{path}` is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit: u64,
    },
    /// It is a folder, a device or a pipe.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others than its owner could read a file with a secret.
    #[error("`{path}` has mode {mode:03o}, expected 600: others could read it (chmod 600 `{path}`)")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder cannot be made or opened.
    #[error("cannot use folder `{path}`")]
    Dir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process holds the folder.
    #[error("folder `{path}` is in use by {}", holder(*.pid))]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that wrote itself into the lock file, if it can be read.
        pid: Option<u32>,
    },
}

/// A folder that this process alone uses, until dropped.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct DirLock {
    path: PathBuf,
    _file: File,
}

/// Replaces `path` as a whole: after a crash at any moment it holds either the old or the new bytes.
///
/// Writes a neighbour with `mode`, syncs it, renames it over `path`, syncs the folder.
///
/// # Errors
/// Any step failed; `path` is unchanged unless the last one (sync of the folder) did.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    let (Some(name), Some(dir)) = (path.file_name(), path.parent()) else {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path names no file",
        )));
    };
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let mut neighbour = std::ffi::OsString::from(".");
    neighbour.push(name);
    neighbour.push(format!(".{:08x}.tmp", rand::random::<u32>()));
    let neighbour = dir.join(neighbour);

    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&neighbour)?;
        // The mode at creation is cut by the umask; this one is not.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&neighbour, path)
    })();
    if let Err(source) = written {
        // Best effort: it may not have come into being.
        let _ = fs::remove_file(&neighbour);
        return Err(failed(source));
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read, is larger, or is not a regular file.
pub fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    read_all(path, &file, limit, &mut bytes)?;
    Ok(bytes)
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
/// As [`read_capped`], or it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    String::from_utf8(read_capped(path, limit)?).map_err(|error| FileError::Read {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()),
    })
}

/// Reads a file with a secret, of at most `limit` bytes, that nobody but its owner may read or write.
///
/// # Errors
/// As [`read_capped`], or the mode gives something to the group or to others.
pub fn read_private(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open(path)?;
    let meta = file.metadata().map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    // One allocation of the right size: a growing vector would leave copies behind.
    let room = usize::try_from(meta.len().min(limit)).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    read_all(path, &file, limit, &mut bytes)?;
    Ok(bytes)
}

/// Makes `path` (mode 0700, parents as well) if it is not there, and takes it for this process alone.
///
/// The lock is the kernel's and ends with the process, however it ends.
///
/// # Errors
/// The folder cannot be made or written, or another process holds it.
pub fn lock_dir(path: &Path) -> Result<DirLock, FileError> {
    let failed = |source| FileError::Dir {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(path.join(LOCK_FILE))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message, so a failure to read it does not matter.
            let _ = (&file).take(16).read_to_string(&mut pid);
            return Err(FileError::Locked {
                path: path.to_owned(),
                pid: pid.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    // Only for the message of who comes later: a full disk is no reason not to start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(DirLock {
        path: path.to_owned(),
        _file: file,
    })
}

// === impl DirLock ===

impl DirLock {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

// === helpers ===

fn open(path: &Path) -> Result<File, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    // Without O_NONBLOCK a pipe in the place of a file would block the start for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    Ok(file)
}

fn read_all(path: &Path, file: &File, limit: u64, bytes: &mut Vec<u8>) -> Result<(), FileError> {
    file.take(limit.saturating_add(1))
        .read_to_end(bytes)
        .map_err(|source| FileError::Read {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(())
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_replaces_the_whole_file_with_the_given_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        write_atomic(&path, b"a longer first value", PUBLIC).unwrap();
        write_atomic(&path, b"second", PRIVATE).unwrap();
        assert_eq!(*read_private(&path, 100).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file_and_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/agent.key");
        let error = write_atomic(&path, b"x", PRIVATE).unwrap_err();
        assert!(error.to_string().contains("missing/agent.key"));
        let folder = dir.path().join("folder");
        fs::create_dir_all(folder.join("child")).unwrap();
        assert!(
            write_atomic(&folder, b"x", PRIVATE).is_err(),
            "a folder is not replaced"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the neighbour is gone");
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write_atomic(&path, b"secret", 0o640).unwrap();
        let text = read_private(&path, 100).unwrap_err().to_string();
        assert!(text.contains("640") && text.contains("chmod 600"), "{text}");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        fs::write(&path, [0; 64]).unwrap();
        assert_eq!(read_capped(&path, 64).unwrap().len(), 64);
        assert!(matches!(
            read_capped(&path, 63),
            Err(FileError::TooLarge { limit: 63, .. })
        ));
    }

    #[test]
    fn folders_and_pipes_are_not_files_and_do_not_block() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_capped(dir.path(), 10), Err(FileError::NotAFile { .. })));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read_capped(&pipe, 10), Err(FileError::NotAFile { .. })));
    }

    #[test]
    fn two_owners_never_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("var/data");
        let lock = lock_dir(&data).unwrap();
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        // flock belongs to the open file, so a second open in one process counts like another process.
        let error = lock_dir(&data).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("in use by process {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        let _again = lock_dir(&data).unwrap();
    }
}
