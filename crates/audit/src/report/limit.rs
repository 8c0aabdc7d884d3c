//! Part 13: what the report does not show, said plainly.

use super::parts::{Completeness, Limit, State};
use super::records::Probes;
use crate::Replay;
use crate::meter::View;

/// What no log can show.
const ALWAYS: [(&str, &str); 9] = [
    (
        "Consumers that do not call home",
        "A consumer that neither registers nor is tried may let in what it should refuse. What is shown here is that it gets \
         nothing that counts longer than its SVID: the residual seconds of part 5 are counted to the last of them.",
    ),
    (
        "What SVIDs were exchanged for",
        "Sessions of databases, tokens of clouds and the like are not in the log. Where a task is used for such an exchange, its \
         power ends with what was got, not with its window.",
    ),
    (
        "Connections",
        "Consumers with the verifier kit cut connections at the end; how many is not in the log. Others may keep one open for as \
         long as they like.",
    ),
    (
        "Clocks",
        "Instants are those of the server's clock. Consumers judge expiry by their own, and may be wrong by as much as those are.",
    ),
    (
        "Clouds, pipelines, other trust domains",
        "Nobody tries these ways to a consumer yet: part 6 says of each that it was not tested.",
    ),
    (
        "Policies",
        "No solver has proved anything about them, and the decisions of the period were not decided anew: what is shown is that \
         each decision came before what it allowed, and by which policy. How two policies differ is not in the log.",
    ),
    (
        "Systems that only take standing authority",
        "Which ones there are, the log does not say. What stands for them is in part 8 if somebody granted an exception, or if \
         an entry has power over the server.",
    ),
    (
        "Trends",
        "Day by day within the period is in parts 5 and 7. Whether windows become longer from month to month is for whoever has \
         several reports.",
    ),
    (
        "I13",
        "That a process keeps its base SVID is about the stream of its agent, and not in the log.",
    ),
];

pub(super) fn limits(
    replay: &Replay,
    view: &View,
    completeness: &Completeness,
    probes: &Probes,
    is_cosigned: bool,
) -> Vec<Limit> {
    let mut limits = vec![];
    let mut add = |what: &str, why: String| limits.push(Limit { what: what.into(), why });
    if probes.results.rows.is_empty() {
        add(
            "Probes",
            "Nobody tried a consumer within the period: that they refuse is their own word, by acknowledgement.".into(),
        );
    }
    let cells: Vec<State> = probes
        .matrix
        .iter()
        .flat_map(|row| row.by_kind.values().copied())
        .collect();
    let untested = cells.iter().filter(|state| **state == State::NotTested).count();
    if untested > 0 && !probes.results.rows.is_empty() {
        let why = format!(
            "Of {} tests of consumers {untested} were not made within the period: what was refused in one says nothing of another.",
            cells.len()
        );
        add("Probes", why);
    }
    if !is_cosigned {
        add(
            "Witnesses",
            "Nobody but the log itself has signed the checkpoint. That everybody is shown the same log is not shown by this report."
                .into(),
        );
    }
    let undeclared = replay
        .definitions()
        .filter(|definition| definition.until.is_none() && definition.checkpoints.is_empty());
    let names: Vec<&str> = undeclared.map(|definition| definition.name.as_str()).collect();
    if !names.is_empty() {
        let mut names = names;
        names.sort_unstable();
        let why = format!(
            "{} definitions declare nobody who enforces their end, so that it is shown by expiry only: {}",
            names.len(),
            listed(&names, view)
        );
        add("Consumers that nobody declared", why);
    }
    if completeness.unknown_outcomes > 0 {
        let why = format!(
            "Of {} SVIDs the log does not say whether they were signed, as the server stopped in between. They count as if \
             they had been.",
            completeness.unknown_outcomes
        );
        add("SVIDs of unknown outcome", why);
    }
    if !completeness.unread.is_empty() {
        let why = format!(
            "{} entries are kept beside the log, and what they say is not known here or was erased. Their places and hashes are \
             checked; nothing else of them is.",
            completeness.unread.len()
        );
        add("Entries that cannot be looked into", why);
    }
    if replay.log_events().iter().any(|event| event.kind == "private.erased") {
        let why = "Private values were erased. Whoever appears before and after counts as two people from there on, so that the \
                   rules about different people are weaker across that line.";
        add("Erasures", why.into());
    }
    if !completeness.unknown_kinds.is_empty() {
        add(
            "Unknown entries",
            "A newer server wrote kinds of entries that this program does not judge.".into(),
        );
    }
    if view.scope != crate::Scope::All {
        let why = format!(
            "Only `{}` is measured. The log, its order and its rules are checked as a whole all the same, since a part of a log \
             proves nothing.",
            view.scope
        );
        add("Scope", why);
    }
    ALWAYS.into_iter().for_each(|(what, why)| add(what, why.into()));
    limits
}

fn listed(names: &[&str], view: &View) -> String {
    let most = usize::try_from(view.thresholds.evidence).unwrap_or(usize::MAX);
    let shown: Vec<&str> = names.iter().take(most).copied().collect();
    match names.len().saturating_sub(most) {
        0 => shown.join(", "),
        rest => format!("{}, and {rest} more", shown.join(", ")),
    }
}
