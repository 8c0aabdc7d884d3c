//! What to make of the head of the log. No files, no clock.

use mayfly_proto::mayfly::agent::LogHead;
use mayfly_svid::Serial;
use mayfly_tlog::Hash;
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::note::{Algorithm, Note, VerifierKey};
use mayfly_tlog::witness::{self, Accepted, AddCheckpoint, Witness};

use super::memory::Known;

/// More keys are not looked at.
const KEYS_MAX: usize = 16;

pub(super) enum Verdict {
    /// It goes on from what is known, which is `known` now.
    Accepted { accepted: Box<Accepted>, known: Box<Known> },
    /// The proof begins elsewhere: nothing is shown by it, one way or the other.
    OtherStart,
    /// Something is wrong with the log.
    Refused(Refusal),
}

/// Why a log is refused; a clause for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("its checkpoint cannot be read ({0})")]
    Unreadable(String),
    #[error("the server does not show it any more")]
    NotShown,
    #[error("it is another log: `{shown}`, and not `{known}`")]
    OtherLog { known: String, shown: String },
    #[error("no key that is known here signed its checkpoint over {size} entries ({detail})")]
    UnknownKey { size: u64, detail: String },
    #[error("it is shorter than it was: {size} entries, and it had {known}")]
    Shorter { known: u64, size: u64 },
    #[error("the server does not show how it goes on from the {known} entries that it had")]
    NotContinued { known: u64 },
    #[error("it has another past: its {size} entries do not begin with the {known} that it had")]
    OtherPast { known: u64, size: u64 },
    #[error("it stands at {size} entries, although the server has issued SVIDs since")]
    Frozen { size: u64 },
    #[error("the server does not show in it the SVID {serial}, which names its entry {index}")]
    NotInIt { index: u64, serial: Serial },
    #[error("the server has issued more SVIDs without showing them in it than this agent can remember")]
    TooManyMissing,
    #[error("its entry {index} is not that of the SVID {serial}, which names it: {why}")]
    OtherEntry { index: u64, serial: Serial, why: String },
}

/// Judges `head` by what is known.
pub(super) fn judge(known: Option<&Known>, head: &LogHead) -> Verdict {
    match considered(known, head) {
        Ok(verdict) => verdict,
        Err(refusal) => Verdict::Refused(refusal),
    }
}

fn considered(known: Option<&Known>, head: &LogHead) -> Result<Verdict, Refusal> {
    let unreadable = |error: &dyn std::error::Error| Refusal::Unreadable(mayfly_runtime::Chain(error).to_string());
    let note = Note::parse(&head.checkpoint).map_err(|error| unreadable(&error))?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|error| unreadable(&error))?;
    let (origin, size, root) = (checkpoint.origin(), checkpoint.size(), checkpoint.root());
    if let Some(known) = known
        && known.checkpoint.origin() != origin
    {
        return Err(Refusal::OtherLog {
            known: known.checkpoint.origin().to_owned(),
            shown: origin.to_owned(),
        });
    }
    let offered = offered_keys(head, origin);
    let trusted = known.map_or(offered.as_slice(), |known| known.keys.as_slice());
    let before = known.map_or(0, |known| known.checkpoint.size());
    // Whoever knows nothing needs no proof, whatever came along.
    let (from, proof) = if known.is_some() {
        (head.from, hashes(&head.proof))
    } else {
        (0, Some(vec![]))
    };
    let other_past = Refusal::OtherPast { known: before, size };
    let Some(proof) = proof else { return Err(other_past) };
    let request = AddCheckpoint::new(from, proof, note.clone()).map_err(|error| unreadable(&error))?;
    let accepted = match state(known).consider(&request, trusted) {
        Ok(accepted) => accepted,
        Err(witness::Refusal::Conflict { .. } | witness::Refusal::OldAboveSize { .. }) => {
            // It signed both: no proof, from wherever, can lead from one to the other.
            if known.is_some_and(|known| known.checkpoint.size() == size && known.checkpoint.root() != root) {
                return Err(other_past);
            }
            return Ok(Verdict::OtherStart);
        }
        Err(witness::Refusal::Shorter { known, size, .. }) => return Err(Refusal::Shorter { known, size }),
        Err(witness::Refusal::Fork { .. } | witness::Refusal::BadProof { .. }) => return Err(other_past),
        Err(refusal) => {
            let detail = mayfly_runtime::Chain(&refusal).to_string();
            return Err(Refusal::UnknownKey { size, detail });
        }
    };
    let keys = speaking(trusted, &offered, &note);
    let checkpoint = accepted.checkpoint().clone();
    Ok(Verdict::Accepted {
        accepted: Box::new(accepted),
        known: Box::new(Known { keys, checkpoint }),
    })
}

/// The state machine of `mayfly-tlog`, at what is known.
fn state(known: Option<&Known>) -> Witness {
    let line = known.map(|known| {
        let checkpoint = &known.checkpoint;
        format!("{} {} {}\n", checkpoint.size(), checkpoint.root(), checkpoint.origin())
    });
    Witness::parse(&line.unwrap_or_default()).expect("a checkpoint is a line of the state")
}

/// The keys that the server names, as far as they are keys of this log.
fn offered_keys(head: &LogHead, origin: &str) -> Vec<VerifierKey> {
    let keys = head
        .keys
        .iter()
        .take(KEYS_MAX)
        .filter_map(|key| key.parse::<VerifierKey>().ok());
    keys.filter(|key| key.algorithm() == Algorithm::Ed25519 && key.name() == origin)
        .collect()
}

/// Who speaks for the log from now on: those that signed this checkpoint. A key that was known vouches for the others
/// by signing the same one; one that does not sign any more is forgotten.
fn speaking(trusted: &[VerifierKey], offered: &[VerifierKey], note: &Note) -> Vec<VerifierKey> {
    let mut keys: Vec<VerifierKey> = trusted.to_vec();
    keys.extend(offered.iter().filter(|key| !trusted.contains(key)).cloned());
    keys.retain(|key| SignedCheckpoint::verify(note.clone(), std::slice::from_ref(key)).is_ok());
    keys
}

/// The hashes of a proof, if they are that.
pub(super) fn hashes(proof: &[Vec<u8>]) -> Option<Vec<Hash>> {
    let hash = |bytes: &Vec<u8>| bytes.as_slice().try_into().ok().map(Hash::new);
    proof.iter().map(hash).collect()
}
