//! `mayfly svid`: the identity of this process as a workload gets it, and SVIDs minted by an operator.

use clap::{ArgMatches, Command};

use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;

pub(crate) mod fetch;
mod mint;
mod view;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use view::IdentityView;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "svid",
    command,
    run,
};

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show who this process is, from the agent on this machine
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(fetch::FetchArgs),
    /// Follow the identity of this process: a line for each change
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::WatchArgs),
    /// Have the server sign an X.509-SVID for a key made here
    #[command(after_help = mint::EXAMPLES)]
    Mint(mint::MintArgs),
}

fn command() -> Command {
    noun_with_verbs::<Verb>("svid", "SVIDs: who this process is; or mint one by hand")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Fetch(args) => fetch::run(&args, context).await,
            Verb::Watch(args) => watch::run(&args, context).await,
            Verb::Mint(args) => mint::run(args, context).await,
        }
    })
}
