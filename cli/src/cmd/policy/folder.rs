//! Policy as files: what is read from folders, what is written into them, what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mayfly_runtime::files::{PUBLIC, write_atomic};
use serde::Serialize;
use similar::TextDiff;

use crate::errors::CliError;
use crate::files;

/// File name to text.
pub(crate) type Files = BTreeMap<String, String>;

/// Extension of policies.
pub(super) const POLICY: &str = "cedar";
/// Extension of tables of tests, and of the definitions that they name.
pub(super) const TABLE: &str = "toml";
/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// A file that differs. The field names are the keys of the JSON form.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    file: String,
    /// `new`, `gone` or `changed`.
    change: &'static str,
    lines_added: usize,
    lines_removed: usize,
}

/// The files with this extension that `paths` name: themselves, or those of a folder.
///
/// # Errors
/// One cannot be read, there is none where a folder was named, or two have the same name.
pub(super) fn read(paths: &[PathBuf], extension: &str) -> Result<Files, CliError> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        if path.is_dir() {
            let here = of_folder(path, extension)?;
            if here.is_empty() {
                return Err(CliError::input(
                    format!("there is no file *.{extension} in `{}`", path.display()),
                    "folders inside it are not looked into",
                ));
            }
            found.extend(here);
        } else if [POLICY, TABLE]
            .into_iter()
            .all(|other| other == extension || !has_extension(path, other))
        {
            found.push(path.clone());
        }
    }
    let mut texts = Files::new();
    for path in found {
        let name = path.to_str().ok_or_else(|| {
            CliError::input(
                format!("the name of `{}` is not UTF-8", path.display()),
                "give it another one",
            )
        })?;
        let text = String::from_utf8(files::read(name, FILE_MAX)?)
            .map_err(|_| CliError::input(format!("`{name}` is not text in UTF-8"), "is this a policy file?"))?;
        let short = path
            .file_name()
            .map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned());
        if texts.insert(short.clone(), text).is_some() {
            return Err(CliError::input(
                format!("two files have the name `{short}`"),
                "the server keeps them under their names, without folders",
            ));
        }
    }
    Ok(texts)
}

/// The files of a folder with this extension, by name.
///
/// # Errors
/// It cannot be read.
fn of_folder(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, CliError> {
    let failed = |error: std::io::Error| CliError::Input {
        what: format!("cannot read `{}`: {error}", dir.display()),
        hints: vec![],
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if has_extension(&path, extension) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|ext| ext == extension)
}

/// Writes files into a folder; their paths. What else is in it stays.
///
/// # Errors
/// A name is not one, or a file cannot be written.
pub(super) fn write(dir: &Path, texts: &Files) -> Result<Vec<PathBuf>, CliError> {
    // The server's word is not a path: a name must not lead out of the folder.
    if let Some(name) = texts.keys().find(|name| {
        let plain = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
        name.is_empty() || name.starts_with('.') || !name.chars().all(plain)
    }) {
        return Err(CliError::BadAnswer {
            who: "the server",
            what: format!("a file whose name cannot be written: {name}"),
        });
    }
    fs::create_dir_all(dir).map_err(|source| CliError::System {
        doing: "create folder",
        path: dir.to_owned(),
        source,
    })?;
    let mut written = Vec::new();
    for (name, text) in texts {
        let path = dir.join(name);
        files::check_file(&path)?;
        write_atomic(&path, text.as_bytes(), PUBLIC)?;
        written.push(path);
    }
    Ok(written)
}

/// All files in one text, as the server writes them into a proposal.
pub(crate) fn as_proposed(texts: &Files) -> String {
    texts
        .iter()
        .map(|(name, text)| format!("// {name}\n{text}\n"))
        .collect()
}

/// What differs between two texts, line by line, with some lines around each difference.
pub(crate) fn unified(old: &str, new: &str) -> String {
    TextDiff::from_lines(old, new)
        .unified_diff()
        .context_radius(3)
        .to_string()
}

/// Which files differ, and by how many lines.
pub(super) fn changes(old: &Files, new: &Files) -> Vec<Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for name in names {
        let (was, is) = (old.get(name), new.get(name));
        if was == is {
            continue;
        }
        let change = match (was, is) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "changed",
        };
        let (was, is) = (counted(was), counted(is));
        let more = |a: &BTreeMap<&str, usize>, b: &BTreeMap<&str, usize>| -> usize {
            a.iter()
                .map(|(line, count)| count.saturating_sub(b.get(line).copied().unwrap_or(0)))
                .sum()
        };
        changes.push(Change {
            file: name.clone(),
            change,
            lines_added: more(&is, &was),
            lines_removed: more(&was, &is),
        });
    }
    changes
}

fn counted(text: Option<&String>) -> BTreeMap<&str, usize> {
    let mut lines = BTreeMap::new();
    for line in text.iter().flat_map(|text| text.lines()) {
        *lines.entry(line).or_default() += 1;
    }
    lines
}

// === impl Change ===

impl Change {
    /// `changed  export.cedar  +3 -1`.
    pub(super) fn line(&self) -> String {
        format!(
            "{:7}  {}  +{} -{}",
            self.change, self.file, self.lines_added, self.lines_removed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_policy_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(
            read(&[dir.path().into()], POLICY)
                .unwrap_err()
                .to_string()
                .contains("no file *.cedar")
        );
        for name in ["b.cedar", "a.cedar", "notes.md", "a.test.toml"] {
            fs::write(at(name), name).unwrap();
        }
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/a.cedar"), "x").unwrap();
        let files = read(&[dir.path().into()], POLICY).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a.cedar", "b.cedar"]);
        let error = read(&[dir.path().into(), at("sub/a.cedar")], POLICY).unwrap_err();
        assert!(
            error.to_string().contains("two files have the name `a.cedar`"),
            "{error}"
        );
    }

    #[test]
    fn a_name_from_the_server_never_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        for name in ["../x.cedar", "/tmp/x.cedar", ".x", "", "a/b.cedar", "a\n.cedar"] {
            let texts = Files::from([(name.to_owned(), "x".to_owned())]);
            assert!(write(&inside, &texts).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_changed_is_counted_in_lines() {
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs
                .iter()
                .map(|(name, text)| ((*name).into(), (*text).into()))
                .collect()
        };
        let old = files(&[("a", "1\n2\n2"), ("b", "x"), ("c", "same")]);
        let new = files(&[("a", "2\n3"), ("d", "y\nz"), ("c", "same")]);
        let lines: Vec<_> = changes(&old, &new).iter().map(Change::line).collect();
        assert_eq!(lines, ["changed  a  +1 -2", "gone     b  +0 -1", "new      d  +2 -0"]);
    }
}
