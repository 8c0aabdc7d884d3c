//! The Workload API as Rust programs see it: the crate `spiffe`, and tonic where that has no way to ask.
//!
//! It speaks the contract of `tests/clients/README.md`. Watches are those of `X509Source`, which comes again by itself.
//!
//! Arguments: the address of the Workload API, the user to become.

#![allow(
    clippy::disallowed_methods,
    reason = "a program that stands for foreign ones does not use our process kit"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mayfly_proto::spiffe::workload as pb;
use mayfly_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mayfly_runtime::client::unix_channel;
use mayfly_tests::lines::{commands, say};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use spiffe::transport::TransportError;
use spiffe::workload_api::{WorkloadApiClient, WorkloadApiError};
use spiffe::x509_source::SvidPicker;
use spiffe::{X509Context, X509Source, X509SourceError, X509Svid};
use spiffe_rustls::{authorizer, mtls_client};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, Status};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().context("address of the Workload API")?;
    let uid: u32 = args.next().context("user")?.parse()?;
    // Before there is a second thread: each thread has its own credentials.
    mayfly_tests::become_user(uid)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(&endpoint))
}

async fn run(endpoint: &str) -> Result<()> {
    let mut commands = commands();
    let mut sources = None;
    while let Some(command) = commands.recv().await {
        if command["fetch"] == true {
            match fetch(endpoint).await {
                Ok(context) => say(&content("fetched", &context)),
                Err(error) => say(&json!({"event": "refused", "code": code(&error), "message": error.to_string()})),
            }
        }
        if command["watch"] == true {
            tokio::spawn(watch(endpoint.to_owned()));
        }
        if command["raw"].is_object() {
            let method = command["raw"]["method"].as_str().context("a method")?;
            match raw(endpoint, method, command["raw"]["header"].as_str()).await? {
                Ok(svids) => say(&json!({"event": "fetched", "svids": svids, "bundles": []})),
                Err(status) => {
                    say(&json!({"event": "refused", "code": name(status.code()), "message": status.message()}))
                }
            }
        }
        if let Some(rpc) = command["call"].as_str() {
            call(endpoint, rpc).await?;
        }
        if let Some(hint) = command["sources"].as_str() {
            if sources.is_none() {
                sources = Some(Sources::new(endpoint, hint).await?);
            }
            match sources.as_ref().context("just made")?.content() {
                Ok(event) => say(&event),
                Err(error) => say(&json!({"event": "refused", "code": "", "message": error.to_string()})),
            }
        }
        if command["strict"].is_string() {
            let sources = sources.as_mut().context("told of sources before")?;
            say(&match sources.strict().await {
                Ok(has) => json!({"event": "strict", "has": has}),
                Err(error) => json!({"event": "strict", "has": null, "error": error.to_string()}),
            });
        }
        if command["reach"].is_object() {
            let sources = sources.as_ref().context("told of sources before")?;
            say(&match sources.reach(&command["reach"]).await {
                Ok(answer) => json!({"event": "reached", "answer": answer}),
                Err(error) => json!({"event": "reached", "answer": null, "error": format!("{error:#}")}),
            });
        }
    }
    Ok(())
}

/// Two sources of the library: one as it is by default, one that picks by a hint.
struct Sources {
    by_default: X509Source,
    picked: X509Source,
    strict: Option<X509Source>,
    endpoint: String,
    hint: String,
}

struct ByHint {
    hint: String,
    otherwise: Option<usize>,
}

impl SvidPicker for ByHint {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        let hinted = svids.iter().position(|svid| svid.hint() == Some(self.hint.as_str()));
        hinted.or(self.otherwise)
    }
}

impl Sources {
    async fn new(endpoint: &str, hint: &str) -> Result<Self> {
        let picker = ByHint {
            hint: hint.to_owned(),
            otherwise: Some(0),
        };
        Ok(Self {
            by_default: X509Source::builder().endpoint(endpoint).build().await?,
            picked: X509Source::builder().endpoint(endpoint).picker(picker).build().await?,
            strict: None,
            endpoint: endpoint.to_owned(),
            hint: hint.to_owned(),
        })
    }

    /// What they have now.
    fn content(&self) -> Result<Value, X509SourceError> {
        Ok(json!({
            "event": "sources",
            "default": one(&*self.by_default.svid()?),
            "picked": one(&*self.picked.svid()?),
        }))
    }

    /// What a source has that takes nothing but the hint.
    async fn strict(&mut self) -> Result<Value, X509SourceError> {
        let source = match &mut self.strict {
            Some(source) => source,
            none => {
                let picker = ByHint {
                    hint: self.hint.clone(),
                    otherwise: None,
                };
                let made = X509Source::builder().endpoint(&self.endpoint).picker(picker);
                none.insert(made.build().await?)
            }
        };
        Ok(one(&*source.svid()?))
    }

    async fn reach(&self, told: &Value) -> Result<String> {
        let source = if told["with"] == "picked" {
            &self.picked
        } else {
            &self.by_default
        };
        let port = u16::try_from(told["port"].as_u64().context("a port")?)?;
        let config = mtls_client(source.clone())
            .authorize(authorizer::exact([told["server"].as_str().context("a server")?])?)
            .build()?;
        let answer = tokio::time::timeout(Duration::from_secs(20), get(port, TlsConnector::from(Arc::new(config))));
        answer.await.context("took too long")?
    }
}

async fn get(port: u16, connector: TlsConnector) -> Result<String> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut tls = connector.connect(ServerName::try_from("peer.invalid")?, tcp).await?;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "answered `{answer}`");
    Ok(body.to_owned())
}

async fn fetch(endpoint: &str) -> Result<X509Context, WorkloadApiError> {
    WorkloadApiClient::connect_to(endpoint)
        .await?
        .fetch_x509_context()
        .await
}

async fn watch(endpoint: String) {
    let source = match X509Source::builder().endpoint(&endpoint).build().await {
        Ok(source) => source,
        Err(error) => {
            let code = match &error {
                X509SourceError::Source(error) => code(error),
                _ => "UNKNOWN_TO_LIBRARY".into(),
            };
            return say(&json!({"event": "ended", "code": code, "error": error.to_string()}));
        }
    };
    let mut updates = source.updated();
    loop {
        match source.x509_context() {
            Ok(context) => say(&content("update", &context)),
            // The source withdraws what it has after `PermissionDenied`, and after nothing else.
            Err(error) => {
                say(&json!({"event": "retry", "code": "PERMISSION_DENIED", "error": error.to_string()}));
            }
        }
        if let Err(error) = updates.changed().await {
            return say(&json!({"event": "ended", "code": "UNKNOWN_TO_LIBRARY", "error": error.to_string()}));
        }
    }
}

/// One call by tonic alone, with what its first message has of SVIDs.
async fn raw(endpoint: &str, method: &str, header: Option<&str>) -> Result<Result<Vec<Value>, Status>> {
    let mut client = bare(endpoint)?;
    Ok(match method {
        "FetchX509SVID" => match client.fetch_x509svid(request(pb::X509svidRequest {}, header)?).await {
            Ok(stream) => stream.into_inner().message().await.map(|message| {
                let svids = message.unwrap_or_default().svids;
                svids.iter().filter_map(svid_of_message).collect()
            }),
            Err(status) => Err(status),
        },
        "FetchX509Bundles" => match client
            .fetch_x509_bundles(request(pb::X509BundlesRequest {}, header)?)
            .await
        {
            Ok(stream) => stream.into_inner().message().await.map(|_| vec![]),
            Err(status) => Err(status),
        },
        "FetchJWTSVID" => {
            let answer = client
                .fetch_jwtsvid(request(pb::JwtsvidRequest::default(), header)?)
                .await;
            answer.map(|_| vec![])
        }
        "FetchJWTBundles" => match client
            .fetch_jwt_bundles(request(pb::JwtBundlesRequest {}, header)?)
            .await
        {
            Ok(stream) => stream.into_inner().message().await.map(|_| vec![]),
            Err(status) => Err(status),
        },
        "ValidateJWTSVID" => {
            let asked = request(pb::ValidateJwtsvidRequest::default(), header)?;
            client.validate_jwtsvid(asked).await.map(|_| vec![])
        }
        other => bail!("unknown method {other}"),
    })
}

/// The library is built without its JWT part here, so those calls are bare.
async fn call(endpoint: &str, rpc: &str) -> Result<()> {
    if rpc == "FetchX509Bundles" {
        let client = WorkloadApiClient::connect_to(endpoint).await;
        let answer = match client {
            Ok(client) => client.fetch_x509_bundles().await,
            Err(error) => Err(error),
        };
        let (code, bundles) = match answer {
            Ok(bundles) => (
                "OK".to_owned(),
                bundles.iter().map(|(domain, _)| domain.to_string()).collect::<Vec<_>>(),
            ),
            Err(error) => (code(&error), vec![]),
        };
        say(&json!({"event": "answered", "code": code, "bundles": bundles}));
        return Ok(());
    }
    let mut client = bare(endpoint)?;
    let header = Some("true");
    let answer = match rpc {
        "FetchJWTSVID" => {
            let message = pb::JwtsvidRequest {
                audience: vec!["test".into()],
                ..Default::default()
            };
            client.fetch_jwtsvid(request(message, header)?).await.map(drop)
        }
        "ValidateJWTSVID" => {
            let message = pb::ValidateJwtsvidRequest {
                audience: "test".into(),
                svid: "x.y.z".into(),
            };
            client.validate_jwtsvid(request(message, header)?).await.map(drop)
        }
        other => raw(endpoint, other, header).await?.map(drop),
    };
    let code = answer.err().map_or(Code::Ok, |status| status.code());
    say(&json!({"event": "answered", "code": name(code)}));
    Ok(())
}

fn bare(endpoint: &str) -> Result<SpiffeWorkloadApiClient<tonic::transport::Channel>> {
    let path = endpoint.strip_prefix("unix://").context("a Unix socket")?;
    Ok(SpiffeWorkloadApiClient::new(unix_channel(Path::new(path))))
}

fn request<T>(message: T, header: Option<&str>) -> Result<Request<T>> {
    let mut request = Request::new(message);
    if let Some(value) = header {
        request.metadata_mut().insert("workload.spiffe.io", value.parse()?);
    }
    Ok(request)
}

fn content(event: &str, context: &X509Context) -> Value {
    let svids: Vec<Value> = context.svids().iter().map(|svid| one(svid)).collect();
    let bundles: Vec<String> = context
        .bundle_set()
        .iter()
        .map(|(domain, _)| domain.to_string())
        .collect();
    json!({"event": event, "svids": svids, "bundles": bundles})
}

fn one(svid: &X509Svid) -> Value {
    json!({
        "spiffe_id": svid.spiffe_id().to_string(),
        "hint": svid.hint().unwrap_or_default(),
        "serial": serial(svid.leaf().as_bytes()),
    })
}

fn svid_of_message(svid: &pb::X509svid) -> Option<Value> {
    let parsed = X509Svid::parse_from_der(&svid.x509_svid, &svid.x509_svid_key).ok()?;
    Some(json!({
        "spiffe_id": svid.spiffe_id,
        "hint": svid.hint,
        "serial": serial(parsed.leaf().as_bytes()),
    }))
}

fn serial(leaf: &[u8]) -> String {
    x509_parser::parse_x509_certificate(leaf)
        .map(|(_, certificate)| certificate.raw_serial_as_string())
        .unwrap_or_default()
}

fn code(error: &WorkloadApiError) -> String {
    match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => "PERMISSION_DENIED".into(),
        WorkloadApiError::Transport(TransportError::Status(status)) => {
            // `InvalidArgument` as gRPC writes it.
            let mut name = String::new();
            for letter in format!("{:?}", status.code()).chars() {
                if letter.is_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
        // No socket, nobody behind it.
        WorkloadApiError::Transport(_) => "UNAVAILABLE".into(),
        _ => "UNKNOWN_TO_LIBRARY".into(),
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Cancelled => "CANCELLED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Internal => "INTERNAL",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        _ => "UNKNOWN",
    }
}
