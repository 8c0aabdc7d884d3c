//! Revocation lists in a folder: replaced in one step, only by newer ones.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_runtime::files::{PUBLIC, write_atomic};

use super::RevocationList;
use crate::errors::CliError;
use crate::files;

const PEM_FILE: &str = "crl.pem";

/// Writes `crl.pem`, if it is not so already; what was written.
///
/// # Errors
/// It has newer lists, is no ordinary file, or cannot be written.
pub(super) fn write_pem(dir: &Path, lists: &[RevocationList]) -> Result<Vec<PathBuf>, CliError> {
    make(dir)?;
    let path = dir.join(PEM_FILE);
    let text: String = lists.iter().map(RevocationList::pem).collect();
    let Some(there) = there(&path)? else {
        return write(&path, text.as_bytes());
    };
    if there == text.as_bytes() {
        return Ok(vec![]);
    }
    // What cannot be read as lists is replaced by what can.
    let held = pem::parse_many(&there).unwrap_or_default();
    let held: Vec<_> = held
        .into_iter()
        .filter_map(|block| RevocationList::parse(block.into_contents()).ok())
        .collect();
    newer(&path, &held, lists)?;
    write(&path, text.as_bytes())
}

/// Writes a file for each list, if it is not so already, and removes those of authorities that are gone; what was written.
///
/// # Errors
/// There is a newer list, something else in a file's place, or a file cannot be written.
pub(super) fn write_der(dir: &Path, lists: &[RevocationList]) -> Result<Vec<PathBuf>, CliError> {
    make(dir)?;
    let mut written = Vec::new();
    for list in lists {
        let path = dir.join(format!("{}.crl", list.authority_id));
        match there(&path)? {
            Some(there) if there == list.der => continue,
            Some(there) => {
                let held: Vec<_> = RevocationList::parse(there).into_iter().collect();
                newer(&path, &held, std::slice::from_ref(list))?;
            }
            None => {}
        }
        written.extend(write(&path, &list.der)?);
    }
    written.extend(remove_gone(dir, lists)?);
    Ok(written)
}

/// An old list would let in again what was revoked.
fn newer(path: &Path, held: &[RevocationList], lists: &[RevocationList]) -> Result<(), CliError> {
    for list in lists {
        let old = held.iter().find(|old| old.authority_id == list.authority_id);
        if let Some(old) = old.filter(|old| old.number > list.number) {
            return Err(CliError::failed(
                format!(
                    "the server's list of authority {} has number {}, older than {} in `{}`",
                    list.authority_id,
                    list.number,
                    old.number,
                    path.display()
                ),
                "was the server restored from a backup? If that is right, remove the file",
            ));
        }
    }
    Ok(())
}

/// Files that we would have written, and of nobody any more.
fn remove_gone(dir: &Path, lists: &[RevocationList]) -> Result<Vec<PathBuf>, CliError> {
    let failed = |source: io::Error, path: &Path| CliError::System {
        doing: "remove",
        path: path.to_owned(),
        source,
    };
    let mut gone = Vec::new();
    for entry in fs::read_dir(dir).map_err(|source| failed(source, dir))? {
        let path = entry.map_err(|source| failed(source, dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(id) = name.strip_suffix(".crl") else { continue };
        let is_ours = id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit());
        if is_ours && !lists.iter().any(|list| list.authority_id == id) {
            fs::remove_file(&path).map_err(|source| failed(source, &path))?;
            gone.push(path);
        }
    }
    Ok(gone)
}

fn make(dir: &Path) -> Result<(), CliError> {
    // Servers run as other users; there is nothing secret in a list.
    fs::create_dir_all(dir).map_err(|source| CliError::System {
        doing: "create folder",
        path: dir.to_owned(),
        source,
    })
}

fn there(path: &Path) -> Result<Option<Vec<u8>>, CliError> {
    files::check_file(path)?;
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CliError::System {
            doing: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<Vec<PathBuf>, CliError> {
    write_atomic(path, bytes, PUBLIC)?;
    Ok(vec![path.to_owned()])
}
