//! What is measured, by what has to be set up for it.

pub mod entries;
pub mod evidence;
pub mod issue;
pub mod probe;
pub mod propagation;
pub mod revocation;
pub mod serving;
pub mod standing;
pub mod tasks;
