//! Proofs that one tree contains an entry, or another tree (RFC 6962 §2.1).

use crate::checkpoint::MAX_TREE_SIZE;
use crate::hash::Hash;

/// The most hashes of a proof: one per level of the largest tree.
pub const MAX_PROOF_HASHES: usize = 63;

/// A proof that proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// An index behind the end of the tree, or a tree that is older than the one before it.
    #[error("{inner} is not within a tree of {size} entries")]
    Range {
        /// The index or the smaller size.
        inner: u64,
        /// The size.
        size: u64,
    },
    /// More than [`MAX_PROOF_HASHES`].
    #[error("a proof has at most {MAX_PROOF_HASHES} hashes, not {hashes}")]
    TooLong {
        /// As many it has.
        hashes: usize,
    },
    /// The hashes do not lead to the root.
    #[error("the proof does not lead to the root")]
    Invalid,
}

/// Verifies that entry `index` of the tree of `size` entries under `root` is the one with that leaf hash.
///
/// # Errors
/// The proof does not show it.
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, root: Hash, proof: &[Hash]) -> Result<(), ProofError> {
    if index >= size || size > MAX_TREE_SIZE {
        return Err(ProofError::Range { inner: index, size });
    }
    let proof = bounded(proof)?;
    tlog_tiles::check_record(&proof, size, root.into(), index, leaf.into()).map_err(|_| ProofError::Invalid)
}

/// Verifies that the tree of `to` entries under `to_root` begins with the one of `from` entries under `from_root`.
///
/// The empty tree is the beginning of each tree, and each tree is of itself: those proofs are empty.
///
/// # Errors
/// The proof does not show it.
pub fn verify_consistency(
    from: u64,
    from_root: Hash,
    to: u64,
    to_root: Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if from > to || to > MAX_TREE_SIZE {
        return Err(ProofError::Range { inner: from, size: to });
    }
    let proof = bounded(proof)?;
    if from == 0 {
        let empty = proof.is_empty() && from_root == Hash::EMPTY && (to > 0 || to_root == Hash::EMPTY);
        return empty.then_some(()).ok_or(ProofError::Invalid);
    }
    tlog_tiles::check_tree(&proof, to, to_root.into(), from, from_root.into()).map_err(|_| ProofError::Invalid)
}

fn bounded(proof: &[Hash]) -> Result<Vec<tlog_tiles::Hash>, ProofError> {
    if proof.len() > MAX_PROOF_HASHES {
        return Err(ProofError::TooLong { hashes: proof.len() });
    }
    Ok(proof.iter().copied().map(Into::into).collect())
}
