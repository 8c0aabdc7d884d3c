//! The log, as others check it.

mod backup;
