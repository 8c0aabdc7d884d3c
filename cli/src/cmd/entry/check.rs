//! Slips that an entry can hold although each value is valid by itself: a selector that no attestor will ever make, a
//! parent that does not exist. The server takes both, as SPIRE's does; here one has to insist.

use std::collections::BTreeSet;

use mayfly_proto::spire::server::agent::{GetAgentRequest, ListAgentsRequest};
use mayfly_proto::spire::server::entry::{ListEntriesRequest, list_entries_request};
use mayfly_proto::spire::types::{Entry, Selector, Spiffeid};
use tonic::{Code, Status};

use super::fields::id_text;
use crate::connect::Server;
use crate::errors::CliError;
use crate::values;

/// Attestors of processes and of nodes, ours and SPIRE's, whose selectors an entry may name.
const TYPES: &[&str] = &[
    "unix",
    "docker",
    "k8s",
    "systemd",
    "windows",
    "join_token",
    "x509pop",
    "sshpop",
    "tpm_devid",
    "http_challenge",
    "aws_iid",
    "azure_imds",
    "azure_msi",
    "gcp_iit",
    "k8s_psat",
    "k8s_sat",
    "spiffe_id",
];

/// What the unix attestor states.
const UNIX_KEYS: &[&str] = &[
    "uid",
    "gid",
    "user",
    "group",
    "supplementary_gid",
    "supplementary_group",
    "path",
    "sha256",
];

const INSIST_SELECTOR: &str = "--allow-unknown-selector takes it as it is";
/// How many neighbours an error names.
const NEIGHBOURS: usize = 3;
/// How many agents and entries are looked through for neighbours.
const LOOK_THROUGH: i32 = 500;

/// Refuses selectors that no known attestor makes.
///
/// # Errors
/// The first one, with its nearest neighbour, and with the number of its entry where there are several.
pub(super) fn selectors(entries: &[Entry]) -> Result<(), CliError> {
    for (index, entry) in entries.iter().enumerate() {
        for wrong in &entry.selectors {
            selector(wrong).map_err(|error| match error {
                CliError::Input { what, hints } if entries.len() > 1 => CliError::Input {
                    what: format!("entry {}: {what}; nothing was sent", index + 1),
                    hints,
                },
                error => error,
            })?;
        }
    }
    Ok(())
}

fn selector(selector: &Selector) -> Result<(), CliError> {
    let text = format!("{}:{}", selector.r#type, selector.value);
    if !TYPES.contains(&selector.r#type.as_str()) {
        let error = CliError::Input {
            what: format!("selector `{text}`: no attestor is called `{}`", selector.r#type),
            hints: vec![],
        };
        let error = match values::nearest(&selector.r#type, TYPES.iter().copied()) {
            Some(near) => error.hint(format!("did you mean {near}:{}?", selector.value)),
            None => error.hint(format!("known are {}", TYPES.join(", "))),
        };
        return Err(error.hint(INSIST_SELECTOR));
    }
    if selector.r#type != "unix" {
        return Ok(());
    }
    match unix_problem(&selector.value) {
        None => Ok(()),
        Some((problem, hint)) => {
            Err(CliError::input(format!("selector `{text}`: {problem}"), hint).hint(INSIST_SELECTOR))
        }
    }
}

/// What is wrong with a value of the unix attestor, and what to write instead.
fn unix_problem(value: &str) -> Option<(String, String)> {
    let (key, rest) = value.split_once(':').unwrap_or((value, ""));
    if !UNIX_KEYS.contains(&key) {
        let hint = match values::nearest(key, UNIX_KEYS.iter().copied()) {
            Some(near) => format!("did you mean unix:{near}:{rest}?"),
            None => format!("it states {}", UNIX_KEYS.join(", ")),
        };
        return Some((format!("the unix attestor states nothing called `{key}`"), hint));
    }
    let by_name = |name: &str| {
        (
            format!("`{key}` is a number"),
            format!("did you mean unix:{name}:{rest}?"),
        )
    };
    let is_number = rest.parse::<u32>().is_ok_and(|number| number.to_string() == rest);
    match key {
        _ if rest.is_empty() => Some((format!("`{key}` has no value"), format!("write it as unix:{key}:…"))),
        "uid" if !is_number => Some(by_name("user")),
        "gid" if !is_number => Some(by_name("group")),
        "supplementary_gid" if !is_number => Some(by_name("supplementary_group")),
        "path" if !rest.starts_with('/') => Some((
            "the path of a binary is absolute".into(),
            format!("did you mean unix:path:/{rest}?"),
        )),
        "sha256" if rest.len() != 64 || !rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => Some((
            "a SHA-256 is 64 lower-case hex digits".into(),
            "sha256sum <binary> prints it".into(),
        )),
        _ => None,
    }
}

/// Refuses parents that are neither an agent that the server knows, nor the SPIFFE ID of an entry (there or among
/// `entries`), nor the server itself. What the caller may not look up is left to the server.
///
/// # Errors
/// The first unknown parent with those that resemble it; or the server's status.
pub(super) async fn parents(server: &Server, entries: &[Entry]) -> Result<(), CliError> {
    let key = |id: &Spiffeid| (id.trust_domain.clone(), id.path.clone());
    let own: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| entry.spiffe_id.as_ref().map(key))
        .collect();
    let parents: BTreeSet<_> = entries
        .iter()
        .filter_map(|entry| entry.parent_id.as_ref().map(key))
        .collect();
    for (trust_domain, path) in parents.difference(&own) {
        let id = Spiffeid {
            trust_domain: trust_domain.clone(),
            path: path.clone(),
        };
        match exists(server, &id).await {
            Ok(true) => {}
            Ok(false) => return Err(unknown_parent(server, &id).await),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => {}
            Err(status) => return Err(server.failed("look up the parent", status)),
        }
    }
    Ok(())
}

async fn exists(server: &Server, id: &Spiffeid) -> Result<bool, Status> {
    if id.path == "/spire/server" {
        return Ok(true);
    }
    if id.path.starts_with("/spire/agent/") {
        let request = server.request(GetAgentRequest {
            id: Some(id.clone()),
            output_mask: Some(Default::default()),
        });
        return match server.agents().get_agent(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(status),
        };
    }
    let filter = list_entries_request::Filter {
        by_spiffe_id: Some(id.clone()),
        ..Default::default()
    };
    let request = ListEntriesRequest {
        filter: Some(filter),
        output_mask: Some(Default::default()),
        page_size: 1,
        page_token: String::new(),
    };
    let page = server
        .entries()
        .list_entries(server.request(request))
        .await?
        .into_inner();
    Ok(!page.entries.is_empty())
}

async fn unknown_parent(server: &Server, id: &Spiffeid) -> CliError {
    let wanted = id_text(Some(id));
    let known = possible_parents(server).await.unwrap_or_default();
    let error = CliError::Failed {
        what: format!("parent `{wanted}` is neither an agent nor an entry of this server"),
        hints: vec![],
    };
    let error = if known.is_empty() {
        error.hint("no agent has attested yet: `mayfly token create` starts that, `mayfly agent list` shows it")
    } else {
        let mut ranked: Vec<(f64, &String)> = known
            .iter()
            .map(|name| (strsim::normalized_levenshtein(&wanted, name), name))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let near: Vec<&str> = ranked.iter().take(NEIGHBOURS).map(|(_, name)| name.as_str()).collect();
        error.hint(format!("parents that exist: {}", near.join(", ")))
    };
    error.hint("--allow-unknown-parent takes it; the entry rests until such an agent attests")
}

/// Agents, and node aliases: entries whose parent is the server.
async fn possible_parents(server: &Server) -> Result<Vec<String>, Status> {
    let agents = ListAgentsRequest {
        output_mask: Some(Default::default()),
        page_size: LOOK_THROUGH,
        ..Default::default()
    };
    let agents = server
        .agents()
        .list_agents(server.request(agents))
        .await?
        .into_inner()
        .agents;
    let mut known: Vec<String> = agents.iter().map(|agent| id_text(agent.id.as_ref())).collect();
    if let Some(id) = agents.first().and_then(|agent| agent.id.as_ref()) {
        let parent = Spiffeid {
            trust_domain: id.trust_domain.clone(),
            path: "/spire/server".into(),
        };
        let filter = list_entries_request::Filter {
            by_parent_id: Some(parent),
            ..Default::default()
        };
        let request = ListEntriesRequest {
            filter: Some(filter),
            page_size: LOOK_THROUGH,
            ..Default::default()
        };
        let aliases = server
            .entries()
            .list_entries(server.request(request))
            .await?
            .into_inner()
            .entries;
        known.extend(aliases.iter().map(|entry| id_text(entry.spiffe_id.as_ref())));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), CliError> {
        let (kind, value) = text.split_once(':').unwrap();
        selector(&Selector {
            r#type: kind.into(),
            value: value.into(),
        })
    }

    #[test]
    fn selectors_that_attestors_make_pass() {
        let sha = format!("unix:sha256:{}", "0a".repeat(32));
        for text in [
            "unix:uid:0",
            "unix:user:root",
            "unix:group:www-data",
            "unix:path:/usr/bin/a b",
            "unix:supplementary_gid:7",
            "k8s:ns:prod",
            "join_token:x",
            "x509pop:subject:cn:a",
            &sha,
        ] {
            assert!(check(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_slip_is_refused_with_what_was_probably_meant() {
        for (text, hint) in [
            ("unx:uid:1000", "did you mean unix:uid:1000?"),
            ("kubernetes:ns:x", "known are unix"),
            ("joint_token:x", "did you mean join_token:x?"),
            ("unix:uid:root", "did you mean unix:user:root?"),
            ("unix:gid:wheel", "did you mean unix:group:wheel?"),
            ("unix:uid:01", "did you mean unix:user:01?"),
            ("unix:uid:-1", "did you mean unix:user:-1?"),
            ("unix:usr:web", "did you mean unix:user:web?"),
            ("unix:1000", "it states uid"),
            ("unix:uid", "write it as unix:uid:…"),
            ("unix:path:bin/web", "did you mean unix:path:/bin/web?"),
            ("unix:sha256:ABC", "sha256sum"),
        ] {
            let error = check(text).expect_err(text);
            assert!(error.hints()[0].contains(hint), "{text}: {:?}", error.hints());
            assert!(error.hints().contains(&INSIST_SELECTOR.to_owned()));
        }
    }
}
