//! What to do about each finding.

/// By the code of the finding.
const ADVICE: &[(&str, &str)] = &[
    (
        "invariant-violated",
        "Keep an export of the log (`mayfly audit export`) and check it on another machine (`mayfly audit verify`): the server \
         wrote something that it must never write. Look at the entries named here before relying on anything else in this report.",
    ),
    (
        "standing-authority",
        "Find the SVID in the log (`mayfly audit search`), revoke it (`mayfly task revoke`), and ask how it came to count \
         without a window.",
    ),
    (
        "probe-failed",
        "The consumer lets in what it has to refuse. Give it the verifier kit or its revocation list, then run \
         `mayfly prove window` again.",
    ),
    (
        "base-privileged",
        "Take the permissions of the base identity away at this consumer and give them to a task; then `mayfly prove base`.",
    ),
    (
        "privileged-base-identity",
        "Take `admin` or `downstream` from the entry and give them by a task, or answer for it: `mayfly task exception grant`.",
    ),
    (
        "expired-exception",
        "Take the power away and say so (`mayfly task exception end ID --power-removed`), or look at it again \
         (`mayfly task exception renew ID`): until then it is standing privilege that nobody answers for.",
    ),
    (
        "task-over-standing-power",
        "Take away what the workload has without a window (`mayfly task exception end ID --power-removed`): a window that adds \
         nothing protects nothing.",
    ),
    (
        "exception-too-long",
        "End it, and grant a shorter one: `mayfly task exception grant`.",
    ),
    (
        "disguised-standing-access",
        "Ask the owner what the workload really does. Make it one longer window or a smaller task that ends with each run, bound it \
         by policy (`context.usage.same_day`), or record an honest exception.",
    ),
    (
        "window-not-ended",
        "The server did not end it in time. Look at its health and at its clock (`mayfly doctor`), then `mayfly task revoke`.",
    ),
    (
        "unsettled-window",
        "Find the consumers that did not acknowledge (part 5), bring them back or take them out of the definition, and let the \
         window settle; `mayfly task accept-risk` is for what cannot be shown any more.",
    ),
    (
        "risk-accepted",
        "Look at who accepted it and why, and at the consumer behind it: what is accepted often is not a risk but a gap.",
    ),
    (
        "rubber-stamping",
        "Talk with this person, raise the number of approvals, or let policy decide what nobody reads anyway.",
    ),
    (
        "never-refuses",
        "Sample some of these approvals with the person; if all were right, policy can decide them.",
    ),
    (
        "self-group-approvals",
        "Want approvals of two groups: `approval.distinct_groups = 2` in the definition.",
    ),
    (
        "break-glass-unreviewed",
        "Somebody who was not part of it reviews it now: `mayfly task review`.",
    ),
    (
        "break-glass-frequent",
        "Make a normal task of what people break glass for.",
    ),
    (
        "definition-overdue",
        "The owner reviews the definition, and moves its date or retires it.",
    ),
    ("definition-dormant", "Retire it: `mayfly task retire`."),
    (
        "checkpoint-gone",
        "Bring the consumer back, or take it out of the definitions that rely on it.",
    ),
    (
        "clock-set-back",
        "Find out who set the server's clock; times around these entries are not to be relied on.",
    ),
    (
        "unknown-entries",
        "Check again with the `mayfly` of the server's version or a later one.",
    ),
];

/// What to do about a finding; something in any case.
pub(super) fn advice(code: &str) -> &'static str {
    let found = ADVICE.iter().find(|(known, _)| *known == code);
    found.map_or("Look at the entries named here: `mayfly audit show`.", |(_, advice)| {
        advice
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_comes_with_what_to_do() {
        for (code, _) in mayfly_audit::finding::CODES {
            assert!(ADVICE.iter().any(|(known, _)| known == code), "no advice on {code}");
        }
        for (code, _) in ADVICE {
            let is_code = mayfly_audit::finding::CODES.iter().any(|(known, _)| known == code);
            assert!(is_code, "advice on {code}, which is no finding");
        }
    }
}
