//! The log, as others check it.

mod backup;
mod cli;
mod debt;
mod prove;
mod month;
mod report;
mod tiles;
mod witness;
