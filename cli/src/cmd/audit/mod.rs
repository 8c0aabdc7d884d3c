//! `mayfly audit`: the server's log for those who read it, copy it, check it, and prove something by it.
//!
//! Reading is in [`search`], copies in [`export`] and [`verify`], proofs in [`prove`], reports in [`report`] and
//! [`check_report`], what operators change in [`change`], alerts in [`monitor`], a witness in [`witness`]. What is checked
//! is checked by `mayfly-tlog` and `mayfly-audit`, which trust no server.

use clap::{ArgMatches, Command};

use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;

mod change;
mod check_report;
mod copy;
mod export;
mod keys;
mod monitor;
mod private;
mod proof_file;
mod prove;
mod report;
mod search;
mod verify;
mod view;
mod witness;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "audit",
    command,
    run,
};

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the newest entries, and follow those that come
    #[command(after_help = search::TAIL_EXAMPLES)]
    Tail(search::TailArgs),
    /// Show entries in full
    #[command(after_help = search::SHOW_EXAMPLES)]
    Show(search::ShowArgs),
    /// Find entries: by kind, identity, task, person, serial number, window, time
    #[command(after_help = search::SEARCH_EXAMPLES)]
    Search(search::SearchArgs),
    /// Copy the log into a folder, or bring a copy up to date; refuses a log that was changed
    #[command(after_help = export::EXAMPLES)]
    Export(export::ExportArgs),
    /// Check a copy, without a server: every bit, every signature, every rule
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::VerifyArgs),
    /// Write a proof that entries are in the log, which can be checked alone
    #[command(after_help = prove::EXAMPLES)]
    Prove(prove::ProveArgs),
    /// Check such a proof, without a server, and say what it proves
    #[command(after_help = prove::CHECK_EXAMPLES)]
    CheckProof(prove::CheckArgs),
    /// Prove zero standing privilege over a period: JSON, a signature, and a page with charts
    #[command(after_help = report::EXAMPLES)]
    Report(report::ReportArgs),
    /// Check such a report, without a server
    #[command(after_help = check_report::EXAMPLES)]
    CheckReport(check_report::CheckReportArgs),
    /// Show the newest checkpoint and the keys that verify it
    Keys,
    /// Give the log a new key
    #[command(after_help = change::ROTATE_EXAMPLES)]
    RotateKey(change::RotateArgs),
    /// Forget names, reasons and tickets; the entries and all proofs stay
    #[command(after_help = change::ERASE_EXAMPLES)]
    Erase(change::EraseArgs),
    /// Tell what somebody should look at, as it happens
    #[command(after_help = monitor::EXAMPLES)]
    Monitor(monitor::MonitorArgs),
    /// Be a witness of logs: remember, and cosign what goes on from there
    #[command(after_help = witness::EXAMPLES)]
    Witness(witness::WitnessArgs),
}

fn command() -> Command {
    noun_with_verbs::<Verb>("audit", "The log: read it, copy it, check it, prove by it")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Tail(args) => search::tail(&args, context).await,
            Verb::Show(args) => search::show(&args, context).await,
            Verb::Search(args) => search::search(&args, context).await,
            Verb::Export(args) => export::run(&args, context).await,
            Verb::Verify(args) => verify::run(&args, context),
            Verb::Prove(args) => prove::prove(&args, context).await,
            Verb::CheckProof(args) => prove::check(&args, context),
            Verb::Report(args) => report::run(&args, context).await,
            Verb::CheckReport(args) => check_report::run(&args, context),
            Verb::Keys => change::keys(context).await,
            Verb::RotateKey(args) => change::rotate(&args, context).await,
            Verb::Erase(args) => change::erase(&args, context).await,
            Verb::Monitor(args) => monitor::run(&args, context).await,
            Verb::Witness(args) => witness::run(&args, context).await,
        }
    })
}

#[cfg(test)]
mod tests;
