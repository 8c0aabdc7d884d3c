//! What the messages of a watch stream do to what is held. No wire, no waiting, no clock.

use mayfly_proto::mayfly::agent::{Beacon, Update as Chunk, WatchResponse, watch_response};
use prost::Message as _;
use tracing::{debug, warn};

use super::call::CallError;
use super::holdings::{Applied, Holdings, Position, Update};

const CALL: &str = "Watch";
/// The chunks of one revision together: some hundred thousand entries. Whoever sends more has lost its way.
const MAX_UPDATE: usize = 256 << 20;

/// The messages of one stream so far: the chunks of a revision that is not complete.
#[derive(Debug, Default)]
pub struct Changes {
    gathering: Option<Gathering>,
}

/// What a message did.
#[derive(Debug, PartialEq)]
pub enum WatchEvent {
    /// A change was applied and has to be acknowledged.
    Applied(Applied),
    /// A sign of life, and what is held is what should be.
    Agreed,
    /// A part of a change.
    Alive,
    /// We do not hold what the server believes that we hold.
    Diverged,
}

#[derive(Debug)]
struct Gathering {
    position: Position,
    update: Update,
    /// Encoded size of the chunks.
    size: usize,
}

// === impl Changes ===

impl Changes {
    /// Applies the next message to `holdings`.
    ///
    /// # Errors
    /// It makes no sense here: the stream has to be given up. What was applied stays.
    pub fn take(&mut self, message: WatchResponse, holdings: &mut Holdings) -> Result<WatchEvent, CallError> {
        match message.body {
            Some(watch_response::Body::Update(chunk)) => self.gather(chunk, holdings),
            Some(watch_response::Body::Beacon(beacon)) => Ok(self.check(&beacon, holdings)),
            // The head of the log is a matter of the witness; or a message of a later version of the interface.
            Some(watch_response::Body::LogHead(_)) | None => Ok(WatchEvent::Alive),
        }
    }

    fn gather(&mut self, chunk: Chunk, holdings: &mut Holdings) -> Result<WatchEvent, CallError> {
        let size = chunk.encoded_len();
        let position = Position {
            history: chunk.history,
            revision: chunk.revision,
        };
        let mut gathering = self.gathering.take().unwrap_or_else(|| Gathering {
            position: position.clone(),
            update: Update {
                snapshot: chunk.snapshot,
                ..Default::default()
            },
            size: 0,
        });
        gathering.size += size;
        if gathering.size > MAX_UPDATE {
            let what = format!("one revision has more than {MAX_UPDATE} bytes");
            return Err(CallError::malformed(CALL, what));
        }
        if gathering.position != position || gathering.update.snapshot != chunk.snapshot {
            return Err(CallError::malformed(
                CALL,
                "a revision began before the one before it was complete",
            ));
        }
        // A delta leads on from what is held; in another history that means nothing.
        let other_history = holdings.position().is_none_or(|held| held.history != position.history);
        if !chunk.snapshot && other_history {
            holdings.forget_position();
            return Err(CallError::malformed(
                CALL,
                "a change without the snapshot that it belongs to",
            ));
        }
        let update = &mut gathering.update;
        update.entries.extend(chunk.entries);
        update.removed_entry_ids.extend(chunk.removed_entry_ids);
        update.bundles.extend(chunk.bundles);
        update.removed_trust_domains.extend(chunk.removed_trust_domains);
        update.tasks.extend(chunk.tasks);
        update.revoked.extend(chunk.revoked);
        update.crls.extend(chunk.crls);
        update.epoch = update.epoch.max(chunk.epoch);
        if chunk.more {
            self.gathering = Some(gathering);
            return Ok(WatchEvent::Alive);
        }
        let revision = position.revision;
        let applied = holdings.apply(gathering.update, position);
        debug!(revision, rejected = applied.rejected.len(), "update applied");
        Ok(WatchEvent::Applied(applied))
    }

    fn check(&self, beacon: &Beacon, holdings: &mut Holdings) -> WatchEvent {
        if self.gathering.is_some() {
            return WatchEvent::Alive;
        }
        // Named only to those who were told everything up to it.
        holdings.advance(beacon.revision);
        let epoch = holdings.news().epoch();
        if beacon.epoch > epoch {
            warn!(
                epoch,
                server_epoch = beacon.epoch,
                "the server has revoked what was not heard here, asking for all of it"
            );
            return WatchEvent::Diverged;
        }
        if beacon
            .digest
            .is_none_or(|digest| holdings.agrees_with(beacon.entries, digest))
        {
            return WatchEvent::Agreed;
        }
        let revision = holdings.position().map_or(0, |position| position.revision);
        warn!(
            revision,
            entries = holdings.view().len(),
            server_entries = beacon.entries,
            "the server believes that other entries are held here, asking for all of them"
        );
        WatchEvent::Diverged
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mayfly_proto::mayfly::agent::Update as Chunk;
    use mayfly_svid::Bundle;

    use super::super::holdings::tests::wire_entry;
    use super::*;
    use crate::news::News;
    use crate::view::ViewPublisher;

    fn beacon(entries: u64, digest: Option<u64>) -> WatchResponse {
        let beacon = Beacon {
            revision: 1,
            entries,
            digest,
            ..Beacon::default()
        };
        WatchResponse {
            body: Some(watch_response::Body::Beacon(beacon)),
        }
    }

    #[test]
    fn an_agent_that_should_hold_nothing_and_does_hears_of_it() {
        let own = Bundle::empty("td".parse().unwrap());
        let mut holdings = Holdings::new("td".parse().unwrap(), Arc::new(ViewPublisher::new(own)), News::new());
        let mut changes = Changes::default();
        let chunk = Chunk {
            history: "h".into(),
            revision: 1,
            snapshot: true,
            entries: vec![wire_entry("a", "/a", 0)],
            ..Chunk::default()
        };
        let update = WatchResponse {
            body: Some(watch_response::Body::Update(chunk)),
        };
        changes.take(update, &mut holdings).unwrap();
        let mut says = |message| changes.take(message, &mut holdings).unwrap();
        assert_eq!(says(beacon(0, None)), WatchEvent::Agreed);
        assert_eq!(says(beacon(0, Some(0))), WatchEvent::Diverged);
    }
}
