//! Which consumers have come or gone, as far as the log may say so.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::ConsumerKey;

/// Who was there a moment ago is not gone yet, for the record.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(15);
/// Records of consumers that come and go, in one minute: names are chosen by whoever registers, and some may do so all the
/// time. What has no room is recorded later if it is still so then.
pub(super) const RECORDS_A_MINUTE: u32 = 120;

/// Consumers have come or gone: for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The name that they registered with, and who they are: `db@/svc/db`.
    pub name: String,
    /// How many there are; 0: they are gone.
    pub consumers: u32,
}

/// Which consumers the log says are there, and how much it may say in this minute.
#[derive(Debug)]
pub(super) struct Recorded {
    present: BTreeMap<ConsumerKey, Option<Instant>>,
    minute: Instant,
    left: u32,
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            present: BTreeMap::new(),
            minute: Instant::now(),
            left: RECORDS_A_MINUTE,
        }
    }
}

impl Recorded {
    pub(super) fn changes(&mut self, now: &BTreeMap<ConsumerKey, u32>) -> Vec<Presence> {
        if self.minute.elapsed() >= Duration::from_secs(60) {
            (self.minute, self.left) = (Instant::now(), RECORDS_A_MINUTE);
        }
        let mut changes = vec![];
        let mut lost = vec![];
        for (key, missing_since) in &mut self.present {
            if now.contains_key(key) {
                *missing_since = None;
            } else if missing_since.get_or_insert_with(Instant::now).elapsed() > LOST_AFTER && self.left > 0 {
                self.left -= 1;
                lost.push(key.clone());
            }
        }
        for key in lost {
            self.present.remove(&key);
            changes.push(Presence::new(&key, 0));
        }
        for (key, consumers) in now {
            if self.left > 0 && !self.present.contains_key(key) {
                self.left -= 1;
                self.present.insert(key.clone(), None);
                changes.push(Presence::new(key, *consumers));
            }
        }
        changes
    }
}

impl Presence {
    fn new((name, id): &ConsumerKey, consumers: u32) -> Self {
        let name = format!("{name}@{}", id.path());
        Self { name, consumers }
    }
}
