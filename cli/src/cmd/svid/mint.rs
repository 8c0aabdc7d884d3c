//! `mayfly svid mint`: an X.509-SVID without an agent, for a key that is made here and stays here.

use std::path::PathBuf;

use mayfly_proto::spire::server::svid::MintX509svidRequest;
use mayfly_svid::{SpiffeId, X509Svid};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use zeroize::Zeroizing;

use crate::Context;
use crate::certs::{chain_pem, pem};
use crate::cmd::bundle;
use crate::connect::{ReasonArg, Server};
use crate::errors::{CliError, Exit};
use crate::files::{check_dir, make_private_dir, put};
use crate::values;

pub(super) const EXAMPLES: &str = "\
The key is made here and stays on this machine; the server signs and records.
Files: svid.pem, key.pem, bundle.pem.

Examples:
  mayfly svid mint --spiffe-id spiffe://example.org/legacy/db --write ./db \\
      --dns db.example.org
  mayfly svid mint --spiffe-id spiffe://example.org/ops/alice --write ./me \\
      --ttl 15m --reason \"INC-1042\"";

#[derive(Debug, clap::Args)]
pub(super) struct MintArgs {
    /// Who it names
    #[arg(long, value_name = "ID", alias = "spiffeID", value_parser = values::spiffe_id)]
    spiffe_id: SpiffeId,
    /// DNS name in it (repeat)
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// How long it is valid at most
    #[arg(long, value_name = "DURATION", default_value = "default", value_parser = values::ttl)]
    ttl: i32,
    /// Folder for chain, key and bundle (files of mode 0600)
    #[arg(long, value_name = "DIR")]
    write: PathBuf,
    #[command(flatten)]
    reason: ReasonArg,
}

/// Makes a key, has it signed, writes the files.
///
/// # Errors
/// A wrong name, the server's refusal, an unusable answer, or files that cannot be written.
pub(super) async fn run(args: MintArgs, context: &mut Context) -> Result<Exit, CliError> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| CliError::Failed {
        what: format!("cannot make a key: {error}"),
        hints: vec![],
    })?;
    let csr = request(&pair, &args.spiffe_id, &args.dns)?;
    check_dir(&args.write)?;
    let server = Server::connect(&context.globals).await?.because(&args.reason);
    let answer = server
        .svids()
        .mint_x509svid(server.request(MintX509svidRequest { csr, ttl: args.ttl }))
        .await;
    let answer = answer.map_err(|status| server.failed(format!("mint an SVID for {}", args.spiffe_id), status))?;
    let bad = |what: String| CliError::BadAnswer {
        who: "the server",
        what,
    };
    let wire = answer
        .into_inner()
        .svid
        .ok_or_else(|| bad("an answer without an SVID".into()))?;
    let svid = X509Svid::from_chain(wire.cert_chain.into_iter().map(CertificateDer::from).collect())
        .map_err(|error| bad(format!("an SVID that is none: {error}")))?;
    if *svid.spiffe_id() != args.spiffe_id || svid.public_key_der() != pair.subject_public_key_info() {
        return Err(bad("an SVID for another name or key".into()));
    }
    let bundle = bundle::get(&server).await?;
    let key = Zeroizing::new(pem("PRIVATE KEY", &Zeroizing::new(pair.serialize_der())));
    let mut written = Vec::new();
    make_private_dir(&args.write)?;
    put(
        &args.write,
        "svid.pem",
        chain_pem(svid.chain()).as_bytes(),
        &mut written,
    )?;
    put(&args.write, "key.pem", key.as_bytes(), &mut written)?;
    put(&args.write, "bundle.pem", bundle.x509_to_pem().as_bytes(), &mut written)?;
    let now = context.now();
    if context.out.is_json() {
        context.out.json(&json!({
            "spiffe_id": args.spiffe_id,
            "serial": svid.serial().to_string(),
            "not_after": svid.not_after().to_string(),
            "files": written,
        }))?;
        return Ok(Exit::Ok);
    }
    let until = context.out.time(svid.not_after(), now);
    context.out.block(&[
        ("Minted", args.spiffe_id.to_string()),
        ("Serial", svid.serial().to_string()),
        ("Until", until),
        (
            "Files",
            written
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join("\n"),
        ),
    ])?;
    Ok(Exit::Ok)
}

/// A signing request (PKCS#10, DER) that names `id` and `dns`.
fn request(pair: &KeyPair, id: &SpiffeId, dns: &[String]) -> Result<Vec<u8>, CliError> {
    let name = |text: &str| {
        Ia5String::try_from(text).map_err(|_| CliError::input(format!("`{text}` is not ASCII"), "write it in Punycode"))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::URI(name(id.as_str())?));
    for dns in dns {
        params.subject_alt_names.push(SanType::DnsName(name(dns)?));
    }
    let request = params.serialize_request(pair).map_err(|error| CliError::Failed {
        what: format!("cannot make a signing request: {error}"),
        hints: vec![],
    })?;
    Ok(request.der().to_vec())
}
