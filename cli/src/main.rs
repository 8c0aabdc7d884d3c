//! `mayfly`: the operator's binary.
//!
//! It holds nothing and decides nothing: each command is a client of the server's or the agent's public API. One file
//! per noun in [`cmd`], with its row in [`cmd::COMMANDS`]; how a peer is found is in [`connect`] and [`workload`], what
//! is printed in [`output`], what went wrong in [`errors`]. `mayfly dev` alone starts other processes: the two daemons.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::FromArgMatches;
use mayfly_runtime::client::HostPort;
use mayfly_runtime::{Clock, SystemClock, install_crypto_provider};
use mayfly_svid::Timestamp;
use time::UtcOffset;

use crate::ask::Asker;
use crate::errors::{CliError, Exit};
use crate::output::{Format, Output};

mod ask;
mod certs;
mod cmd;
mod connect;
mod errors;
mod files;
mod output;
#[cfg(test)]
mod testing;
mod values;
mod workload;

/// Options that every command understands.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Globals {
    /// text or json
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORM",
        hide_possible_values = true
    )]
    output: Format,
    /// Unix socket of the server on this machine
    #[arg(long, global = true, value_name = "PATH", alias = "socketPath")]
    server_socket: Option<PathBuf>,
    /// Socket of the agent, a path or a URI
    #[arg(long, global = true, value_name = "ADDRESS")]
    agent_socket: Option<String>,
    /// A server elsewhere, over mutual TLS
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = connect::host_port)]
    server: Option<HostPort>,
    /// Where the SVID for --server comes from
    #[arg(long, global = true, value_name = "ADDRESS")]
    identity_socket: Option<String>,
    /// How long each answer may take
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = connect::timeout)]
    timeout: Duration,
}

/// What a command works with.
pub(crate) struct Context {
    globals: Globals,
    out: Output,
    clock: Arc<dyn Clock>,
    asker: Asker,
}

impl Context {
    /// The present moment.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from(self.clock.now())
    }
}

fn main() -> ExitCode {
    // The zone is only readable while there is one thread.
    let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("error: cannot start: {error}");
            return ExitCode::from(Exit::Failed.code());
        }
    };
    let clock = Arc::new(SystemClock);
    let exit = runtime.block_on(run(std::env::args_os(), clock, Asker::of_process(), |format| {
        Output::of_process(format, offset)
    }));
    // A read of stdin or a signal that never comes must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(exit.code())
}

/// Runs one command line to its end.
async fn run(
    args: impl IntoIterator<Item = OsString>,
    clock: Arc<dyn Clock>,
    asker: Asker,
    output: impl FnOnce(Format) -> Output,
) -> Exit {
    let mut command = cmd::command();
    let matches = match command.try_get_matches_from_mut(own_words(args)) {
        Ok(matches) => matches,
        Err(error) => {
            output(Format::Text).of_clap(&error);
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let globals = Globals::from_arg_matches(&matches).expect("clap has checked the arguments against this type");
    let out = output(globals.output);
    let mut context = Context {
        globals,
        out,
        clock,
        asker,
    };
    execute(&matches, &mut context).await
}

/// Runs the command that `matches` names and shows its failure.
async fn execute(matches: &clap::ArgMatches, context: &mut Context) -> Exit {
    let (name, matches) = matches.subcommand().expect("clap asks for a command");
    let noun = cmd::COMMANDS
        .iter()
        .find(|noun| noun.name == name)
        .expect("clap knows the commands of this table only");
    match (noun.run)(matches, context).await {
        Ok(exit) => exit,
        Err(error) if error.is_broken_pipe() => Exit::Ok,
        Err(CliError::Arguments(error)) => {
            context.out.of_clap(&error);
            Exit::Usage
        }
        Err(error) => {
            context.out.error(&error);
            error.exit()
        }
    }
}

/// The words of a command line with two dashes before long names. What is behind `--` is another program's.
fn own_words(args: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut ours = true;
    args.into_iter().map(move |arg| {
        ours &= arg != "--";
        if ours { two_dashes(arg) } else { arg }
    })
}

/// SPIRE's users write `-spiffeID`. We have no short options but `-h` and `-V`, so one dash and several letters can only
/// mean a long option.
fn two_dashes(arg: OsString) -> OsString {
    let long = |text: &str| {
        let name = text.strip_prefix('-')?.split('=').next()?;
        let is_name = name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic());
        (is_name && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
            .then(|| OsString::from(format!("-{text}")))
    };
    arg.to_str().and_then(long).unwrap_or(arg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dash_and_a_long_name_is_a_long_option() {
        for (given, read) in [
            ("-spiffeID", "--spiffeID"),
            ("-ttl=600", "--ttl=600"),
            ("--ttl", "--ttl"),
            ("-h", "-h"),
            ("-", "-"),
            ("-5", "-5"),
            ("unix:uid:0", "unix:uid:0"),
        ] {
            assert_eq!(two_dashes(given.into()), OsString::from(read));
        }
    }

    #[test]
    fn the_words_of_another_program_stay_as_they_are() {
        let args = ["mayfly", "run", "-task", "a/b", "--", "java", "-jar", "x.jar"].map(OsString::from);
        let read: Vec<OsString> = own_words(args).collect();
        assert_eq!(
            read[2..],
            ["--task", "a/b", "--", "java", "-jar", "x.jar"].map(OsString::from)
        );
    }
}
