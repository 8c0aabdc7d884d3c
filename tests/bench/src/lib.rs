//! Takes the product's figures, each beside what this machine could do at best.
//!
//! ```text
//! cargo build --profile dist --workspace --bins && target/dist/mayfly-bench all --json figures.json
//! ```
//!
//! The daemons run on one processor and this program on the other (`pin.rs`). Limits are calibrated in the same run
//! (`calibrate/`), load is offered at a rate whatever the answers do (`load.rs`), agents are TLS connections of this
//! process, and costs are CPU time as the kernel counts it (`process.rs`). `parts/` has one file for each set of figures
//! that share a set-up.

#![allow(
    clippy::disallowed_methods,
    reason = "a program that measures uses the clock and tasks as they are"
)]

pub mod calibrate;
pub mod enforcers;
pub mod figure;
pub mod fleet;
pub mod jobs;
pub mod load;
pub mod output;
pub mod parts;
pub mod pin;
pub mod process;
pub mod report;
pub mod run;
pub mod target;
pub mod workload;
