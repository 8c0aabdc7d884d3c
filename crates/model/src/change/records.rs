//! What the log says of each change.

use aws_lc_rs::digest;
use mayfly_svid::{Bundle, Serial, Timestamp, WindowId};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Change, Delta, SvidIntent};
use crate::log::{Body, Record};
use crate::task::{ProposedChange, Stage, Task, TaskStep};
use crate::{Entry, EntryId, Exception, ExceptionState};

impl Change {
    /// What the log says of this change, once it has happened and caused `deltas`.
    pub fn records(&self, deltas: &[Delta]) -> Vec<Record> {
        let one = |kind, subject: String, body: Value| vec![record((kind, subject, body))];
        match self {
            Self::Together(changes) => changes.iter().flat_map(|change| change.records(deltas)).collect(),
            // As stored: its time of creation may be later than asked.
            Self::EntryCreate(entry) => one("entry.created", entry.id.to_string(), last_entry_body(deltas)),
            Self::EntryUpdate { id, .. } => one("entry.updated", id.to_string(), last_entry_body(deltas)),
            Self::EntryDelete(id) | Self::EntryExpire(id) => {
                one("entry.deleted", id.to_string(), last_entry_body(deltas))
            }
            Self::AgentAttest { agent, token } => with_entries(
                deltas,
                "entry.created",
                (
                    "agent.attested",
                    agent.id.to_string(),
                    json!({
                        "attestation_type": agent.attestation_type,
                        "serial": agent.serial,
                        "expires_at": agent.expires_at,
                        "selectors": agent.selectors,
                        "token_sha256": token.map(|hash| hex::encode(hash.as_bytes())),
                    }),
                ),
            ),
            Self::AgentRenew {
                id,
                by,
                serial,
                expires_at,
            } => one(
                "agent.renewed",
                id.to_string(),
                json!({ "shown_serial": by, "serial": serial, "expires_at": expires_at }),
            ),
            Self::AgentConfirm { id, serial } => one("agent.confirmed", id.to_string(), json!({ "serial": serial })),
            Self::AgentReport { id, version } => one("agent.reported", id.to_string(), json!({ "version": version })),
            Self::AgentBan(id) => one("agent.banned", id.to_string(), json!({})),
            Self::AgentDelete(id) => {
                with_entries(deltas, "entry.updated", ("agent.evicted", id.to_string(), json!({})))
            }
            Self::TokenCreate {
                hash,
                expires_at,
                alias,
            } => one(
                "token.created",
                hex::encode(hash.as_bytes()),
                json!({ "expires_at": expires_at, "alias": alias }),
            ),
            Self::TokenPrune => one("token.pruned", String::new(), json!({})),
            Self::AuthorityPrepare(authority) => one(
                "authority.prepared",
                authority.id.clone(),
                json!({ "class": authority.class, "not_before": authority.not_before, "not_after": authority.not_after,
                        "cert_sha256": sha256_hex(&authority.cert_der) }),
            ),
            Self::AuthorityActivate(id) => one("authority.activated", id.clone(), json!({})),
            Self::AuthorityPrune(id) => one("authority.pruned", id.clone(), json!({})),
            Self::BundleAppend { .. } => one("bundle.appended", last_bundle_domain(deltas), last_bundle_body(deltas)),
            Self::BundleCreate(bundle) => one("bundle.created", bundle.trust_domain.to_string(), bundle_body(bundle)),
            Self::BundleUpdate { trust_domain, .. } => {
                one("bundle.updated", trust_domain.to_string(), last_bundle_body(deltas))
            }
            Self::BundleSet(bundle) => one("bundle.set", bundle.trust_domain.to_string(), bundle_body(bundle)),
            Self::BundleDelete { trust_domain, mode } => with_entries(
                deltas,
                "entry.updated",
                (
                    "bundle.deleted",
                    trust_domain.to_string(),
                    json!({ "mode": format!("{mode:?}") }),
                ),
            ),
            Self::PrivateErase(commitments) => one(
                "private.erased",
                String::new(),
                // Their hashes, without what stands for a value: this is about them and stands for none.
                json!({ "commitments": commitments.iter().map(ToString::to_string).collect::<Vec<_>>() }),
            ),
            Self::AuthorityRevoke(id) => one("authority.revoked", id.clone(), json!({})),
            Self::DefinitionPut { .. }
            | Self::DefinitionRetire(_)
            | Self::ExceptionStep { .. }
            | Self::PolicySet { .. }
            | Self::ProposalAdd(_)
            | Self::ProposalDecide { .. }
            | Self::TaskSubmit(_)
            | Self::TaskStep { .. }
            | Self::TaskPrune { .. } => task_records(self, deltas),
            Self::SvidIntents(intents) => intents
                .iter()
                .map(|intent| Record {
                    kind: "svid.intended",
                    subject: intent.spiffe_id.to_string(),
                    body: Body::Text(intent_body(intent)),
                })
                .collect(),
            Self::SvidOutcome { signed, failed } => {
                vec![Record {
                    kind: "svid.outcome",
                    subject: String::new(),
                    body: Body::Text(json_of(&OutcomeBody { failed, signed })),
                }]
            }
            Self::Note { kind, subject, body } => one(kind, subject.clone(), body.clone()),
        }
    }
}

fn record((kind, subject, body): (&'static str, String, Value)) -> Record {
    Record {
        kind,
        subject,
        body: Body::Fields(body),
    }
}

/// The record of a change, followed by one for each entry that went or came with it; `put` says what coming is.
fn with_entries(
    deltas: &[Delta],
    put: &'static str,
    (kind, subject, body): (&'static str, String, Value),
) -> Vec<Record> {
    let entries = deltas.iter().filter_map(|delta| match delta {
        Delta::EntryGone(entry) => Some(record(("entry.deleted", entry.id.to_string(), entry_body(entry)))),
        Delta::EntryPut(entry) => Some(record((put, entry.id.to_string(), entry_body(entry)))),
        _ => None,
    });
    std::iter::once(record((kind, subject, body))).chain(entries).collect()
}

fn entry_body(entry: &Entry) -> Value {
    serde_json::to_value(entry).expect("an entry has string keys and finite numbers only")
}

fn last_entry_body(deltas: &[Delta]) -> Value {
    let entry = deltas.iter().rev().find_map(|delta| match delta {
        Delta::EntryPut(entry) | Delta::EntryGone(entry) => Some(entry),
        _ => None,
    });
    entry.map_or(Value::Null, |entry| entry_body(entry))
}

fn last_bundle(deltas: &[Delta]) -> Option<&Bundle> {
    deltas.iter().rev().find_map(|delta| match delta {
        Delta::BundlePut(bundle) => Some(bundle.as_ref()),
        _ => None,
    })
}

fn last_bundle_body(deltas: &[Delta]) -> Value {
    last_bundle(deltas).map_or(Value::Null, bundle_body)
}

fn last_bundle_domain(deltas: &[Delta]) -> String {
    last_bundle(deltas).map_or_else(String::new, |bundle| bundle.trust_domain.to_string())
}

fn bundle_body(bundle: &Bundle) -> Value {
    json!({
        "sequence_number": bundle.sequence_number,
        "x509_authorities_sha256":
            bundle.x509_authorities.iter().map(|authority| sha256_hex(&authority.cert_der)).collect::<Vec<_>>(),
        "jwt_key_ids": bundle.jwt_authorities.iter().map(|key| key.key_id.as_str()).collect::<Vec<_>>(),
    })
}

/// The bodies of the two records of an SVID. Written straight away, as there are more of these than of all others: fields
/// are in the order of the alphabet, and none is private.
#[derive(Serialize)]
struct IntentBody<'a> {
    authority_id: &'a str,
    entry_id: &'a Option<EntryId>,
    not_after: Timestamp,
    public_key_sha256: String,
    serial: &'a Serial,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_id: Option<WindowId>,
}

#[derive(Serialize)]
struct OutcomeBody<'a> {
    failed: &'a [Serial],
    signed: &'a [Serial],
}

fn intent_body(intent: &SvidIntent) -> String {
    json_of(&IntentBody {
        authority_id: &intent.authority_id,
        entry_id: &intent.entry_id,
        not_after: intent.not_after,
        public_key_sha256: hex::encode(intent.public_key_sha256),
        serial: &intent.serial,
        window_id: intent.window_id,
    })
}

fn json_of(body: &impl Serialize) -> String {
    let mut text = Vec::with_capacity(512); // an intent has about 320 bytes
    serde_json::to_writer(&mut text, body).expect("records have string keys and finite numbers only");
    String::from_utf8(text).expect("JSON is UTF-8")
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// The records of changes of tasks, their definitions and their policy.
fn task_records(change: &Change, deltas: &[Delta]) -> Vec<Record> {
    let one = |kind, subject: String, body: Value| vec![record((kind, subject, body))];
    match change {
        Change::DefinitionPut { .. } | Change::DefinitionRetire(_) | Change::ExceptionStep { .. } => {
            deltas.iter().flat_map(followed).collect()
        }
        Change::PolicySet { policy, .. } => one("policy.set", String::new(), json!({ "files": policy.files })),
        Change::ProposalAdd(proposal) => one("proposal.added", proposal.id.clone(), json_value(proposal)),
        Change::ProposalDecide { id, by, approve } => {
            let kind = if *approve {
                "proposal.approved"
            } else {
                "proposal.rejected"
            };
            let policy = deltas.iter().find_map(|delta| match delta {
                Delta::ProposalPut(proposal) => match &proposal.change {
                    ProposedChange::Policy { files } if *approve => {
                        Some(record(("policy.set", String::new(), json!({ "files": files }))))
                    }
                    _ => None,
                },
                _ => None,
            });
            one(kind, id.clone(), json!({ "by": by }))
                .into_iter()
                .chain(policy)
                .chain(deltas.iter().flat_map(followed))
                .collect()
        }
        Change::TaskSubmit(task) => one("task.requested", task.id.to_string(), requested_body(task)),
        Change::TaskStep { id, step } => {
            let mut body = json_value(step);
            if let (Some(fields), Some(epoch)) = (body.as_object_mut(), epoch_of(deltas)) {
                fields.insert("epoch".into(), epoch.into());
            }
            one(step_kind(step, deltas), id.to_string(), body)
        }
        Change::TaskPrune { before } => one("task.pruned", String::new(), json!({ "before": before })),
        _ => vec![],
    }
}

/// What a change of a definition did, to itself and to requests under its earlier version; what became of an exception.
fn followed(delta: &Delta) -> Option<Record> {
    match delta {
        Delta::DefinitionPut(version) => {
            let kind = if version.retired {
                "definition.retired"
            } else {
                "definition.put"
            };
            Some(record((
                kind,
                version.definition.name.to_string(),
                json_value(version.as_ref()),
            )))
        }
        Delta::ExceptionPut(exception) => Some(record((
            exception_kind(exception),
            exception.id.clone(),
            exception_body(exception),
        ))),
        Delta::TaskPut(task) => Some(record((
            "task.superseded",
            task.id.to_string(),
            json!({ "stage": task.stage, "message": task.message }),
        ))),
        _ => None,
    }
}

fn exception_kind(exception: &Exception) -> &'static str {
    match exception.state {
        ExceptionState::InForce if exception.renewals == 0 => "exception.granted",
        ExceptionState::InForce => "exception.renewed",
        ExceptionState::Ended => "exception.ended",
        ExceptionState::Expired => "exception.expired",
    }
}

/// All of it, under names of which those are private that people wrote or are.
fn exception_body(exception: &Exception) -> Value {
    json!({
        "id": exception.id,
        "identity": exception.identity,
        "detail": exception.allows,
        "scopes": exception.scopes,
        "owner": exception.owner,
        "reason": exception.reason,
        "compensating_control": exception.compensating_control,
        "approver": exception.approved_by,
        "granted_at": exception.granted_at,
        "expires_at": exception.expires_at,
        "renewals": exception.renewals,
        "power_removed": exception.power_removed,
    })
}

fn requested_body(task: &Task) -> Value {
    json!({
        "request": task.request,
        "digest": task.digest,
        "stage": task.stage,
        "needs": task.needs,
        "decisions": task.decisions,
    })
}

fn epoch_of(deltas: &[Delta]) -> Option<u64> {
    deltas.iter().find_map(|delta| match delta {
        Delta::Revoked(revocation) => Some(revocation.epoch),
        _ => None,
    })
}

fn step_kind(step: &TaskStep, deltas: &[Delta]) -> &'static str {
    match step {
        TaskStep::Decide { .. } => "task.decided",
        TaskStep::Approve { .. } => "task.approved",
        TaskStep::Refuse { .. } => "task.refused",
        TaskStep::Cancel { .. } => "task.cancelled",
        TaskStep::Supersede { .. } => "task.superseded",
        TaskStep::Expire => "task.expired",
        TaskStep::Open { .. } => "window.opened",
        TaskStep::Renew { .. } => "window.renewed",
        TaskStep::Extend { .. } => "window.extended",
        TaskStep::Heartbeat { .. } => "window.heartbeat",
        TaskStep::Suspend { .. } => "window.suspended",
        TaskStep::Resume { .. } => "window.resumed",
        TaskStep::RevokeSvid { .. } => "svid.revoked",
        TaskStep::Close { .. } => "window.closing",
        TaskStep::Confirm { .. } => "window.closed",
        TaskStep::Settle { .. } => "window.settled",
        TaskStep::GiveUp { .. } => "window.revocation_incomplete",
        TaskStep::AcceptRisk { window, .. } => {
            let is_settled = |delta: &Delta| match delta {
                Delta::TaskPut(task) => task.window(window).is_some_and(|window| window.stage == Stage::Settled),
                _ => false,
            };
            // It takes two.
            if deltas.iter().any(is_settled) {
                "window.risk_accepted"
            } else {
                "window.risk_proposed"
            }
        }
        TaskStep::Review { .. } => "task.reviewed",
    }
}

fn json_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("records have string keys and finite numbers only")
}
