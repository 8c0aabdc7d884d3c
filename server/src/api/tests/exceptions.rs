//! Exceptions, by one person and by two; what stands.

use mayfly_proto::mayfly::task::debt_client::DebtClient;
use mayfly_proto::mayfly::task::exceptions_client::ExceptionsClient;
use mayfly_proto::mayfly::task::*;

use super::definitions::{ALICE, BOB, CAROL, peopled};
use super::*;

const DAY: i64 = 86_400;

impl Connected {
    fn exceptions(&self) -> ExceptionsClient<Self> {
        ExceptionsClient::new(self.clone())
    }

    async fn grant(&self, wanted: GrantExceptionRequest) -> Result<ExceptionResponse, Status> {
        self.exceptions().grant(wanted).await.map(tonic::Response::into_inner)
    }

    async fn renew(&self, id: &str, expires_at: i64) -> Result<ExceptionResponse, Status> {
        let (id, reason) = (id.to_owned(), "still".to_owned());
        let request = RenewExceptionRequest { id, reason, expires_at };
        self.exceptions().renew(request).await.map(tonic::Response::into_inner)
    }

    async fn end(&self, id: &str, power_removed: bool) -> Result<Exception, Status> {
        let id = id.to_owned();
        let answer = self.exceptions().end(EndExceptionRequest { id, power_removed }).await;
        answer.map(|answer| answer.into_inner().exception.unwrap_or_default())
    }

    async fn register(&self) -> Vec<Exception> {
        let answer = self.exceptions().list(ListExceptionsRequest {}).await;
        answer.unwrap().into_inner().exceptions
    }
}

fn wanted(server: &Server) -> GrantExceptionRequest {
    GrantExceptionRequest {
        identity: "spiffe://td/legacy".into(),
        allows: "reads backups".into(),
        scopes: vec!["backup:read".into()],
        owner: "carol".into(),
        reason: "the appliance knows no tasks".into(),
        compensating_control: "its network is closed".into(),
        expires_at: server.world.now().unix() + 90 * DAY,
    }
}

// S6
#[tokio::test]
async fn an_exception_is_granted_by_somebody_else_than_its_owner() {
    let server = Server::with(peopled(false)).await;
    let (bob, carol) = (server.local(BOB), server.local(CAROL));
    let own = GrantExceptionRequest {
        owner: "bob".into(),
        ..wanted(&server)
    };
    let refused = bob.grant(own).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("somebody else"), "{refused}");
    let granted = bob.grant(wanted(&server)).await.unwrap();
    assert!(granted.proposal_id.is_empty());
    let granted = granted.exception.unwrap();
    assert_eq!(
        (granted.approved_by.as_str(), granted.state.as_str()),
        ("bob", "in_force")
    );
    assert_eq!(bob.register().await, std::slice::from_ref(&granted));
    // One at a time.
    assert_eq!(code(bob.grant(wanted(&server)).await), Code::AlreadyExists);
    let later = server.world.now().unix() + 30 * DAY;
    assert_eq!(code(carol.renew(&granted.id, later).await), Code::PermissionDenied);
    let renewed = bob.renew(&granted.id, later).await.unwrap().exception.unwrap();
    assert_eq!((renewed.renewals, renewed.expires_at), (1, later));
    let ended = bob.end(&granted.id, false).await.unwrap();
    assert!(ended.stops_issuance && ended.state == "ended");
    let free = bob.end(&granted.id, true).await.unwrap();
    assert!(!free.stops_issuance && free.power_removed);
    let kinds: Vec<String> = server.world.log().into_iter().map(|entry| entry.kind).collect();
    let of_exceptions: Vec<&str> = kinds
        .iter()
        .map(String::as_str)
        .filter(|kind| kind.starts_with("exception."))
        .collect();
    assert_eq!(
        of_exceptions,
        [
            "exception.granted",
            "exception.renewed",
            "exception.ended",
            "exception.ended"
        ]
    );
}

#[tokio::test]
async fn an_exception_that_does_not_say_what_it_has_to_is_refused() {
    let server = Server::with(peopled(false)).await;
    let bob = server.local(BOB);
    let refused = async |change: fn(&mut GrantExceptionRequest)| {
        let mut request = wanted(&server);
        change(&mut request);
        let status = bob.grant(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        status.message().split(':').next().unwrap().to_owned()
    };
    assert_eq!(refused(|r| r.expires_at += 1).await, "expires_at");
    assert_eq!(refused(|r| r.expires_at = 0).await, "expires_at");
    assert_eq!(refused(|r| r.expires_at = i64::MAX).await, "expires_at");
    assert_eq!(refused(|r| r.reason.clear()).await, "reason");
    assert_eq!(
        refused(|r| r.compensating_control.clear()).await,
        "compensating_control"
    );
    assert_eq!(refused(|r| r.owner = "nobody".into()).await, "owner");
    assert_eq!(refused(|r| r.identity = "spiffe://other/x".into()).await, "identity");
    assert_eq!(
        refused(|r| r.identity = "spiffe://td/task/pay/x".into()).await,
        "identity"
    );
    assert_eq!(refused(|r| r.identity = "no-such-entry".into()).await, "identity");
    assert_eq!(refused(|r| r.scopes = vec!["a b".into()]).await, "scopes");
    assert_eq!(
        code(bob.renew("none", server.world.now().unix() + 5).await),
        Code::NotFound
    );
    assert_eq!(code(bob.end("none", false).await), Code::NotFound);
    assert_eq!(code(bob.end("none", true).await), Code::NotFound);
    // An author of some teams grants nobody anything.
    assert_eq!(
        code(server.local(ALICE).grant(wanted(&server)).await),
        Code::PermissionDenied
    );
}

// S6 S43
#[tokio::test]
async fn where_two_are_wanted_an_exception_is_a_proposal_that_its_owner_does_not_approve() {
    let mut setup = peopled(true);
    for who in &mut setup.operators {
        who.roles
            .extend(["author".parse().unwrap(), "approver".parse().unwrap()]);
    }
    let server = Server::with(setup).await;
    let (alice, bob, carol) = (server.local(ALICE), server.local(BOB), server.local(CAROL));
    let proposed = bob.grant(wanted(&server)).await.unwrap();
    assert!(proposed.exception.is_none() && alice.register().await.is_empty());
    let id = proposed.proposal_id;
    let approve = async |who: &Connected| {
        let request = DecideProposalRequest { id: id.clone() };
        who.proposals().approve(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(code(approve(&bob).await), Code::PermissionDenied, "its author");
    assert_eq!(code(approve(&carol).await), Code::PermissionDenied, "its owner");
    let shown = alice
        .proposals()
        .list(ListProposalsRequest {})
        .await
        .unwrap()
        .into_inner();
    let shown = &shown.proposals[0];
    assert_eq!(shown.kind, "exception");
    assert!(
        shown.content.contains("its network is closed") && shown.content.contains("carol"),
        "{shown:?}"
    );
    approve(&alice).await.unwrap();
    let register = alice.register().await;
    assert_eq!(register[0].approved_by, "bob, approved by alice");
    // Ending needs nobody else; giving the power back in words does.
    assert!(bob.end(&register[0].id, false).await.unwrap().stops_issuance);
    assert_eq!(bob.end(&register[0].id, true).await.unwrap(), Exception::default());
    assert!(alice.register().await[0].stops_issuance);
}

#[tokio::test]
async fn an_entry_that_still_has_the_power_is_not_free_by_words() {
    let server = Server::with(peopled(false)).await;
    let bob = server.local(BOB);
    let parent = id("/spire/agent/echo/a");
    let entry = server.world.entry("legacy", &parent, |spec| spec.admin = true).await;
    let granted = bob.grant(wanted(&server)).await.unwrap().exception.unwrap();
    let refused = bob.end(&granted.id, true).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(entry.as_str()), "{refused}");
    server
        .world
        .commit(mayfly_model::Change::EntryDelete(entry))
        .await
        .unwrap();
    assert!(bob.end(&granted.id, true).await.unwrap().power_removed);

    // One that names an entry: what is made in its place has the power as well.
    let entry = server.world.entry("legacy", &parent, |spec| spec.admin = true).await;
    let of_entry = GrantExceptionRequest {
        identity: entry.to_string(),
        ..wanted(&server)
    };
    let granted = bob.grant(of_entry).await.unwrap().exception.unwrap();
    let delete = async |entry| {
        server
            .world
            .commit(mayfly_model::Change::EntryDelete(entry))
            .await
            .unwrap()
    };
    delete(entry).await;
    let again = server.world.entry("legacy", &parent, |spec| spec.admin = true).await;
    let refused = bob.end(&granted.id, true).await.unwrap_err();
    assert!(refused.message().contains(again.as_str()), "{refused}");
    delete(again).await;
    assert!(bob.end(&granted.id, true).await.unwrap().power_removed);
}

// S7
#[tokio::test]
async fn what_stands_is_answered_with_what_to_do_about_it() {
    let server = Server::with(peopled(false)).await;
    let bob = server.local(BOB);
    let agent = id("/spire/agent/echo/a");
    server.world.entry("root", &agent, |spec| spec.admin = true).await;
    bob.grant(wanted(&server)).await.unwrap();
    server.world.clock.advance(std::time::Duration::from_secs(2 * 3600));
    let admin = server.local(ADMIN);
    let mut debt = DebtClient::new(admin.clone());
    let answer = debt.get(GetDebtRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.until - answer.since, 30 * DAY);
    assert_eq!(answer.entries, server.world.log().len() as u64);
    let found = &answer.findings[0];
    assert_eq!(
        (found.code.as_str(), found.severity.as_str()),
        ("privileged-base-identity", "high")
    );
    assert!(found.remedy.contains("exception grant"), "{found:?}");
    assert_eq!(answer.exceptions.len(), 1);
    assert_eq!(answer.privileged[0].identity, "spiffe://td/root");
    let lints = debt.lint(GetLintsRequest::default()).await.unwrap().into_inner();
    assert_eq!((lints.lints.len(), lints.policies), (0, 0));
    let wrong = GetDebtRequest {
        scope: "pay".into(),
        ..GetDebtRequest::default()
    };
    assert_eq!(code(debt.get(wrong).await), Code::InvalidArgument);
    assert_eq!(
        code(
            DebtClient::new(server.local(NOBODY))
                .get(GetDebtRequest::default())
                .await
        ),
        Code::PermissionDenied
    );
}
