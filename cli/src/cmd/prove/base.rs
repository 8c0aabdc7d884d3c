//! `mayfly prove base`: without a certificate, and with the base identity of this process.

use super::dial::{Dialer, Outcome};
use super::{Probe, Probes, Tried};
use crate::Context;
use crate::errors::{CliError, Exit};
use crate::workload::{Identity, Workload};

pub(super) const EXAMPLES: &str = "\
Connects without a certificate and with the base SVID that the agent gives this
process. A consumer that is protected by a task refuses both. Exit code 1 if it
does not.

Examples:
  mayfly prove base --connect db.example.org:8443 --checkpoint pay-db";

#[derive(Debug, clap::Args)]
pub(super) struct BaseArgs {
    #[command(flatten)]
    tried: Tried,
}

pub(super) async fn run(args: BaseArgs, context: &mut Context) -> Result<Exit, CliError> {
    let workload = Workload::connect(context.globals.agent_socket.as_deref()).await?;
    let identity = own(&args.tried, &workload, context).await?;
    let mut probes = Probes::begin(&args.tried, context).await?;
    try_all(&identity, &mut probes, context).await?;
    probes.end(context)
}

/// The base identity of this process, or the one that is asked for.
pub(super) async fn own(tried: &Tried, workload: &Workload, context: &Context) -> Result<Identity, CliError> {
    let all = workload.fetch(context.globals.timeout).await?;
    let is_own = |identity: &Identity| match &tried.identity {
        Some(wanted) => identity.svid.spiffe_id() == wanted,
        None => !identity.hint.starts_with("task/"),
    };
    all.into_iter().find(is_own).ok_or_else(|| CliError::Failed {
        what: "the agent does not give this process the base identity that is to be tried".into(),
        hints: vec!["run it as a process that an entry matches: mayfly svid fetch".into()],
    })
}

/// What every workload could try.
pub(super) async fn try_all(
    identity: &Identity,
    probes: &mut Probes<'_>,
    context: &mut Context,
) -> Result<(), CliError> {
    let target = &probes.tried.connect;
    for (kind, dialer) in [
        ("none", Dialer::anonymous(target, identity)),
        ("base", Dialer::of(target, identity)?),
    ] {
        let outcome = dialer.dial().await?;
        let probe = Probe {
            kind,
            expected: Outcome::REFUSED,
            outcome: outcome.word(),
            window: String::new(),
            detail: outcome.detail(),
        };
        probes.add(probe, context).await?;
    }
    Ok(())
}
