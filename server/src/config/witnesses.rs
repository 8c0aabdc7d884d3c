//! `[[witnesses]]`: who is sent each checkpoint of the transparency log, beside the agents.

use std::collections::BTreeSet;

use mayfly_runtime::config::Section;
use mayfly_tlog::note::{Algorithm, VerifierKey};

use crate::app::evidence::witnesses::{RemoteWitness, WitnessUrl};

/// More would be a load of its own; a checkpoint has places for so many beside those of agents.
const MOST: usize = 12;

pub(super) fn read(root: &Section<'_>) -> Vec<RemoteWitness> {
    let sections = root.section_list("witnesses");
    let mut names = BTreeSet::new();
    let mut all = vec![];
    for section in &sections {
        let url = section
            .string("url")
            .parse_with_hint(
                |text| text.parse::<WitnessUrl>(),
                "write it as https://witness.example.org",
            )
            .required();
        let key = section
            .string("key")
            .parse_with_hint(
                |text| cosigner(&text),
                "`mayfly audit witness --print-key` shows that of a witness of ours",
            )
            .required();
        if let Some(key) = &key
            && !names.insert(key.name().to_owned())
        {
            section.problem(
                "key",
                "has the name of another witness",
                "each witness has a name of its own",
            );
        }
        all.extend(url.zip(key).map(|(url, key)| RemoteWitness { url, key }));
    }
    if let Some(section) = sections.get(MOST) {
        section.problem("url", "is one witness too many", &format!("name at most {MOST}"));
    }
    all
}

fn cosigner(text: &str) -> Result<VerifierKey, String> {
    let key: VerifierKey = text.parse().map_err(|error| format!("is {error}"))?;
    match key.algorithm() {
        Algorithm::CosignatureV1 => Ok(key),
        Algorithm::Ed25519 => Err("is the key of a log and not one for cosignatures".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mayfly_tlog::note::{Ed25519Key, NoteSigner as _};

    use super::*;
    use crate::config::Settings;

    const MINIMAL: &str = "trust_domain = \"example.org\"\ndata_dir = \"d\"\n";

    fn key(name: &str, algorithm: Algorithm) -> String {
        let (key, _) = Ed25519Key::generate(name, algorithm).unwrap();
        key.verifier_key().to_string()
    }

    fn row(url: &str, key: &str) -> String {
        format!("[[witnesses]]\nurl = \"{url}\"\nkey = \"{key}\"\n")
    }

    #[test]
    fn witnesses_are_read_with_their_keys() {
        let (first, second) = (key("w1", Algorithm::CosignatureV1), key("w2", Algorithm::CosignatureV1));
        let text = format!(
            "{MINIMAL}{}{}",
            row("http://127.0.0.1:8090", &first),
            row("https://w.example/a/", &second)
        );
        let found = Settings::parse(Path::new("server.toml"), &text)
            .unwrap()
            .settings
            .witnesses;
        let read: Vec<_> = found
            .iter()
            .map(|one| (one.url.to_string(), one.key.to_string()))
            .collect();
        let expected = [
            ("http://127.0.0.1:8090".to_owned(), first),
            ("https://w.example/a/".to_owned(), second),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn a_mistake_about_a_witness_is_told_with_its_line() {
        let good = key("w1", Algorithm::CosignatureV1);
        let of_a_log = key("w1", Algorithm::Ed25519);
        let twice = format!(
            "{}{}",
            row("http://a", &good),
            row("http://b", &key("w1", Algorithm::CosignatureV1))
        );
        let many: String = (0..=MOST)
            .map(|number| row("http://a", &key(&format!("w{number}"), Algorithm::CosignatureV1)))
            .collect();
        for (rows, what) in [
            (row("w.example", &good), "is not a URL"),
            (row("ftp://w.example", &good), "is neither https:// nor http://"),
            (row("http://a", "w1+00000000+AAAA"), "is not a verifier key"),
            (row("http://a", &of_a_log), "is the key of a log"),
            (twice, "has the name of another witness"),
            (many, "is one witness too many"),
            ("[[witnesses]]\nurl = \"http://a\"\n".into(), "key"),
        ] {
            let Err(problems) = Settings::parse(Path::new("server.toml"), &format!("{MINIMAL}{rows}")) else {
                panic!("accepted: {rows}");
            };
            assert!(problems.to_string().contains(what), "no `{what}` in: {problems}");
        }
    }
}
