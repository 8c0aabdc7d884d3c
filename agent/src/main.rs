//! `mayfly-agent`: arguments → settings → assembly → run → exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mayfly_agent::assemble;
use mayfly_agent::config::{self, Overrides, Settings};
use mayfly_runtime::{Chain, telemetry};
use tracing::{error, info};

/// Gives the processes of this node their SPIFFE identities.
#[derive(Debug, Parser)]
#[command(name = "mayfly-agent", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT; a second one ends the process at once.
    Run(ConfigArguments),
    /// Report every problem of a config file, with line and hint, and change nothing.
    CheckConfig(ConfigArguments),
}

#[derive(Debug, clap::Args)]
struct ConfigArguments {
    /// The config file.
    #[arg(long, value_name = "FILE", default_value = "/etc/mayfly/agent.toml")]
    config: PathBuf,
    /// Attest by the join token in this file, whatever the config file names.
    #[arg(long, value_name = "FILE")]
    join_token_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    mayfly_runtime::install_crypto_provider();
    let (arguments, run) = match Arguments::parse().command {
        Command::Run(arguments) => (arguments, true),
        Command::CheckConfig(arguments) => (arguments, false),
    };
    let overrides = Overrides {
        join_token_file: arguments.join_token_file,
    };
    let settings = match config::load(&arguments.config, &overrides) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    if !run {
        println!("{}: no problems", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    match run_agent(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %Chain::of(&error), "agent failed");
            ExitCode::FAILURE
        }
    }
}

fn run_agent(settings: Settings) -> anyhow::Result<()> {
    telemetry::init(&settings.log)?;
    mayfly_runtime::raise_open_files_limit();
    for (key, value) in &settings.effective {
        info!(key, value, "setting");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async { assemble::start(settings)?.run().await })
}
