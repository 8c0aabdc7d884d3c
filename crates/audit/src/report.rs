//! The report that an auditor reads: thirteen parts, made from the log alone.
//!
//! [`Report::build`] replays the log from its beginning and describes a period of it. The same entries, values and log
//! facts make the same report, byte for byte ([`Report::to_json`]): instants are sampled by the log's root hash, and
//! nothing is taken from a clock. What the log has nothing of is `not_recorded`, what nobody tried is `not_tested`;
//! neither is a blank.
//!
//! Not here: pages and charts, signatures, and where entries come from.

mod build;
mod control;
mod ending;
mod instant;
mod limit;
mod parts;
mod people;
mod reading;
mod records;
mod rules;
#[cfg(test)]
mod tests;

pub use parts::*;
pub use reading::Reading;
pub use records::*;
