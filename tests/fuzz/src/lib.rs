//! What must hold for any bytes whatever: one module per kind of foreign bytes, each with one function `run`.
//!
//! A target panics when something does not hold. It never waits, and does the same for the same input. Beyond "nothing
//! panics", each states a property: what was read is written the same, what is accepted passes a check that is written
//! here anew, what is made up of signed parts cannot be forged.
//!
//! Where raw bytes would rarely get past the first signature, an input can also be a list of [edits](input) to genuine
//! material, or content that the target itself signs with the keys of [`material`].

mod der;
mod input;
mod material;

pub mod authority_filter;
pub mod bundle;
pub mod config;
pub mod convert;
pub mod csr;
pub mod proc_text;
pub mod selectors;
pub mod spiffe_id;
pub mod svid;
pub mod tlog;
pub mod watch;
pub mod workload_api;
pub mod x509pop;

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// How many mutations the replay tries: as many as take about a second without optimization.
    pub mutations: u32,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("authority_filter", authority_filter::run, 10_000),
    target("bundle", bundle::run, 5000),
    target("config", config::run, 1500),
    target("convert", convert::run, 20_000),
    target("csr", csr::run, 10_000),
    target("proc_text", proc_text::run, 10_000),
    target("selectors", selectors::run, 30_000),
    target("spiffe_id", spiffe_id::run, 20_000),
    target("svid", svid::run, 3000),
    target("tlog", tlog::run, 20_000),
    target("watch", watch::run, 3000),
    target("workload_api", workload_api::run, 10_000),
    target("x509pop", x509pop::run, 1000),
];

const fn target(name: &'static str, run: fn(&[u8]), mutations: u32) -> Target {
    Target { name, run, mutations }
}
