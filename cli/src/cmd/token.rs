//! `mayfly token`: join tokens, with which an agent attests once.

use std::path::PathBuf;

use clap::{ArgMatches, Command};
use mayfly_proto::spire::server::agent::CreateJoinTokenRequest;
use mayfly_svid::{SpiffeId, Timestamp};
use serde_json::json;
use zeroize::Zeroizing;

use super::entry::id_to_wire;
use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::connect::{ReasonArg, Server};
use crate::errors::{CliError, Exit};
use crate::{files, values};

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "token",
    command,
    run,
};

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a join token: the agent that shows it first is attested, once
    #[command(alias = "generate", after_help = EXAMPLES)]
    Create(CreateArgs),
}

const EXAMPLES: &str = "\
The token is a secret until it is used. It is shown once, or written to a file
that only you can read.

Examples:
  mayfly token create --token-file ./join-token     hand this file to the agent
  mayfly token create --ttl 1h --spiffe-id spiffe://example.org/rack-7";

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// How long it can be used
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = values::ttl)]
    ttl: i32,
    /// An alias for the agent, from when it has attested: entries may name it as their parent
    #[arg(long, value_name = "ID", alias = "spiffeID", value_parser = values::spiffe_id)]
    spiffe_id: Option<SpiffeId>,
    /// Write the token to this file (mode 0600) instead of showing it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reason: ReasonArg,
}

fn command() -> Command {
    noun_with_verbs::<Verb>("token", "Join tokens: how an agent without a certificate attests")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Create(args) => create(args, context).await,
        }
    })
}

async fn create(args: CreateArgs, context: &mut Context) -> Result<Exit, CliError> {
    if let Some(path) = &args.token_file {
        files::check_file(path)?;
    }
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let (token, expires) = new_token(&server, args.ttl, args.spiffe_id.as_ref()).await?;
    if let Some(path) = &args.token_file {
        files::write_private(path, token.as_bytes())?;
    }
    let now = context.now();
    if context.out.is_json() {
        let shown = args.token_file.is_none().then_some(token.as_str());
        context.out.json(&json!({
            "token": shown,
            "token_file": args.token_file,
            "expires_at": expires.to_string(),
            "spiffe_id": args.spiffe_id,
        }))?;
        return Ok(Exit::Ok);
    }
    let mut fields = match &args.token_file {
        Some(path) => vec![("Token file", path.display().to_string())],
        None => vec![("Token", token.to_string())],
    };
    if let Some(id) = &args.spiffe_id {
        fields.push(("Agent alias", id.to_string()));
    }
    fields.push(("Expires", context.out.time(expires, now)));
    context.out.block(&fields)?;
    Ok(Exit::Ok)
}

/// Has the server make a token that can be used for `ttl` seconds. The token is a secret.
///
/// # Errors
/// The server's status.
pub(crate) async fn new_token(
    server: &Server,
    ttl: i32,
    alias: Option<&SpiffeId>,
) -> Result<(Zeroizing<String>, Timestamp), CliError> {
    let request = CreateJoinTokenRequest {
        ttl,
        token: String::new(),
        agent_id: alias.map(id_to_wire),
    };
    let answer = server.agents().create_join_token(server.request(request)).await;
    let token = answer
        .map_err(|status| server.failed("create a join token", status))?
        .into_inner();
    Ok((Zeroizing::new(token.value), Timestamp::from_unix(token.expires_at)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::testing::Fake;

    #[tokio::test]
    async fn a_token_is_shown_once_or_written_for_its_owner_only() {
        let fake = Fake::start().await;
        let shown = fake
            .mayfly(&["token", "create", "--ttl", "1h", "--reason", "rack 7"])
            .await;
        assert_eq!(shown.code, 0);
        insta::assert_snapshot!(shown.text());
        assert_eq!(fake.last_reason().as_deref(), Some("rack 7"));

        let file = fake.dir().join("token");
        let file_name = file.to_str().unwrap();
        let written = fake
            .mayfly(&["token", "create", "--token-file", file_name, "--output", "json"])
            .await;
        assert!(!written.text().contains("secret-token"), "{}", written.text());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "secret-token");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        // No token is made that could not be kept.
        let made = fake.state().calls.len();
        for bad in ["/dev/null", "/nowhere/token"] {
            let refused = fake.mayfly(&["token", "create", "--token-file", bad]).await;
            assert_eq!((refused.code, fake.state().calls.len()), (2, made), "{refused:?}");
        }
    }
}
