//! One run: calibrate, measure what is wanted, say what was seen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::calibrate::{Calibration, Effort, signatures};
use crate::figure::{Figure, Run};
use crate::fleet::Following;
use crate::target::Target;
use crate::{output, parts, pin};

/// Every figure there is.
pub const ALL: [&str; 17] = [
    "p1", "p2", "p4", "p6", "p7", "r1", "r2", "e1", "e2", "c2", "c3", "c4", "c5", "c7", "c8", "c9", "l1",
];

/// How a run is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The figures that are wanted, of [`ALL`].
    pub wanted: Vec<String>,
    /// Counts that only show that the program works.
    pub quick: bool,
    /// A server that runs already: address, operators' socket, trust domain.
    pub server: Option<(String, PathBuf, String)>,
    /// The Workload API of an agent that runs already.
    pub workload_api: Option<PathBuf>,
    /// Simulated agents poll, as SPIRE's do.
    pub poll: bool,
    /// What is measured, in words.
    pub system: String,
    /// The most entries that C9 fills a server with.
    pub entries: usize,
}

/// What the parts of a run share.
#[derive(Debug)]
pub struct Context {
    /// How the run is to be.
    pub options: Options,
    /// The limits.
    pub calibration: Calibration,
    steadiness: Vec<f64>,
    figures: Vec<Figure>,
}

impl Context {
    /// Whether a figure is wanted.
    pub fn wants(&self, id: &str) -> bool {
        self.options.wanted.iter().any(|wanted| wanted == id)
    }

    /// A count: the full one, or the one that only shows that the program works.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.options.quick { quick } else { full }
    }

    /// For how long something is measured.
    pub fn time(&self, seconds: u64) -> Duration {
        if self.options.quick {
            Duration::from_millis(seconds * 60)
        } else {
            Duration::from_secs(seconds)
        }
    }

    /// The server that runs already, if one was named. Its processor becomes that of the system under test.
    ///
    /// # Errors
    /// It does not answer, or may not be moved.
    pub async fn foreign(&self) -> Result<Option<Target>> {
        let Some((address, admin, trust_domain)) = &self.options.server else {
            return Ok(None);
        };
        let target = Target::at(address, admin, trust_domain).await?;
        pin::move_to_system(target.process.pid())?;
        Ok(Some(target))
    }

    /// How simulated agents follow.
    pub fn following(&self) -> Following {
        if self.options.poll {
            Following::Poll
        } else {
            Following::Watch
        }
    }

    /// Takes down a figure, and shows it.
    pub fn add(&mut self, figure: Figure) {
        eprintln!("  {}", output::line(&figure));
        self.figures.push(figure);
    }

    /// Looks how fast the machine is at this moment.
    fn look(&mut self) -> Result<()> {
        let now = signatures(Duration::from_millis(100), false)?;
        self.steadiness.push(now.sign + now.verify);
        Ok(())
    }

    /// Whether a part is wanted; if so, says that it begins.
    fn begins(&mut self, part: &str, ids: &[&str]) -> Result<bool> {
        let wanted = ids.iter().any(|id| self.wants(id));
        if wanted {
            eprintln!("{part}");
            self.look()?;
        }
        Ok(wanted)
    }
}

/// Runs all that is wanted.
///
/// # Errors
/// A part could not be measured; nothing is said then of the others.
pub async fn run(options: Options) -> Result<Run> {
    let time = OffsetDateTime::now_utc().format(&Rfc3339)?;
    pin::generator()?;
    raise_file_limit()?;
    eprintln!("calibration");
    let effort = Effort {
        time: Duration::from_millis(if options.quick { 50 } else { 500 }),
        // Their CPU time is counted in ticks of 10 ms: fewer would cost none.
        handshakes: if options.quick { 300 } else { 2000 },
    };
    let calibration = Calibration::take(effort).await.context("calibration")?;
    let mut ctx = Context {
        options,
        calibration,
        steadiness: vec![],
        figures: vec![],
    };
    if ctx.begins("issuing", &["p1", "p2"])? {
        parts::issue::run(&mut ctx).await.context("issuing")?;
    }
    if ctx.begins("standing connections", &["c2", "c3", "c4", "c5", "l1"])? {
        parts::standing::run(&mut ctx).await.context("standing connections")?;
    }
    if ctx.begins("serving workloads", &["p4", "c8"])? {
        parts::serving::run(&mut ctx).await.context("serving workloads")?;
    }
    if ctx.begins("propagation", &["p6"])? {
        parts::propagation::run(&mut ctx).await.context("propagation")?;
    }
    if ctx.begins("tasks", &["p7"])? {
        parts::tasks::run(&mut ctx).await.context("tasks")?;
    }
    if ctx.begins("revocation", &["r1", "r2"])? {
        parts::revocation::run(&mut ctx).await.context("revocation")?;
    }
    if ctx.begins("the log", &["e1", "e2"])? {
        parts::evidence::run(&mut ctx).await.context("the log")?;
    }
    if ctx.begins("many entries", &["c7", "c9"])? {
        parts::entries::run(&mut ctx).await.context("many entries")?;
    }
    ctx.look()?;
    Ok(Run {
        format: 1,
        system: ctx.options.system.clone(),
        commit: commit(),
        time,
        quick: ctx.options.quick,
        optimized: !cfg!(debug_assertions),
        machine: machine(),
        calibration: ctx.calibration,
        steadiness: ctx.steadiness,
        figures: ctx.figures,
    })
}

fn raise_file_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}

fn machine() -> BTreeMap<String, String> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = file("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = file("/proc/meminfo");
    let memory = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap_or("0");
    let gib = memory.parse::<f64>().unwrap_or(0.0) / 1024.0 / 1024.0;
    let kernel = file("/proc/sys/kernel/osrelease");
    [
        ("processor", format!("{processors} × {model}")),
        ("memory", format!("{gib:.0} GiB")),
        ("kernel", format!("Linux {}", kernel.trim())),
        ("arrangement", pin::arrangement()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| output.stdout)
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let commit = String::from_utf8_lossy(&commit).trim().to_owned();
    // What is shipped; a changed page or story changes no figure.
    let paths = [
        "status",
        "--porcelain",
        "--",
        ":/server",
        ":/agent",
        ":/crates",
        ":/proto",
    ];
    let changed = git(&paths).is_some_and(|changes| !changes.is_empty());
    format!("{commit}{}", if changed { "+" } else { "" })
}
