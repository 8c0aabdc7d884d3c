//! The commands: one file per noun.
//!
//! To add one: a file with a `NOUN`, its `mod` line and its row here; help, completion and the help snapshot follow.

use std::future::Future;
use std::pin::Pin;

use clap::{ArgMatches, Args, Command};

use crate::errors::{CliError, Exit};
use crate::{Context, Globals};

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod completion;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod entry;
pub(crate) mod policy;
pub(crate) mod prove;
pub(crate) mod run;
pub(crate) mod svid;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod why;

#[cfg(test)]
mod tests;

/// A noun of the grammar: `entry` of `entry create`.
pub(crate) struct Noun {
    /// As typed.
    pub(crate) name: &'static str,
    /// Its arguments and verbs, with help.
    pub(crate) command: fn() -> Command,
    /// Runs what was typed.
    pub(crate) run: for<'a> fn(&'a ArgMatches, &'a mut Context) -> Running<'a>,
}

/// A command that runs.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<Exit, CliError>> + 'a>>;

/// All nouns, in the order of the help.
pub(crate) const COMMANDS: &[Noun] = &[
    dev::NOUN,
    entry::NOUN,
    agent::NOUN,
    token::NOUN,
    bundle::NOUN,
    svid::NOUN,
    run::NOUN,
    task::NOUN,
    policy::NOUN,
    why::WHY,
    why::WHY_NOT,
    policy::WHAT_IF,
    audit::NOUN,
    prove::NOUN,
    doctor::NOUN,
    completion::NOUN,
];

const EXAMPLES: &str = "\
First steps:
  mayfly dev             a server, an agent and an identity for you, here
  mayfly svid fetch      who am I, until when
  mayfly doctor          what is wrong, and what to do

Where the sockets are, unless an option says so; the first that is there:
  server  $MAYFLY_SERVER_SOCKET, .mayfly/server.sock, /run/mayfly/server.sock
  agent   $SPIFFE_ENDPOINT_SOCKET, .mayfly/agent.sock, /run/mayfly/agent.sock

Exit codes: 0 done, 1 failed, 2 wrong input, 3 not reachable, 4 not permitted,
5 not found.";

/// The whole grammar.
pub(crate) fn command() -> Command {
    let root = COMMANDS
        .iter()
        .fold(Command::new("mayfly"), |root, noun| root.subcommand((noun.command)()));
    // The options first: their type brings its own words, and the last ones win.
    Globals::augment_args(root)
        .about("Workload identity: register, inspect and try out what mayfly-server and mayfly-agent do")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(110)
        .after_help(EXAMPLES)
}

/// A noun that needs a verb.
pub(crate) fn noun_with_verbs<V: clap::Subcommand>(name: &'static str, about: &'static str) -> Command {
    V::augment_subcommands(
        Command::new(name)
            .about(about)
            .subcommand_required(true)
            .arg_required_else_help(true),
    )
}

/// Reads what clap has matched.
///
/// # Errors
/// A value that only the whole of the arguments shows to be wrong.
pub(crate) fn parsed<T: clap::FromArgMatches>(matches: &ArgMatches) -> Result<T, CliError> {
    T::from_arg_matches(matches).map_err(CliError::Arguments)
}
