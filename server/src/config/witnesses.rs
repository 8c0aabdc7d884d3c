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
            .parse_with_hint(|text| text.parse::<WitnessUrl>(), "write it as https://witness.example.org")
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
            section.problem("key", "has the name of another witness", "each witness has a name of its own");
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
