//! The Workload API as a workload in a hurry calls it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mayfly_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mayfly_proto::spiffe::workload::{X509svidRequest, X509svidResponse};
use mayfly_runtime::client::unix_channel;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

/// A connection, opened with the first call.
pub fn connect(socket: &Path) -> Channel {
    unix_channel(socket)
}

/// The first message of a new `FetchX509SVID`, and what may follow.
///
/// # Errors
/// The agent's.
pub async fn subscribe(channel: Channel) -> Result<(X509svidResponse, Streaming<X509svidResponse>)> {
    let mut request = Request::new(X509svidRequest {});
    // Without it the agent answers nobody (SPIFFE Workload Endpoint §3).
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().expect("plain ASCII"));
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(64 << 20);
    let mut messages = client.fetch_x509svid(request).await?.into_inner();
    let first = messages.message().await?.context("the stream ended without a status")?;
    Ok((first, messages))
}

/// The present SVIDs; at least one.
///
/// # Errors
/// The agent's, or there is none.
pub async fn fetch(channel: Channel) -> Result<()> {
    let (first, _) = subscribe(channel).await?;
    ensure!(!first.svids.is_empty(), "an answer without SVIDs");
    Ok(())
}

/// Selector of processes of this user, as the test program itself is one.
pub fn own_selector() -> String {
    format!("unix:uid:{}", nix::unistd::Uid::effective())
}
