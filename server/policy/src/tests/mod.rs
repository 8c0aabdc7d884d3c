//! What the whole crate promises, by theme.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mayfly_model::task::Definition;

use crate::{Facts, Phase, PolicySet};

mod calls;
mod edits;
mod engine;
mod examples;
mod guards;
mod lints;
mod loading;
mod properties;
mod requests;
mod why;

/// The files of `examples/policies`.
fn examples() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policies");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn definition(file: &str) -> Definition {
    Definition::parse(&examples()[file]).unwrap()
}

/// A set of users' policies, of one file `x.cedar`.
fn set(text: &str) -> PolicySet {
    load(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn load(text: &str) -> Result<PolicySet, crate::PolicyErrors> {
    PolicySet::load(&[("x.cedar".to_owned(), text.to_owned())].into())
}

/// Facts under which everything is well, of a definition that wants nothing special.
fn plain(phase: Phase) -> Facts {
    Facts::sample(phase, definition("research.toml"))
}
