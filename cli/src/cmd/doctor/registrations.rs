//! Agents and entries: do they fit together, can every entry be served by somebody?

use std::collections::{BTreeMap, BTreeSet};

use mayfly_svid::Timestamp;

use super::{Findings, counted, counted_are};
use crate::cmd::agent::{self, AgentView};
use crate::cmd::entry::{self, EntryView};
use crate::connect::Server;
use crate::errors::Exit;

/// How many of a kind are named before the rest is counted.
const NAMED: usize = 5;

/// Adds what is to be said of agents and entries.
pub(super) async fn examine(server: &Server, now: Timestamp, findings: &mut Findings) {
    let agents = match agent::list_all(server, None).await {
        Ok(agents) => agents.iter().map(AgentView::of).collect::<Vec<_>>(),
        // Over TCP the role shows only here.
        Err(error) if error.exit() == Exit::Denied => return findings.failure("CALLER_WITHOUT_ROLE", &error),
        Err(error) => return findings.failure("AGENTS", &error),
    };
    look_at_agents(&agents, now, findings);
    match entry::list_all(server, None).await {
        Ok(entries) => {
            let entries: Vec<EntryView> = entries.iter().map(EntryView::of).collect();
            look_at_entries(&entries, &agents, now, findings);
        }
        Err(error) => findings.failure("ENTRIES", &error),
    }
}

fn look_at_agents(agents: &[AgentView], now: Timestamp, findings: &mut Findings) {
    let active = agents.iter().filter(|agent| agent.state(now) == "active").count();
    if active > 0 {
        findings.ok("AGENTS", format!("{} can be issued to", counted(active, "agent")));
    } else {
        findings.warning(
            "NO_AGENT",
            "no agent can be issued to",
            "`mayfly token create` makes a token with which an agent attests",
        );
    }
    let of_state = |state| {
        agents
            .iter()
            .filter(|agent| agent.state(now) == state)
            .collect::<Vec<_>>()
    };
    let expired = of_state("expired");
    if !expired.is_empty() {
        findings.warning(
            "AGENT_EXPIRED",
            format!(
                "{} without a valid SVID: {}",
                counted(expired.len(), "agent"),
                names(&expired)
            ),
            "are these nodes gone? `mayfly agent purge` forgets them; else read the agent's log",
        );
    }
    let banned = of_state("banned");
    if !banned.is_empty() {
        findings.info(
            "AGENT_BANNED",
            format!("{} banned: {}", counted_are(banned.len(), "agent"), names(&banned)),
            "`mayfly agent evict` lets one attest again",
        );
    }
}

fn look_at_entries(entries: &[EntryView], agents: &[AgentView], now: Timestamp, findings: &mut Findings) {
    let served = served_ids(entries, agents, now);
    let known: BTreeSet<&str> = (agents.iter().map(|agent| agent.spiffe_id.as_str()))
        .chain(entries.iter().map(|entry| entry.spiffe_id.as_str()))
        .collect();
    let mut unknown: BTreeMap<&str, Vec<&EntryView>> = BTreeMap::new();
    let mut unserved: BTreeMap<&str, Vec<&EntryView>> = BTreeMap::new();
    let mut expired = 0;
    for entry in entries {
        let parent = entry.parent_id.as_str();
        if entry.expires.is_some_and(|expires| expires <= now) {
            expired += 1;
        } else if is_server(parent) {
            if !served.contains(entry.spiffe_id.as_str()) {
                unserved.entry(parent).or_default().push(entry);
            }
        } else if !known.contains(parent) {
            unknown.entry(parent).or_default().push(entry);
        } else if !served.contains(parent) {
            unserved.entry(parent).or_default().push(entry);
        }
    }
    if unknown.is_empty() && unserved.is_empty() {
        let said = match entries.len() - expired {
            0 => "no entry is in force: nobody gets an identity".to_owned(),
            1 => "1 entry is in force, and an agent serves it".to_owned(),
            count => format!("{count} entries are in force, and each has an agent that serves it"),
        };
        findings.ok("ENTRIES", said);
    }
    for (parent, entries) in unknown {
        let parent = without_token(parent);
        findings.warning(
            "ENTRY_PARENT_UNKNOWN",
            format!(
                "nobody can serve {}: parent {parent} is neither an agent nor an entry",
                of_entries(&entries)
            ),
            "another parent helps: mayfly entry update <ID> --parent-id …; `mayfly agent list` shows agents",
        );
    }
    for (parent, entries) in unserved {
        let (why, todo) = if is_server(parent) {
            (
                "no active agent has the selectors of the alias".to_owned(),
                "`mayfly agent list` shows their selectors",
            )
        } else {
            (
                format!("no active agent stands behind parent {parent}"),
                "`mayfly agent list` shows their state",
            )
        };
        findings.warning(
            "ENTRY_UNSERVED",
            format!("nobody serves {} now: {why}", of_entries(&entries)),
            todo,
        );
    }
    if expired > 0 {
        findings.info(
            "ENTRY_EXPIRED",
            format!("{} expired", counted(expired, "entry")),
            "nothing is issued for them; `mayfly entry delete` removes them",
        );
    }
}

/// The IDs under which some active agent serves: its own, its aliases', and what descends from them.
fn served_ids<'v>(entries: &'v [EntryView], agents: &'v [AgentView], now: Timestamp) -> BTreeSet<&'v str> {
    let active: Vec<&AgentView> = agents.iter().filter(|agent| agent.state(now) == "active").collect();
    let mut children: BTreeMap<&str, Vec<&EntryView>> = BTreeMap::new();
    for entry in entries {
        children.entry(&entry.parent_id).or_default().push(entry);
    }
    let is_alias_of_someone = |entry: &EntryView| {
        is_server(&entry.parent_id)
            && active.iter().any(|agent| {
                entry
                    .selectors
                    .iter()
                    .all(|selector| agent.selectors.contains(selector))
            })
    };
    let mut open: Vec<&str> = active.iter().map(|agent| agent.spiffe_id.as_str()).collect();
    open.extend(
        entries
            .iter()
            .filter(|entry| is_alias_of_someone(entry))
            .map(|entry| entry.spiffe_id.as_str()),
    );
    let mut served = BTreeSet::new();
    while let Some(id) = open.pop() {
        if served.insert(id) {
            open.extend(
                children
                    .get(id)
                    .into_iter()
                    .flatten()
                    .map(|entry| entry.spiffe_id.as_str()),
            );
        }
    }
    served
}

/// Entries can be made for an agent that is yet to come by join token. The last segment of its ID is the token, which is
/// good until it is used: not for reports.
fn without_token(parent: &str) -> String {
    match parent.split_once("/spire/agent/join_token/") {
        Some((trust_domain, _)) => format!("{trust_domain}/spire/agent/join_token/…"),
        None => parent.to_owned(),
    }
}

fn is_server(id: &str) -> bool {
    id.ends_with("/spire/server")
}

fn names(agents: &[&AgentView]) -> String {
    named(agents.iter().map(|agent| agent.spiffe_id.as_str()), agents.len())
}

fn of_entries(entries: &[&EntryView]) -> String {
    let ids = named(entries.iter().map(|entry| entry.id.as_str()), entries.len());
    format!("{} ({ids})", counted(entries.len(), "entry"))
}

/// The first names of many, and how many more there are.
pub(super) fn named<'v>(names: impl Iterator<Item = &'v str>, count: usize) -> String {
    let mut text = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if count > NAMED {
        text.push_str(&format!(" and {} more", count - NAMED));
    }
    text
}
