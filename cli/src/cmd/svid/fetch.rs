//! `mayfly svid fetch`: who this process is.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::IdentityView;
use crate::Context;
use crate::certs::{chain_pem, pem};
use crate::errors::{CliError, Exit};
use crate::files::{self, put};
use crate::workload::{Identity, Workload};

pub(super) const EXAMPLES: &str = "\
Examples:
  mayfly svid fetch
  mayfly svid fetch --write ./id         svid.0.pem, svid.0.key, bundle.0.pem
  sudo -u www-data mayfly svid fetch     who is the web server?";

#[derive(Debug, clap::Args)]
pub(super) struct FetchArgs {
    /// Write chain, key and bundle into this folder (files of mode 0600)
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// Fetches and shows.
///
/// # Errors
/// No agent, no identity, an unusable answer, or files that cannot be written.
pub(super) async fn run(args: &FetchArgs, context: &mut Context) -> Result<Exit, CliError> {
    let workload = Workload::connect(context.globals.agent_socket.as_deref()).await?;
    let identities = workload.fetch(context.globals.timeout).await?;
    let written = match &args.write {
        Some(dir) => write(dir, &identities)?,
        None => vec![],
    };
    show(&identities, &written, context)
}

/// Shows identities in plain words, or as JSON. One that does not verify makes the command fail.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn show(identities: &[Identity], written: &[PathBuf], context: &mut Context) -> Result<Exit, CliError> {
    let now = context.now();
    let views: Vec<IdentityView> = identities
        .iter()
        .map(|identity| IdentityView::of(identity, now))
        .collect();
    if context.out.is_json() {
        context.out.json(&json!({"svids": views, "files": written}))?;
    } else {
        for (index, view) in views.iter().enumerate() {
            if index > 0 {
                context.out.line("")?;
            }
            let fields = view.fields(index > 0, &context.out, now);
            context.out.block(&fields)?;
        }
        for path in written {
            context.out.line(format!("wrote {}", path.display()))?;
        }
    }
    Ok(if views.iter().all(|view| view.verified) {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

fn write(dir: &Path, identities: &[Identity]) -> Result<Vec<PathBuf>, CliError> {
    files::make_private_dir(dir)?;
    let mut written = Vec::new();
    for (index, identity) in identities.iter().enumerate() {
        let key = zeroize::Zeroizing::new(pem("PRIVATE KEY", &identity.key));
        put(
            dir,
            &format!("svid.{index}.pem"),
            chain_pem(identity.svid.chain()).as_bytes(),
            &mut written,
        )?;
        put(dir, &format!("svid.{index}.key"), key.as_bytes(), &mut written)?;
        put(
            dir,
            &format!("bundle.{index}.pem"),
            identity.bundle.x509_to_pem().as_bytes(),
            &mut written,
        )?;
        for (other, bundle) in identity.federated.iter().enumerate() {
            let name = format!("federated_bundle.{index}.{other}.pem");
            put(dir, &name, bundle.x509_to_pem().as_bytes(), &mut written)?;
        }
    }
    Ok(written)
}
