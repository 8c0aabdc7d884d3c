//! Load of all kinds on a server, and a ledger of what the server acknowledged of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::server::svid::{BatchNewX509svidRequest, MintX509svidRequest, NewX509svidParams};
use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, X509Svid};
use mayfly_tests::evidence::Evidence;
use mayfly_tests::{Admin, EntrySpec, Server, attest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What the server has acknowledged.
#[derive(Default)]
pub(super) struct Ledger {
    /// Entry ID to path. Deleted ones are not here.
    pub(super) entries: BTreeMap<String, String>,
    deleted: BTreeSet<String>,
    /// Asked for and not answered: may be either way.
    unsure: BTreeSet<String>,
    unused_tokens: Vec<String>,
    used_tokens: Vec<String>,
    /// Agent to whether its ban was acknowledged.
    agents: BTreeMap<String, bool>,
    /// The last one whose ban was acknowledged, with its SVID.
    banned: Option<attest::Credential>,
    pub(super) serials: BTreeSet<String>,
    /// The load has to end.
    over: bool,
}

pub(super) type Shared = Arc<Mutex<Ledger>>;

/// An agent that has joined and an entry below it, to issue for.
pub(super) struct Issuee {
    channel: Channel,
    entry_id: String,
}

impl Ledger {
    pub(super) fn size(&self) -> String {
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

    /// Whether enough was done between so many kills for them to mean something.
    pub(super) fn is_rich(&self, kills: usize) -> bool {
        self.entries.len() > kills && self.agents.len() > kills / 4 && self.serials.len() > kills
    }
}

/// What a call may answer whose server was killed meanwhile.
pub(super) fn is_loss(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
    )
}

fn is_over(ledger: &Shared) -> Result<(), Status> {
    match ledger.lock().unwrap().over {
        true => Err(Status::unavailable("the round is over")),
        false => Ok(()),
    }
}

/// Starts all kinds of load; each ends when [`end`] is called or the server is gone, with why.
pub(super) fn start(
    server: &Server,
    ledger: &Shared,
    bundle: &Bundle,
    issuee: &Issuee,
    rng: &mut StdRng,
) -> JoinSet<Result<(), Status>> {
    ledger.lock().unwrap().over = false;
    let mut load = JoinSet::new();
    let mut next = || StdRng::seed_from_u64(rng.random());
    for _ in 0..3 {
        load.spawn(create_entries(server.admin(), ledger.clone(), next()));
    }
    load.spawn(delete_entries(server.admin(), ledger.clone(), next()));
    for _ in 0..2 {
        let channel = attest::channel(server.port(), bundle, None);
        load.spawn(join_and_ban(server.admin(), channel, ledger.clone(), next()));
    }
    load.spawn(mint(server.admin(), ledger.clone()));
    load.spawn(issue(issuee.channel.clone(), issuee.entry_id.clone(), ledger.clone()));
    load
}

/// Has the load end after what it is doing.
pub(super) fn end(ledger: &Shared) {
    ledger.lock().unwrap().over = true;
}

/// Joins an agent and registers a workload below it.
pub(super) async fn issuee(server: &Server, ledger: &Shared) -> Issuee {
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let token = admin.token().await;
    let joined = attest::join(attest::channel(server.port(), &bundle, None), &token)
        .await
        .expect("a fresh token");
    let id = joined.svid.spiffe_id().to_string();
    let entry_id = admin.create(&EntrySpec::new("/issuee", &id, &["unix:uid:41008"])).await;
    let channel = attest::channel(server.port(), &bundle, Some(&joined));
    let mut ledger = ledger.lock().unwrap();
    ledger.agents.insert(id, false);
    ledger.serials.insert(joined.svid.serial().to_string());
    ledger.used_tokens.push(token);
    Issuee { channel, entry_id }
}

async fn create_entries(admin: Admin, ledger: Shared, mut rng: StdRng) -> Result<(), Status> {
    loop {
        is_over(&ledger)?;
        let path = format!("/w/{:016x}", rng.random::<u64>());
        let spec = EntrySpec::new(&path, "spiffe://example.org/node/a", &["unix:uid:41009"]);
        let entry = admin.try_create(spec.to_wire()).await?;
        ledger.lock().unwrap().entries.insert(entry.id, path);
    }
}

async fn delete_entries(admin: Admin, ledger: Shared, mut rng: StdRng) -> Result<(), Status> {
    loop {
        is_over(&ledger)?;
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
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        admin.try_delete(&id).await?;
        let mut ledger = ledger.lock().unwrap();
        ledger.unsure.remove(&id);
        ledger.deleted.insert(id);
    }
}

async fn join_and_ban(admin: Admin, channel: Channel, ledger: Shared, mut rng: StdRng) -> Result<(), Status> {
    loop {
        is_over(&ledger)?;
        let token = admin.try_token().await?;
        if rng.random_bool(0.25) {
            ledger.lock().unwrap().unused_tokens.push(token);
            continue;
        }
        let joined = attest::join(channel.clone(), &token).await?;
        let id = joined.svid.spiffe_id().to_string();
        {
            let mut ledger = ledger.lock().unwrap();
            ledger.used_tokens.push(token);
            ledger.agents.insert(id.clone(), false);
            ledger.serials.insert(joined.svid.serial().to_string());
        }
        if rng.random_bool(0.5) {
            admin.try_ban(&id).await?;
            let mut ledger = ledger.lock().unwrap();
            ledger.agents.insert(id, true);
            ledger.banned = Some(joined);
        }
    }
}

async fn mint(admin: Admin, ledger: Shared) -> Result<(), Status> {
    let mut client = SvidClient::new(admin.channel());
    loop {
        is_over(&ledger)?;
        let (csr, _) = attest::csr_for("spiffe://example.org/minted");
        let answer = client.mint_x509svid(MintX509svidRequest { csr, ttl: 600 }).await?;
        note(&ledger, answer.into_inner().svid.expect("an SVID"));
    }
}

async fn issue(channel: Channel, entry_id: String, ledger: Shared) -> Result<(), Status> {
    loop {
        is_over(&ledger)?;
        let svid = new_svid(channel.clone(), &entry_id).await?;
        note(&ledger, svid);
    }
}

/// One SVID for a workload, as an agent asks for it.
async fn new_svid(channel: Channel, entry_id: &str) -> Result<types::X509svid, Status> {
    let (csr, _) = attest::csr();
    let params = vec![NewX509svidParams {
        entry_id: entry_id.to_owned(),
        csr,
    }];
    let request = BatchNewX509svidRequest { params };
    let answer = SvidClient::new(channel).batch_new_x509svid(request).await?.into_inner();
    let result = answer.results.into_iter().next().expect("one result for one request");
    result.svid.ok_or_else(|| {
        let status = result.status.expect("each item has a status");
        Status::new(Code::from_i32(status.code), status.message)
    })
}

fn note(ledger: &Shared, svid: types::X509svid) {
    let chain = svid.cert_chain.into_iter().map(Into::into).collect();
    let svid = X509Svid::from_chain(chain).expect("an X.509-SVID");
    ledger.lock().unwrap().serials.insert(svid.serial().to_string());
}

/// Compares what the server holds with what it has acknowledged, and tries what must not work any more.
pub(super) async fn check(server: &Server, ledger: &Shared, issuee: &Issuee, rng: &mut StdRng) {
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
    let (used, unused, banned) = {
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
        (used, ledger.unused_tokens.pop(), ledger.banned.take())
    };
    let bundle = admin.bundle().await;
    let channel = attest::channel(server.port(), &bundle, None);
    if let Some(token) = used {
        let again = attest::join(channel.clone(), &token).await;
        let refused = again.expect_err("a token was used twice");
        // Whether its agent is banned is looked at first.
        let reasons = ["already been used", "agent is banned"];
        assert!(
            reasons.iter().any(|reason| refused.message().contains(reason)),
            "{refused}"
        );
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
    if let Some(banned) = banned {
        let channel = attest::channel(server.port(), &bundle, Some(&banned));
        let refused = new_svid(channel, &issuee.entry_id).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "a banned agent: {refused}");
    }
}

/// Fails unless there is a record for each thing that was acknowledged.
pub(super) fn check_records(server: &Server, ledger: &Shared) {
    let evidence = Evidence::of(server.dir());
    evidence.check_order();
    let ledger = ledger.lock().unwrap();
    let intended = evidence.intended_serials();
    let missing: Vec<_> = ledger.serials.difference(&intended).cloned().collect();
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
}
