//! Reports about the log: read from its beginning, beside commits, and signed by its key.

use std::sync::Arc;

use mayfly_audit::meter::View;
use mayfly_audit::{Details, Entry, EntryError, Scope, Thresholds};
use mayfly_model::Actor;
use mayfly_report::{export, note};
use mayfly_runtime::CancellationToken;
use mayfly_store::{ArchiveReader, StoreError};
use mayfly_tlog::note::VerifierKey;
use serde_json::{Value, json};

use super::{Evidence, EvidenceError, Published, blocking};

/// The event of a report: `{"sha256", "from", "to", "scope", "private"}`, the last whether it shows private values, and the
/// owner's name as a private value if it is about one.
const REPORTED: &str = "audit.reported";
/// Entries that are read at a time.
const BATCH: usize = 512;

/// What a report is to be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The first second of the period.
    pub from: i64,
    /// The first second behind it.
    pub to: i64,
    /// About what.
    pub scope: Scope,
    /// Whether names and the like are shown, as far as they are known.
    pub with_private: bool,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Canonical JSON.
    pub json: Vec<u8>,
    /// A signed note over it.
    pub note: Vec<u8>,
}

impl Evidence {
    /// Makes a report of all that was committed before, signs it, and says in the log that it was made. Memory is bounded by
    /// what the report is about, not by the length of the log: entries are read one page after the other.
    ///
    /// # Errors
    /// The log cannot be read, or the report not be signed or recorded; then nobody gets it.
    ///
    /// # Cancel safety
    /// Safe: reading stops, and the log does not say that a report was made.
    pub async fn report(self: &Arc<Self>, wanted: Wanted, actor: Actor) -> Result<Reported, EvidenceError> {
        let turn = self.reporting.acquire().await.map_err(|_| EvidenceError::Stopped)?;
        let published = self.newest().await?;
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let (this, about) = (self.clone(), wanted.clone());
        let json = blocking(move || this.report_bytes(about, &published, &stop)).await??;
        let note = self.lock_keys().sign_text(&note::text(&self.origin, &json))?;
        drop(turn);
        let body = body(&wanted, &json);
        super::note(
            &self.committer,
            self.clock.as_ref(),
            actor,
            REPORTED,
            self.origin.clone(),
            body,
        )
        .await?;
        let note = note.to_bytes();
        Ok(Reported { json, note })
    }

    fn report_bytes(
        &self,
        wanted: Wanted,
        published: &Published,
        stop: &CancellationToken,
    ) -> Result<Vec<u8>, EvidenceError> {
        let Wanted {
            from,
            to,
            scope,
            with_private,
        } = wanted;
        let view = View {
            from,
            to,
            scope,
            thresholds: Thresholds::default(),
        };
        let mut reader = self.archive.reader()?;
        let details = match with_private {
            true => details(&mut reader)?,
            false => Details::default(),
        };
        let checkpoint = &published.checkpoint;
        let own = self.verifier_keys();
        let log = export::facts(checkpoint, &own, witnesses(published, &own));
        let mut pages = Pages {
            reader,
            next: 0,
            size: checkpoint.size(),
            page: vec![].into_iter(),
            failure: None,
            stop: stop.clone(),
        };
        let (mut report, before) = export::build(&mut pages, details, &view, log);
        if let Some(failure) = pages.failure {
            return Err(failure);
        }
        if before > 0 {
            let (tree, files) = (&published.tree, &self.files);
            let root = files.mending(|| tree.root_at(before, files))?;
            let hashes = files.mending(|| tree.prove_consistency(before, checkpoint.size(), files))?;
            export::set_begin(&mut report, before, root, &hashes);
        }
        Ok(report.to_json())
    }
}

/// Who cosigned: each was verified when it came.
fn witnesses(published: &Published, own: &[VerifierKey]) -> Vec<String> {
    let signatures = published.checkpoint.note().signatures().iter();
    let of_others = signatures.filter(|signature| !own.iter().any(|key| signature.is_by(key)));
    of_others.map(|signature| signature.name().to_owned()).collect()
}

fn body(wanted: &Wanted, json: &[u8]) -> Value {
    let sha256 = note::digest_of(json);
    let mut body = json!({ "sha256": sha256, "from": wanted.from, "to": wanted.to, "private": wanted.with_private });
    match &wanted.scope {
        // The name of a person stays beside the log.
        Scope::Owner(owner) => {
            body["scope"] = json!("owner");
            body["owner"] = json!(owner);
        }
        scope => body["scope"] = json!(scope.to_string()),
    }
    body
}

fn details(reader: &mut ArchiveReader) -> Result<Details, EvidenceError> {
    let mut details = Details::default();
    for private in reader.privates() {
        let private = private?;
        let value = serde_json::from_str(&private.value).map_err(|error| corrupt(error.to_string()))?;
        let salt = hex::decode(&private.salt).map_err(|error| corrupt(error.to_string()))?;
        let added = details.add(&private.commitment.to_string(), &salt, value);
        added.map_err(|error| corrupt(error.to_string()))?;
    }
    Ok(details)
}

fn corrupt(problem: String) -> StoreError {
    let table = "private";
    StoreError::Corrupt { table, problem }
}

/// The entries under a checkpoint, page by page.
struct Pages {
    reader: ArchiveReader,
    next: u64,
    size: u64,
    page: std::vec::IntoIter<String>,
    failure: Option<EvidenceError>,
    stop: CancellationToken,
}

impl Iterator for Pages {
    type Item = Result<Entry, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.size || self.failure.is_some() {
            return None;
        }
        if self.page.len() == 0 {
            if self.stop.is_cancelled() {
                self.failure = Some(EvidenceError::Stopped);
                return None;
            }
            match self.reader.entries(self.next, BATCH) {
                Ok(page) => self.page = page.into_iter(),
                Err(error) => {
                    self.failure = Some(error.into());
                    return None;
                }
            }
        }
        let index = self.next;
        let bytes = self.page.next()?;
        self.next += 1;
        Some(Entry::parse(index, bytes.as_bytes()))
    }
}
