//! The log, measured. What was read of it for one question is kept for the next, which reads only what came since.
//!
//! ```text
//! question ─▶ what is kept, if nothing speaks against it ─▶ entries since then, and the names in them ─▶ findings, meter
//!                     ▲                                                                       │
//!                     └───────────────────── kept, unless it is too much ◀────────────────────┘
//! ```
//!
//! One question at a time, beside the commits, and one copy. It begins anew where there is any doubt: something was erased,
//! so that a name may be known here that nobody may know any more; the last entry is another one; an earlier time is asked
//! about; reading failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mayfly_audit::finding::Finding;
use mayfly_audit::meter::{Meter, View};
use mayfly_audit::report::Reading;
use mayfly_audit::{Details, Entry};
use mayfly_model::log::private::Commitment;
use mayfly_store::{ArchiveReader, PrivateValue, StoreError};
use tokio::sync::Semaphore;

use crate::app::archive::{Archive, ArchiveError};

/// Entries that are read at a time.
const PIECE: usize = 2_000;
/// Private values that are looked up for names, at most; what is left out is shown as what it is committed to.
const VALUES_MAX: usize = 200_000;
/// Longer texts are no names.
const NAME_MAX: usize = 256;
/// A longer log is read anew for each question: what is known of it is too much to keep.
const KEPT_MAX: u64 = 500_000;
/// Entries behind the period that are kept as they are. Of a question about a time long ago nothing is kept.
const LATER_MAX: usize = 5_000;

/// Reads and measures the log. Clones share what is kept.
#[derive(Clone, Debug)]
pub struct Measuring {
    archive: Archive,
    /// Reading takes a while and memory, so one at a time does.
    turn: Arc<Semaphore>,
    kept: Arc<Keep>,
}

/// A period as it was measured.
#[derive(Debug)]
pub struct Measured {
    /// What was measured.
    pub view: View,
    /// What somebody should look at, the worst first.
    pub findings: Vec<Finding>,
    /// Power.
    pub meter: Meter,
    /// Entries of the log.
    pub entries: u64,
    /// How many of them were read for this.
    pub read: u64,
}

#[derive(Debug, Default)]
struct Keep {
    /// Whoever reads takes it out: what comes back is whole.
    read: Mutex<Option<Read>>,
    /// How often all was to be forgotten.
    forgotten: AtomicU64,
}

/// The log as far as it was read.
#[derive(Debug)]
struct Read {
    reading: Reading,
    /// The last entry.
    last: String,
}

impl Measuring {
    /// Of this log.
    pub fn new(archive: Archive) -> Self {
        Self {
            archive,
            turn: Arc::new(Semaphore::new(1)),
            kept: Arc::default(),
        }
    }

    /// Measures a period of the log, as it is now.
    ///
    /// # Errors
    /// The log cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads; what was begun may go on for nobody.
    pub async fn measure(&self, view: View) -> Result<Measured, ArchiveError> {
        let turn = self.turn.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ArchiveError::Stopped)?;
        let kept = self.kept.clone();
        let read = self.archive.read(move |reader| {
            // Also where nobody waits for it any more.
            let _turn = turn;
            let forgotten = kept.forgotten.load(Ordering::SeqCst);
            let (measured, read) = measure(reader, kept.take(), view)?;
            kept.put(read, forgotten);
            Ok(measured)
        });
        read.await
    }

    /// Forgets what was read: names in it may have been erased.
    pub fn forget(&self) {
        self.kept.forgotten.fetch_add(1, Ordering::SeqCst);
        self.kept.take();
    }
}

impl Keep {
    fn take(&self) -> Option<Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps it, unless all was to be forgotten since it was begun.
    fn put(&self, read: Option<Read>, forgotten: u64) {
        let mut place = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if self.forgotten.load(Ordering::SeqCst) == forgotten {
            *place = read.filter(|read| read.reading.len() <= KEPT_MAX && read.reading.later() <= LATER_MAX);
        }
    }
}

/// Measures, and answers what is to be kept.
fn measure(reader: &mut ArchiveReader, kept: Option<Read>, view: View) -> Result<(Measured, Option<Read>), StoreError> {
    let size = reader.size()?;
    let (usable, other) = match kept {
        Some(kept) if !kept.reading.may_go_on_to(view.to) => (None, Some(kept)),
        Some(mut kept) if kept.is_of(reader, size)? => {
            kept.reading.go_on_to(view.to);
            (Some(kept), None)
        }
        _ => (None, None),
    };
    let before = usable.as_ref().map_or(0, |kept| kept.reading.len());
    let on = match usable {
        Some(kept) => kept.read_on(reader, size)?,
        None => None,
    };
    let (mut read, count) = match on {
        Some(read) => (read, size - before),
        None => (Read::anew(reader, size, &view)?, size),
    };
    // Random instants are drawn by the root; here nobody has to draw the same ones again.
    let (findings, meter) = read.reading.measure(&view, &format!("{size:064x}"));
    let measured = Measured {
        view,
        findings,
        meter,
        entries: size,
        read: count,
    };
    // What was read for an earlier time knows less than what was there.
    Ok((measured, other.or(Some(read))))
}

impl Read {
    /// Reads the first `size` entries.
    fn anew(reader: &mut ArchiveReader, size: u64, view: &View) -> Result<Self, StoreError> {
        let mut read = Self {
            reading: Reading::new(names(reader)?, (view.from, view.to)),
            last: String::new(),
        };
        while read.reading.len() < size {
            for text in piece(reader, read.reading.len(), size)? {
                read.reading.take(Entry::parse(read.reading.len(), text.as_bytes()));
                read.last = text;
            }
        }
        Ok(read)
    }

    /// Whether it is the beginning of the log that is there now.
    fn is_of(&self, reader: &mut ArchiveReader, size: u64) -> Result<bool, StoreError> {
        let Some(last) = self.reading.len().checked_sub(1).filter(|last| *last < size) else {
            return Ok(false);
        };
        Ok(reader.entries(last, 1)?.first() == Some(&self.last))
    }

    /// Goes on to `size` entries. None if something was erased.
    fn read_on(mut self, reader: &mut ArchiveReader, size: u64) -> Result<Option<Self>, StoreError> {
        while self.reading.len() < size {
            for text in piece(reader, self.reading.len(), size)? {
                let entry = Entry::parse(self.reading.len(), text.as_bytes());
                if let Ok(entry) = &entry {
                    if entry.kind == "private.erased" {
                        return Ok(None);
                    }
                    self.learn(entry, reader)?;
                }
                self.reading.take(entry);
                self.last = text;
            }
        }
        Ok(Some(self))
    }

    /// Looks up names in an entry that are not known yet.
    fn learn(&mut self, entry: &Entry, reader: &mut ArchiveReader) -> Result<(), StoreError> {
        let parts = [&entry.who, &entry.origin, &entry.reason, &entry.body];
        for commitment in parts.into_iter().flat_map(Commitment::all_of) {
            let details = self.reading.details_mut();
            if details.len() < VALUES_MAX
                && !details.knows(&commitment.to_string())
                && let Some(value) = reader.private(commitment)?
            {
                add(details, &value);
            }
        }
        Ok(())
    }
}

/// The next entries, of those before `size`.
fn piece(reader: &mut ArchiveReader, from: u64, size: u64) -> Result<Vec<String>, StoreError> {
    let most = usize::try_from(size - from).unwrap_or(PIECE).min(PIECE);
    let piece = reader.entries(from, most)?;
    if piece.is_empty() {
        let problem = format!("it has {size} entries, and none from {from} on");
        return Err(StoreError::Corrupt { table: "log", problem });
    }
    Ok(piece)
}

/// What is needed to show people by their names: short texts; and what is too large for an entry, which is read from there.
fn names(reader: &mut ArchiveReader) -> Result<Details, StoreError> {
    let mut details = Details::default();
    for private in reader.privates() {
        if details.len() >= VALUES_MAX {
            break;
        }
        add(&mut details, &private?);
    }
    Ok(details)
}

fn add(details: &mut Details, private: &PrivateValue) {
    let is_name = private.value.len() <= NAME_MAX && private.value.starts_with('"');
    if !is_name && !private.value.starts_with('{') {
        return;
    }
    if let (Ok(value), Ok(salt)) = (serde_json::from_str(&private.value), hex::decode(&private.salt)) {
        // What is not committed to by it says nothing; it is found by whoever verifies an export.
        let _ = details.add(&private.commitment.to_string(), &salt, value);
    }
}

#[cfg(test)]
mod tests;
