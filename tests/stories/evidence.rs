//! The log, as others check it.

mod backup;
mod tiles;
