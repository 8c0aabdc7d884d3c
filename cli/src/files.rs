//! Files that are named on the command line: read with a limit, written for their owner only.
//!
//! What can be found wrong with a destination is found before anything is asked of a server, so that no token or SVID
//! comes into being that could then not be kept.

use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mayfly_runtime::files::{self, FileError};
use nix::unistd::{AccessFlags, eaccess};

use crate::errors::CliError;

/// Reads at most `limit` bytes from a file, a pipe, or (`-`) stdin. It is read in place: nothing else of a command can go
/// on before it has its input.
///
/// # Errors
/// It cannot be read, or is larger.
pub(crate) fn read(name: &str, limit: u64) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let read = if name == "-" {
        if io::stdin().is_terminal() {
            anstream::eprintln!("reading from this terminal; ctrl-D ends the input");
        }
        io::stdin().lock().take(limit + 1).read_to_end(&mut bytes)
    } else {
        File::open(name).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
    };
    match read {
        Err(error) => Err(CliError::Input {
            what: format!("cannot read {}: {error}", shown(name)),
            hints: vec![],
        }),
        Ok(_) if bytes.len() as u64 > limit => Err(CliError::Input {
            what: format!("{} is larger than {limit} bytes", shown(name)),
            hints: vec![],
        }),
        Ok(_) => Ok(bytes),
    }
}

/// What to call it in messages.
pub(crate) fn shown(name: &str) -> String {
    if name == "-" {
        "stdin".to_owned()
    } else {
        format!("`{name}`")
    }
}

/// Refuses a place where [`write_private`] could not write, or where it would replace what is no ordinary file.
///
/// # Errors
/// Why not.
pub(crate) fn check_file(path: &Path) -> Result<(), CliError> {
    // Replacing a link, a device or a pipe by a file is never what was meant: /dev/stdout, /dev/null.
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(CliError::input(
            format!("`{}` is a folder, a link or a device", path.display()),
            "name a new or an ordinary file",
        ));
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    check_writable(dir)
}

/// Refuses a folder that cannot be written or, if it is not there, not be made.
///
/// # Errors
/// Why not.
pub(crate) fn check_dir(dir: &Path) -> Result<(), CliError> {
    let there = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok());
    check_writable(
        there
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )
}

fn check_writable(dir: &Path) -> Result<(), CliError> {
    let refused = |why: &str| {
        CliError::input(
            format!("cannot write into `{}`: {why}", dir.display()),
            "choose a folder that exists and that you may write to",
        )
    };
    if !dir.is_dir() {
        return Err(refused("it is not a folder"));
    }
    eaccess(dir, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| refused(errno.desc()))
}

/// Makes a folder for its owner only, if it is not there.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_private_dir(dir: &Path) -> Result<(), CliError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| CliError::System {
            doing: "create folder",
            path: dir.to_owned(),
            source,
        })
}

/// Writes a file for its owner only: in one piece, whatever was there.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    files::write_atomic(path, bytes, files::PRIVATE)
}

/// Writes one file into `dir` for its owner only and remembers it.
///
/// # Errors
/// It cannot be written.
pub(crate) fn put(dir: &Path, name: &str, bytes: &[u8], written: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let path = dir.join(name);
    write_private(&path, bytes)?;
    written.push(path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_can_be_read_and_endless_devices_end_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, "[]").unwrap()
        });
        assert_eq!(read(pipe.to_str().unwrap(), 10).unwrap(), b"[]");
        writer.join().unwrap();
        let error = read("/dev/zero", 10).unwrap_err();
        assert_eq!(error.to_string(), "`/dev/zero` is larger than 10 bytes");
    }

    #[test]
    fn what_is_no_ordinary_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let bad = [
            link,
            dir.path().into(),
            "/dev/null".into(),
            file.join("under"),
            "/nowhere/x".into(),
        ];
        for path in bad {
            assert_eq!(
                check_file(&path).unwrap_err().exit(),
                crate::errors::Exit::Usage,
                "{path:?}"
            );
        }
        for path in [file.clone(), dir.path().join("new")] {
            check_file(&path).unwrap();
        }
        check_dir(&dir.path().join("a/b")).unwrap();
        assert!(check_dir(&file).is_err() && check_dir(&file.join("under")).is_err());
    }
}
