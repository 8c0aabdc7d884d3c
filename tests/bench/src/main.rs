//! The command line of the program that takes the figures; see the library beside it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser};
use mayfly_bench::{calibrate, figure, output, report, run};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Takes the product's figures.
#[derive(Debug, Parser)]
#[command(name = "mayfly-bench", version)]
enum Cli {
    /// Every figure.
    All(Common),
    /// Some figures: p1, p2, …
    Only {
        /// Which.
        #[arg(required = true, value_parser = clap::builder::PossibleValuesParser::new(run::ALL))]
        figures: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Render results, given as files, into the page of figures.
    Report {
        /// Results of `--json`; those of the system that is reported come first.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// What the machine can do, and nothing else.
    Calibrate(Common),
    /// The other side of the calibration.
    #[command(hide = true)]
    CalibrationPeer {
        /// Where its files are.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Small counts, to see whether the program works.
    #[arg(long)]
    quick: bool,
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure a server that runs already: where it listens for agents.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["admin", "trust_domain"])]
    server: Option<String>,
    /// The operators' socket of that server.
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
    /// The trust domain of that server.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Measure an agent that runs already: its Workload API.
    #[arg(long, value_name = "SOCKET")]
    workload_api: Option<PathBuf>,
    /// Simulated agents poll every 5 s, as SPIRE's do, instead of watching.
    #[arg(long)]
    poll: bool,
    /// The most entries that C9 fills a server with. A million takes some minutes.
    #[arg(long, default_value_t = 300_000)]
    entries: usize,
    /// What is measured, for the results.
    #[arg(long, default_value = "mayfly")]
    system: String,
}

fn main() -> Result<ExitCode> {
    mayfly_runtime::install_crypto_provider();
    // One thread: load comes from one processor. Sockets are looked at after each step, as latencies are measured.
    let runtime = Builder::new_current_thread().enable_all().event_interval(4).build()?;
    LocalSet::new().block_on(&runtime, dispatch(Cli::parse()))
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    let (wanted, common) = match cli {
        Cli::All(common) => (run::ALL.map(str::to_owned).to_vec(), common),
        Cli::Only { figures, common } => (figures, common),
        Cli::Calibrate(common) => (vec![], common),
        Cli::Report { files } => {
            let runs: Result<Vec<_>> = files.iter().map(|path| read(path)).collect();
            print!("{}", report::page(&runs?)?);
            return Ok(ExitCode::SUCCESS);
        }
        Cli::CalibrationPeer { dir } => return calibrate::serve(&dir).await.map(|()| ExitCode::SUCCESS),
    };
    let server = match (common.server, common.admin, common.trust_domain) {
        (Some(address), Some(admin), Some(trust_domain)) => Some((address, admin, trust_domain)),
        _ => None,
    };
    let json = common.json;
    let run = run::run(run::Options {
        wanted,
        quick: common.quick,
        server,
        workload_api: common.workload_api,
        poll: common.poll,
        system: common.system,
        entries: common.entries,
    })
    .await?;
    println!("{}", serde_json::to_string_pretty(&run.calibration)?);
    println!("{}", output::table(&run));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&run)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<figure::Run> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} holds no results", path.display()))
}
