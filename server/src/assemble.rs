//! Puts the server together: the only file that names concrete stores, key managers, attestors and listeners.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mayfly_keys::{DiskKeys, KeyManager, MemoryKeys};
use mayfly_model::Delta;
use mayfly_node_attest::{Builtin, Deps as AttestDeps};
use mayfly_runtime::admin_http::{AdminHttp, AdminPages};
use mayfly_runtime::listen::{self, Tls, UnixSocket, bind_tcp};
use mayfly_runtime::telemetry::LogHandle;
use mayfly_runtime::{CancellationToken, Chain, Clock, OnExit, Readiness, Supervisor, SystemClock, files};
use mayfly_svid::Bundle;
use mayfly_verify::{Authorize, BundleSet, ClientAuth, SpiffeClientVerifier, SvidResolver, server_config};
use prometheus_client::registry::Registry;
use rustls::time_provider::DefaultTimeProvider;
use tracing::{info, warn};

use crate::api::watch::{TaskFeeds, WatchService};
use crate::api::{self, Api, Deps, Face};
use crate::app::archive::Archive;
use crate::app::attest_agent::Attestors;
use crate::app::authorities::Authorities;
use crate::app::checkpoints::Checkpoints;
use crate::app::evidence::witnesses::Witnesses;
use crate::app::evidence::{Evidence, EvidenceParts};
use crate::app::exceptions;
use crate::app::issue::Issuance;
use crate::app::meter::Meter;
use crate::app::policy::PolicyHolder;
use crate::app::revocation_lists::RevocationLists;
use crate::app::server_svid::ServerSvid;
use crate::app::tasks::{TaskParts, TaskSettings, Tasks};
use crate::app::tickets;
use crate::app::upkeep::Upkeep;
use crate::commit::{Applied, Committer, Snapshot};
use crate::config::{AttestorSettings, KeySettings, Loaded, Settings};
use crate::pages;
use crate::watch::{History, Hub};

/// Longest life of a join token.
const JOIN_TOKEN_MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// How long the end of the process waits for the disk.
const FLUSH: Duration = Duration::from_secs(5);

/// Runs the server until it is told to stop.
///
/// # Errors
/// It could not start, or a part that must run until the stop failed.
pub fn run(loaded: Loaded, log: LogHandle) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no async runtime")?;
    runtime.block_on(serve(loaded, log))
}

async fn serve(loaded: Loaded, log: LogHandle) -> anyhow::Result<()> {
    let Loaded { settings, effective } = loaded;
    info!(version = env!("CARGO_PKG_VERSION"), trust_domain = %settings.trust_domain, "starting");
    for (key, value) in &effective {
        tracing::debug!(key, value, "setting");
    }
    let supervisor = Supervisor::new();
    let readiness = Readiness::new();
    let starting = readiness.block("start");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    // State.
    let _lock = files::lock_dir(&settings.data_dir).context("the data folder")?;
    let database = settings.data_dir.join("server.db");
    let store = mayfly_store::open_sqlite(&database, &settings.trust_domain).context("the database")?;
    let archive = Archive::new(database);
    let bundles = Arc::new(BundleSet::new());
    let mut hub = None;
    let mut meter = None;
    let committer = Committer::start(store, &settings.trust_domain, |recovered, loaded| {
        let hub: &Arc<Hub> = hub.insert(Arc::new(Hub::new(
            History::new(recovered.changes.clone()),
            loaded.revision(),
        )));
        publish_bundles(&bundles, loaded);
        let meter = meter.insert(Meter::new(clock.clone(), loaded));
        Box::new(observer(hub.clone(), bundles.clone(), meter.clone()))
    })
    .context("the state")?;
    let hub = hub.context("the observer is made while the committer starts")?;
    let meter = meter.context("the meter is made while the committer starts")?;

    // The log, before anything else is added to it: what was shown to others has to be in the database.
    let keys = key_manager(&settings)?;
    let evidence = Evidence::open(EvidenceParts {
        archive: archive.clone(),
        committer: committer.clone(),
        keys: keys.clone(),
        clock: clock.clone(),
        dir: settings.data_dir.join("log"),
    })
    .await
    .context("the log")?;

    // Authorities, and the server's own SVID under one of them.
    let authorities = Arc::new(Authorities::new(
        committer.clone(),
        keys.clone(),
        clock.clone(),
        settings.authority,
    ));
    authorities.pass().await.context("no authority can sign")?;
    let issuance = Issuance::new(committer.clone(), clock.clone(), authorities.active(), settings.issue);
    let resolver = Arc::new(SvidResolver::new());
    let mut server_svid = ServerSvid::new(
        issuance.clone(),
        resolver.clone(),
        clock.clone(),
        settings.issue.agent_ttl,
    );
    let server_id = settings.trust_domain.server_id();
    server_svid
        .pass(&server_id, &authorities)
        .await
        .context("the server has no SVID of its own")?;
    let own_svid = server_svid.current();

    // The API.
    let stop = supervisor.stop_token();
    let witnesses = Witnesses::open(evidence.clone(), readiness.clone()).await;
    let witnesses = witnesses.context("the witnesses of the log")?;
    let feeds = TaskFeeds {
        witnesses: Some(witnesses.clone()),
        checkpoints: Arc::new(Checkpoints::new(settings.tasks.lease)),
        ..TaskFeeds::default()
    };
    let told = hub.clone();
    let lists = Arc::new(RevocationLists::new(
        committer.clone(),
        keys,
        clock.clone(),
        feeds.lists.clone(),
        move || told.tell_revoked(),
    ));
    // Before any stream opens; what fails is tried again.
    if let Err(failure) = lists.pass().await {
        warn!(error = %Chain(&failure), "there are no revocation lists yet");
    }
    let watch = WatchService::new(
        committer.clone(),
        hub.clone(),
        clock.clone(),
        settings.watch,
        feeds.clone(),
        stop.clone(),
    );
    let people = Arc::new(settings.people.clone());
    let policy = Arc::new(PolicyHolder::new(committer.clone(), archive.clone()));
    let mut roles = settings.roles.clone();
    roles.admin_uids.extend([0, rustix::process::geteuid().as_raw()]);
    let tickets = tickets::checker(&settings.tickets, clock.clone()).context("the ticket tracker")?;
    let tasks = Tasks::new(TaskParts {
        committer: committer.clone(),
        clock: clock.clone(),
        policy: policy.clone(),
        people: people.clone(),
        tickets,
        issuance: issuance.clone(),
        checkpoints: feeds.checkpoints.clone(),
        hub: hub.clone(),
        settings: TaskSettings {
            lease: settings.tasks.lease,
            settle_within: settings.tasks.settle_within,
            retention: settings.tasks.retention,
        },
    });
    let sweeper = tasks.clone();
    supervisor.spawn_once("tasks", |stop| sweeper.run(stop));
    let follower = tasks.clone();
    supervisor.spawn_once("tickets", |stop| follower.run_tickets(stop));
    let api = Api::new(Deps {
        committer: committer.clone(),
        evidence: evidence.clone(),
        issuance,
        attestors: attestors(&settings).await?,
        clock: clock.clone(),
        readiness: readiness.clone(),
        log,
        own_svid: Arc::new(move || own_svid.load_full().map(|svid| svid.as_ref().clone())),
        roles,
        people,
        policy,
        two_person: settings.tasks.two_person,
        tasks,
        authorities: authorities.clone(),
        feeds,
        attest_limits: settings.attest_limits,
        join_token_max_ttl: JOIN_TOKEN_MAX_TTL,
        watch: Arc::new(watch),
    });

    // Listeners.
    let verifier = SpiffeClientVerifier::new(bundles, Authorize::matching(|_| true), ClientAuth::Optional);
    let tls = server_config(resolver, Arc::new(verifier), Arc::new(DefaultTimeProvider));
    let tcp = bind_tcp(settings.bind_address)?;
    info!(address = %tcp.local_addr()?, "listening for agents");
    let unix = UnixSocket::bind(&settings.socket_path, settings.socket_mode)?;
    info!(path = %settings.socket_path.display(), "listening for operators");
    let tcp = listen::Server::new("tcp", tcp, settings.tcp_limits.clone())
        .acceptor(Tls::new(Arc::new(tls), &settings.tcp_limits));
    let unix = listen::Server::new("unix", unix, settings.unix_limits.clone());

    let mut registry = Registry::with_prefix("mayfly_server");
    tcp.metrics().register(&mut registry, "tcp");
    unix.metrics().register(&mut registry, "unix");
    api.metrics().register(&mut registry);
    evidence.register(&mut registry);
    meter.register(&mut registry, committer.clone());
    witnesses.register(&mut registry);
    if let Some(address) = settings.health_address {
        let alive = supervisor.clone();
        let probes = AdminPages {
            readiness: readiness.clone(),
            // A database that is away is no reason to restart the server: what it holds in memory is served meanwhile.
            liveness: Arc::new(move || match alive.stop_token().is_cancelled() {
                false => Ok(()),
                true => Err("the server is stopping".into()),
            }),
            registry: Arc::new(registry),
        };
        let router = probes
            .router()
            .merge(pages::revocation_lists(lists.clone()))
            .merge(pages::log(evidence.clone()));
        let http = AdminHttp::bind(address, router)?;
        info!(address = %http.address(), "serving health and metrics");
        supervisor.spawn_once("admin_http", async move |stop| {
            http.serve(stop).await;
            Ok(())
        });
    }

    let (remote, local) = (api::routes(&api, Face::Remote), api::routes(&api, Face::Local));
    supervisor.spawn_once("tcp", async move |stop| {
        tcp.serve(remote, stop).await;
        Ok(())
    });
    supervisor.spawn_once("unix", async move |stop| {
        unix.serve(local, stop).await;
        Ok(())
    });
    supervisor.spawn("revocation_lists", OnExit::Restart, move |stop| {
        let ended = lists.clone().run(stop);
        async move {
            ended.await;
            Ok(())
        }
    });
    supervisor.spawn("log", OnExit::Restart, move |stop| {
        let ended = evidence.clone().run(stop);
        async move {
            ended.await;
            Ok(())
        }
    });
    for witness in settings.witnesses.clone() {
        let witnesses = witnesses.clone();
        supervisor.spawn("witness", OnExit::Restart, move |stop| {
            let ended = witnesses.clone().follow(witness.clone(), stop);
            async move {
                ended.await;
                Ok(())
            }
        });
    }
    let (register, time) = (committer.clone(), clock.clone());
    supervisor.spawn("exceptions", OnExit::Restart, move |stop| {
        let ended = exceptions::expire(register.clone(), time.clone(), stop);
        async move {
            ended.await;
            Ok(())
        }
    });
    spawn_upkeep(&supervisor, &Upkeep::new(committer.clone(), clock, readiness));
    spawn_rotation(&supervisor, authorities, server_svid, &settings);
    drop(starting);
    info!("ready");

    let stopped = supervisor
        .run_until_signal(settings.drain + Duration::from_secs(2))
        .await;
    // What came of the last SVIDs is evidence, and nobody waits for it.
    if tokio::time::timeout(FLUSH, committer.flush()).await.is_err() {
        warn!("the disk is too slow: what came of the last SVIDs is not recorded");
    }
    stopped.context("stopping")?;
    info!("stopped");
    Ok(())
}

/// What happens on the committer's thread after each commit.
fn observer(hub: Arc<Hub>, bundles: Arc<BundleSet>, meter: Meter) -> impl Fn(&Applied) + Send {
    move |applied| {
        let changed = |delta: &Delta| matches!(delta, Delta::BundlePut(_) | Delta::BundleGone(_));
        if applied.reloaded || applied.deltas.iter().any(changed) {
            publish_bundles(&bundles, &applied.after);
        }
        hub.observe(applied);
        meter.observe(applied);
    }
}

/// TLS verifies callers against the own bundle and the foreign ones.
fn publish_bundles(bundles: &BundleSet, state: &Snapshot) {
    let all: Vec<Arc<Bundle>> = state
        .own_bundle()
        .into_iter()
        .chain(state.federated_bundles_after(None))
        .cloned()
        .collect();
    bundles.publish(all.iter().map(AsRef::as_ref));
}

fn key_manager(settings: &Settings) -> anyhow::Result<Arc<dyn KeyManager>> {
    Ok(match settings.keys {
        KeySettings::Disk => Arc::new(DiskKeys::open(&settings.data_dir.join("keys")).context("the key folder")?),
        KeySettings::Memory => {
            let hint = "for tests: after a restart agents must be given the new bundle by hand, and they and witnesses \
                        refuse the log, which then has a new key (docs/witness.md)";
            warn!(hint, "keys are kept in memory");
            Arc::new(MemoryKeys::new())
        }
    })
}

async fn attestors(settings: &Settings) -> anyhow::Result<Attestors> {
    let AttestorSettings { join_token, x509pop } = settings.attestors.clone();
    let deps = AttestDeps {
        trust_domain: settings.trust_domain.clone(),
        base_dir: ".".into(),
    };
    let mut sections = vec![];
    if join_token {
        sections.push(("join_token", toml::Table::new()));
    }
    if let Some(x509pop) = x509pop {
        let mut section = toml::Table::new();
        section.insert(
            "ca_bundle_path".into(),
            x509pop.ca_bundle_path.display().to_string().into(),
        );
        section.insert(
            "max_intermediates".into(),
            i64::try_from(x509pop.max_intermediates)?.into(),
        );
        sections.push(("x509pop", section));
    }
    // Reads files.
    tokio::task::spawn_blocking(move || {
        let mut halves = vec![];
        for (name, section) in sections {
            let builtin = Builtin::find(name).context("an attestor of the settings is built in")?;
            halves.push((builtin.server)(section, &deps)?);
        }
        Ok(Attestors::new(halves))
    })
    .await?
}

fn spawn_upkeep(supervisor: &Supervisor, upkeep: &Upkeep) {
    spawn_loop(supervisor, "expire_entries", upkeep, Upkeep::expire_entries);
    spawn_loop(supervisor, "prune_tokens", upkeep, Upkeep::prune_tokens);
    spawn_loop(supervisor, "write_records", upkeep, Upkeep::write_records);
    let upkeep = upkeep.clone();
    supervisor.spawn_once("follow_database", async move |stop| {
        Ok(upkeep.follow_database(stop).await?)
    });
}

fn spawn_loop<F>(supervisor: &Supervisor, name: &'static str, upkeep: &Upkeep, run: fn(Upkeep, CancellationToken) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let upkeep = upkeep.clone();
    supervisor.spawn(name, OnExit::Restart, move |stop| {
        let ended = run(upkeep.clone(), stop);
        async move {
            ended.await;
            Ok(())
        }
    });
}

/// Looks at authorities and the own SVID often enough that no step of the shortest of their lives is missed.
fn spawn_rotation(
    supervisor: &Supervisor,
    authorities: Arc<Authorities>,
    mut server_svid: ServerSvid,
    settings: &Settings,
) {
    let shortest = settings.authority.ttl.min(settings.issue.agent_ttl);
    let pause = (shortest / 30).clamp(Duration::from_millis(500), Duration::from_secs(10));
    let server_id = settings.trust_domain.server_id();
    supervisor.spawn_once("rotate", async move |stop| {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            if let Err(failure) = authorities.pass().await {
                warn!(error = %Chain(&failure), "the authorities are not where they should be; trying again");
            }
            if let Err(failure) = server_svid.pass(&server_id, &authorities).await {
                warn!(error = %Chain(&failure), "the server's own SVID is not renewed yet; trying again");
            }
        }
    });
}
