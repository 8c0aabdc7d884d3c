//! What is measured, by what has to be set up for it.

pub mod issue;
