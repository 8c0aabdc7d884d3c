//! The operators' policy over the API.

use std::collections::BTreeMap;

use mayfly_model::Change;
use mayfly_model::task::TaskId;
use mayfly_policy::{Facts, Phase, PolicySet};
use mayfly_proto::mayfly::task::policy_client::PolicyClient;
use mayfly_proto::mayfly::task::*;

use super::definitions::{ALICE, BOB, CAROL, peopled};
use super::*;
use crate::app::testing::tasks::migrate;

const FROZEN: &str = r#"@id("frozen")
@reason("no migrations before the audit ends")
forbid (principal, action in Mayfly::Action::"use", resource == Mayfly::TaskDefinition::"pay/migrate");
"#;

type Files = BTreeMap<String, String>;

fn files(text: &str) -> Files {
    [("own.cedar".to_owned(), text.to_owned())].into()
}

impl Connected {
    fn policy(&self) -> PolicyClient<Self> {
        PolicyClient::new(self.clone())
    }

    async fn policy_now(&self) -> PolicyFiles {
        self.policy().get(GetPolicyRequest {}).await.unwrap().into_inner()
    }

    async fn set(&self, files: Files, replaces: &str) -> Result<SetPolicyResponse, Status> {
        let replaces = replaces.into();
        let answer = self.policy().set(SetPolicyRequest { files, replaces }).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn what_if(&self, text: &str) -> Result<WhatIfResponse, Status> {
        let answer = self.policy().what_if(WhatIfRequest { files: files(text) }).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn explain(&self, request_id: &str) -> Result<ExplainResponse, Status> {
        let request_id = request_id.into();
        let answer = self.policy().explain(ExplainRequest { request_id }).await;
        answer.map(tonic::Response::into_inner)
    }
}

impl Server {
    /// A decision as the log has it.
    async fn decided(&self, phase: Phase, change: impl FnOnce(&mut Facts)) -> TaskId {
        let mut facts = Facts::sample(phase, migrate());
        change(&mut facts);
        let decision = PolicySet::builtin().decide(&facts);
        let id = TaskId::random();
        let note = Change::Note {
            kind: "policy.decided",
            subject: id.to_string(),
            body: serde_json::json!({ "facts": facts, "decision": decision }),
        };
        self.world.commit(note).await.unwrap();
        id
    }
}

#[tokio::test]
async fn a_policy_is_in_force_with_the_next_decision_and_replaces_what_was_looked_at() {
    let server = Server::with(peopled(false)).await;
    let (bob, holder) = (server.local(BOB), &server.api.policy);
    let facts = Facts::sample(Phase::Open, migrate());
    assert!(holder.current().decide(&facts).is_allowed());
    let bare = bob.policy_now().await;
    assert!(bare.files.is_empty() && bare.set_at == 0);
    let set = bob.set(files(FROZEN), &bare.digest).await.unwrap();
    assert!(set.in_force && set.digest != bare.digest);
    assert_eq!(holder.current().decide(&facts).reason_ids(), ["frozen"]);
    let present = bob.policy_now().await;
    assert_eq!(
        (present.digest.as_str(), present.author.as_str()),
        (set.digest.as_str(), "bob")
    );
    assert_eq!(present.files, files(FROZEN));
    // Somebody else set it meanwhile.
    let status = bob.set(Files::new(), &bare.digest).await.unwrap_err();
    assert!(
        status.code() == Code::Aborted && status.message().contains(&set.digest),
        "{status}"
    );
    bob.set(Files::new(), &set.digest).await.unwrap();
    assert!(holder.current().decide(&facts).is_allowed());
    assert_eq!(bob.policy_now().await.digest, bare.digest);
    assert_eq!(server.world.logged("policy.set").len(), 2);
    // Who authors the tasks of a team does not set what holds for all.
    assert_eq!(
        code(server.local(ALICE).set(files(FROZEN), "").await),
        Code::PermissionDenied
    );
    assert_eq!(
        code(server.local(CAROL).set(files(FROZEN), "").await),
        Code::PermissionDenied
    );
}

// S17
#[tokio::test]
async fn what_is_not_understood_is_refused_with_file_and_line() {
    let server = Server::new().await;
    let admin = server.admin();
    for (files, says) in [
        (
            files("\n@id(\"x\")\npermit (principal, action, resourse);"),
            "own.cedar:3",
        ),
        (
            files("permit (principal, action == Mayfly::Action::\"open\", resource);"),
            "@id",
        ),
        (files(&FROZEN.replace("resource ==", "resource in")), ""),
        (files(&FROZEN.replace("TaskDefinition", "Task")), "own.cedar"),
        (
            files(&format!("{FROZEN}when {{ context.tickets.open }};").replace(";\nwhen", "\nwhen")),
            "own.cedar",
        ),
        (files(&FROZEN.replace("@reason", "@reasons")), "@reasons"),
        ([("own.cedr".to_owned(), FROZEN.to_owned())].into(), ".cedar"),
        (
            [("../own.cedar".to_owned(), FROZEN.to_owned())].into(),
            "no name of a policy file",
        ),
        (
            [("builtin/guard.cedar".to_owned(), FROZEN.to_owned())].into(),
            "no name of a policy file",
        ),
        ([("own\u{1b}[2J.cedar".to_owned(), FROZEN.to_owned())].into(), "\\u{1b}"),
    ] {
        let check = CheckPolicyRequest { files: files.clone() };
        let problems = admin.policy().check(check).await.unwrap().into_inner().problems;
        if says.is_empty() {
            assert_eq!(problems, Vec::<String>::new());
            continue;
        }
        assert!(
            problems.iter().any(|problem| problem.contains(says)),
            "no `{says}` in {problems:?}"
        );
        let status = admin.set(files, "").await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let sound = CheckPolicyRequest { files: files(FROZEN) };
    let sound = admin.policy().check(sound).await.unwrap().into_inner();
    assert!(sound.problems.is_empty());
    assert_ne!(sound.digest, admin.policy_now().await.digest, "nothing was set");
    assert_eq!(admin.set(files(FROZEN), "").await.unwrap().digest, sound.digest);
}

// A policy that nobody could replace would be the last one.
#[tokio::test]
async fn a_policy_that_would_lock_its_author_out_is_refused() {
    let server = Server::new().await;
    let admin = server.admin();
    let locks = "@id(\"quiet\")\nforbid (principal, action == Mayfly::Action::\"call\", resource);";
    let status = admin.set(files(locks), "").await.unwrap_err();
    assert!(
        status.code() == Code::FailedPrecondition && status.message().contains("keep you from"),
        "{status}"
    );
    let others = "@id(\"quiet\")\nforbid (principal, action == Mayfly::Action::\"call\", resource in \
                  Mayfly::Access::\"read\");";
    admin.set(files(others), "").await.unwrap();
    assert_eq!(
        code(admin.policy().get(GetPolicyRequest {}).await),
        Code::PermissionDenied
    );
    admin.set(Files::new(), "").await.unwrap();
    admin.policy().get(GetPolicyRequest {}).await.unwrap();
}

// S43
#[tokio::test]
async fn with_two_person_a_policy_waits_for_somebody_else_too() {
    let mut setup = peopled(true);
    setup.operators[2].roles.insert("approver".parse().unwrap());
    let server = Server::with(setup).await;
    let (bob, carol) = (server.local(BOB), server.local(CAROL));
    let before = bob.policy_now().await.digest;
    let set = bob.set(files(FROZEN), "").await.unwrap();
    assert!(!set.in_force);
    assert_eq!(bob.policy_now().await.digest, before);
    let request = || DecideProposalRequest {
        id: set.proposal_id.clone(),
    };
    assert_eq!(code(bob.proposals().approve(request()).await), Code::PermissionDenied);
    // Carol could agree to it, and could not set one after it: she is no author.
    let status = carol.proposals().approve(request()).await;
    assert_eq!(code(status), Code::Ok);
    let present = carol.policy_now().await;
    assert_eq!(present.digest, set.digest);
    assert!(
        present.author.contains("bob") && present.author.contains("carol"),
        "{}",
        present.author
    );
}

#[tokio::test]
async fn what_if_shows_which_past_decisions_would_differ_and_changes_nothing() {
    let server = Server::with(peopled(false)).await;
    let bob = server.local(BOB);
    let opened = server.decided(Phase::Open, |_| {}).await;
    server
        .decided(Phase::Open, |facts| facts.process.environment = "stage".into())
        .await;
    server.decided(Phase::Renew, |_| {}).await;
    let note = Change::Note {
        kind: "policy.decided",
        subject: "of another version".into(),
        body: serde_json::json!({ "facts": { "phase": "open" } }),
    };
    server.world.commit(note).await.unwrap();
    let before = server.done().await;
    let viewer = server.local(VIEWER);
    let same = viewer.what_if("").await.unwrap();
    assert_eq!((same.decisions, same.differences.len()), (3, 0));
    let frozen = viewer.what_if(FROZEN).await.unwrap();
    assert_eq!((frozen.decisions, frozen.differences.len()), (3, 2), "{frozen:?}");
    // The newest first.
    let difference = &frozen.differences[1];
    assert_eq!(difference.request_id, opened.to_string());
    assert_eq!(
        (difference.task.as_str(), difference.phase.as_str()),
        ("pay/migrate", "open")
    );
    assert_eq!(
        (difference.was.as_str(), difference.would_be.as_str()),
        ("allowed", "refused: frozen")
    );
    let capped = "@id(\"short\")\n@ttl_cap(\"60s\")\npermit (principal, action == Mayfly::Action::\"open\", resource);";
    let capped = viewer.what_if(capped).await.unwrap();
    assert_eq!(capped.differences[0].would_be, "allowed: SVIDs of at most 60 s");
    assert_eq!(code(viewer.what_if("nonsense").await), Code::InvalidArgument);
    assert_eq!(server.done().await, before);
    assert_eq!(
        code(server.local(CAROL).what_if(FROZEN).await),
        Code::PermissionDenied,
        "no role"
    );
    assert_eq!(bob.policy_now().await.set_at, 0);
}

// S25
#[tokio::test]
async fn a_refusal_is_explained_by_what_would_turn_it() {
    let server = Server::with(peopled(false)).await;
    let admin = server.admin();
    let id = server
        .decided(Phase::Open, |facts| facts.process.environment = "stage".into())
        .await;
    let explained = admin.explain(&id.to_string()).await.unwrap();
    let now = explained.now.unwrap();
    assert!(!now.allowed && now.reasons == ["environment-mismatch"] && now.phase == "open");
    assert!(
        explained.flips.iter().any(|flip| flip.contains("prod")),
        "{:?}",
        explained.flips
    );
    // By the policy of now.
    let allowed = server.decided(Phase::Open, |_| {}).await.to_string();
    assert!(admin.explain(&allowed).await.unwrap().now.unwrap().allowed);
    admin.set(files(FROZEN), "").await.unwrap();
    assert_eq!(admin.explain(&allowed).await.unwrap().now.unwrap().reasons, ["frozen"]);
    assert_eq!(code(admin.explain(&TaskId::random().to_string()).await), Code::NotFound);
    assert_eq!(code(admin.explain("x").await), Code::InvalidArgument);
}

#[tokio::test]
async fn a_proposal_that_would_undo_something_newer_is_not_agreed_to() {
    let mut setup = peopled(true);
    setup.operators[2].roles.insert("approver".parse().unwrap());
    let server = Server::with(setup).await;
    let (bob, carol) = (server.local(BOB), server.local(CAROL));
    let approve = async |id: &str| code(carol.proposals().approve(DecideProposalRequest { id: id.into() }).await);
    let older = bob.set(files("// nothing"), "").await.unwrap().proposal_id;
    let other = bob.set(files("// nothing else"), "").await.unwrap().proposal_id;
    server.world.clock.advance(std::time::Duration::from_secs(60));
    let frozen = bob.set(files(FROZEN), "").await.unwrap();
    assert_eq!(approve(&frozen.proposal_id).await, Code::Ok);
    for id in [&older, &other] {
        assert_eq!(approve(id).await, Code::FailedPrecondition);
    }
    assert_eq!(bob.policy_now().await.files, files(FROZEN));
    // It can be refused, and proposed anew by who has seen what holds now.
    let request = DecideProposalRequest { id: older };
    assert_eq!(code(carol.proposals().reject(request).await), Code::Ok);
    server.world.clock.advance(std::time::Duration::from_secs(60));
    let again = bob.set(files("// nothing"), &frozen.digest).await.unwrap();
    assert_eq!(approve(&again.proposal_id).await, Code::Ok);
}

#[tokio::test]
async fn of_two_who_set_a_policy_at_the_same_time_one_looks_again() {
    let server = Server::with(peopled(false)).await;
    let (bob, before) = (server.local(BOB), server.local(BOB).policy_now().await.digest);
    let both = tokio::join!(bob.set(files(FROZEN), &before), bob.set(files("// nothing"), &before));
    let codes = [code(both.0), code(both.1)];
    assert!(codes.contains(&Code::Ok) && codes.contains(&Code::Aborted), "{codes:?}");
    assert_eq!(server.world.logged("policy.set").len(), 1);
}
