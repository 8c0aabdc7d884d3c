//! What the server says it did, it did: under a thousand callers at once, and killed at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::svid::MintX509svidRequest;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_svid::{Bundle, X509Svid};
use mayfly_tests::daemon::PATIENCE;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::{Admin, EntrySpec, Lane, Millis, Server, ServerOptions, attest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Enough for one address to be everybody.
const OPEN_DOORS: &str = "[limits]\nattestations_per_second = 100000\nattestation_burst = 100000\n\
                          attestations = 2000\nconnections_per_address = 4000\nhandshakes = 2000\n\
                          handshake_timeout = \"60s\"\n";
const AT_ONCE: usize = 1_000;
const CONNECTIONS: usize = 250;

async fn open_server() -> Server {
    Server::start_with(ServerOptions {
        sections: OPEN_DOORS.into(),
        ..Default::default()
    })
    .await
}

// Promise 5
#[tokio::test(flavor = "multi_thread")]
async fn one_join_token_offered_a_thousand_times_at_once_makes_one_agent() {
    let _lane = Lane::alone();
    let server = open_server().await;
    let admin = server.admin();
    let token = admin.token().await;
    let bundle = admin.bundle().await;
    let start = Arc::new(Barrier::new(AT_ONCE));
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = attest::channel(server.port(), &bundle, None);
        for _ in 0..AT_ONCE / CONNECTIONS {
            let (channel, token, start) = (channel.clone(), token.clone(), Arc::clone(&start));
            callers.spawn(async move {
                let (csr, _) = attest::csr();
                // The handshake is done before the race begins.
                let mut bundles = BundleClient::new(channel.clone());
                bundles
                    .get_bundle(GetBundleRequest { output_mask: None })
                    .await
                    .expect("anybody may ask for the bundle");
                start.wait().await;
                attest::attest(channel, attest::params("join_token", token.as_bytes(), csr)).await
            });
        }
    }
    let begun = Instant::now();
    let (mut admitted, mut refused) = (0, BTreeMap::<(String, String), usize>::new());
    while let Some(outcome) = callers.join_next().await {
        match outcome.unwrap() {
            Ok(_) => admitted += 1,
            Err(status) => {
                *refused
                    .entry((format!("{:?}", status.code()), status.message().to_owned()))
                    .or_default() += 1;
            }
        }
    }
    println!(
        "{AT_ONCE} offers over {CONNECTIONS} connections, all answered after {:?}",
        begun.elapsed()
    );
    println!("admitted: {admitted}; refused: {refused:?}");
    assert_eq!(admitted, 1);
    // Each of them reached the decision, none was turned away for being too many.
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(admin.list_agents().await.len(), 1);
    let evidence = Evidence::of(server.dir());
    assert_eq!((evidence.count("agent.attested"), evidence.unused_tokens()), (1, 0));
}

/// What the server has acknowledged.
#[derive(Default)]
struct Ledger {
    /// Entry ID to path. Deleted ones are not here.
    entries: BTreeMap<String, String>,
    deleted: BTreeSet<String>,
    /// Asked for and not answered: may be either way.
    unsure: BTreeSet<String>,
    unused_tokens: Vec<String>,
    used_tokens: Vec<String>,
    /// Agent to whether its ban was acknowledged.
    agents: BTreeMap<String, bool>,
    serials: BTreeSet<String>,
    /// The server was killed, so there is nothing more to be done.
    over: bool,
}

impl Ledger {
    fn size(&self) -> String {
        format!(
            "{} entries, {} deletions, {} tokens used and {} not, {} agents of which {} banned, {} SVIDs",
            self.entries.len(),
            self.deleted.len(),
            self.used_tokens.len(),
            self.unused_tokens.len(),
            self.agents.len(),
            self.agents.values().filter(|banned| **banned).count(),
            self.serials.len()
        )
    }
}

type Shared = Arc<Mutex<Ledger>>;

/// What a call may answer whose server was killed meanwhile.
fn is_loss(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    )
}

async fn create_entries(admin: Admin, ledger: Shared, mut rng: StdRng) -> Status {
    loop {
        let path = format!("/w/{:016x}", rng.random::<u64>());
        let spec = EntrySpec::new(&path, "spiffe://example.org/node/a", &["unix:uid:41001"]);
        match admin.try_create(spec.to_wire()).await {
            Ok(entry) => ledger.lock().unwrap().entries.insert(entry.id, path),
            Err(status) => return status,
        };
    }
}

async fn delete_entries(admin: Admin, ledger: Shared, mut rng: StdRng) -> Status {
    loop {
        let victim = {
            let mut ledger = ledger.lock().unwrap();
            let victim = if ledger.entries.len() < 50 {
                None
            } else {
                let nth = rng.random_range(0..ledger.entries.len());
                ledger.entries.keys().nth(nth).cloned()
            };
            // From here on nobody knows, until the answer.
            victim.inspect(|id| {
                ledger.entries.remove(id);
                ledger.unsure.insert(id.clone());
            })
        };
        let Some(id) = victim else {
            if ledger.lock().unwrap().over {
                return Status::unavailable("killed");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        if let Err(status) = admin.try_delete(&id).await {
            return status;
        }
        let mut ledger = ledger.lock().unwrap();
        ledger.unsure.remove(&id);
        ledger.deleted.insert(id);
    }
}

async fn join_and_ban(admin: Admin, port: u16, bundle: Bundle, ledger: Shared, mut rng: StdRng) -> Status {
    let channel = attest::channel(port, &bundle, None);
    loop {
        let token = match admin.try_token().await {
            Ok(token) => token,
            Err(status) => return status,
        };
        if rng.random_bool(0.25) {
            ledger.lock().unwrap().unused_tokens.push(token);
            continue;
        }
        let joined = match attest::join(channel.clone(), &token).await {
            Ok(joined) => joined,
            Err(status) => return status,
        };
        let id = joined.svid.spiffe_id().to_string();
        {
            let mut ledger = ledger.lock().unwrap();
            ledger.used_tokens.push(token);
            ledger.agents.insert(id.clone(), false);
            ledger.serials.insert(joined.svid.serial().to_string());
        }
        if rng.random_bool(0.5) {
            if let Err(status) = admin.try_ban(&id).await {
                return status;
            }
            ledger.lock().unwrap().agents.insert(id, true);
        }
    }
}

async fn mint(admin: Admin, ledger: Shared) -> Status {
    let mut client = SvidClient::new(admin.channel());
    loop {
        let (csr, _) = attest::csr_for("spiffe://example.org/minted");
        match client.mint_x509svid(MintX509svidRequest { csr, ttl: 600 }).await {
            Ok(answer) => {
                let chain = answer.into_inner().svid.expect("an SVID").cert_chain;
                let svid = X509Svid::from_chain(chain.into_iter().map(Into::into).collect()).expect("an X.509-SVID");
                ledger.lock().unwrap().serials.insert(svid.serial().to_string());
            }
            Err(status) => return status,
        }
    }
}

/// Compares what the server holds with what it has acknowledged.
async fn check(server: &Server, ledger: &Shared, rng: &mut StdRng) {
    let admin = server.admin();
    let held: BTreeMap<String, String> = admin
        .list()
        .await
        .into_iter()
        .map(|entry| (entry.id, entry.spiffe_id.expect("an entry has an ID").path))
        .collect();
    let agents: BTreeMap<String, bool> = admin
        .list_agents()
        .await
        .into_iter()
        .map(|agent| (mayfly_tests::admin::id_text(agent.id.as_ref()), agent.banned))
        .collect();
    let (used, unused) = {
        let mut ledger = ledger.lock().unwrap();
        for (id, path) in &ledger.entries {
            assert_eq!(held.get(id), Some(path), "an acknowledged entry is lost");
        }
        for id in &ledger.deleted {
            assert!(!held.contains_key(id), "a deleted entry is back");
        }
        // What was not answered is settled now.
        for id in std::mem::take(&mut ledger.unsure) {
            match held.get(&id) {
                Some(path) => _ = ledger.entries.insert(id, path.clone()),
                None => _ = ledger.deleted.insert(id),
            }
        }
        for (id, banned) in &ledger.agents {
            let held = agents.get(id).unwrap_or_else(|| panic!("the agent {id} is lost"));
            assert!(*held || !*banned, "the ban of {id} is lost");
        }
        let used = ledger.used_tokens.len();
        let used = (used > 0).then(|| ledger.used_tokens[rng.random_range(0..used)].clone());
        (used, ledger.unused_tokens.pop())
    };
    let channel = attest::channel(server.port(), &admin.bundle().await, None);
    if let Some(token) = used {
        let again = attest::join(channel.clone(), &token).await;
        assert!(again.is_err(), "a token was used twice");
    }
    if let Some(token) = unused {
        let joined = attest::join(channel, &token)
            .await
            .expect("a token that was made and not used is good");
        let mut ledger = ledger.lock().unwrap();
        ledger.agents.insert(joined.svid.spiffe_id().to_string(), false);
        ledger.serials.insert(joined.svid.serial().to_string());
        ledger.used_tokens.push(token);
    }
}

// Promise 5: ready ≤ 2 s after the start
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_fifty_random_moments_it_keeps_all_that_it_acknowledged() {
    let _lane = Lane::alone();
    let seed: u64 = 0x6d61_7966_6c79_0005;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = open_server().await;
    let ledger = Shared::default();
    let bundle = server.admin().bundle().await;
    let mut starts = Millis::default();
    for round in 0..50 {
        let mut load = JoinSet::new();
        let mut next = || StdRng::seed_from_u64(rng.random());
        for _ in 0..3 {
            load.spawn(create_entries(server.admin(), ledger.clone(), next()));
        }
        load.spawn(delete_entries(server.admin(), ledger.clone(), next()));
        for _ in 0..2 {
            load.spawn(join_and_ban(
                server.admin(),
                server.port(),
                bundle.clone(),
                ledger.clone(),
                next(),
            ));
        }
        load.spawn(mint(server.admin(), ledger.clone()));
        tokio::time::sleep(Duration::from_micros(rng.random_range(5_000..200_000))).await;
        server.daemon.kill();
        ledger.lock().unwrap().over = true;
        while let Some(end) = tokio::time::timeout(PATIENCE, load.join_next())
            .await
            .expect("every call ends")
        {
            let status = end.unwrap();
            assert!(is_loss(&status), "round {round}: {status}");
        }
        ledger.lock().unwrap().over = false;

        server.daemon.start();
        let begun = Instant::now();
        server.wait_ready().await;
        starts.push(begun.elapsed());
        check(&server, &ledger, &mut rng).await;
    }
    println!(
        "acknowledged before 50 kills and found after each: {}",
        ledger.lock().unwrap().size()
    );
    println!("from start to ready: {starts}");

    let evidence = Evidence::of(server.dir());
    evidence.check_order();
    let ledger = ledger.lock().unwrap();
    let missing: Vec<_> = ledger
        .serials
        .difference(&evidence.intended_serials())
        .cloned()
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "SVIDs without their log entry");
    let created = evidence.subjects("entry.created");
    assert!(
        ledger
            .entries
            .keys()
            .chain(&ledger.deleted)
            .all(|id| created.contains(id)),
        "entries without a record"
    );
    let deleted = evidence.subjects("entry.deleted");
    assert!(
        ledger.deleted.iter().all(|id| deleted.contains(id)),
        "deletions without a record"
    );
    let banned = evidence.subjects("agent.banned");
    assert!(
        ledger.agents.iter().all(|(id, ban)| !ban || banned.contains(id)),
        "bans without a record"
    );
    assert!(
        ledger.entries.len() > 100 && ledger.agents.len() > 20 && ledger.serials.len() > 50,
        "{}",
        ledger.size()
    );
    assert!(starts.quantile(1.0) <= Duration::from_secs(2), "{starts}");
}
