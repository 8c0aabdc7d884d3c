//! `mayfly-server`: arguments, settings, assemble, run, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mayfly_runtime::{Chain, install_crypto_provider, telemetry};
use mayfly_server::assemble;
use mayfly_server::config::Settings;
use tikv_jemallocator::Jemalloc;

/// What one thread takes another gives back: a request is read by one, committed by the next and signed by a third.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Issues SPIFFE identities to attested agents, and keeps the record of having done so.
#[derive(Parser)]
#[command(
    name = "mayfly-server",
    version,
    after_help = "Operators use `mayfly`; it speaks to this server's socket."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT; a second signal exits at once.
    Run {
        /// The settings.
        #[arg(long, value_name = "FILE", default_value = "/etc/mayfly/server.toml")]
        config: PathBuf,
    },
    /// Report every problem of a settings file, with line and hint, and change nothing.
    CheckConfig {
        /// The settings.
        #[arg(long, value_name = "FILE", default_value = "/etc/mayfly/server.toml")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let (config, run) = match Arguments::parse().command {
        Command::Run { config } => (config, true),
        Command::CheckConfig { config } => (config, false),
    };
    let loaded = match Settings::load(&config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(2);
        }
    };
    if !run {
        println!("{}: no problems", config.display());
        return ExitCode::SUCCESS;
    }
    let log = match telemetry::init(&loaded.settings.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("cannot set up logging: {error}");
            return ExitCode::from(2);
        }
    };
    install_crypto_provider();
    mayfly_runtime::raise_open_files_limit();
    match assemble::run(loaded, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain::of(&error), "the server stops");
            ExitCode::FAILURE
        }
    }
}
