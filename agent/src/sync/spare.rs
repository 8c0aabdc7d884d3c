//! A small file that can be replaced while the disk is full.
//!
//! A renewed identity has to be kept: once it was used the server refuses the one before it, so an agent that crashes
//! without it is shut out. Beside the file lies a spare of the same size. The new content is written over the spare, which
//! takes no space that is not there already, and then the two change names.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mayfly_runtime::files::{self, FileError};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use zeroize::Zeroizing;

/// Both files are this large, the rest of them blank. What is larger is written without a spare.
const SIZE: usize = 16 << 10;

/// Replaces `path`, for the owner alone: after a crash at any moment it holds the old or the new bytes, and blanks
/// after them. On a full disk this works if it has worked before.
///
/// # Errors
/// It cannot be written; the old one is as it was.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut padded = Zeroizing::new(vec![b' '; SIZE.max(bytes.len())]);
    padded[..bytes.len()].copy_from_slice(bytes);
    let spare = spare_path(path);
    // It is not there the first time, and whatever else is in the way, the plain way tells.
    if padded.len() == SIZE && exchange(path, &spare, &padded).is_ok() {
        return Ok(());
    }
    files::write_atomic(path, &padded, files::PRIVATE)?;
    // Without space there is none until the next time.
    let _ = files::write_atomic(&spare, &[b' '; SIZE], files::PRIVATE);
    Ok(())
}

/// Where the spare of `path` lies.
pub(super) fn spare_path(path: &Path) -> PathBuf {
    path.with_extension("spare")
}

fn exchange(path: &Path, spare: &Path, padded: &[u8]) -> io::Result<()> {
    overwrite(spare, padded)?;
    renameat_with(CWD, spare, CWD, path, RenameFlags::EXCHANGE)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    // Nobody needs the key of before any more. If it stays it is as private as it was.
    let _ = overwrite(spare, &[b' '; SIZE]);
    Ok(())
}

fn overwrite(spare: &Path, padded: &[u8]) -> io::Result<()> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).custom_flags(no_link).open(spare)?;
    if file.metadata()?.len() != SIZE as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.write_all(padded)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn the_second_time_and_later_no_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        replace(&path, b"first").unwrap();
        let before = [&path, &spare_path(&path)].map(|path| std::fs::metadata(path).unwrap().ino());
        for (nth, content) in ["second", "third"].into_iter().enumerate() {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), content);
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(
                (metadata.ino(), metadata.permissions().mode() & 0o777),
                (before[1 - nth], 0o600)
            );
            let spare = std::fs::read_to_string(spare_path(&path)).unwrap();
            assert_eq!(spare.trim_end(), "", "what was there before is gone");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn without_its_spare_or_with_too_much_to_hold_it_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        replace(&path, b"first").unwrap();
        std::fs::write(spare_path(&path), "short").unwrap();
        replace(&path, b"second").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), "second");
        assert_eq!(std::fs::metadata(spare_path(&path)).unwrap().len(), SIZE as u64);
        let large = "x".repeat(SIZE + 1);
        replace(&path, large.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), large);
    }
}
