//! Definitions, by one person and by two.

use mayfly_proto::mayfly::task::definitions_client::DefinitionsClient;
use mayfly_proto::mayfly::task::proposals_client::ProposalsClient;
use mayfly_proto::mayfly::task::*;

use super::*;
use crate::app::people::PersonRecord;

pub(super) const ALICE: u32 = 2001;
pub(super) const BOB: u32 = 2002;
pub(super) const CAROL: u32 = 2003;

const MIGRATE: &str = r#"
name = "pay/db-migrate"
owner = "alice"
environment = "prod"
sensitivity = 2

[allowed]
workloads = ["/ns/pay/migrator"]

[approval]
count = 1
groups = ["pay/leads"]
"#;

/// A server that knows alice (author of pay and web), bob (author and approver) and carol (lead, approver of web).
pub(super) fn peopled(two_person: bool) -> Setup {
    let person = |name: &str, uid: u32, groups: &[&str]| PersonRecord {
        id: name.parse().unwrap(),
        uids: [uid].into(),
        spiffe_ids: [id(&format!("/people/{name}"))].into(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
    };
    let operators = |uid: u32, roles: &[&str]| Operators {
        roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
        uids: [uid].into(),
        ..Operators::default()
    };
    let members = ["pay/leads", "authors"].map(|group| (group.parse().unwrap(), Default::default()));
    let people = [
        person("alice", ALICE, &["authors"]),
        person("bob", BOB, &["authors"]),
        person("carol", CAROL, &["pay/leads"]),
    ];
    Setup {
        people: People::new("td".parse().unwrap(), people, &members.into(), []),
        operators: vec![
            operators(ALICE, &["author:/task/pay/*", "author:/task/web/*"]),
            operators(BOB, &["author", "approver"]),
            operators(CAROL, &["approver:/task/web/*"]),
        ],
        two_person,
        ..Setup::default()
    }
}

impl Connected {
    pub(super) fn definitions(&self) -> DefinitionsClient<Self> {
        DefinitionsClient::new(self.clone())
    }

    pub(super) fn proposals(&self) -> ProposalsClient<Self> {
        ProposalsClient::new(self.clone())
    }

    async fn define(&self, text: &str) -> Result<DefineResponse, Status> {
        let definition = text.to_owned();
        let answer = self.definitions().define(DefineRequest { definition }).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn retire(&self, name: &str) -> Result<DefineResponse, Status> {
        let answer = self.definitions().retire(RetireRequest { name: name.into() }).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn decide(&self, id: &str, approve: bool) -> Result<Proposal, Status> {
        let request = DecideProposalRequest { id: id.into() };
        let answer = match approve {
            true => self.proposals().approve(request).await,
            false => self.proposals().reject(request).await,
        };
        answer.map(tonic::Response::into_inner)
    }

    async fn find(&self, hash: &str) -> Result<Definition, Status> {
        let (name, hash) = ("pay/db-migrate".into(), hash.into());
        let answer = self.definitions().get(GetDefinitionRequest { name, hash }).await;
        answer.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn a_definition_is_in_force_once_defined_and_its_old_versions_are_found_by_hash() {
    let server = Server::with(peopled(false)).await;
    let alice = server.local(ALICE);
    let first = alice.define(MIGRATE).await.unwrap();
    assert!(first.in_force && !first.unchanged && first.proposal_id.is_empty());
    let again = alice.define(&format!("# the same\n{MIGRATE}")).await.unwrap();
    assert!(again.in_force && again.unchanged && again.hash == first.hash);
    let second = alice.define(&MIGRATE.replace("prod", "stage")).await.unwrap();
    let present = alice.find("").await.unwrap();
    assert_eq!((present.version, &present.hash), (2, &second.hash));
    assert_eq!((present.author.as_str(), present.retired), ("alice", false));
    let old = alice.find(&first.hash[..12]).await.unwrap();
    assert!(old.version == 1 && old.text.contains("\"prod\""), "{old:?}");
    for (hash, expected) in [
        ("0123", Code::InvalidArgument),
        ("xxxxxxxxxxxx", Code::InvalidArgument),
        ("000000000000", Code::NotFound),
    ] {
        assert_eq!(code(alice.find(hash).await), expected, "{hash}");
    }
    let retired = alice.retire("pay/db-migrate").await.unwrap();
    assert!(retired.in_force && retired.hash == second.hash);
    assert!(alice.find("").await.unwrap().retired);
    assert_eq!(code(alice.retire("pay/db-migrate").await), Code::NotFound);
    // It was retired and comes back with the same content.
    let back = alice.define(&MIGRATE.replace("prod", "stage")).await.unwrap();
    assert!(back.in_force && !back.unchanged);
    let log = server.world.logged("definition.put");
    let who: Vec<&str> = log.iter().map(|record| record.actor.who.as_str()).collect();
    assert_eq!(who, ["uid:2001"; 3]);
    let listed = alice
        .definitions()
        .list(ListDefinitionsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.definitions.len(), 1);
}

// S2, S39: what the model cannot know.
#[tokio::test]
async fn a_definition_that_could_not_be_safe_here_is_refused_with_every_reason() {
    let server = Server::with(peopled(false)).await;
    // From before there were tasks: no entry can be made there any more.
    let taken = mayfly_model::EntrySpec::new(
        id("/task/pay/db-migrate/x"),
        id("/spire/agent/t/a"),
        vec!["unix:uid:1".parse().unwrap()].into(),
    );
    let entry = mayfly_model::Entry {
        id: mayfly_model::EntryId::random(),
        spec: taken,
        created_at: server.world.now(),
        revision_number: 0,
    };
    server
        .world
        .commit(mayfly_model::Change::EntryCreate(Box::new(entry)))
        .await
        .unwrap();
    let text = MIGRATE.replace("alice", "mallory").replace("pay/leads", "pay/lead");
    let status = server.admin().define(&text).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for says in [
        "owner: `mallory`",
        "approval.groups: `pay/lead`",
        "RESERVED_PATH",
        "spiffe://td/task/pay/db-migrate/x",
    ] {
        assert!(status.message().contains(says), "no `{says}` in {status}");
    }
    let status = server
        .admin()
        .define(&MIGRATE.replace("count = 1", "count = 2"))
        .await
        .unwrap_err();
    assert!(
        status.message().contains("2 people have to approve, and there are 1"),
        "{status}"
    );
    // Of a name that only begins alike nobody has anything.
    server
        .admin()
        .define(&MIGRATE.replace("db-migrate", "db"))
        .await
        .unwrap();
    for (old, new, says) in [
        ("environment", "enviroment", "line 4"),
        ("sensitivity = 2", "sensitivity = ", "line 5"),
        ("owner = \"alice\"", "", "owner"),
        ("/ns/pay/migrator", "/task/pay/x", "reserved path"),
        (
            "[approval]\ncount = 1\ngroups = [\"pay/leads\"]\n",
            "",
            "needs at least one approval",
        ),
    ] {
        assert!(MIGRATE.contains(old), "{old}");
        let status = server.admin().define(&MIGRATE.replace(old, new)).await.unwrap_err();
        assert!(
            status.code() == Code::InvalidArgument && status.message().contains(says),
            "{old}: {status}"
        );
    }
}

#[tokio::test]
async fn who_defines_tasks_of_a_team_defines_no_others() {
    let server = Server::with(peopled(false)).await;
    let alice = server.local(ALICE);
    let other = MIGRATE.replace("pay/db-migrate", "ops/db-migrate");
    let status = alice.define(&other).await.unwrap_err();
    assert!(
        status.code() == Code::PermissionDenied && status.message().contains("/task/ops/db-migrate"),
        "{status}"
    );
    server.local(BOB).define(&other).await.unwrap();
    assert_eq!(code(alice.retire("ops/db-migrate").await), Code::PermissionDenied);
    // `pay` and not what begins like it.
    let near = MIGRATE.replace("pay/db-migrate", "payroll/db-migrate");
    assert_eq!(code(alice.define(&near).await), Code::PermissionDenied);
    for uid in [CAROL, VIEWER, NOBODY] {
        assert_eq!(
            code(server.local(uid).define(MIGRATE).await),
            Code::PermissionDenied,
            "{uid}"
        );
    }
    // People look at what they may be asked to approve; others do not.
    server
        .local(CAROL)
        .definitions()
        .list(ListDefinitionsRequest::default())
        .await
        .unwrap();
    let refused = server
        .local(NOBODY)
        .definitions()
        .list(ListDefinitionsRequest::default())
        .await;
    assert_eq!(code(refused), Code::PermissionDenied);
}

// S43
#[tokio::test]
async fn with_two_person_nothing_is_in_force_before_somebody_else_agrees() {
    let server = Server::with(peopled(true)).await;
    let (alice, bob) = (server.local(ALICE), server.local(BOB));
    let proposed = alice.define(MIGRATE).await.unwrap();
    assert!(!proposed.in_force && !proposed.proposal_id.is_empty());
    assert_eq!(code(alice.find("").await), Code::NotFound);
    let id = &proposed.proposal_id;
    let listed = bob
        .proposals()
        .list(ListProposalsRequest {})
        .await
        .unwrap()
        .into_inner()
        .proposals;
    assert_eq!(
        (listed.len(), listed[0].author.as_str(), listed[0].state.as_str()),
        (1, "alice", "pending")
    );
    assert!(listed[0].content.contains("db-migrate") && listed[0].hash == proposed.hash);
    let done = bob.decide(id, true).await.unwrap();
    assert_eq!((done.state.as_str(), done.decided_by.as_str()), ("approved", "bob"));
    let present = alice.find("").await.unwrap();
    assert_eq!(present.hash, proposed.hash);
    assert!(
        present.author.contains("alice") && present.author.contains("bob"),
        "{}",
        present.author
    );
    assert_eq!(code(bob.decide(id, true).await), Code::NotFound, "it is decided");
    assert!(alice.define(MIGRATE).await.unwrap().unchanged);
    // The end of a task too: what approvers agreed to would be gone.
    let end = alice.retire("pay/db-migrate").await.unwrap();
    assert!(!end.in_force && !alice.find("").await.unwrap().retired);
    bob.decide(&end.proposal_id, false).await.unwrap();
    assert!(!alice.find("").await.unwrap().retired);
    let kinds = [
        "proposal.added",
        "proposal.approved",
        "proposal.rejected",
        "definition.put",
    ];
    let counts = kinds.map(|kind| server.world.logged(kind).len());
    assert_eq!(counts, [2, 1, 1, 1]);
}

// S43, attack 7: an administrator alone cannot widen.
#[tokio::test]
async fn the_second_person_is_a_person_another_one_and_may_agree() {
    let server = Server::with(peopled(true)).await;
    let bob = server.local(BOB);
    let id = bob.define(MIGRATE).await.unwrap().proposal_id;
    // He is an approver too, and proposed it himself; his other credential does not make him two.
    for himself in [bob.clone(), server.workload("/people/bob").await] {
        assert_eq!(code(himself.decide(&id, true).await), Code::PermissionDenied);
    }
    // An administrator whom nobody knows as a person neither proposes nor agrees.
    let admin = server.admin();
    for refused in [code(admin.define(MIGRATE).await), code(admin.decide(&id, true).await)] {
        assert_eq!(refused, Code::PermissionDenied);
    }
    let status = admin.decide(&id, true).await.unwrap_err();
    assert!(status.message().contains("not known as a person"), "{status}");
    // Persons without the role, or with that of another team.
    for uid in [ALICE, CAROL] {
        assert_eq!(
            code(server.local(uid).decide(&id, true).await),
            Code::PermissionDenied,
            "{uid}"
        );
    }
    assert_eq!(code(bob.find("").await), Code::NotFound);
    let web = MIGRATE.replace("pay/db-migrate", "web/deploy");
    let id = server.local(ALICE).define(&web).await.unwrap().proposal_id;
    server.local(CAROL).decide(&id, true).await.unwrap();
    for id in ["", "x", "01900000-0000-7000-8000-000000000000"] {
        assert_eq!(code(bob.decide(id, true).await), Code::NotFound, "{id}");
    }
}

#[tokio::test]
async fn who_proposed_something_takes_it_back_and_nobody_else_without_a_role() {
    let server = Server::with(peopled(true)).await;
    let (alice, carol) = (server.local(ALICE), server.local(CAROL));
    let id = alice.define(MIGRATE).await.unwrap().proposal_id;
    assert_eq!(code(carol.decide(&id, false).await), Code::PermissionDenied);
    // She may agree to nothing, and this is hers.
    let done = alice.decide(&id, false).await.unwrap();
    assert_eq!((done.state.as_str(), done.decided_by.as_str()), ("rejected", "alice"));
    assert_eq!(code(server.local(BOB).decide(&id, true).await), Code::NotFound);
    assert_eq!(code(alice.find("").await), Code::NotFound);
}

// S55
#[tokio::test]
async fn break_glass_that_could_be_used_only_once_is_refused() {
    let server = Server::with(peopled(false)).await;
    let breakglass = |groups: &str| {
        MIGRATE
            .replace(
                "[allowed]",
                "class = \"breakglass\"\nescalation = \"#ops\"\n[ticket]\nrequired = true\n[allowed]",
            )
            .replace("groups = [\"pay/leads\"]", groups)
    };
    let bob = server.local(BOB);
    let refused = bob.define(&breakglass("groups = [\"pay/leads\"]")).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("takes 2 people who may approve, and there is 1"),
        "{refused}"
    );
    let of_two = breakglass("groups = [\"authors\"]").replace("count = 1", "count = 2");
    let refused = bob.define(&of_two).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("takes 4 people who may approve, and there are 2"),
        "{refused}"
    );
    bob.define(&breakglass("groups = [\"authors\"]")).await.unwrap();
}

#[tokio::test]
async fn proposals_of_two_are_decided_once_and_not_without_end() {
    let server = Server::with(peopled(true)).await;
    let (alice, bob) = (server.local(ALICE), server.local(BOB));
    let id = alice.define(MIGRATE).await.unwrap().proposal_id;
    let both = tokio::join!(bob.decide(&id, true), bob.decide(&id, true));
    let codes = [code(both.0), code(both.1)];
    assert!(
        codes.contains(&Code::Ok) && codes.contains(&Code::NotFound),
        "{codes:?}"
    );
    assert_eq!(server.world.logged("definition.put").len(), 1);
    for n in 0..100 {
        let text = MIGRATE.replace("db-migrate", &format!("task{n}"));
        alice.define(&text).await.unwrap();
    }
    let status = alice.define(&MIGRATE.replace("db-migrate", "more")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let listed = bob
        .proposals()
        .list(ListProposalsRequest {})
        .await
        .unwrap()
        .into_inner()
        .proposals;
    assert_eq!(
        listed.iter().filter(|proposal| proposal.state == "pending").count(),
        100
    );
    assert_eq!(listed.last().unwrap().state, "approved");
}
