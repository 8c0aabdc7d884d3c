//! The register of exceptions, and entries with power over the server.

use std::sync::Arc;

use mayfly_model::{Entry, Excepted, Exception, ExceptionState, Given};
use mayfly_svid::Timestamp;

use super::Snapshot;

impl Snapshot {
    /// The register of exceptions, those that are over too, in no meaningful order.
    pub fn exceptions(&self) -> impl Iterator<Item = &Arc<Exception>> {
        self.exceptions.values()
    }

    /// The exception with this ID.
    pub fn exception(&self, id: &str) -> Option<&Arc<Exception>> {
        self.exceptions.get(id)
    }

    /// The exception that counts for `who`: the one that was granted last.
    pub fn exception_of(&self, who: &Excepted) -> Option<&Arc<Exception>> {
        self.exceptions.get(self.exception_of.get(who)?)
    }

    /// Those that count for an entry: by its ID, by what it gives to whom, and by the identity that it gives. So an entry that
    /// is deleted and made again has the exception that it had.
    pub fn exceptions_of_entry(&self, entry: &Entry) -> impl Iterator<Item = &Arc<Exception>> {
        // Most servers have none, and this is asked for each SVID.
        let named = (!self.exception_of.is_empty()).then(|| {
            let by_id = self.exception_of(&Excepted::Entry(entry.id.clone()));
            let of_given = self.exception_of_given.get(&Given::by(&entry.spec));
            let by_given = of_given.and_then(|id| self.exceptions.get(id));
            let by_identity = self.exception_of(&Excepted::Identity(entry.spec.spiffe_id.clone()));
            // The first two are the same as long as the entry is.
            let others = by_given.filter(|given| by_id.is_none_or(|named| named.id != given.id));
            [by_id, others, by_identity]
        });
        named.into_iter().flatten().flatten()
    }

    /// The exception that ends next, of those whose end nobody has noted.
    pub fn next_exception_end(&self) -> Option<(Timestamp, String)> {
        self.exceptions_by_expiry.first().cloned()
    }

    /// Entries with `admin` or `downstream`, in the order of their IDs.
    pub fn privileged_entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.privileged.iter().filter_map(|id| self.entries.get(id))
    }

    pub(super) fn exception_put(&mut self, exception: Arc<Exception>) {
        // What is there already is not granted anew.
        match self.exceptions.get(&exception.id) {
            Some(old) => {
                self.exceptions_by_expiry.remove_mut(&(old.expires_at, old.id.clone()));
            }
            None => {
                self.exception_of
                    .insert_mut(exception.identity.clone(), exception.id.clone());
                if let Some(given) = &exception.gives {
                    self.exception_of_given.insert_mut(given.clone(), exception.id.clone());
                }
            }
        }
        if exception.state == ExceptionState::InForce {
            self.exceptions_by_expiry
                .insert_mut((exception.expires_at, exception.id.clone()));
        }
        self.exceptions.insert_mut(exception.id.clone(), exception);
    }
}
