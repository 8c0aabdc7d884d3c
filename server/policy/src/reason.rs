//! What each guard says: the particulars, and what to do.

use std::time::Duration;

use mayfly_model::task::ApprovalRule;

use crate::derive::{self, Assumed};
use crate::facts::Facts;

fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("`{}`", item.as_ref())).collect();
    if items.is_empty() {
        "none".into()
    } else {
        items.join(", ")
    }
}

/// The text for the guard `id`.
pub(crate) fn guard(id: &str, facts: &Facts) -> String {
    let definition = &facts.definition;
    let name = &definition.name;
    let process = &facts.process;
    match id {
        "not-allowed" => format!(
            "`{name}` is not for `{}` with its selectors; it is for {} with the selectors {}",
            process.id,
            list(definition.allowed.workloads.iter().map(|path| path.as_str())),
            list(definition.allowed.selectors.iter().map(|selector| selector.as_str())),
        ),
        "environment-mismatch" => format!(
            "the process runs in environment `{}`, `{name}` is for `{}`; run it there",
            process.environment, definition.environment
        ),
        "wrong-actor" => format!(
            "`{name}` is for actors of class {:?}, this process is of class {:?}",
            definition.actor, process.actor
        )
        .to_lowercase(),
        "node-banned" => format!("the node `{}` is banned; run it elsewhere", process.node.id),
        "evidence-stale" => {
            let age = derive::evidence_age(facts, &Assumed::default());
            let most = shown(definition.limits.evidence_max_age);
            match u64::try_from(age) {
                Ok(age) => format!(
                    "the process was attested {} ago, `{name}` wants at most {most}; attest it anew",
                    shown(Duration::from_secs(age))
                ),
                Err(_) => format!(
                    "the process was attested {} s in the future; set the node's clock",
                    -age
                ),
            }
        }
        "scopes-exceeded" => format!(
            "`{name}` does not have the scopes {}; ask for some of {}",
            list(facts.scopes.difference(&definition.scopes)),
            list(&definition.scopes)
        ),
        "window-too-long" => format!(
            "{} is longer than `{name}` allows; ask for at most {}",
            shown(facts.duration),
            shown(definition.limits.max_window)
        ),
        "review-overdue" => format!(
            "`{name}` was to be reviewed by {}; `{}` has to define it anew",
            definition.review_by.unwrap_or_default(),
            definition.owner
        ),
        "not-settled" => format!(
            "{} earlier window(s) of this workload are not settled: what they gave may be in force still; wait",
            facts.usage.unsettled
        ),
        "too-many-windows" => format!(
            "{} window(s) of `{name}` are open for this workload, {} may be; end one",
            facts.usage.open_windows, definition.limits.concurrency
        ),
        "ticket-missing" => format!(
            "`{name}` needs a ticket of the kinds {}; name one",
            list(&definition.ticket.kinds)
        ),
        "ticket-closed" => "the ticket is not open; work is over, or it has to be opened again".into(),
        "ticket-kind" => format!(
            "the ticket is of kind `{}`, `{name}` wants {}",
            facts.ticket.as_ref().map_or("", |ticket| &ticket.kind),
            list(&definition.ticket.kinds)
        ),
        "approvals-missing" => derive::rule_of(facts).map_or_else(String::new, |rule| approvals(facts, &rule)),
        "self-approval" => {
            "an approval is by who asks, or with their key; withdraw it, somebody else has to approve".into()
        }
        "owner-approval" => format!(
            "an approval is by `{}`, who answers for the process that asks; withdraw it, somebody else has to approve",
            process.owner.as_ref().map_or("", |owner| owner.as_str())
        ),
        "approver-repeats" => format!(
            "an approval is by one of {}, who approved the period before; somebody else has to approve",
            list(facts.usage.previous_approvers.iter().map(|person| person.as_str()))
        ),
        "post-review-due" => format!(
            "{} earlier use(s) of `{name}` wait for their review; do that first",
            facts.usage.reviews_due
        ),
        "approve-own-request" => "you asked for it yourself; somebody else has to approve".into(),
        "approve-own-workload" => format!(
            "you answer for `{}`, which asks; somebody else has to approve",
            process.id
        ),
        "approve-with-requesters-key" => {
            "you prove yourself with the key of who asks; two people need two keys, use your own".into()
        }
        "approve-twice-in-a-row" => "you approved the period before; somebody else has to approve this one".into(),
        "not-an-approver" => {
            let rule = derive::rule_of(facts);
            let groups = rule.iter().flat_map(|rule| &rule.groups).map(|group| group.as_str());
            format!(
                "you are in none of the groups whose approval is wanted: {}",
                list(groups)
            )
        }
        _ => format!("forbidden by `{id}`"),
    }
}

/// The text for a forbid `id` of a change.
pub(crate) fn of_change(id: &str) -> String {
    match id {
        "second-person-missing" => "a change needs somebody besides its author; let another person confirm it".into(),
        "second-person-is-author" => "a confirmation is by the author, or with their key; somebody else has to".into(),
        _ => format!("forbidden by `{id}`"),
    }
}

/// What is missing for `rule`.
pub(crate) fn approvals(facts: &Facts, rule: &ApprovalRule) -> String {
    let counted = derive::counted(facts, rule);
    let groups = list(rule.groups.iter().map(|group| group.as_str()));
    let distinct = match derive::groups_needed(rule) {
        0 | 1 => String::new(),
        many => format!(" and from {many} different groups"),
    };
    format!(
        "{} of {} approvals by people of {groups}{distinct}, none older than {}, {} so far; ask them",
        rule.count.saturating_sub(counted.count).max(1),
        rule.count,
        shown(rule.valid_for),
        counted.count,
    )
}
