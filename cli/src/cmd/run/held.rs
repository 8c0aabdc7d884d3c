//! Folders that belong to a running process, and those whose process is gone.
//!
//! The owner holds a lock of the kernel's on the folder itself. It ends with the process, however that ends, and counts
//! across PID namespaces: whoever gets the lock may clear the folder away, whatever process number its name carries.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// How the names begin.
const PREFIX: &str = "mayfly-run-";
/// Somebody who clears away may take a new folder for an old one, until it is locked; hardly twice in a row.
const ATTEMPTS: usize = 8;

/// A folder that is ours as long as this is not dropped.
#[derive(Debug)]
pub(super) struct HeldDir {
    path: PathBuf,
    _lock: File,
}

impl HeldDir {
    /// A new folder in `parent`, for its owner only.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make(parent: &Path) -> io::Result<Self> {
        let base = format!("{PREFIX}{}-", std::process::id());
        for serial in 0.. {
            let path = parent.join(format!("{base}{serial}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && serial < 1000 => continue,
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            if let Some(held) = Self::hold(&path)? {
                return Ok(held);
            }
            if serial >= ATTEMPTS {
                break;
            }
        }
        Err(io::Error::other("it is taken away again and again"))
    }

    /// Those in `parent` that belong to this user and to no process any more.
    pub(super) fn left_behind(parent: &Path) -> Vec<Self> {
        let uid = nix::unistd::Uid::effective().as_raw();
        let Ok(entries) = fs::read_dir(parent) else {
            return vec![];
        };
        let named = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
        let own = named.filter(|entry| entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == uid));
        own.filter_map(|entry| Self::hold(&entry.path()).ok().flatten())
            .collect()
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `None` if another process holds it, or it is not there any more.
    fn hold(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let opened = File::options()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).expect("open flags fit an int"))
            .open(path);
        let lock = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // What was cleared away between opening and locking is another folder by now, or none.
        let same =
            fs::symlink_metadata(path).is_ok_and(|now| lock.metadata().is_ok_and(|then| now.ino() == then.ino()));
        Ok(same.then(|| Self {
            path: path.to_owned(),
            _lock: lock,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_left_behind_when_nobody_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = HeldDir::make(dir.path()).unwrap();
        let second = HeldDir::make(dir.path()).unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o777, 0o700);
        assert!(HeldDir::left_behind(dir.path()).is_empty());
        let path = first.path().to_owned();
        drop(first);
        let left: Vec<PathBuf> = HeldDir::left_behind(dir.path())
            .iter()
            .map(|held| held.path.clone())
            .collect();
        assert_eq!(left, [path]);
    }

    #[test]
    fn links_and_folders_of_other_names_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mayfly-1")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("mayfly-run-1-0")).unwrap();
        fs::write(dir.path().join("mayfly-run-2-0"), "").unwrap();
        assert!(HeldDir::left_behind(dir.path()).is_empty());
    }
}
