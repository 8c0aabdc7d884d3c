//! Power only while a task needs it: windows from end to end, with real programs inside of them.

use std::path::Path;

mod approvals;
mod breakglass;
mod clock;
mod dev;
mod policy;
mod revoke;
mod run;
mod sdks;
mod single_use;
mod standing;

/// The items of a file: `cargo fmt` ends each with a brace of its own line.
fn items(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("\n}\n").map(ToOwned::to_owned).collect()
}

/// The name of the function that an item is.
fn function(item: &str) -> Option<&str> {
    let (_, rest) = item.split_once("fn ")?;
    rest.split_once('(').map(|(name, _)| name)
}

#[test]
fn no_story_of_tasks_ends_without_a_look_at_its_log() {
    let stories = Path::new(env!("CARGO_MANIFEST_DIR")).join("stories");
    let mut files = vec![stories.join("agent_tasks.rs")];
    let folder = std::fs::read_dir(stories.join("tasks")).unwrap();
    files.extend(folder.map(|file| file.unwrap().path()));
    let (mut seen, mut without) = (0, vec![]);
    for file in files {
        let items = items(&file);
        // By itself, or by what several stories of the file share.
        let looks = |item: &str| item.contains("check_log()") || item.contains("ledger::check(");
        let shared = |item: &&String| looks(item) && !item.contains("::test");
        let shared: Vec<&str> = items.iter().filter(shared).filter_map(|item| function(item)).collect();
        for story in items.iter().filter(|item| item.contains("#[tokio::test")) {
            seen += 1;
            if !looks(story) && !shared.iter().any(|name| story.contains(&format!("{name}("))) {
                without.push(format!("{}: {:?}", file.display(), function(story)));
            }
        }
    }
    assert!(seen >= 35, "{seen} stories: is this where they are?");
    assert!(without.is_empty(), "{without:#?}");
}
