//! Every finding that there is: its word, what it says, and what to do about it. Whoever shows findings takes the words
//! from here, so that a page, a terminal and a server give the same advice.

/// A kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// A stable word.
    pub name: &'static str,
    /// What it says.
    pub says: &'static str,
    /// What to do about it: one sentence, begun small and without a full stop, commands between backticks.
    pub remedy: &'static str,
}

/// What to do about what is not known here.
const OTHER: &str = "look at the entries that it names: `mayfly audit show INDEX`";

/// Every code of a finding.
pub const CODES: &[Code] = &[
    Code {
        name: "invariant-violated",
        says: "the log shows what must not be",
        remedy: "keep an export of the log (`mayfly audit export`) and check it on another machine (`mayfly audit verify`): \
                 the server wrote what it must never write, so look at these entries before relying on anything else",
    },
    Code {
        name: "standing-authority",
        says: "a task SVID counted when no window was open",
        remedy: "find the SVID in the log (`mayfly audit search`), revoke the task (`mayfly task revoke`), and find out who \
                 signed it without a window",
    },
    Code {
        name: "probe-failed",
        says: "a consumer did not do what it has to when it was tried",
        remedy: "give the consumer the verifier kit or its revocation list, then try it again: `mayfly prove window`",
    },
    Code {
        name: "base-privileged",
        says: "a consumer lets in base identities",
        remedy: "take the permissions of the base identity away at this consumer and give them to a task, then try it again: \
                 `mayfly prove base`",
    },
    Code {
        name: "privileged-base-identity",
        says: "an identity has privileges of its own, and no exception says why",
        remedy: "take `admin` or `downstream` from the entry, or answer for it: `mayfly task exception grant`",
    },
    Code {
        name: "expired-exception",
        says: "an exception is over, and nobody renewed or ended it",
        remedy: "take the power away and say so (`mayfly task exception end ID --power-removed`), or look at it again: \
                 `mayfly task exception renew ID`",
    },
    Code {
        name: "task-over-standing-power",
        says: "somebody has what a task gives without a window as well",
        remedy: "take the standing power away, and end its exception: `mayfly task exception end ID --power-removed`",
    },
    Code {
        name: "exception-too-long",
        says: "an exception was granted for longer than exceptions may be",
        remedy: "end it and grant a shorter one: `mayfly task exception grant`",
    },
    Code {
        name: "disguised-standing-access",
        says: "windows follow each other as if there were no end",
        remedy: "ask the owner what the workload really does; make it one longer window or a smaller task, bound it by \
                 policy (`context.usage.same_day`), or record an honest exception",
    },
    Code {
        name: "window-not-ended",
        says: "a window is over and nobody ended it",
        remedy: "look at the server's health and at its clock (`mayfly doctor`), then `mayfly task revoke`",
    },
    Code {
        name: "unsettled-window",
        says: "a window has ended and its authority is not shown dead",
        remedy: "see which consumers it waits for (`mayfly task now`), mend them or take them out of the definition, and \
                 accept in writing what cannot be shown any more: `mayfly task accept-risk`",
    },
    Code {
        name: "risk-accepted",
        says: "somebody accepted that the end of a window could not be shown",
        remedy: "look at who accepted it and why, and at the consumer behind it: what is accepted often is no risk but a gap",
    },
    Code {
        name: "rubber-stamping",
        says: "somebody agrees faster than one can read",
        remedy: "ask the approver what they look at; widen the group, or let policy permit what is harmless without approval",
    },
    Code {
        name: "never-refuses",
        says: "somebody agreed to everything",
        remedy: "look at some of these approvals with the approver; if all were right, policy can decide them",
    },
    Code {
        name: "self-group-approvals",
        says: "somebody agrees mostly to what their own groups ask for",
        remedy: "want approvals of two groups: `approval.distinct_groups = 2` in the definition",
    },
    Code {
        name: "break-glass-unreviewed",
        says: "an emergency was not looked at in time",
        remedy: "somebody who was not part of it looks at what was done, and accounts for it: `mayfly task review`",
    },
    Code {
        name: "break-glass-frequent",
        says: "emergencies are the normal door",
        remedy: "make a normal task of what people break glass for",
    },
    Code {
        name: "definition-overdue",
        says: "a definition is past its review",
        remedy: "the owner looks at it again and defines it with a new `review_by`, or retires it: `mayfly task retire`",
    },
    Code {
        name: "definition-dormant",
        says: "a definition is in force and nobody uses it",
        remedy: "retire it: `mayfly task retire`",
    },
    Code {
        name: "checkpoint-gone",
        says: "a consumer that definitions rely on has gone",
        remedy: "start the consumer, or take it out of the definitions that name it",
    },
    Code {
        name: "clock-set-back",
        says: "the server's clock was set back",
        remedy: "find out who set it; times around these entries are not to be relied on",
    },
    Code {
        name: "unknown-entries",
        says: "a newer server wrote entries that are not known here",
        remedy: "measure again with the `mayfly` of the server's release or a later one",
    },
];

impl Code {
    /// The one of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        CODES.iter().find(|code| code.name == name)
    }
}

/// What to do about a finding, by its code; something in any case.
pub fn remedy(code: &str) -> &'static str {
    Code::find(code).map_or(OTHER, |code| code.remedy)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_code_stands_once_and_comes_with_words_for_people() {
        let names: BTreeSet<&str> = CODES.iter().map(|code| code.name).collect();
        assert_eq!(names.len(), CODES.len());
        for code in CODES {
            for words in [code.says, code.remedy] {
                let is_phrase = words.starts_with(|first: char| first.is_lowercase()) && !words.ends_with('.');
                assert!(is_phrase && words.len() > 10, "{}: {words}", code.name);
            }
            assert_eq!(code.remedy.matches('`').count() % 2, 0, "{}", code.name);
            assert_eq!(remedy(code.name), code.remedy);
        }
        assert_eq!(remedy("something-new"), OTHER);
    }
}
