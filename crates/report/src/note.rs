//! The signature of a report: a signed note (C2SP signed-note) of the log's key over the SHA-256 of the report's bytes.
//!
//! ```text
//! <origin>/report
//! <SHA-256 of report.json, 64 hex digits>
//!
//! — <origin> <signature>
//! ```
//!
//! The log's key also signs checkpoints, whose first line is the origin itself and whose second is a number: no note of
//! one kind can be taken for one of the other.

use aws_lc_rs::digest;
use mayfly_tlog::note::{Note, NoteError, NoteSigner, SignError, VerifierKey};

/// What a note's file is called: the report's own name and this.
pub const FILE_EXTENSION: &str = "note";

/// A note that does not sign the report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// No note, or none of a known key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A note about something else.
    #[error("the note is about something else: it says `{found}` where `{expected}` has to be")]
    Other {
        /// What stands there.
        found: String,
        /// What has to.
        expected: String,
    },
}

/// The SHA-256 of a report's bytes, in hex.
pub fn digest_of(json: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, json))
}

/// The text that is signed.
pub fn text(origin: &str, json: &[u8]) -> String {
    format!("{origin}/report\n{}\n", digest_of(json))
}

/// Signs a report on the log `origin`.
///
/// # Errors
/// The key did not sign, or the origin cannot stand in a note.
pub fn sign(origin: &str, json: &[u8], signer: &dyn NoteSigner) -> Result<Note, SignError> {
    let mut note = Note::new(text(origin, json)).map_err(|error| SignError::new(signer, error))?;
    note.sign(signer)?;
    Ok(note)
}

/// Which of `keys` signed the report on the log `origin`.
///
/// # Errors
/// None did, or the note is about other bytes.
pub fn verify<'a>(
    origin: &str,
    json: &[u8],
    note: &[u8],
    keys: &'a [VerifierKey],
) -> Result<Vec<&'a VerifierKey>, SealError> {
    let note = Note::parse(note)?;
    let expected = text(origin, json);
    let differs = note
        .text()
        .lines()
        .zip(expected.lines())
        .find(|(found, expected)| found != expected);
    if let Some((found, expected)) = differs {
        return Err(SealError::Other {
            found: found.into(),
            expected: expected.into(),
        });
    }
    if note.text() != expected {
        let (found, expected) = (format!("{} lines", note.text().lines().count()), "2 lines".into());
        return Err(SealError::Other { found, expected });
    }
    Ok(note.verified_by(keys)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_tlog::checkpoint::Checkpoint;
    use mayfly_tlog::note::{Algorithm, Ed25519Key};

    #[test]
    fn a_report_is_signed_as_nothing_but_a_report() {
        let (key, _) = Ed25519Key::generate("td/log/1", Algorithm::Ed25519).unwrap();
        let keys = [key.verifier_key().clone()];
        let note = sign("td/log/1", b"{}", &key).unwrap().to_bytes();
        assert_eq!(verify("td/log/1", b"{}", &note, &keys).unwrap(), [&keys[0]]);
        assert!(matches!(
            verify("td/log/1", b"{ }", &note, &keys),
            Err(SealError::Other { .. })
        ));
        assert!(matches!(
            verify("td/log/2", b"{}", &note, &keys),
            Err(SealError::Other { .. })
        ));
        let (other, _) = Ed25519Key::generate("td/log/1", Algorithm::Ed25519).unwrap();
        let others = [other.verifier_key().clone()];
        assert_eq!(
            verify("td/log/1", b"{}", &note, &others),
            Err(SealError::Note(NoteError::NoKnownKey))
        );
        assert!(Checkpoint::parse(&text("td/log/1", b"{}")).is_err());
    }

    #[test]
    fn each_bit_of_a_note_counts() {
        let (key, _) = Ed25519Key::generate("td/log/1", Algorithm::Ed25519).unwrap();
        let keys = [key.verifier_key().clone()];
        let note = sign("td/log/1", b"{}", &key).unwrap().to_bytes();
        for bit in 0..note.len() * 8 {
            let mut damaged = note.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(verify("td/log/1", b"{}", &damaged, &keys).is_err(), "bit {bit}");
        }
    }
}
