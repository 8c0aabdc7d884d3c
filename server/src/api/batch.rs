//! Batches: each item is read, acted on and answered by itself, where it stood.

use mayfly_proto::spire::types;
use tonic::Status;

use super::status::{Failure, invalid, to_item};

/// The most items that a batch call takes.
pub const BATCH_MAX: usize = 1000;

/// Refuses batches that are too long.
pub(super) fn check_batch(field: &str, len: usize) -> Result<(), Status> {
    if len > BATCH_MAX {
        return Err(invalid(format!(
            "{field}: has {len} items, at most {BATCH_MAX} are taken at a time"
        )));
    }
    Ok(())
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
