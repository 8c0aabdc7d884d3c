//! `mayfly task`: what tasks there are, who asks for them, what is open, and how it is ended.
//!
//! Definitions are in [`define`] and [`definitions`], with [`diff`]; requests and windows in [`requests`], [`now`],
//! [`approve`] and [`end`]; what stands in [`exception`] and [`debt`]. Running a command inside a window is `mayfly run`, beside this.

use clap::{ArgMatches, Command};

use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::errors::{CliError, Exit};

mod approve;
mod crl;
mod debt;
mod define;
mod definitions;
mod diff;
mod end;
mod exception;
mod local;
mod now;
mod proposals;
pub(crate) mod requests;
mod ttl;
pub(crate) mod view;

#[cfg(test)]
mod tests;

pub(crate) use define::second_person;
use end::End;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "task",
    command,
    run,
};

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Define tasks, or new versions of them
    #[command(after_help = define::DEFINE_EXAMPLES)]
    Define(define::DefineArgs),
    /// List definitions in a table
    List(definitions::ListArgs),
    /// Show a definition, as it is in force or in an earlier version
    #[command(after_help = definitions::SHOW_EXAMPLES)]
    Show(definitions::ShowArgs),
    /// Show what a file would change, or what differs between versions
    #[command(after_help = definitions::DIFF_EXAMPLES)]
    Diff(definitions::DiffArgs),
    /// Take a definition out of force: no new requests, and what is open ends
    Retire(define::RetireArgs),
    /// List changes that wait for a second person
    Proposals(proposals::ListArgs),
    /// Decide such a change
    #[command(subcommand)]
    Proposal(proposals::Verb),
    /// Show what is open at this moment, why, and for how long
    #[command(after_help = now::EXAMPLES)]
    Now(now::NowArgs),
    /// List requests in a table
    #[command(after_help = requests::LIST_EXAMPLES)]
    Requests(requests::ListArgs),
    /// Show requests in full, with decisions, approvals and windows
    Request(requests::ShowArgs),
    /// Agree to a request, after having seen what it stands for
    #[command(after_help = approve::APPROVE_EXAMPLES)]
    Approve(approve::ApproveArgs),
    /// Refuse a request
    Deny(approve::DenyArgs),
    /// Take a request back, or a grant that is not opened yet; as its requester or owner
    Cancel(end::EndArgs),
    /// Stop a window for the time being: its SVID is revoked, its time runs on
    Suspend(end::EndArgs),
    /// Let a window that was suspended go on, with a new SVID
    Resume(end::EndArgs),
    /// Account for a use of break-glass: before that there is no next one
    Review(end::EndArgs),
    /// Accept in writing that a window could not be settled
    #[command(after_help = end::ACCEPT_RISK_EXAMPLES)]
    AcceptRisk(end::EndArgs),
    /// End authority, at once and for good
    #[command(after_help = end::REVOKE_EXAMPLES)]
    Revoke(end::RevokeArgs),
    /// Show what stands: power over a period, exceptions, what is not settled; the worst first
    #[command(after_help = debt::DEBT_EXAMPLES)]
    Debt(debt::DebtArgs),
    /// Look for what is likely a mistake in definitions, policies, approvals and windows
    #[command(after_help = debt::LINT_EXAMPLES)]
    Lint(debt::LintArgs),
    /// Standing power that somebody answers for
    #[command(subcommand, arg_required_else_help = true)]
    Exception(exception::Verb),
    /// Lives of task SVIDs
    #[command(subcommand, arg_required_else_help = true)]
    Ttl(ttl::Verb),
    /// Show revocation lists, or keep them in files for servers that read those
    #[command(after_help = crl::EXAMPLES)]
    Crl(crl::CrlArgs),
}

fn command() -> Command {
    noun_with_verbs::<Verb>(
        "task",
        "Tasks: who may do what, for how long, after whose approval; and what is open",
    )
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Define(args) => define::define(args, context).await,
            Verb::List(args) => definitions::list(&args, context).await,
            Verb::Show(args) => definitions::show(&args, context).await,
            Verb::Diff(args) => definitions::diff(&args, context).await,
            Verb::Retire(args) => define::retire(args, context).await,
            Verb::Proposals(args) => proposals::list(&args, context).await,
            Verb::Proposal(verb) => proposals::run(verb, context).await,
            Verb::Now(args) => now::run(&args, context).await,
            Verb::Requests(args) => requests::list(&args, context).await,
            Verb::Request(args) => requests::show(&args, context).await,
            Verb::Approve(args) => approve::approve(args, context).await,
            Verb::Deny(args) => approve::deny(args, context).await,
            Verb::Cancel(args) => end::run(args, End::Cancel, context).await,
            Verb::Suspend(args) => end::run(args, End::Suspend, context).await,
            Verb::Resume(args) => end::run(args, End::Resume, context).await,
            Verb::Review(args) => end::run(args, End::Review, context).await,
            Verb::AcceptRisk(args) => end::run(args, End::AcceptRisk, context).await,
            Verb::Revoke(args) => end::revoke(args, context).await,
            Verb::Debt(args) => debt::debt(&args, context).await,
            Verb::Lint(args) => debt::lint(&args, context).await,
            Verb::Exception(verb) => exception::run(verb, context).await,
            Verb::Ttl(verb) => ttl::run(&verb, context).await,
            Verb::Crl(args) => crl::run(&args, context).await,
        }
    })
}

/// Where to look for what was named and is not there.
fn not_found_hint(error: CliError) -> CliError {
    if error.exit() == Exit::NotFound {
        error.hint("`mayfly task list` shows the tasks, `mayfly task requests --state all` what was asked for")
    } else {
        error
    }
}
