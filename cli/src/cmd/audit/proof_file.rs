//! A file with proofs: C2SP tlog-proofs, one behind the other. Each of them can be cut out and checked by any tool that
//! knows the format.

use mayfly_tlog::note::VerifierKey;
use mayfly_tlog::proof::{Proof, ProvenEntry};

use crate::errors::CliError;
use mayfly_runtime::Chain;

/// What each proof begins with.
const HEADER: &str = "c2sp.org/tlog-proof@v1\n";

/// The text of a file.
pub(super) fn write(proofs: &[Proof]) -> String {
    proofs.iter().map(ToString::to_string).collect()
}

/// Verifies all proofs of a file, each against `keys`.
///
/// # Errors
/// One does not verify: which, and why.
pub(super) fn verify(text: &str, keys: &[VerifierKey]) -> Result<Vec<ProvenEntry>, CliError> {
    let mut all = vec![];
    for (number, text) in parts(text).into_iter().enumerate() {
        let failed = |error| CliError::Failed {
            what: format!("proof {} does not hold: {}", number + 1, Chain(&error)),
            hints: vec![],
        };
        let proof = Proof::parse(text.as_bytes()).map_err(failed)?;
        all.push(proof.verify(keys).map_err(failed)?);
    }
    let mut origins = all
        .windows(2)
        .map(|pair| (pair[0].checkpoint().origin(), pair[1].checkpoint().origin()));
    match origins.find(|(one, other)| one != other) {
        None => Ok(all),
        Some((one, other)) => Err(CliError::Failed {
            what: format!("the proofs are of different logs, `{one}` and `{other}`"),
            hints: vec![],
        }),
    }
}

/// Parted before each header; what stands before the first one belongs to it, and is refused with it.
fn parts(text: &str) -> Vec<&str> {
    let after_newline = text
        .match_indices(&format!("\n{HEADER}")[..])
        .map(|(at, _)| at + 1)
        .collect::<Vec<_>>();
    let begins: Vec<usize> = std::iter::once(0).chain(after_newline).collect();
    let ends = begins.iter().skip(1).copied().chain([text.len()]);
    begins.iter().zip(ends).map(|(begin, end)| &text[*begin..end]).collect()
}
