//! Where a report goes: three files beside each other.

use std::fs;
use std::path::{Path, PathBuf};

use mayfly_report::note::FILE_EXTENSION;
use mayfly_runtime::files::{PRIVATE, PUBLIC, write_atomic};

use crate::errors::CliError;
use crate::files;

/// The names of the three.
pub(super) struct Place {
    pub(super) json: PathBuf,
    pub(super) note: PathBuf,
    pub(super) html: PathBuf,
}

impl Place {
    /// `out` is a folder, which is made, or a file that ends in `.json`.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub(super) fn of(out: &Path) -> Result<Self, CliError> {
        let is_file = out.extension().is_some_and(|extension| extension == "json") && !out.is_dir();
        let json = match is_file {
            true => out.to_owned(),
            false => out.join("report.json"),
        };
        let folder = json.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|source| CliError::System {
                doing: "make",
                path: folder.to_owned(),
                source,
            })?;
        }
        let place = Self {
            note: note_of(&json),
            html: json.with_extension("html"),
            json,
        };
        for path in [&place.json, &place.note, &place.html] {
            files::check_file(path)?;
        }
        Ok(place)
    }

    /// Writes them, for their owner only if there are names in them.
    ///
    /// # Errors
    /// One cannot be written.
    pub(super) fn write(
        &self,
        json: &[u8],
        note: Option<&[u8]>,
        html: &[u8],
        is_private: bool,
    ) -> Result<(), CliError> {
        let mode = if is_private { PRIVATE } else { PUBLIC };
        write_atomic(&self.json, json, mode)?;
        write_atomic(&self.html, html, mode)?;
        match note {
            Some(note) => write_atomic(&self.note, note, mode)?,
            // One of an earlier report would be a signature over something else.
            None if self.note.exists() => fs::remove_file(&self.note).map_err(|source| CliError::System {
                doing: "remove",
                path: self.note.clone(),
                source,
            })?,
            None => {}
        }
        Ok(())
    }
}

/// The name of the note of a report.
pub(in super::super) fn note_of(json: &Path) -> PathBuf {
    let mut name = json.as_os_str().to_owned();
    name.push(".");
    name.push(FILE_EXTENSION);
    name.into()
}
