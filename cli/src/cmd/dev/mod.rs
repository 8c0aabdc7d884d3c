//! `mayfly dev`: a server, an agent and an identity for the current user, with nothing to configure.
//!
//! ```text
//!   lock .mayfly ─▶ server.toml ─▶ server ready ─▶ bundle.pem, join token ─▶ agent.toml ─▶ agent ready
//!       ─▶ entry for unix:uid:<me> ─▶ SVID over the real Workload API ─▶ stay up until ctrl-C
//! ```
//!
//! All of it goes through public doors: the two daemons run as they would anywhere, and everything that is set up is set
//! up by their APIs. A second start finds the state of the first.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, Command};
use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, BatchUpdateEntryRequest, list_entries_request};
use mayfly_proto::spire::types::{Entry, EntryMask, Selector};
use mayfly_runtime::files;
use mayfly_svid::{SpiffeId, TrustDomain};
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Code, Status};

use super::entry::{id_text, id_to_wire};
use super::{Noun, Running, agent, bundle, entry, parsed, svid, token};
use crate::Context;
use crate::connect::{DEV_DIR, Server};
use crate::errors::{CliError, Exit, user_name};
use crate::values;
use crate::workload::{Address, Identity, Workload};

mod child;
mod config;
mod layout;

#[cfg(test)]
mod tests;

use child::Child;
use layout::Layout;

/// The row of [`super::COMMANDS`].
pub(crate) const NOUN: Noun = Noun {
    name: "dev",
    command,
    run,
};

/// How long a daemon may take to be ready, and an entry to reach the agent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between looks at what is starting.
const LOOK: Duration = Duration::from_millis(50);
/// An agent whose SVID ends this soon may not get to renewing it.
const MARGIN: Duration = Duration::from_secs(60);
/// Lifetime of the join token: it is used within a second.
const TOKEN_TTL: i32 = 600;

const EXAMPLES: &str = "\
Everything is kept in the folder .mayfly: configuration, state, logs, sockets.
Delete the folder to start afresh.

Examples:
  mayfly dev                 stays up until ctrl-C
  mayfly dev --once          ends after showing the SVID";

#[derive(Debug, clap::Args)]
struct DevArgs {
    /// End after showing the SVID
    #[arg(long)]
    once: bool,
    /// Folder for everything
    #[arg(long, value_name = "DIR", default_value = DEV_DIR)]
    dir: PathBuf,
    /// Trust domain of a new folder [default: dev.mayfly.local]
    #[arg(long, value_name = "NAME", value_parser = values::trust_domain)]
    trust_domain: Option<TrustDomain>,
}

fn command() -> Command {
    DevArgs::augment_args(Command::new("dev").about("Run a server and an agent here, with an identity for you"))
        .after_help(EXAMPLES)
}

fn run<'a>(matches: &'a ArgMatches, context: &'a mut Context) -> Running<'a> {
    Box::pin(async move { dev(parsed(matches)?, context).await })
}

async fn dev(args: DevArgs, context: &mut Context) -> Result<Exit, CliError> {
    let binaries = child::Binaries::find()?;
    let layout = Layout::prepare(&args.dir)?;
    let trust_domain = layout.trust_domain(args.trust_domain.as_ref())?;
    let interrupted = interruption()?;
    tokio::pin!(interrupted);
    let mut children = Vec::new();
    let shown = tokio::select! {
        shown = start(&args, &trust_domain, &binaries, &layout, &mut children, context) => shown,
        () = &mut interrupted => {
            stop(children, context).await;
            return Err(CliError::Failed { what: "interrupted while starting".into(), hints: vec![] });
        }
    };
    let exit = match shown {
        Ok(exit) if args.once => Ok(exit),
        Ok(_) => {
            tokio::select! {
                () = &mut interrupted => Ok(Exit::Ok),
                died = child::first_death(&mut children) => Err(died),
            }
        }
        Err(error) => Err(error),
    };
    if exit.is_ok() && !args.once {
        context
            .out
            .note(format!("\nstopping; the state stays in {}", args.dir.display()));
    }
    tokio::select! {
        () = stop(children, context) => {}
        // Whoever asks twice does not want to wait: what still runs is killed when dropped.
        () = interruption()? => {}
    }
    exit
}

/// Brings everything up and shows the SVID. What it starts is in `children`, also when it fails.
async fn start(
    args: &DevArgs,
    trust_domain: &TrustDomain,
    binaries: &child::Binaries,
    layout: &Layout,
    children: &mut Vec<Child>,
    context: &mut Context,
) -> Result<Exit, CliError> {
    child::stop_left_behind("agent", &layout.agent_data(), &mut context.out).await?;
    child::stop_left_behind("server", &layout.server_data(), &mut context.out).await?;
    let port = layout::free_port()?;
    let timeout = context.globals.timeout;
    let me = config::Me::of(user_name().as_deref(), nix::unistd::Uid::effective().as_raw());
    let server_toml = config::server(layout, trust_domain, port, &me);
    files::write_atomic(&layout.server_toml(), server_toml.as_bytes(), files::PRIVATE)?;
    children.push(Child::start("server", &binaries.server, &layout.server_toml(), layout)?);
    let server = server_ready(layout, children, timeout).await?;
    context.out.note(format!(
        "server  {}, log in {}",
        trust_domain,
        layout.log("server").display()
    ));

    let bundle = bundle::get(&server).await?;
    files::write_atomic(&layout.bundle(), bundle.x509_to_pem().as_bytes(), files::PUBLIC)?;
    let token_file = offer_token(&server, layout, context).await?;
    let agent_toml = config::agent(layout, trust_domain, port);
    files::write_atomic(&layout.agent_toml(), agent_toml.as_bytes(), files::PRIVATE)?;
    children.push(Child::start("agent", &binaries.agent, &layout.agent_toml(), layout)?);
    let workload = Workload::at(Address::Unix(layout.agent_socket()));
    let parent = agent_ready(&server, &workload, children, context).await?;
    if let Some(path) = token_file {
        // It is used up; what is left of it tells nobody anything.
        let _ = std::fs::remove_file(path);
    }
    context
        .out
        .note(format!("agent   {parent}, log in {}", layout.log("agent").display()));

    let entry_id = own_entry(&server, &parent).await?;
    let identities = first_svid(&workload, children, timeout).await?;
    context.out.note("");
    let exit = svid::fetch::show(&identities, &[], context)?;
    if !args.once && !context.out.is_json() {
        let (mayfly, options) = (child::own_command(), layout.options());
        context.out.note(format!(
            "\nIt runs until ctrl-C. Try next, in another terminal in this folder:\n\
             \x20 {mayfly} svid watch{options}\n\
             \x20 {mayfly} entry update {entry_id} --hint hello{options}\n\
             \x20 {mayfly} doctor{options}"
        ));
    }
    Ok(exit)
}

async fn server_ready(layout: &Layout, children: &mut [Child], timeout: Duration) -> Result<Server, CliError> {
    use mayfly_proto::grpc::health::HealthCheckRequest;
    use mayfly_proto::grpc::health::health_check_response::ServingStatus;
    let look = async || {
        let server = Server::connect_local(&layout.server_socket(), timeout).await.ok()?;
        let request = server.request(HealthCheckRequest { service: String::new() });
        let answer = server.health().check(request).await;
        answer
            .is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving)
            .then_some(server)
    };
    until(children, "the server to be ready", look).await
}

/// Waits until the agent serves and the server knows it; gives its ID.
async fn agent_ready(
    server: &Server,
    workload: &Workload,
    children: &mut [Child],
    context: &Context,
) -> Result<SpiffeId, CliError> {
    let look = async || {
        workload.probe().await.ok()?;
        active_agent(server, context).await.ok().flatten()
    };
    until(children, "the agent to attest", look).await
}

/// The agent in force whose SVID lasts longest; one that ends within [`MARGIN`] does not count.
async fn active_agent(server: &Server, context: &Context) -> Result<Option<SpiffeId>, CliError> {
    let now = context.now();
    let agents = agent::list_all(server, None).await?;
    let views = agents
        .iter()
        .map(agent::AgentView::of)
        .filter(|view| view.state(now.plus(MARGIN)) == "active");
    Ok(views
        .max_by_key(|view| view.expires)
        .and_then(|view| view.spiffe_id.parse().ok()))
}

/// Makes a join token where the agent will need one: it has no state yet, or the server does not know it any more.
async fn offer_token(server: &Server, layout: &Layout, context: &Context) -> Result<Option<PathBuf>, CliError> {
    if layout.agent_has_state() && active_agent(server, context).await?.is_some() {
        return Ok(None);
    }
    let (token, _) = token::new_token(server, TOKEN_TTL, None).await?;
    let path = layout.join_token();
    files::write_atomic(&path, token.as_bytes(), files::PRIVATE)?;
    Ok(Some(path))
}

/// The entry for the current user: made, or given to the agent of today. Its ID.
async fn own_entry(server: &Server, parent: &SpiffeId) -> Result<String, CliError> {
    let uid = nix::unistd::Uid::effective();
    let id = own_id(&parent.trust_domain(), user_name().as_deref(), uid.as_raw());
    let filter = list_entries_request::Filter {
        by_spiffe_id: Some(id_to_wire(&id)),
        ..Default::default()
    };
    let selector = Selector {
        r#type: "unix".into(),
        value: format!("uid:{uid}"),
    };
    let found = entry::list_all(server, Some(filter)).await?;
    let own = found.into_iter().find(|entry| entry.selectors == [selector.clone()]);
    let answer = match own {
        Some(entry) if id_text(entry.parent_id.as_ref()) == parent.as_str() => return Ok(entry.id),
        // The agent attested anew and has another name now.
        Some(entry) => {
            let request = BatchUpdateEntryRequest {
                entries: vec![Entry {
                    id: entry.id,
                    parent_id: Some(id_to_wire(parent)),
                    ..Default::default()
                }],
                input_mask: Some(EntryMask {
                    parent_id: true,
                    ..Default::default()
                }),
                output_mask: None,
            };
            let answer = server.entries().batch_update_entry(server.request(request)).await;
            answer.map(|answer| {
                answer
                    .into_inner()
                    .results
                    .pop()
                    .map(|result| (result.status, result.entry))
            })
        }
        None => {
            let request = BatchCreateEntryRequest {
                entries: vec![Entry {
                    spiffe_id: Some(id_to_wire(&id)),
                    parent_id: Some(id_to_wire(parent)),
                    selectors: vec![selector],
                    ..Default::default()
                }],
                output_mask: None,
            };
            let answer = server.entries().batch_create_entry(server.request(request)).await;
            answer.map(|answer| {
                answer
                    .into_inner()
                    .results
                    .pop()
                    .map(|result| (result.status, result.entry))
            })
        }
    };
    let failed = |status| server.failed(format!("register {id}"), status);
    let (status, entry) = answer.map_err(failed)?.unwrap_or_default();
    let status = status.unwrap_or_default();
    match (Code::from_i32(status.code), entry) {
        (Code::Ok, Some(entry)) => Ok(entry.id),
        (code, _) => Err(failed(Status::new(code, status.message))),
    }
}

/// `/user/<name>`, or `/user/<uid>` where the name has characters that a SPIFFE ID may not have.
fn own_id(trust_domain: &TrustDomain, name: Option<&str>, uid: u32) -> SpiffeId {
    let by_name = name.and_then(|name| trust_domain.with_path(&format!("/user/{name}")).ok());
    by_name.unwrap_or_else(|| {
        trust_domain
            .with_path(&format!("/user/{uid}"))
            .expect("a number is a valid segment in every trust domain")
    })
}

async fn first_svid(workload: &Workload, children: &mut [Child], timeout: Duration) -> Result<Vec<Identity>, CliError> {
    let mut last = None;
    let look = async || match workload.fetch(timeout).await {
        Ok(identities) => Some(identities),
        Err(error) => {
            last = Some(error);
            None
        }
    };
    let found = until(children, "your SVID", look).await;
    // What the agent said is worth more than that time is over; a death is worth more than both.
    match (found, last) {
        (Err(CliError::Failed { what, .. }), Some(error)) if what.starts_with("waited") => Err(error),
        (found, _) => found,
    }
}

/// Looks again and again until there is something, a child died, or patience is over.
async fn until<T>(children: &mut [Child], what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T, CliError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(died) = children.iter_mut().find_map(Child::death) {
            return Err(died);
        }
        if let Some(found) = look().await {
            return Ok(found);
        }
        if tokio::time::Instant::now() >= deadline {
            let mut error = CliError::Failed {
                what: format!("waited {} s for {what}", PATIENCE.as_secs()),
                hints: vec![],
            };
            for child in children.iter() {
                error = error.hint(child.last_words());
            }
            return Err(error);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Stops the children in the reverse of the order in which they were started.
async fn stop(children: Vec<Child>, context: &mut Context) {
    for child in children.into_iter().rev() {
        if let Err(problem) = child.stop().await {
            context.out.note(problem);
        }
    }
}

/// Completes at ctrl-C, at SIGTERM, and when the terminal goes away.
fn interruption() -> Result<impl Future<Output = ()>, CliError> {
    let failed = |source| CliError::System {
        doing: "listen to signals of",
        path: "/proc/self".into(),
        source,
    };
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
