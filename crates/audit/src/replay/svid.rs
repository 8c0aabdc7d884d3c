//! SVIDs: meant to be signed, signed or not, refused again.

use super::body::{Intended as Body, OfWindow, Outcome, read};
use super::commit::TaskSvid;
use super::{Replay, short};
use crate::{Entry, Invariant};

/// An SVID that is meant to be signed, until it is known whether it was.
#[derive(Debug)]
pub(super) struct Intended {
    not_after: i64,
}

/// How long after its last second an SVID of unknown outcome is still waited for.
const OUTCOME_WITHIN: i64 = 3_600;
/// So many are waited for before those that are over are counted and forgotten.
const PENDING_MAX: usize = 4_096;

impl Replay {
    pub(super) fn take_svid(&mut self, entry: &Entry) -> Result<(), String> {
        match entry.kind.as_str() {
            "svid.intended" => self.take_intended(entry),
            "svid.outcome" => self.take_outcome(entry),
            _ => self.take_revoked(entry),
        }
    }

    fn take_intended(&mut self, entry: &Entry) -> Result<(), String> {
        let Body {
            authority_id,
            not_after,
            public_key_sha256,
            serial,
            window_id,
        } = read(entry)?;
        if !self.serials.insert(short(&serial)) {
            let message = format!("the serial number {serial} is given a second time");
            self.violate(Invariant::I3, entry.index, message);
        }
        self.intended.insert(serial.clone(), Intended { not_after });
        // Those that are still kept are not walked over for each that follows.
        if self.intended.len() > PENDING_MAX.max(2 * self.pending) {
            self.forget_unknown_outcomes();
            self.pending = self.intended.len();
        }
        let class = self.classes.get(&authority_id).map(String::as_str);
        let root = root_of(&entry.subject);
        let expected = root.unwrap_or("base");
        if class != Some(expected) {
            let known = class.unwrap_or("unknown to the log");
            let message = format!(
                "an SVID of {} is signed by the authority {authority_id}, whose class is {known}",
                entry.subject
            );
            self.violate(Invariant::I7, entry.index, message);
        }
        if root.is_none() {
            if let Some(window_id) = window_id {
                let message = format!(
                    "the SVID {serial} of {} names the window {window_id}, which cannot give it",
                    entry.subject
                );
                self.violate(Invariant::I7, entry.index, message);
            }
            self.base_svids += 1;
            return Ok(());
        }
        self.task_svids += 1;
        if !self.keys.insert(short(&public_key_sha256)) {
            let message = format!("the key {public_key_sha256} is in a task SVID a second time");
            self.violate(Invariant::I10, entry.index, message);
        }
        self.commit.intended.insert(
            serial,
            TaskSvid {
                index: entry.index,
                time: entry.time,
                spiffe_id: entry.subject.clone(),
                not_after,
                key: public_key_sha256,
                authority: authority_id,
                window: window_id,
            },
        );
        Ok(())
    }

    fn take_outcome(&mut self, entry: &Entry) -> Result<(), String> {
        let Outcome { signed, failed } = read(entry)?;
        for serial in signed {
            if !self.serials.contains(&short(&serial)) {
                self.violate(
                    Invariant::I3,
                    entry.index,
                    format!("the SVID {serial} was signed before the log had it"),
                );
            }
            self.intended.remove(&serial);
        }
        for serial in failed {
            // One whose intent is not durable may be among these: nothing came of it either.
            self.intended.remove(&serial);
            let svids = self.windows.values_mut().flat_map(|window| &mut window.svids);
            svids
                .filter(|svid| svid.serial == serial)
                .for_each(|svid| svid.is_void = true);
        }
        Ok(())
    }

    fn take_revoked(&mut self, entry: &Entry) -> Result<(), String> {
        let body: OfWindow = read(entry)?;
        let Some(window) = self.live_window(entry, &body.window) else {
            return Ok(());
        };
        let serial = body.serial.unwrap_or_default();
        match window.svids.iter_mut().find(|svid| svid.serial == serial) {
            Some(svid) => {
                svid.revoked_at.get_or_insert(entry.time);
            }
            None => {
                let message = format!("the window {} has no SVID {serial} that could be refused", body.window);
                self.violate(Invariant::I1, entry.index, message);
            }
        }
        Ok(())
    }

    fn forget_unknown_outcomes(&mut self) {
        let Some(latest) = self.latest else { return };
        let before = self.intended.len();
        self.intended
            .retain(|_, intended| intended.not_after.saturating_add(OUTCOME_WITHIN) >= latest);
        self.notes.unknown_outcomes += (before - self.intended.len()) as u64;
    }

    pub(super) fn count_unknown_outcomes(&self) -> u64 {
        self.notes.unknown_outcomes + self.intended.len() as u64
    }
}

/// The reserved root that an identity is below, of those that only windows give.
pub(super) fn root_of(spiffe_id: &str) -> Option<&'static str> {
    let first = spiffe_id.strip_prefix("spiffe://")?.split('/').nth(1)?;
    ["task", "breakglass"].into_iter().find(|root| *root == first)
}
