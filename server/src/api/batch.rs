//! Batches: each item is read, acted on and answered by itself, where it stood.
//!
//! The answer fits one message, whatever is asked for. An item is acted on only if what it makes can be shown: else it is
//! told to come again, and nothing was done for it. What was there before, which a twin is shown, is shown while there is
//! room.

use mayfly_model::ErrorKind;
use mayfly_proto::spire::types;
use prost::Message;
use tonic::Status;

use super::status::{Failure, STATUS_BYTES, invalid, to_item};

/// The most items that a batch call takes.
pub const BATCH_MAX: usize = 1000;

/// The largest answer, in encoded bytes: what gRPC's clients, and so SPIRE's, read at most.
pub(super) const ANSWER_MAX: usize = 4 << 20;
/// What repeats an item in its result beside the status: lengths and field numbers, an ID, times.
const FRAME_BYTES: usize = 64;

/// What an answer has room for beside the statuses of all its items.
pub(super) struct Room(usize);

/// An item that was left for another call.
#[derive(Debug, thiserror::Error)]
#[error(
    "left for another call, nothing was done: the answer is full; send fewer at a time, or name fields in output_mask"
)]
pub(super) struct NoRoom;

/// What is added to the status of an item whose answer has no room for what was there before.
const LEFT_OUT: &str = "; not shown, as the answer is full: send fewer at a time, or name fields in output_mask";

/// Refuses batches that are too long.
pub(super) fn check_batch(field: &str, len: usize) -> Result<(), Status> {
    if len > BATCH_MAX {
        return Err(invalid(format!(
            "{field}: has {len} items, at most {BATCH_MAX} are taken at a time"
        )));
    }
    Ok(())
}

/// Refuses names whose echo would not fit the answer.
pub(super) fn check_echo(field: &str, names: &[String]) -> Result<(), Status> {
    let mut room = Room::of(names.len());
    if names.iter().all(|name| room.take(name.len())) {
        return Ok(());
    }
    Err(invalid(format!("{field}: are too long in all; send fewer at a time")))
}

impl Room {
    /// That of an answer with a status for each of `items`.
    pub(super) fn of(items: usize) -> Self {
        Self(ANSWER_MAX.saturating_sub(items * (STATUS_BYTES + FRAME_BYTES)))
    }

    /// Takes the room of something with this many encoded bytes, if it is there.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }

    /// Takes the room of what an item will make.
    pub(super) fn reserve(&mut self, made: &impl Message) -> Result<(), NoRoom> {
        if self.take(made.encoded_len()) {
            Ok(())
        } else {
            Err(NoRoom)
        }
    }
}

/// Leaves out what the answer has no room for: nothing that was made in this call, as room was reserved for that, but
/// what was there before, from the first one on that does not fit.
pub(super) fn fit<W: Message>(results: &mut [(types::Status, Option<W>)]) {
    let mut room = Room::of(results.len());
    let was_made = |status: &types::Status| status.code == tonic::Code::Ok as i32;
    for made_now in [true, false] {
        for (status, shown) in results.iter_mut().filter(|(status, _)| was_made(status) == made_now) {
            if let Some(message) = shown
                && !room.take(message.encoded_len())
            {
                *shown = None;
                status.message += LEFT_OUT;
            }
        }
    }
}

impl Failure for NoRoom {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ResourceExhausted
    }
}

/// Why an item of a batch was not acted on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread<E: std::error::Error> {
    /// It could not be read.
    #[error(transparent)]
    Refused(E),
    /// What it makes could not be shown.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl<E: Failure> Failure for Unread<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refused) => refused.kind(),
            Self::NoRoom(full) => full.kind(),
        }
    }
}

/// Acts on the items that could be read, all at once; `act` answers in order, once for each. The answers are in the
/// order of `items`: the status of each, and what became of it if it could be read.
pub(super) async fn batch<T, O, E, R, F>(
    items: impl Iterator<Item = Result<T, R>>,
    act: impl FnOnce(Vec<T>) -> F,
) -> Vec<(types::Status, Option<Result<O, E>>)>
where
    R: Failure,
    E: Failure,
    F: Future<Output = Vec<Result<O, E>>>,
{
    let mut wanted = vec![];
    let places: Vec<_> = items.map(|item| item.map(|item| wanted.push(item))).collect();
    let mut results = act(wanted).await.into_iter();
    let places = places.into_iter().map(|place| match place {
        Err(_) => (to_item(&place), None),
        Ok(()) => {
            let result = results.next().expect("there is an answer for each item");
            (to_item(&result), Some(result))
        }
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ok_item;

    fn item(code: tonic::Code, bytes: usize) -> (types::Status, Option<types::Bundle>) {
        let status = types::Status {
            code: code.into(),
            ..ok_item()
        };
        let bundle = types::Bundle {
            trust_domain: "x".repeat(bytes),
            ..types::Bundle::default()
        };
        (status, Some(bundle))
    }

    #[test]
    fn what_was_made_is_shown_before_what_was_there() {
        let (there, made) = (tonic::Code::AlreadyExists, tonic::Code::Ok);
        let mut results = vec![
            item(there, 3 << 20),
            item(there, 3 << 20),
            item(made, 3 << 20),
            item(there, 1000),
        ];
        fit(&mut results);
        let shown: Vec<bool> = results.iter().map(|(_, shown)| shown.is_some()).collect();
        assert_eq!(shown, [false, false, true, true]);
        assert!(results[0].0.message.contains("output_mask"));
        assert_eq!(results[2].0.message, "OK");
    }

    #[test]
    fn an_item_that_does_not_fit_is_refused_and_the_next_one_may_fit() {
        let mut room = Room::of(1000);
        let message = |bytes| item(tonic::Code::Ok, bytes).1.expect("there is one");
        assert!(room.reserve(&message(2 << 20)).is_ok());
        assert!(room.reserve(&message(2 << 20)).is_err());
        assert!(room.reserve(&message(1000)).is_ok());
        assert!(check_echo("ids", &vec!["x".repeat(4000); 1000]).is_err());
        assert!(check_echo("ids", &vec!["x".repeat(255); 1000]).is_ok());
    }
}
