//! What is always loaded.

/// Files of the built-in set: name, text, and whether they are guards.
pub(crate) const FILES: [(&str, &str); 3] = [
    ("builtin/guard.cedar", include_str!("../builtin/guard.cedar")),
    ("builtin/default.cedar", include_str!("../builtin/default.cedar")),
    ("builtin/roles.cedar", include_str!("../builtin/roles.cedar")),
];

/// A rule that no policy can override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Its stable id: the id of the reason when it denies.
    pub id: &'static str,
    /// What it forbids.
    pub forbids: &'static str,
}

macro_rules! guards {
    ($($id:literal $forbids:literal),* $(,)?) => {
        /// All guards, in the order of `builtin/guard.cedar`.
        pub const GUARDS: &[Guard] = &[$(Guard { id: $id, forbids: $forbids }),*];
    };
}

guards!(
    "not-allowed" "a process that the definition's paths and selectors do not name",
    "environment-mismatch" "a process of another environment than the definition's",
    "wrong-actor" "a person where a workload is meant, and the other way round",
    "node-banned" "a process on a banned node",
    "evidence-stale" "a process attested too long ago, or in the future",
    "scopes-exceeded" "scopes that the definition does not have",
    "window-too-long" "a window longer than the definition's",
    "review-overdue" "requests, openings and extensions after the definition's review date",
    "not-settled" "the next window before the last is settled, where the definition wants that",
    "too-many-windows" "more windows of one workload at a time than the definition allows",
    "ticket-missing" "no ticket where one is needed",
    "ticket-closed" "a ticket that is not open",
    "ticket-kind" "a ticket of another kind",
    "approvals-missing" "fewer people or groups than needed, or approvals that are too old",
    "self-approval" "an approval by who asks, or with their key",
    "owner-approval" "an approval by who answers for the process that asks",
    "approver-repeats" "break-glass approved by who approved the period before",
    "post-review-due" "break-glass before earlier use is reviewed",
    "approve-own-request" "approving what one asked for",
    "approve-own-workload" "approving what a workload asks that one answers for",
    "approve-with-requesters-key" "approving with the key of who asks",
    "approve-twice-in-a-row" "approving break-glass that one approved the period before",
    "not-an-approver" "approving without being in a group whose approval is wanted",
    "second-person-missing" "changing a definition or policy alone, where two are needed",
    "second-person-is-author" "confirming one's own change",
);
