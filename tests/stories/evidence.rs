//! The log, as others check it.

mod backup;
mod cli;
mod debt;
mod monitor;
mod month;
mod prove;
mod report;
mod tiles;
mod witness;
