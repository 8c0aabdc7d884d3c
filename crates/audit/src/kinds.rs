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
    kind("audit.reported", NONE),
    kind("logger.level_set", "`log`"),
    kind("logger.level_reset", "`log`"),
];

/// Whether a kind is known here. A newer server may write others, and its log verifies all the same.
pub fn is_known(name: &str) -> bool {
    KINDS.iter().any(|kind| kind.name == name)
}

/// The family of a kind: what stands before the dot.
pub fn family(name: &str) -> &str {
    name.split_once('.').map_or(name, |(family, _)| family)
}
