//! What is revoked and not yet expired, in the whole trust domain.

use std::ops::Bound;
use std::sync::Arc;

use mayfly_model::task::CLOCK_SLACK;
use mayfly_proto::mayfly::workload::Revoked;
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

/// Items are kept so long after their end, in seconds: the server's clock may be as much ahead of the consumers'.
const MARGIN: i64 = CLOCK_SLACK.as_secs().cast_signed();

/// Where an item stands: by epoch, then window.
type Key = (u64, Arc<str>);

/// A state of the set. It never changes; the next one shares all that did not.
///
/// An item leaves it only when it is over by the server's own clock. A snapshot adds as a delta does: what was once
/// refused stays so, also if the server has forgotten it.
#[derive(Clone, Debug, Default)]
pub struct DenySet {
    generation: u64,
    epoch: u64,
    items: RedBlackTreeMapSync<Key, Arc<Revoked>>,
    by_serial: HashTrieMapSync<Arc<[u8]>, Key>,
    /// The least `not_after`.
    soonest: Option<i64>,
}

/// What a reader has read.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    generation: u64,
    last: Option<Key>,
    epoch: u64,
    begun: bool,
}

impl Cursor {
    /// All up to here was read.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// A piece of what is new to a reader.
#[derive(Debug, PartialEq)]
pub struct Piece {
    /// The first of everything.
    pub snapshot: bool,
    /// All up to here was given by now.
    pub epoch: u64,
    /// The items.
    pub items: Vec<Revoked>,
}

impl DenySet {
    /// All up to this epoch is in it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many items.
    pub fn len(&self) -> usize {
        self.items.size()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the SVID with this serial number is refused.
    pub fn denies(&self, serial: &[u8]) -> bool {
        self.by_serial.contains_key(canonical(serial))
    }

    /// What `cursor` has not seen, at most `most` items; `None` if it has seen all. The cursor moves on.
    pub fn next(&self, cursor: &mut Cursor, most: usize) -> Option<Piece> {
        let snapshot = !cursor.begun || cursor.generation != self.generation;
        if snapshot {
            *cursor = Cursor {
                generation: self.generation,
                begun: true,
                ..Cursor::default()
            };
        }
        let from = cursor.last.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.items.range((from, Bound::Unbounded));
        let mut items = vec![];
        for (key, item) in rest.by_ref().take(most) {
            items.push(Revoked::clone(item));
            cursor.last = Some(key.clone());
        }
        let whole = rest.next().is_none();
        if !snapshot && items.is_empty() && cursor.epoch >= self.epoch {
            return None;
        }
        // Items of one epoch may be in two pieces: it is whole only with the last of them.
        let sent = cursor.last.as_ref().map_or(0, |(epoch, _)| epoch.saturating_sub(1));
        cursor.epoch = cursor.epoch.max(if whole { self.epoch } else { sent.min(self.epoch) });
        Some(Piece {
            snapshot,
            epoch: cursor.epoch,
            items,
        })
    }

    /// Adds `revoked`; all up to `epoch` is then in it. `fresh_start`: the server counts its epochs anew. Says whether
    /// anything is new.
    pub(super) fn apply(&mut self, fresh_start: bool, revoked: Vec<Revoked>, epoch: u64) -> bool {
        let mut changed = false;
        if fresh_start && (self.epoch > 0 || !self.is_empty()) {
            // Numbers of another count mean nothing any more. What they stood for stays, as if it were the oldest.
            let kept: Vec<_> = self.items.values().cloned().collect();
            *self = Self {
                generation: self.generation + 1,
                ..Self::default()
            };
            for item in kept {
                self.insert(Revoked {
                    epoch: 0,
                    ..Revoked::clone(&item)
                });
            }
            changed = true;
        }
        for item in revoked {
            changed |= self.insert(item);
        }
        changed |= epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
        changed
    }

    fn insert(&mut self, mut item: Revoked) -> bool {
        let key: Key = (item.epoch, item.window_id.as_str().into());
        if let Some(old) = self.items.get(&key) {
            let new = item.serials.iter().any(|serial| !old.serials.contains(serial));
            if !new && item.not_after <= old.not_after {
                return false;
            }
            // A reader beyond this epoch would not see what is added to it.
            self.generation += 1;
            let extra = old
                .serials
                .iter()
                .filter(|serial| !item.serials.contains(serial))
                .cloned();
            let extra: Vec<_> = extra.collect();
            item.serials.extend(extra);
            item.not_after = item.not_after.max(old.not_after);
        } else if item.epoch <= self.epoch && self.epoch > 0 && item.epoch > 0 && !self.covers(&item) {
            // Late, or from a snapshot that had more than we: readers that are beyond it have to begin anew.
            self.generation += 1;
        } else if item.epoch <= self.epoch && self.epoch > 0 && item.epoch > 0 {
            return false;
        }
        for serial in &item.serials {
            self.by_serial.insert_mut(canonical(serial).into(), key.clone());
        }
        self.soonest = self.soonest.into_iter().chain([item.not_after]).min();
        self.items.insert_mut(key, Arc::new(item));
        true
    }

    /// Whether everything that `item` says is known by other items.
    fn covers(&self, item: &Revoked) -> bool {
        !item.serials.is_empty() && item.serials.iter().all(|serial| self.denies(serial))
    }

    /// Whether something is over, at `server_now` in Unix seconds.
    pub(super) fn has_expired(&self, server_now: i64) -> bool {
        self.soonest.is_some_and(|end| end.saturating_add(MARGIN) < server_now)
    }

    /// Forgets what is over.
    pub(super) fn forget_expired(&mut self, server_now: i64) {
        let is_over = |item: &Revoked| item.not_after.saturating_add(MARGIN) < server_now;
        let over: Vec<Key> = self
            .items
            .iter()
            .filter(|(_, item)| is_over(item))
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            let Some(item) = self.items.get(&key).cloned() else {
                continue;
            };
            self.items.remove_mut(&key);
            for serial in &item.serials {
                if self.by_serial.get(canonical(serial)) == Some(&key) {
                    self.by_serial.remove_mut(canonical(serial));
                }
            }
        }
        self.soonest = self.items.values().map(|item| item.not_after).min();
    }
}

/// A big-endian number without zeros in front: one number, one spelling.
fn canonical(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(epoch: u64, window: &str, serials: &[u8], not_after: i64) -> Revoked {
        Revoked {
            window_id: window.into(),
            serials: serials.iter().map(|serial| vec![*serial]).collect(),
            not_after,
            epoch,
        }
    }

    fn read(set: &DenySet, cursor: &mut Cursor) -> Option<(bool, u64, Vec<String>)> {
        let piece = set.next(cursor, 100)?;
        let windows = piece.items.into_iter().map(|item| item.window_id).collect();
        Some((piece.snapshot, piece.epoch, windows))
    }

    #[test]
    fn a_reader_gets_everything_once_and_then_what_is_new() {
        let mut set = DenySet::default();
        let mut cursor = Cursor::default();
        assert_eq!(
            read(&set, &mut cursor),
            Some((true, 0, vec![])),
            "an empty snapshot is one"
        );
        assert_eq!(read(&set, &mut cursor), None);
        assert!(set.apply(false, vec![item(1, "a", &[1], 100), item(2, "b", &[2, 3], 100)], 2));
        assert_eq!(read(&set, &mut cursor), Some((false, 2, vec!["a".into(), "b".into()])));
        assert!(set.apply(false, vec![], 5), "epochs of others go by");
        assert_eq!(read(&set, &mut cursor), Some((false, 5, vec![])));
        assert_eq!(read(&set, &mut cursor), None);
        let mut late = Cursor::default();
        assert_eq!(read(&set, &mut late), Some((true, 5, vec!["a".into(), "b".into()])));
        assert!(set.denies(&[3]) && !set.denies(&[4]));
    }

    #[test]
    fn the_same_again_wakes_nobody() {
        let mut set = DenySet::default();
        set.apply(false, vec![item(1, "a", &[1], 100)], 1);
        assert!(!set.apply(false, vec![item(1, "a", &[1], 100)], 1));
    }

    #[test]
    fn a_large_set_comes_in_pieces_and_an_epoch_is_reached_with_its_last_item() {
        let mut set = DenySet::default();
        let items = ["a", "b", "c"].map(|window| item(7, window, &[window.as_bytes()[0]], 100));
        set.apply(false, [vec![item(6, "z", &[1], 100)], items.to_vec()].concat(), 8);
        let mut cursor = Cursor::default();
        let pieces: Vec<_> = std::iter::from_fn(|| set.next(&mut cursor, 2)).collect();
        let told: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.snapshot, piece.epoch, piece.items.len()))
            .collect();
        assert_eq!(told, [(true, 6, 2), (false, 8, 2)]);
    }

    #[test]
    fn what_is_over_by_the_servers_clock_is_forgotten() {
        let mut set = DenySet::default();
        set.apply(false, vec![item(1, "a", &[1], 100), item(2, "b", &[2], 200)], 2);
        assert!(!set.has_expired(100 + MARGIN));
        assert!(set.has_expired(101 + MARGIN));
        set.forget_expired(101 + MARGIN);
        assert!(!set.denies(&[1]) && set.denies(&[2]));
        assert_eq!(set.len(), 1);
        assert!(!set.has_expired(101 + MARGIN));
    }

    // A server that was set back to a backup counts its epochs from there, and knows less than its agents.
    #[test]
    fn a_server_that_counts_anew_takes_nothing_back() {
        let mut set = DenySet::default();
        set.apply(false, vec![item(9, "a", &[1], 100)], 9);
        let mut cursor = Cursor::default();
        read(&set, &mut cursor);
        assert!(set.apply(true, vec![item(3, "b", &[2], 100)], 3));
        assert!(set.denies(&[1]) && set.denies(&[2]));
        let told = read(&set, &mut cursor);
        assert_eq!(told, Some((true, 3, vec!["a".into(), "b".into()])), "all of it again");
        set.apply(false, vec![item(4, "c", &[3], 100)], 4);
        assert_eq!(read(&set, &mut cursor), Some((false, 4, vec!["c".into()])));
    }

    #[test]
    fn what_comes_late_reaches_readers_that_are_beyond_it() {
        let mut set = DenySet::default();
        set.apply(false, vec![item(5, "a", &[1], 100)], 5);
        let mut cursor = Cursor::default();
        read(&set, &mut cursor);
        assert!(set.apply(false, vec![item(2, "b", &[2], 100)], 5));
        assert_eq!(read(&set, &mut cursor), Some((true, 5, vec!["b".into(), "a".into()])));
        assert!(set.apply(false, vec![item(5, "a", &[7], 100)], 5));
        assert!(set.denies(&[1]) && set.denies(&[7]));
        assert!(read(&set, &mut cursor).is_some_and(|(snapshot, _, _)| snapshot));
    }
}
