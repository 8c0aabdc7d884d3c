//! `mayfly prove`: whether a consumer refuses what it has to refuse, tried from outside.
//!
//! [`window`] opens a window of its own, a canary, and tries its credentials after the end; [`base`] tries what every
//! workload has. [`dial`] is one attempt. What came of each goes into the server's log, and from there into the report.
//!
//! A key never leaves the process that holds it, so the credentials of somebody else's window cannot be tried: the canary's
//! are of the same definition, and so of the same kind.

use std::time::Duration;

use clap::{ArgMatches, Command};
use mayfly_proto::mayfly::audit::RecordProbeRequest;
use mayfly_svid::SpiffeId;
use serde::Serialize;
use serde_json::json;

use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::output::visible_line;
use crate::values;

mod base;
mod dial;
mod window;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "prove",
    command,
    run,
};

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Try whether a consumer lets in base identities, or nobody at all
    #[command(after_help = base::EXAMPLES)]
    Base(base::BaseArgs),
    /// Open a window, and try whether anything of it counts after its end
    #[command(after_help = window::EXAMPLES)]
    Window(window::WindowArgs),
}

/// Who is tried, and what becomes of it.
#[derive(Debug, clap::Args)]
struct Tried {
    /// Where the consumer listens, with TLS from the first byte
    #[arg(long, value_name = "HOST:PORT")]
    connect: String,
    /// The name of the consumer, as definitions have it under `ending.checkpoints`
    #[arg(long, value_name = "NAME")]
    checkpoint: String,
    /// How long the consumer may take to refuse, and to cut what is open
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::duration)]
    within: Duration,
    /// As which of the identities of this process, if it has several
    #[arg(long = "as", value_name = "SPIFFE_ID", value_parser = values::spiffe_id)]
    identity: Option<SpiffeId>,
    /// Leave no record in the server's log
    #[arg(long)]
    no_record: bool,
}

/// One attempt and what came of it.
#[derive(Debug, Serialize)]
struct Probe {
    /// A word that stays: `base`, `canary`.
    kind: &'static str,
    expected: &'static str,
    outcome: &'static str,
    /// Of the canary; empty where none is involved.
    window: String,
    /// In words, such as the alert of the consumer.
    detail: String,
}

/// What was tried so far, shown and recorded as it comes.
struct Probes<'a> {
    tried: &'a Tried,
    server: Option<Server>,
    all: Vec<Probe>,
}

fn command() -> Command {
    noun_with_verbs::<Verb>("prove", "Try whether consumers refuse what they have to refuse")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Base(args) => base::run(args, context).await,
            Verb::Window(args) => window::run(args, context).await,
        }
    })
}

impl Probe {
    fn is_as_expected(&self) -> bool {
        self.outcome == self.expected
    }
}

impl<'a> Probes<'a> {
    /// With the server reached first: what is tried and cannot be recorded would be lost.
    async fn begin(tried: &'a Tried, context: &Context) -> Result<Self, CliError> {
        let server = match tried.no_record {
            true => None,
            false => Some(Server::connect(&context.globals).await?),
        };
        Ok(Self {
            tried,
            server,
            all: vec![],
        })
    }

    async fn add(&mut self, probe: Probe, context: &mut Context) -> Result<(), CliError> {
        if let Some(server) = &self.server {
            let request = server.request(RecordProbeRequest {
                checkpoint: self.tried.checkpoint.clone(),
                kind: probe.kind.into(),
                expected: probe.expected.into(),
                outcome: probe.outcome.into(),
                window_id: probe.window.clone(),
                target: self.tried.connect.clone(),
                detail: probe.detail.clone(),
            });
            let recorded = server.audit().record_probe(request).await;
            recorded.map_err(|status| server.failed("record what came of it", status))?;
        }
        if !context.out.is_json() {
            let mark = if probe.is_as_expected() { "ok    " } else { "FAILED" };
            let (kind, outcome, detail) = (probe.kind, probe.outcome, visible_line(&probe.detail));
            context.out.line(format!("{mark}  {kind:<12}  {outcome:<9} {detail}"))?;
        }
        self.all.push(probe);
        Ok(())
    }

    /// What it all comes to.
    fn end(self, context: &mut Context) -> Result<Exit, CliError> {
        let failed = self.all.iter().filter(|probe| !probe.is_as_expected()).count();
        if context.out.is_json() {
            context.out.json(&json!({
                "checkpoint": self.tried.checkpoint,
                "target": self.tried.connect,
                "probes": self.all,
                "failed": failed,
            }))?;
        } else {
            let name = &self.tried.checkpoint;
            context.out.line(match failed {
                0 => format!("{name} refuses what it has to refuse."),
                _ => format!(
                    "{name} lets in what it has to refuse: {failed} of {} attempts.",
                    self.all.len()
                ),
            })?;
        }
        Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
    }
}
