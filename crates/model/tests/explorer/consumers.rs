//! The consumers that the definition declares: what they refuse, and what the servers know of that.
//!
//! They hear of what was revoked late, they lose their agent and come back knowing nothing. A consumer takes SVIDs only as
//! long as its last word is not older than the lease; servers forget one that is gone after more than that.

use mayfly_model::task::{Acknowledged, Window};

use crate::world::{Svid, at};

/// The declared ones, one consumer each.
const NAMES: [&str; CONSUMERS] = ["/svc/db", "/svc/queue"];
pub(crate) const CONSUMERS: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Consumer {
    /// It knows all that was revoked up to here.
    epoch: u64,
    /// When it heard from its agent; never, since it began.
    word: Option<i64>,
    is_connected: bool,
}

/// What a server was told of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Heard {
    epoch: u64,
    gone: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Consumers {
    all: Vec<Consumer>,
    /// By server and consumer.
    heard: [Vec<Option<Heard>>; 2],
}

impl Consumers {
    pub(crate) fn new(declared: bool) -> Self {
        let count = if declared { CONSUMERS } else { 0 };
        let there = Consumer {
            epoch: 0,
            word: Some(0),
            is_connected: true,
        };
        let heard = vec![Some(Heard { epoch: 0, gone: None }); count];
        Self {
            all: vec![there; count],
            heard: [heard.clone(), heard],
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_connected(&self, consumer: usize) -> bool {
        self.all[consumer].is_connected
    }

    /// Whether `consumer` has something to hear, where `epoch` is the newest.
    pub(crate) fn lags(&self, consumer: usize, epoch: u64) -> bool {
        let Consumer { epoch: own, word, .. } = self.all[consumer];
        own < epoch || word.is_none()
    }

    /// Whether the server knows something else of it than it is.
    pub(crate) fn has_news(&self, server: usize, consumer: usize) -> bool {
        let present = Heard {
            epoch: self.all[consumer].epoch,
            gone: None,
        };
        self.heard[server][consumer] != Some(present)
    }

    /// Time goes on: who is connected has heard something, and who was gone for long is forgotten.
    pub(crate) fn tick(&mut self, now: i64, unit: i64) {
        for consumer in self.all.iter_mut().filter(|consumer| consumer.is_connected) {
            consumer.word = consumer.word.map(|_| now);
        }
        for heard in self.heard.iter_mut().flatten() {
            let is_over = |heard: &Heard| heard.gone.is_some_and(|gone| now - gone > unit);
            if heard.as_ref().is_some_and(is_over) {
                *heard = None;
            }
        }
    }

    pub(crate) fn learn(&mut self, consumer: usize, epoch: u64, now: i64) {
        let consumer = &mut self.all[consumer];
        (consumer.epoch, consumer.word) = (epoch, Some(now));
    }

    pub(crate) fn tell(&mut self, server: usize, consumer: usize) {
        let epoch = self.all[consumer].epoch;
        self.heard[server][consumer] = Some(Heard { epoch, gone: None });
    }

    pub(crate) fn vanish(&mut self, consumer: usize, now: i64) {
        self.all[consumer].is_connected = false;
        for server in &mut self.heard {
            if let Some(heard) = &mut server[consumer] {
                heard.gone.get_or_insert(now);
            }
        }
    }

    pub(crate) fn come_back(&mut self, consumer: usize) {
        self.all[consumer] = Consumer {
            epoch: 0,
            word: None,
            is_connected: true,
        };
    }

    /// What a server says that the consumers said. It leaves out who is gone, and judges nothing.
    pub(crate) fn said(&self, server: usize) -> Vec<Acknowledged> {
        let heard = NAMES.iter().zip(&self.heard[server]);
        let there =
            heard.filter_map(|(name, heard)| Some((name, heard.as_ref().filter(|heard| heard.gone.is_none())?)));
        there
            .map(|(name, heard)| Acknowledged {
                name: (*name).to_owned(),
                consumers: 1,
                epoch: heard.epoch,
                at: at(0),
            })
            .collect()
    }

    /// The consumer that takes `svid` of `window` now, if one does.
    pub(crate) fn taken_by(&self, svid: &Svid, window: &Window, now: i64, lease: i64) -> Option<usize> {
        let known = |revoked: Option<u64>, consumer: &Consumer| revoked.is_some_and(|epoch| consumer.epoch >= epoch);
        let counted = window.issuances.iter().find(|issuance| issuance.serial == svid.serial);
        let revoked = counted.and_then(|issuance| issuance.revoked);
        self.all.iter().position(|consumer| {
            let is_fresh = consumer.word.is_some_and(|word| now - word < lease);
            let is_refused = known(revoked, consumer) || known(window.epoch, consumer);
            is_fresh && svid.not_after >= at(now) && !is_refused
        })
    }
}
