//! What gives authority without a request, or before one: entries, agents, authorities, definitions, policy, exceptions;
//! and who enforces and who watches.

use std::collections::BTreeSet;

use mayfly_svid::Timestamp;
use serde_json::Value;

use super::Replay;
use super::body::{Defined, Exception as ExceptionBody, Probe as ProbeBody, RegistrationEntry, read};
use super::register::{Checkpoint, Exception, Governance, LogEvent, Privileged, Probe};
use super::state::Definition;
use super::svid::root_of;
use crate::{Entry, Invariant};

impl Replay {
    pub(super) fn take_standing(&mut self, entry: &Entry) -> Result<(), String> {
        let subject = &entry.subject;
        match entry.kind.as_str() {
            "entry.created" | "entry.updated" => self.take_entry(entry)?,
            "entry.deleted" => {
                self.entries.remove(subject);
                self.end_privilege(entry);
            }
            "agent.attested" => {
                let was_banned = self.agents.insert(subject.clone(), false) == Some(true);
                if was_banned {
                    let message = format!("the agent {subject} is attested although it is banned");
                    self.violate(Invariant::I8, entry.index, message);
                }
            }
            "agent.banned" => {
                self.agents.insert(subject.clone(), true);
            }
            "agent.evicted" => {
                self.agents.remove(subject);
            }
            "authority.prepared" => {
                let class = entry.field("class").as_str().ok_or("an authority without a class")?;
                self.classes.insert(subject.clone(), class.to_owned());
            }
            "authority.revoked" | "authority.pruned" => {
                self.classes.remove(subject);
            }
            "definition.put" => self.take_definition(entry)?,
            "definition.retired" => {
                self.end_definition(subject, entry.time);
                self.govern(entry, entry.field("author").clone());
            }
            "policy.set" => self.govern(entry, entry.who.clone()),
            "proposal.added" => {
                self.pending_changes
                    .insert(subject.clone(), entry.field("author").clone());
            }
            "proposal.approved" | "proposal.rejected" => self.take_proposal(entry),
            "checkpoint.registered" | "checkpoint.lost" => self.take_checkpoint(entry),
            "probe.finished" => self.take_probe(entry)?,
            kind if kind.starts_with("exception.") => self.take_exception(entry)?,
            "log.started" | "log.key_rotated" | "witness.registered" | "private.erased" | "audit.reported" => {
                if entry.kind == "private.erased" {
                    self.take_erased(entry);
                }
                self.log_events.push(LogEvent {
                    index: entry.index,
                    at: entry.time,
                    kind: entry.kind.clone(),
                    body: entry.body.clone(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn take_entry(&mut self, entry: &Entry) -> Result<(), String> {
        let RegistrationEntry { spec } = read(entry)?;
        if root_of(&spec.spiffe_id).is_some() {
            let message = format!(
                "the entry {} gives the reserved identity {}",
                entry.subject, spec.spiffe_id
            );
            self.violate(Invariant::I7, entry.index, message);
        }
        self.entries.insert(entry.subject.clone(), spec.spiffe_id.clone());
        let rights: BTreeSet<&str> = [("admin", spec.admin), ("downstream", spec.downstream)]
            .into_iter()
            .filter(|(_, has)| *has)
            .map(|(right, _)| right)
            .collect();
        let present = self
            .privileged
            .iter()
            .find(|held| held.entry_id == entry.subject && held.until.is_none());
        if present.is_some_and(|held| held.rights == rights && held.spiffe_id == spec.spiffe_id) {
            return Ok(());
        }
        self.end_privilege(entry);
        if !rights.is_empty() {
            self.privileged.push(Privileged {
                entry_id: entry.subject.clone(),
                spiffe_id: spec.spiffe_id,
                rights,
                since: entry.time,
                until: None,
                index: entry.index,
            });
        }
        Ok(())
    }

    fn end_privilege(&mut self, entry: &Entry) {
        let held = self.privileged.iter_mut().filter(|held| held.entry_id == entry.subject);
        held.for_each(|held| {
            held.until.get_or_insert(entry.time);
        });
    }

    fn take_definition(&mut self, entry: &Entry) -> Result<(), String> {
        let Defined {
            hash,
            version,
            author,
            definition,
        } = read(entry)?;
        self.end_definition(&definition.name, entry.time);
        self.in_force.insert(definition.name.clone(), hash.clone());
        self.govern(entry, author.clone());
        let seconds = |text: String| {
            humantime::parse_duration(&text)
                .ok()
                .and_then(|span| i64::try_from(span.as_secs()).ok())
        };
        let used_at = self.definitions.get(&hash).and_then(|earlier| earlier.used_at);
        let definition = Definition {
            hash: hash.clone(),
            name: definition.name,
            version,
            owner: definition.owner,
            author,
            is_breakglass: definition.class == "breakglass",
            sensitivity: definition.sensitivity,
            scopes: definition.scopes,
            workloads: definition.allowed.workloads,
            approvals: definition.approval.count,
            max_uses: definition.limits.max_uses,
            concurrency: definition.limits.concurrency,
            settle_before_next: definition.ending.settle_before_next,
            max_window: definition.limits.max_window.and_then(seconds),
            checkpoints: definition.ending.checkpoints,
            review_by: instant(&definition.review_by),
            defined_at: entry.time,
            index: entry.index,
            until: None,
            used_at,
        };
        self.definitions.insert(hash, definition);
        Ok(())
    }

    fn end_definition(&mut self, name: &str, now: i64) {
        let hash = self.in_force.remove(name);
        if let Some(definition) = hash.and_then(|hash| self.definitions.get_mut(&hash)) {
            definition.until = Some(now);
        }
    }

    /// Notes a change of what gives authority. A second person's word on it stands before it in the same commit.
    fn govern(&mut self, entry: &Entry, author: Value) {
        let (author, decided_by) = match self.commit.agreed.take() {
            Some((proposed_by, by)) => (proposed_by, by),
            None => (author, Value::Null),
        };
        self.governance.push(Governance {
            index: entry.index,
            at: entry.time,
            kind: entry.kind.clone(),
            subject: entry.subject.clone(),
            author,
            decided_by,
        });
    }

    fn take_proposal(&mut self, entry: &Entry) {
        let by = entry.field("by").clone();
        let Some(author) = self.pending_changes.remove(&entry.subject) else {
            let message = format!(
                "the proposal {} is decided, and there is none that waits",
                entry.subject
            );
            self.violate(Invariant::I11, entry.index, message);
            return;
        };
        if entry.kind == "proposal.rejected" {
            return;
        }
        if by.is_null() || by == author {
            let message = format!("the proposal {} is approved by who made it", entry.subject);
            self.violate(Invariant::I4, entry.index, message);
        }
        self.commit.agreed = Some((author, by));
    }

    fn take_checkpoint(&mut self, entry: &Entry) {
        let name = entry.field("name").as_str().unwrap_or(&entry.subject).to_owned();
        let checkpoint = self.checkpoints.entry(name.clone()).or_insert_with(|| Checkpoint {
            name,
            since: entry.time,
            index: entry.index,
            lost_at: None,
        });
        checkpoint.index = entry.index;
        if entry.kind == "checkpoint.lost" {
            checkpoint.lost_at.get_or_insert(entry.time);
            return;
        }
        checkpoint.lost_at = None;
    }

    fn take_probe(&mut self, entry: &Entry) -> Result<(), String> {
        let ProbeBody {
            window,
            checkpoint,
            kind,
            outcome,
            expected,
        } = read(entry)?;
        let checkpoint = if checkpoint.is_empty() {
            entry.subject.clone()
        } else {
            checkpoint
        };
        self.probes.push(Probe {
            index: entry.index,
            at: entry.time,
            window,
            checkpoint,
            kind,
            outcome,
            expected,
        });
        Ok(())
    }

    fn take_exception(&mut self, entry: &Entry) -> Result<(), String> {
        let body: ExceptionBody = read(entry)?;
        // If a second person agreed, it was to this.
        self.commit.agreed = None;
        let id = entry.field("id").as_str().unwrap_or(&entry.subject).to_owned();
        let until = body.expires_at;
        if entry.kind == "exception.granted" {
            let until = until.ok_or("an exception that never expires")?;
            let exception = Exception {
                id: id.clone(),
                identity: body.identity,
                owner: body.owner,
                reason: body.reason,
                control: body.control,
                scopes: body.scopes,
                granted_at: entry.time,
                index: entry.index,
                spans: vec![(entry.time, until)],
                renewals: 0,
                ended: None,
                expired: None,
            };
            self.exceptions.insert(id, exception);
            return Ok(());
        }
        let Some(exception) = self.exceptions.get_mut(&id) else {
            let message = format!("a `{}` of the exception {id}, which nobody granted", entry.kind);
            self.violate(Invariant::I11, entry.index, message);
            return Ok(());
        };
        match entry.kind.as_str() {
            "exception.renewed" => {
                let until = until.ok_or("an exception is renewed and never expires")?;
                exception.spans.push((entry.time, until));
                exception.renewals += 1;
                exception.expired = None;
            }
            "exception.ended" => {
                exception.ended.get_or_insert((entry.time, entry.index));
            }
            _ => exception.expired = Some((entry.time, entry.index)),
        }
        Ok(())
    }
}

/// An instant as records have it: Unix seconds, or RFC 3339 where people wrote it.
fn instant(value: &Value) -> Option<i64> {
    let text = || humantime::parse_rfc3339(value.as_str()?).ok();
    value.as_i64().or_else(|| text().map(|at| Timestamp::from(at).unix()))
}
