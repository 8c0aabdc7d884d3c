//! `mayfly completion`: a script that teaches a shell the grammar.

use clap::{ArgMatches, Args, Command};
use clap_complete::Shell;

use super::{Noun, Running, parsed};
use crate::errors::Exit;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "completion",
    command,
    run,
};

const EXAMPLES: &str = "\
Examples:
  mayfly completion bash > /etc/bash_completion.d/mayfly
  mayfly completion zsh  > \"${fpath[1]}/_mayfly\"
  mayfly completion fish > ~/.config/fish/completions/mayfly.fish";

#[derive(Debug, clap::Args)]
struct CompletionArgs {
    /// bash, zsh or fish
    #[arg(value_enum, hide_possible_values = true)]
    shell: ShellName,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

fn command() -> Command {
    CompletionArgs::augment_args(Command::new("completion").about("Print a completion script for a shell"))
        .after_help(EXAMPLES)
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut crate::Context) -> Running<'a> {
    Box::pin(async move {
        let args: CompletionArgs = parsed(matches)?;
        let shell = match args.shell {
            ShellName::Bash => Shell::Bash,
            ShellName::Zsh => Shell::Zsh,
            ShellName::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::command(), "mayfly", &mut script);
        context.out.raw(&script)?;
        Ok(Exit::Ok)
    })
}
