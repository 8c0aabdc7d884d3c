//! What the server owes: that the log says of each SVID of a window what its certificate says of the log, and that the
//! log goes on when SVIDs are issued at all. Nothing is signed before it is recorded; here it is checked by the one who
//! got the signature.
//!
//! ```text
//!   certificate (index, serial, window, key, end) ─▶ Issued ─▶ asked on the stream ─▶ entry and proof under an accepted head
//!                                                  └─▶ not within 30 s of streams, or another entry: the log is refused
//! ```

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use mayfly_proto::mayfly::agent::Inclusion;
use mayfly_svid::{Serial, SpiffeId, TaskExtension, Timestamp, WindowId, X509Svid};
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::leaf_hash;
use mayfly_tlog::merkle::verify_inclusion;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::judge::{Refusal, hashes};

/// So long it may take until an SVID of a window is shown to be in the log. A checkpoint follows within a second.
pub(super) const PROVEN_WITHIN: Duration = Duration::from_secs(30);
/// So long, and three times as long as the server may be silent, it may take until the log has grown.
pub(super) const GROWN_WITHIN: Duration = Duration::from_secs(60);
/// Of those that are not shown, so many are remembered, each with up to 2.5 KiB. One is enough to refuse the log; with
/// more it is for good.
const KEPT: usize = 1024;

/// An SVID of a window, and where its certificate says that the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Issued {
    pub(super) index: u64,
    pub(super) serial: Serial,
    window_id: WindowId,
    spiffe_id: SpiffeId,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER), lower-case hex.
    public_key_sha256: String,
    not_after: Timestamp,
}

/// What is owed, and when that began on the clock of streams.
#[derive(Clone, Debug)]
struct Since<T> {
    owed: T,
    since: Duration,
}

/// What is owed and may still come in time.
#[derive(Clone, Debug, Default)]
pub(super) struct Debts {
    entries: Vec<Since<Issued>>,
    /// More entries than so many.
    growth: Option<Since<u64>>,
}

/// What did not come in time, or is not as it should be. While there is any, the log is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Overdue {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) entries: Vec<Late>,
    /// There were more than can be remembered, so it will never be known that all were shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    more: bool,
    /// The log had so many entries when SVIDs were issued, and shows no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stands_at: Option<u64>,
}

/// An SVID that the log does not show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Late {
    pub(super) issued: Issued,
    /// What it shows instead, for people. It cannot show anything else any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

/// What the entry of an intent says, as far as it matters here; other fields may be there.
#[derive(Deserialize)]
struct Intended {
    kind: String,
    subject: String,
    body: IntentBody,
}

#[derive(Deserialize)]
struct IntentBody {
    serial: String,
    public_key_sha256: String,
    not_after: Timestamp,
    /// Empty in the record of an SVID that is of no window.
    #[serde(default)]
    window_id: String,
}

/// An entry does not show what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("its proof does not lead to the root")]
    Proof,
    #[error("it is no record of an SVID")]
    NoIntent,
    #[error("it is the record of another one")]
    Other,
    #[error("it names another window, or none")]
    OtherWindow,
}

// === impl Issued ===

impl Issued {
    /// What a certificate says; none if it is not one of a window.
    pub(super) fn of(leaf_der: &[u8]) -> Option<Self> {
        let extension = TaskExtension::from_certificate_der(leaf_der).ok().flatten()?;
        let svid = X509Svid::from_chain(vec![CertificateDer::from(leaf_der.to_vec())]).ok()?;
        Some(Self {
            index: extension.log_index,
            serial: svid.serial().clone(),
            window_id: extension.window_id,
            spiffe_id: svid.spiffe_id().clone(),
            public_key_sha256: hex::encode(digest(&SHA256, svid.public_key_der())),
            not_after: svid.not_after(),
        })
    }

    /// Whether the log has it where the certificate says.
    pub(super) fn is_shown_by(&self, shown: &Inclusion, checkpoint: &SignedCheckpoint) -> Result<(), Unfit> {
        let proof = hashes(&shown.proof).ok_or(Unfit::Proof)?;
        let leaf = leaf_hash(&shown.entry);
        verify_inclusion(leaf, shown.index, checkpoint.size(), checkpoint.root(), &proof).map_err(|_| Unfit::Proof)?;
        let entry: Intended = serde_json::from_slice(&shown.entry).map_err(|_| Unfit::NoIntent)?;
        let Intended { kind, subject, body } = entry;
        if kind != "svid.intended" {
            return Err(Unfit::NoIntent);
        }
        let is_this = shown.index == self.index
            && subject == self.spiffe_id.to_string()
            && body.serial == self.serial.to_string()
            && body.public_key_sha256 == self.public_key_sha256
            && body.not_after == self.not_after;
        match is_this {
            false => Err(Unfit::Other),
            true if body.window_id != self.window_id.to_string() => Err(Unfit::OtherWindow),
            true => Ok(()),
        }
    }
}

// === impl Debts ===

impl Debts {
    /// The log has to show it.
    pub(super) fn owe(&mut self, issued: Issued, now: Duration) {
        self.entries.push(Since {
            owed: issued,
            since: now,
        });
    }

    /// The log has to have more than `size` entries.
    pub(super) fn owe_growth(&mut self, size: u64, now: Duration) {
        // One at a time: the next is asked for once this one has come.
        self.growth.get_or_insert(Since { owed: size, since: now });
    }

    /// Those that are at `index`.
    pub(super) fn at(&self, index: u64) -> impl Iterator<Item = &Issued> {
        let issued = self.entries.iter().map(|entry| &entry.owed);
        issued.filter(move |issued| issued.index == index)
    }

    /// These were shown, or never will be; and the log was shown to have `size` entries.
    pub(super) fn settle(&mut self, settled: &[Issued], size: u64) {
        self.entries.retain(|entry| !settled.contains(&entry.owed));
        self.growth.take_if(|growth| size > growth.owed);
    }

    /// What is late at `now` on the clock of streams, where the server may be silent for so long.
    pub(super) fn overdue(&self, now: Duration, silence: Duration) -> Overdue {
        let entries = self.entries.iter();
        let late = entries.filter(|entry| now.saturating_sub(entry.since) >= PROVEN_WITHIN);
        let late = late.map(|entry| Late {
            issued: entry.owed.clone(),
            fault: None,
        });
        let within = GROWN_WITHIN.max(3 * silence);
        let growth = self.growth.as_ref();
        let growth = growth.filter(|growth| now.saturating_sub(growth.since) >= within);
        Overdue {
            entries: late.collect(),
            more: false,
            stands_at: growth.map(|growth| growth.owed),
        }
    }

    /// That is put down as late, and cannot come in time any more.
    pub(super) fn forget(&mut self, late: &Overdue) {
        let is_late = |owed: &Issued| late.entries.iter().any(|late| late.issued == *owed);
        self.entries.retain(|entry| !is_late(&entry.owed));
        self.growth.take_if(|growth| Some(growth.owed) == late.stands_at);
    }

    /// Where the entries are that are owed.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|entry| entry.owed.index)
    }
}

// === impl Overdue ===

impl Overdue {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what has become late.
    pub(super) fn add(&mut self, other: &Self) {
        self.entries.extend(other.entries.iter().cloned());
        self.cut();
        self.stands_at = self.stands_at.max(other.stands_at);
    }

    /// The log shows something else at the index of `issued`.
    pub(super) fn add_fault(&mut self, issued: Issued, why: &Unfit) {
        self.entries.retain(|late| late.issued != issued);
        let fault = Some(why.to_string());
        self.entries.insert(0, Late { issued, fault });
        self.cut();
    }

    fn cut(&mut self) {
        self.more |= self.entries.len() > KEPT;
        self.entries.truncate(KEPT);
    }

    /// Those at `index` that may be shown still.
    pub(super) fn at(&self, index: u64) -> impl Iterator<Item = &Issued> {
        self.open().filter(move |issued| issued.index == index)
    }

    /// Where the entries are that may be shown still.
    pub(super) fn indexes(&self) -> impl Iterator<Item = u64> {
        self.open().map(|issued| issued.index)
    }

    fn open(&self) -> impl Iterator<Item = &Issued> {
        let open = self.entries.iter().filter(|late| late.fault.is_none());
        open.map(|late| &late.issued)
    }

    /// These were shown.
    pub(super) fn settle(&mut self, settled: &[Issued]) {
        let is_settled = |late: &Late| late.fault.is_none() && settled.contains(&late.issued);
        self.entries.retain(|late| !is_settled(late));
    }

    /// The log is known to have `size` entries.
    pub(super) fn has_grown(&mut self, size: u64) {
        self.stands_at.take_if(|stands_at| size > *stands_at);
    }

    /// Why the log is refused by it.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let Some(Late { issued, fault }) = self.entries.first() else {
            let frozen = || self.stands_at.map(|size| Refusal::Frozen { size });
            return self.more.then_some(Refusal::TooManyMissing).or_else(frozen);
        };
        let (index, serial) = (issued.index, issued.serial.clone());
        Some(match fault.clone() {
            Some(why) => Refusal::OtherEntry { index, serial, why },
            None => Refusal::NotInIt { index, serial },
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
