//! `mayfly task ttl explain`: why an SVID lives exactly as long as it does.

use clap::Subcommand;
use serde_json::json;

use super::requests;
use super::view::{TaskView, WindowView};
use crate::Context;
use crate::connect::Server;
use crate::errors::{CliError, Exit};
use crate::values;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show which limit made the life of each SVID as short as it is
    #[command(after_help = EXAMPLES)]
    Explain(ExplainArgs),
}

pub(super) const EXAMPLES: &str = "\
The life of a task SVID is the shortest of several limits. The shortest is kept
with each SVID; raising another one changes nothing.

Examples:
  mayfly task ttl explain 01hx…";

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The request, or its window
    #[arg(value_name = "ID")]
    id: String,
}

/// What the limits are, by the names that the server gives them.
const TERMS: &[(&str, &str)] = &[
    ("definition.max_ttl", "the definition's limits.max_ttl"),
    ("window.closes", "the window closes then"),
    (
        "attestation.fresh_until",
        "the process has to be attested again by then (limits.evidence_max_age)",
    ),
    ("agent_svid.not_after", "the agent's own SVID ends then"),
    ("policy.ttl_cap", "a policy caps it (@ttl_cap)"),
    ("authority.not_after", "the signing authority ends then"),
];

/// Shows the SVIDs of a request that are in force, each with its limit.
///
/// # Errors
/// The server's status.
pub(super) async fn run(verb: &Verb, context: &mut Context) -> Result<Exit, CliError> {
    let Verb::Explain(args) = verb;
    let server = Server::connect(&context.globals).await?;
    let task = TaskView::of(requests::get(&server, &args.id).await?);
    // Whoever names a window means this one.
    let named = |window: &&WindowView| args.id == task.request_id || window.id == args.id;
    let windows: Vec<&WindowView> = task.windows.iter().filter(named).collect();
    let svids = windows
        .iter()
        .flat_map(|window| window.live_svids.iter().map(|svid| (*window, svid)));
    if context.out.is_json() {
        let items: Vec<_> = svids
            .map(|(window, svid)| {
                json!({"window_id": window.id, "spiffe_id": window.spiffe_id, "serial": svid.serial,
                    "not_before": svid.not_before, "not_after": svid.not_after, "ttl_term": svid.ttl_term,
                    "authority_id": svid.authority_id, "explanation": words(&svid.ttl_term)})
            })
            .collect();
        context.out.json(&json!({"svids": items}))?;
        return Ok(Exit::Ok);
    }
    let now = context.now();
    let rows = svids
        .map(|(window, svid)| {
            let life = match (svid.not_before.0, svid.not_after.0) {
                (Some(from), Some(until)) => values::span(until.since(from)),
                _ => String::new(),
            };
            vec![
                svid.serial.clone(),
                window.id.clone(),
                life,
                svid.not_after.relative(now),
                svid.ttl_term.clone(),
                words(&svid.ttl_term).unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    let header = ["serial", "window", "life", "ends", "limit", "which is"];
    context.out.table(&header, rows, "No SVID of it is in force.")?;
    Ok(Exit::Ok)
}

fn words(term: &str) -> Option<&'static str> {
    TERMS.iter().find(|(of, _)| *of == term).map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use mayfly_model::task::TtlTerm;

    use super::*;

    #[test]
    fn every_limit_has_its_words() {
        let terms = [
            TtlTerm::Definition,
            TtlTerm::Window,
            TtlTerm::Attestation,
            TtlTerm::Agent,
            TtlTerm::Policy,
            TtlTerm::Authority,
        ];
        assert_eq!(terms.len(), TERMS.len());
        for term in terms {
            assert!(words(term.word()).is_some(), "{}", term.word());
        }
    }
}
