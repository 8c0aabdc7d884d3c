//! `mayfly svid watch`: follows the identity of this process until interrupted.

use std::time::Duration;

use mayfly_proto::spiffe::workload::X509svidResponse;
use mayfly_proto::status::code_name;
use mayfly_runtime::BackoffPolicy;
use serde_json::json;
use tonic::{Code, Status};

use super::IdentityView;
use crate::Context;
use crate::errors::{CliError, Exit, sentence};
use crate::values;
use crate::workload::{Workload, identities};

pub(super) const EXAMPLES: &str = "\
It goes on when the agent restarts or takes the identity away, and says so.
Interrupt it with ctrl-C.

Examples:
  mayfly svid watch
  mayfly svid watch --output json          one JSON document a line
  mayfly svid watch --updates 2            waits for one rotation";

const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(3));

#[derive(Debug, clap::Args)]
pub(super) struct WatchArgs {
    /// End after so many updates
    #[arg(long, value_name = "COUNT", value_parser = values::count)]
    updates: Option<u64>,
}

/// Follows the stream; reconnects after everything but the two codes that are final (IOP-22).
///
/// # Errors
/// `InvalidArgument` or `Unimplemented`, an unusable answer, or an output that is closed.
pub(super) async fn run(args: &WatchArgs, context: &mut Context) -> Result<Exit, CliError> {
    let workload = Workload::connect(context.globals.agent_socket.as_deref()).await?;
    let mut backoff = RECONNECT.start();
    let mut left = args.updates;
    // What was said last of being without an identity: each attempt that ends the same way is no news.
    let mut told = None;
    loop {
        let status = match workload.stream().await {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(answer)) => {
                        backoff.reset();
                        told = None;
                        show(answer, context)?;
                        left = left.map(|left| left - 1);
                        if left == Some(0) {
                            return Ok(Exit::Ok);
                        }
                    }
                    // The end of the stream and `Cancelled` mean no more than "come again".
                    Ok(None) => break Status::unavailable("the agent ended the stream"),
                    Err(status) => break status,
                }
            },
            Err(status) => status,
        };
        if matches!(status.code(), Code::InvalidArgument | Code::Unimplemented) {
            return Err(workload.failed(status));
        }
        if told.replace(status.code()) != Some(status.code()) {
            lost(&status, context)?;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

fn show(answer: X509svidResponse, context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    let views: Vec<IdentityView> = identities(answer)?
        .iter()
        .map(|identity| IdentityView::of(identity, now))
        .collect();
    if context.out.is_json() {
        return context
            .out
            .json_line(&json!({"event": "update", "time": now.to_string(), "svids": views}));
    }
    for view in &views {
        let line = view.line(&context.out, now);
        context.out.line(line)?;
    }
    Ok(())
}

fn lost(status: &Status, context: &mut Context) -> Result<(), CliError> {
    let now = context.now();
    if context.out.is_json() {
        return context.out.json_line(&json!({
            "event": if status.code() == Code::PermissionDenied { "no_identity" } else { "lost" },
            "time": now.to_string(),
            "error": {"code": code_name(status.code()), "message": status.message()},
        }));
    }
    context.out.note(match status.code() {
        Code::PermissionDenied => "no identity now; waiting for one".to_owned(),
        _ => format!("the agent is away: {}; waiting for it", sentence(status)),
    });
    Ok(())
}
