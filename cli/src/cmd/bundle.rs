//! `mayfly bundle`: what SVIDs are verified against, of this trust domain and of foreign ones.

use clap::{ArgMatches, Command, ValueEnum};
use mayfly_proto::spire::server::bundle::batch_delete_federated_bundle_request::Mode as WireMode;
use mayfly_proto::spire::server::bundle::{
    BatchDeleteFederatedBundleRequest, BatchSetFederatedBundleRequest, GetBundleRequest, GetFederatedBundleRequest,
    ListFederatedBundlesRequest,
};
use mayfly_proto::spire::types::Status as ItemStatus;
use mayfly_svid::{Bundle, TrustDomain};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{Noun, Running, noun_with_verbs, parsed};
use crate::Context;
use crate::certs::{AuthorityView, bundle_from_wire, bundle_to_wire};
use crate::connect::{ReasonArg, Server, all_pages};
use crate::errors::{CliError, Exit};
use crate::{files, values};

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "bundle",
    command,
    run,
};

const PAGE: i32 = 100;
const FILE_MAX: u64 = 1 << 20;

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print this trust domain's bundle
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Print the bundles of foreign trust domains
    List(ListArgs),
    /// Set the bundle of a foreign trust domain
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// Delete the bundle of a foreign trust domain
    Delete(DeleteArgs),
}

const SHOW_EXAMPLES: &str = "\
Examples:
  mayfly bundle show > bundle.pem          what an agent needs to trust a server
  mayfly bundle show --format summary
  mayfly bundle show --format spiffe       as other trust domains fetch it";

const SET_EXAMPLES: &str = "\
Examples:
  mayfly bundle set --id partner.example --path partner.pem
  curl -s https://partner.example/bundle |
      mayfly bundle set --id partner.example --format spiffe";

/// The form of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BundleFormat {
    /// X.509 authorities as PEM
    Pem,
    /// A SPIFFE bundle (JWK set)
    Spiffe,
    /// Names and dates for people
    Summary,
}

/// The form of a bundle that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FileFormat {
    /// X.509 authorities as PEM
    Pem,
    /// A SPIFFE bundle (JWK set)
    Spiffe,
}

/// What happens to entries that federate with the trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Refuse while there are such entries
    Restrict,
    /// Take the trust domain out of them
    Dissociate,
    /// Delete them too
    Delete,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Form of the bundle: pem, spiffe (JWK set), or summary
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORM")]
    format: Option<BundleFormat>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only that of this trust domain
    #[arg(long, value_name = "TRUST_DOMAIN", value_parser = values::trust_domain)]
    id: Option<TrustDomain>,
    /// Form of the bundles: pem, spiffe (JWK set), or summary
    #[arg(long, value_enum, hide_possible_values = true, value_name = "FORM")]
    format: Option<BundleFormat>,
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Whose bundle it is
    #[arg(long, value_name = "TRUST_DOMAIN", value_parser = values::trust_domain)]
    id: TrustDomain,
    /// File with the bundle; `-` is stdin
    #[arg(long, value_name = "FILE", default_value = "-")]
    path: String,
    /// Form of the file: pem or spiffe (JWK set)
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        default_value = "pem",
        value_name = "FORM"
    )]
    format: FileFormat,
    #[command(flatten)]
    reason: ReasonArg,
}

#[derive(Debug, clap::Args)]
struct DeleteArgs {
    /// Whose bundle to delete
    #[arg(long, value_name = "TRUST_DOMAIN", value_parser = values::trust_domain)]
    id: TrustDomain,
    /// What becomes of entries that federate with it: restrict (refuse), dissociate, or delete
    #[arg(long, value_enum, hide_possible_values = true, default_value = "restrict")]
    mode: Mode,
    #[command(flatten)]
    reason: ReasonArg,
}

fn command() -> Command {
    noun_with_verbs::<Verb>("bundle", "Trust bundles: what SVIDs are verified against")
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move {
        match parsed(matches)? {
            Verb::Show(args) => show(&args, context).await,
            Verb::List(args) => list(&args, context).await,
            Verb::Set(args) => set(args, context).await,
            Verb::Delete(args) => delete(args, context).await,
        }
    })
}

async fn show(args: &ShowArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let bundle = get(&server).await?;
    match args.format {
        None if context.out.is_json() => context.out.json(&to_json(&bundle))?,
        None => print(&bundle, BundleFormat::Pem, context)?,
        Some(format) => print(&bundle, format, context)?,
    }
    Ok(Exit::Ok)
}

async fn list(args: &ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?;
    let bundles = match &args.id {
        Some(id) => vec![get_federated(&server, id).await?],
        None => list_federated(&server).await?,
    };
    match args.format {
        None if context.out.is_json() => {
            let all: Vec<Value> = bundles.iter().map(to_json).collect();
            context.out.json(&json!({"bundles": all}))?;
            return Ok(Exit::Ok);
        }
        None if bundles.is_empty() => context.out.line("No bundle of a foreign trust domain.")?,
        _ => {}
    }
    for bundle in &bundles {
        print(bundle, args.format.unwrap_or(BundleFormat::Summary), context)?;
    }
    Ok(Exit::Ok)
}

async fn set(args: SetArgs, context: &mut Context) -> Result<Exit, CliError> {
    let bytes = files::read(&args.path, FILE_MAX)?;
    let bundle = match args.format {
        FileFormat::Pem => Bundle::from_pem(args.id.clone(), &bytes),
        FileFormat::Spiffe => Bundle::from_spiffe_json(args.id.clone(), &bytes),
    };
    let other = if args.format == FileFormat::Pem {
        "spiffe"
    } else {
        "pem"
    };
    let bundle = bundle.map_err(|error| {
        CliError::input(
            format!("the bundle cannot be read: {error}"),
            format!("is it in the other form? --format {other}"),
        )
    })?;
    if bundle.x509_authorities.is_empty() && bundle.jwt_authorities.is_empty() {
        return Err(CliError::input(
            "the bundle has no authority in it",
            "nothing of that trust domain would verify",
        ));
    }
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let request = BatchSetFederatedBundleRequest {
        bundle: vec![bundle_to_wire(&bundle)],
        output_mask: None,
    };
    let answer = server
        .bundles()
        .batch_set_federated_bundle(server.request(request))
        .await;
    let results = answer
        .map_err(|status| server.failed("set the bundle", status))?
        .into_inner()
        .results;
    only_status(
        &server,
        "set the bundle",
        results.into_iter().map(|result| result.status),
    )?;
    done(&args.id, "set", context)
}

async fn delete(args: DeleteArgs, context: &mut Context) -> Result<Exit, CliError> {
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let mode = match args.mode {
        Mode::Restrict => WireMode::Restrict,
        Mode::Dissociate => WireMode::Dissociate,
        Mode::Delete => WireMode::Delete,
    };
    let request = BatchDeleteFederatedBundleRequest {
        trust_domains: vec![args.id.to_string()],
        mode: mode.into(),
    };
    let answer = server
        .bundles()
        .batch_delete_federated_bundle(server.request(request))
        .await;
    let results = answer
        .map_err(|status| server.failed("delete the bundle", status))?
        .into_inner()
        .results;
    let result = only_status(
        &server,
        "delete the bundle",
        results.into_iter().map(|result| result.status),
    );
    result.map_err(|error| match &error {
        CliError::Call { status, .. } if status.code() == Code::FailedPrecondition => {
            error.hint("entries still federate with it; --mode dissociate or --mode delete says what becomes of them")
        }
        _ => not_found_hint(error),
    })?;
    done(&args.id, "deleted", context)
}

/// The server's own bundle.
///
/// # Errors
/// The server's status.
pub(crate) async fn get(server: &Server) -> Result<Bundle, CliError> {
    let answer = server
        .bundles()
        .get_bundle(server.request(GetBundleRequest { output_mask: None }))
        .await;
    bundle_from_wire(
        answer
            .map_err(|status| server.failed("show the bundle", status))?
            .get_ref(),
    )
}

async fn get_federated(server: &Server, id: &TrustDomain) -> Result<Bundle, CliError> {
    let request = GetFederatedBundleRequest {
        trust_domain: id.to_string(),
        output_mask: None,
    };
    let answer = server.bundles().get_federated_bundle(server.request(request)).await;
    let failed = |status| not_found_hint(server.failed(format!("show the bundle of {id}"), status));
    bundle_from_wire(answer.map_err(failed)?.get_ref())
}

fn not_found_hint(error: CliError) -> CliError {
    if error.exit() == Exit::NotFound {
        error.hint("`mayfly bundle list` shows which there are")
    } else {
        error
    }
}

async fn list_federated(server: &Server) -> Result<Vec<Bundle>, CliError> {
    all_pages(async |page_token| {
        let request = ListFederatedBundlesRequest {
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let answer = server.bundles().list_federated_bundles(server.request(request)).await;
        let page = answer
            .map_err(|status| server.failed("list bundles", status))?
            .into_inner();
        let bundles = page.bundles.iter().map(bundle_from_wire).collect::<Result<_, _>>()?;
        Ok((bundles, page.next_page_token))
    })
    .await
}

/// The status of the only item of a batch, as the error of the call.
fn only_status(
    server: &Server,
    doing: &str,
    mut statuses: impl Iterator<Item = Option<ItemStatus>>,
) -> Result<(), CliError> {
    let status = statuses.next().flatten().unwrap_or_default();
    match Code::from_i32(status.code) {
        Code::Ok => Ok(()),
        code => Err(server.failed(doing, Status::new(code, status.message))),
    }
}

fn done(id: &TrustDomain, past: &str, context: &mut Context) -> Result<Exit, CliError> {
    if context.out.is_json() {
        context.out.json(&json!({"trust_domain": id, "ok": true}))?;
    } else {
        context.out.line(format!("{past}  bundle of {id}"))?;
    }
    Ok(Exit::Ok)
}

fn print(bundle: &Bundle, format: BundleFormat, context: &mut Context) -> Result<(), CliError> {
    match format {
        BundleFormat::Pem => context.out.raw(bundle.x509_to_pem().as_bytes()),
        BundleFormat::Spiffe => {
            let json = bundle.to_spiffe_json().map_err(|error| CliError::BadAnswer {
                who: "the server",
                what: format!("a bundle that has no SPIFFE form: {error}"),
            })?;
            context.out.line(String::from_utf8_lossy(&json))
        }
        BundleFormat::Summary => {
            let now = context.now();
            context.out.line(format!(
                "Bundle of {}, sequence number {}, {} X.509 and {} JWT authorities",
                bundle.trust_domain,
                bundle.sequence_number,
                bundle.x509_authorities.len(),
                bundle.jwt_authorities.len(),
            ))?;
            let row = |authority: &AuthorityView| {
                let state = if authority.tainted {
                    "tainted"
                } else if authority.not_after < now {
                    "expired"
                } else if authority.not_before > now {
                    "not valid yet"
                } else {
                    "valid"
                };
                vec![
                    authority.authority_id.clone(),
                    authority.name().to_owned(),
                    state.to_owned(),
                    values::relative(authority.not_after, now),
                ]
            };
            let rows = bundle
                .x509_authorities
                .iter()
                .filter_map(AuthorityView::of)
                .map(|view| row(&view))
                .collect();
            context
                .out
                .table(&["authority id", "subject", "state", "ends"], rows, "It trusts nobody.")
        }
    }
}

fn to_json(bundle: &Bundle) -> Value {
    let x509: Vec<AuthorityView> = bundle.x509_authorities.iter().filter_map(AuthorityView::of).collect();
    let jwt = bundle.jwt_authorities.iter().map(|authority| {
        json!({
            "key_id": authority.key_id,
            "expires_at": authority.expires_at.map(|time| time.to_string()),
            "tainted": authority.tainted,
        })
    });
    json!({
        "trust_domain": bundle.trust_domain,
        "sequence_number": bundle.sequence_number,
        "refresh_hint": bundle.refresh_hint,
        "x509_authorities": x509,
        "jwt_authorities": jwt.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
