//! What the documentation says of the tree is true of the tree.

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between backquotes, without fenced blocks.
fn quoted(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_path_in_the_documentation_exists() {
    let top: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let page = entry.unwrap().path();
        if page.is_dir() {
            continue; // pictures
        }
        let text = fs::read_to_string(&page).unwrap();
        // Paths of this tree start with one of its folders; others (/etc/…, unix:path:…) are examples.
        let is_ours = |word: &&str| {
            word.split_once('/')
                .is_some_and(|(first, _)| top.iter().any(|name| name == first))
        };
        let mut checked = 0;
        // The first word: a command names its program first.
        for path in quoted(&text)
            .into_iter()
            .filter_map(|words| words.split_whitespace().next())
            .filter(is_ours)
            .filter(|path| !path.starts_with(".mayfly/"))
        {
            assert!(root().join(path).exists(), "{}: `{path}` is not there", page.display());
            checked += 1;
        }
        if page.ends_with("architecture.md") {
            assert!(checked > 30, "only {checked} paths were recognised");
        }
    }
}

#[test]
fn the_architecture_page_knows_every_crate_and_every_room() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let crates: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(crates.contains(&"cli"), "{crates:?}");
    let rooms = ["server/src", "agent/src"].into_iter().flat_map(|parent| {
        let entries = fs::read_dir(root().join(parent)).unwrap();
        let folders = entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
        folders.map(move |entry| format!("{parent}/{}", entry.unwrap().file_name().to_str().unwrap()))
    });
    for room in crates.iter().map(|name| (*name).to_owned()).chain(rooms) {
        assert!(
            page.contains(&format!("`{room}")),
            "{room} is not in docs/architecture.md"
        );
    }
}

#[test]
fn the_page_of_the_command_line_lists_every_code_of_the_doctor() {
    let page = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let mut codes = 0;
    for name in ["agent", "registrations", "server", "tasks"] {
        let source = fs::read_to_string(root().join(format!("cli/src/cmd/doctor/{name}.rs"))).unwrap();
        let is_code = |word: &&str| word.len() > 3 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        for code in source.split('"').skip(1).step_by(2).filter(is_code) {
            assert!(page.contains(&format!("`{code}`")), "{code} is not in docs/cli.md");
            codes += 1;
        }
    }
    assert!(codes > 20, "only {codes} codes were recognised");
}

/// What the page shows as a definition is one.
#[test]
fn the_definitions_of_the_page_can_be_defined() {
    let page = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let blocks: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    let [least, more] = blocks[..] else {
        panic!("{} blocks", blocks.len());
    };
    mayfly_model::task::Definition::parse(least).unwrap();
    // The second one is what can be added: keys before the first table, tables after.
    let (keys, tables) = more.split_once("[limits]").unwrap();
    let (names, allowed) = least.split_once("[allowed]").unwrap();
    let whole = format!("{names}{keys}[allowed]{allowed}[limits]{tables}");
    mayfly_model::task::Definition::parse(&whole).unwrap_or_else(|error| panic!("{error}\n{whole}"));
}
