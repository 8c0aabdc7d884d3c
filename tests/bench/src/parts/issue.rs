//! P1, P2: certificates for agents, as many as can be.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mayfly_proto::spire::server::entry::GetAuthorizedEntriesRequest;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::server::svid::{BatchNewX509svidRequest, NewX509svidParams};
use mayfly_proto::spire::types::Entry;
use mayfly_tests::{attest, selector};
use tonic::transport::Channel;

use crate::figure::{Figure, Gate};
use crate::load::{closed_loop, open_loop};
use crate::parts::entries;
use crate::run::Context;
use crate::target::{Identity, Target, start_server};

/// Connections that requests come over, each of its own agent.
const AGENTS: usize = 4;
/// Keys and requests that are made beforehand; making them costs about as much as the server's work.
const REQUESTS: usize = 500;

/// Measures both.
///
/// # Errors
/// A server does not do what it should.
pub async fn run(ctx: &mut Context) -> Result<()> {
    let own = match ctx.foreign().await? {
        Some(_) => None,
        None => Some(start_server().await?),
    };
    let target = match (&own, ctx.foreign().await?) {
        (Some(server), _) => Target::of(server).await?,
        (None, Some(target)) => target,
        (None, None) => unreachable!("one or the other"),
    };
    let agents = Rc::new(prepare(&target, ctx.count(REQUESTS, 20)).await?);
    if ctx.wants("p1") {
        for batch in [50, 500] {
            let batch = ctx.count(batch, batch / 25);
            let figure = measure(ctx, &target, &agents, batch, 2 * AGENTS).await?;
            let limit = ctx.calibration.sign_us + ctx.calibration.verify_us;
            let figure = figure.of_least(limit).gate(Gate::ShareAtLeast(0.6));
            ctx.add(figure);
        }
    }
    if ctx.wants("p2") {
        let figure = measure(ctx, &target, &agents, 1, 8 * AGENTS).await?;
        let limits = &ctx.calibration;
        let limit = limits.sign_us + limits.verify_us + limits.tls_rpc_server_us;
        ctx.add(figure.of_least(limit).gate(Gate::ShareAtLeast(0.5)));
    }
    Ok(())
}

/// An agent that may ask, and what it may ask for.
pub(crate) struct Asker {
    client: SvidClient<Channel>,
    requests: Vec<NewX509svidParams>,
}

impl Asker {
    /// The `number`th request of `batch` certificates.
    pub(crate) async fn ask(&self, number: u64, batch: usize) -> Result<()> {
        let first = usize::try_from(number)? * batch;
        let params = (first..first + batch).map(|at| self.requests[at % self.requests.len()].clone());
        let request = BatchNewX509svidRequest {
            params: params.collect(),
        };
        let answer = self.client.clone().batch_new_x509svid(request).await?.into_inner();
        let issued = answer.results.iter().filter(|result| result.svid.is_some()).count();
        ensure!(
            issued == batch,
            "{issued} of {batch} were issued; the first: {:?}",
            answer.results[0].status
        );
        Ok(())
    }
}

async fn measure(
    ctx: &Context,
    target: &Target,
    agents: &Rc<Vec<Asker>>,
    batch: usize,
    callers: usize,
) -> Result<Figure> {
    let ask = |number: u64| {
        let agents = Rc::clone(agents);
        async move {
            agents[usize::try_from(number)? % agents.len()]
                .ask(number / agents.len() as u64, batch)
                .await
        }
    };
    let time = ctx.time(5);
    closed_loop(target.process, callers, time / 4, ask).await?;
    let most = closed_loop(target.process, callers, time, ask).await?;
    // Half of what it can do, so that nothing queues for long.
    let half = open_loop(target.process, most.per_second(1) / 2.0, time, ask).await?;
    let name = match batch {
        1 => "X.509-SVID, one CSR per RPC: server CPU".into(),
        _ => format!("X.509-SVID, {batch} CSRs per RPC: server CPU"),
    };
    let figure = Figure::new(
        if batch == 1 { "P2" } else { "P1" },
        name,
        half.cpu_micros(batch),
        "µs per SVID",
    );
    Ok(figure
        .with("svids_per_s_offered", half.per_second(batch))
        .with("rpc_p50_ms", half.quantile_ms(0.5))
        .with("rpc_p99_ms", half.quantile_ms(0.99))
        .with("svids_per_s_saturated", most.per_second(batch))
        .with("cpu_us_saturated", most.cpu_micros(batch))
        .with("server_cpu_share_saturated", most.cpu_share()))
}

/// Agents, each with an entry for each of `requests`.
pub(crate) async fn prepare(target: &Target, requests: usize) -> Result<Vec<Asker>> {
    let identities = target.join(AGENTS, None).await?;
    let csrs: Vec<Vec<u8>> = (0..requests).map(|_| attest::csr().0).collect();
    let mut askers = Vec::new();
    for identity in &identities {
        create(target, identity, requests).await?;
    }
    for identity in &identities {
        let channel = target.connect(identity, &Arc::default()).await?;
        let ids = authorized(channel.clone(), requests).await?;
        let requests = ids.into_iter().zip(&csrs).map(|(entry_id, csr)| NewX509svidParams {
            entry_id,
            csr: csr.clone(),
        });
        askers.push(Asker {
            client: SvidClient::new(channel).max_decoding_message_size(64 << 20),
            requests: requests.collect(),
        });
    }
    Ok(askers)
}

async fn create(target: &Target, parent: &Identity, count: usize) -> Result<()> {
    let entry = |number| Entry {
        spiffe_id: Some(target.wire_id(&format!("/bench/{number}"))),
        parent_id: Some(target.wire_id(parent.id.path())),
        selectors: vec![selector(&format!("unix:uid:{}", 50_000 + number))],
        ..Entry::default()
    };
    entries::create(target, (0..count).map(entry).collect()).await?;
    Ok(())
}

/// The entries that the server lets this agent have. SPIRE reads them anew every few seconds, so it may take some.
async fn authorized(channel: Channel, count: usize) -> Result<Vec<String>> {
    let mut client = EntryClient::new(channel).max_decoding_message_size(64 << 20);
    for _ in 0..300 {
        let answer = client
            .get_authorized_entries(GetAuthorizedEntriesRequest::default())
            .await;
        let entries = answer.context("the agent may not ask")?.into_inner().entries;
        if entries.len() >= count {
            return Ok(entries.into_iter().map(|entry| entry.id).collect());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the agent does not see its {count} entries")
}
