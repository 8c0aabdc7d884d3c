//! Every kind of entry that is known here. What their bodies hold is in `docs/events.md`.

/// A kind of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// As entries name it: the family, a dot, and what happened.
    pub name: &'static str,
    /// What the entry's subject is.
    pub subject: &'static str,
}

const fn kind(name: &'static str, subject: &'static str) -> Kind {
    Kind { name, subject }
}

const ENTRY: &str = "entry ID";
const AGENT: &str = "SPIFFE ID of the agent";
const AUTHORITY: &str = "authority ID";
const DOMAIN: &str = "trust domain";
const REQUEST: &str = "request ID";
const NONE: &str = "empty";

/// All of them, family by family.
pub const KINDS: &[Kind] = &[
    kind("entry.created", ENTRY),
    kind("entry.updated", ENTRY),
    kind("entry.deleted", ENTRY),
    kind("agent.attested", AGENT),
    kind("agent.renewed", AGENT),
    kind("agent.confirmed", AGENT),
    kind("agent.reported", AGENT),
    kind("agent.banned", AGENT),
    kind("agent.evicted", AGENT),
    kind("token.created", "SHA-256 of the token, in hex"),
    kind("token.pruned", NONE),
    kind("authority.prepared", AUTHORITY),
    kind("authority.activated", AUTHORITY),
    kind("authority.revoked", AUTHORITY),
    kind("authority.pruned", AUTHORITY),
    kind("authority.vouched", AUTHORITY),
    kind("bundle.appended", DOMAIN),
    kind("bundle.created", DOMAIN),
    kind("bundle.updated", DOMAIN),
    kind("bundle.set", DOMAIN),
    kind("bundle.deleted", DOMAIN),
    kind("definition.put", "name of the task"),
    kind("definition.retired", "name of the task"),
    kind("policy.set", NONE),
    kind("policy.decided", REQUEST),
    kind("proposal.added", "proposal ID"),
    kind("proposal.approved", "proposal ID"),
    kind("proposal.rejected", "proposal ID"),
    kind("task.requested", REQUEST),
    kind("task.decided", REQUEST),
    kind("task.approved", REQUEST),
    kind("task.refused", REQUEST),
    kind("task.cancelled", REQUEST),
    kind("task.superseded", REQUEST),
    kind("task.expired", REQUEST),
    kind("task.reviewed", REQUEST),
    kind("task.pruned", NONE),
    kind("window.opened", REQUEST),
    kind("window.renewed", REQUEST),
    kind("window.extended", REQUEST),
    kind("window.heartbeat", REQUEST),
    kind("window.suspended", REQUEST),
    kind("window.resumed", REQUEST),
    kind("window.closing", REQUEST),
    kind("window.closed", REQUEST),
    kind("window.settled", REQUEST),
    kind("window.revocation_incomplete", REQUEST),
    kind("window.risk_proposed", REQUEST),
    kind("window.risk_accepted", REQUEST),
    kind("svid.intended", "SPIFFE ID"),
    kind("svid.outcome", NONE),
    kind("svid.revoked", REQUEST),
    kind("revocation_lists.begun", NONE),
    kind("checkpoint.registered", "name of the checkpoint"),
    kind("checkpoint.lost", "name of the checkpoint"),
    kind("exception.granted", "exception ID"),
    kind("exception.renewed", "exception ID"),
    kind("exception.ended", "exception ID"),
    kind("exception.expired", "exception ID"),
    kind("probe.finished", "name of the checkpoint"),
    kind("log.started", NONE),
    kind("log.key_rotated", NONE),
    kind("witness.registered", "name of the witness"),
    kind("private.erased", NONE),
    kind("private.read", "name of the log"),
    kind("audit.reported", NONE),
    kind("logger.level_set", "`log`"),
    kind("logger.level_reset", "`log`"),
];

/// Whether a kind is known here. A newer server may write others, and its log verifies all the same.
pub fn is_known(name: &str) -> bool {
    KINDS.iter().any(|kind| kind.name == name)
}

/// Whether the body of a kind always has room in an entry, so that none is kept beside the log as a whole.
pub(crate) fn is_always_small(name: &str) -> bool {
    match family(name) {
        // A request has parameters and selectors.
        "task" => name != "task.requested",
        // What is long in a decision is kept beside the log by itself.
        "policy" => name == "policy.decided",
        "svid" | "window" | "authority" | "agent" | "log" | "exception" | "witness" => true,
        _ => false,
    }
}

/// The family of a kind: what stands before the dot.
pub fn family(name: &str) -> &str {
    name.split_once('.').map_or(name, |(family, _)| family)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    fn known() -> BTreeSet<String> {
        KINDS.iter().map(|kind| kind.name.to_owned()).collect()
    }

    fn is_kind(text: &str) -> bool {
        let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        text.split_once('.')
            .is_some_and(|(family, event)| is_word(family) && is_word(event))
    }

    /// The string literals of a source file that look like kinds, of the lines that `is_meant`.
    fn literals(source: &str, is_meant: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//") && is_meant(line));
        let words = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
        words.filter(|word| is_kind(word)).map(str::to_owned).collect()
    }

    #[test]
    fn every_kind_that_the_model_writes_is_known_here() {
        let source = fs::read_to_string(root().join("crates/model/src/change/records.rs")).unwrap();
        let written = literals(&source, |_| true);
        assert!(written.len() > 40 && written.contains("window.opened"), "{written:?}");
        let missing: Vec<_> = written.difference(&known()).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "add them to KINDS and to docs/events.md");
    }

    #[test]
    fn every_kind_that_the_server_writes_by_itself_is_known_here() {
        let (mut written, mut folders) = (BTreeSet::new(), vec![root().join("server/src")]);
        while let Some(folder) = folders.pop() {
            for file in fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                    let families: BTreeSet<&str> = KINDS.iter().map(|kind| family(kind.name)).collect();
                    let found = literals(&fs::read_to_string(path).unwrap(), |line| {
                        line.contains("kind: \"") || line.contains("const ") && line.contains(": &str = \"")
                    });
                    written.extend(found.into_iter().filter(|kind| families.contains(family(kind))));
                }
            }
        }
        // Neither Rust's files nor test folders of the server name kinds that the server does not write.
        assert!(
            written.contains("policy.decided") && written.contains("log.started"),
            "{written:?}"
        );
        let missing: Vec<_> = written.difference(&known()).cloned().collect();
        assert_eq!(missing, Vec::<String>::new(), "add them to KINDS and to docs/events.md");
    }

    #[test]
    fn the_page_has_every_kind_once_with_its_subject_and_no_other() {
        let page = fs::read_to_string(root().join("docs/events.md")).unwrap();
        let rows = page.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let kind = cells.next()?.trim_end_matches('`');
            is_kind(kind).then(|| (kind.to_owned(), cells.next().unwrap_or_default().to_owned()))
        });
        let rows: Vec<(String, String)> = rows.collect();
        let of_page: BTreeSet<String> = rows.iter().map(|(kind, _)| kind.clone()).collect();
        assert_eq!(of_page.len(), rows.len(), "a kind stands twice");
        assert_eq!(of_page, known());
        for kind in KINDS {
            let (_, subject) = rows.iter().find(|(name, _)| name == kind.name).unwrap();
            assert_eq!(subject, kind.subject, "{}", kind.name);
        }
    }
}
