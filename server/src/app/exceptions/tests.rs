use mayfly_runtime::CancellationToken;

use super::*;
use crate::app::testing::{START, World, id};

fn exception(name: &str, path: &str, seconds: i64) -> Exception {
    let at = |seconds: i64| Timestamp::from_unix(START as i64 + seconds);
    Exception {
        id: name.into(),
        identity: Excepted::Identity(id(path)),
        allows: "reads backups".into(),
        scopes: ["backup:read".to_owned()].into(),
        owner: "ann".parse().unwrap(),
        reason: "no task fits".into(),
        compensating_control: "watched".into(),
        approved_by: String::new(),
        granted_at: at(0),
        approved_at: at(0),
        expires_at: at(seconds),
        renewals: 0,
        state: ExceptionState::InForce,
        ended_at: None,
        power_removed: false,
        gives: None,
    }
}

async fn grant(world: &World, exception: Exception) {
    let change = Change::ExceptionStep {
        id: exception.id.clone(),
        step: Box::new(ExceptionStep::Grant {
            exception: Box::new(exception),
        }),
        approved_by: "bob".into(),
    };
    world.commit(change).await.unwrap();
}

// S6
#[tokio::test]
async fn an_exception_is_logged_as_expired_at_its_instant_and_once() {
    let world = World::new().await;
    grant(&world, exception("later", "/later", 5_000)).await;
    grant(&world, exception("soon", "/soon", 600)).await;
    let stop = CancellationToken::new();
    let swept = expire(world.committer.clone(), world.clock.clone(), stop.clone());
    let watch = async {
        let mut revision = world.committer.revision();
        // It looks while nothing is due, and once more for the commit that this is.
        grant(&world, exception("third", "/third", 5_000)).await;
        assert!(world.logged("exception.expired").is_empty());
        world.clock.advance(Duration::from_secs(600));
        while world.committer.snapshot().exception("soon").unwrap().state != ExceptionState::Expired {
            revision.changed().await.unwrap();
        }
        stop.cancel();
    };
    tokio::join!(swept, watch);
    let expired = world.logged("exception.expired");
    assert_eq!(expired.len(), 1);
    assert_eq!(
        (expired[0].subject.as_str(), expired[0].time.unix()),
        ("soon", START as i64 + 600)
    );
    assert_eq!(expired[0].actor.who, "server");
    assert_eq!(expired[0].body["owner"], "ann");
    let next = world.committer.snapshot().next_exception_end().unwrap();
    assert_eq!(next.0.unix(), START as i64 + 5_000);
}

#[tokio::test]
async fn exceptions_are_for_base_identities_and_entries_that_there_are() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    let state = world.committer.snapshot();
    let is_good = |text: &str| check_identity(&text.parse().unwrap(), &state).is_ok();
    assert!(is_good("spiffe://td/web") && is_good(entry.as_str()));
    for wrong in [
        "spiffe://other/web",
        "spiffe://td/spire/agent/t/a",
        "spiffe://td/task/pay/x",
        "spiffe://td/breakglass/x",
        "no-such-entry",
    ] {
        assert!(!is_good(wrong), "{wrong}");
    }
}

#[tokio::test]
async fn the_power_of_an_entry_counts_no_more_once_its_exception_is_over() {
    use crate::app::caller::{Caller, Role, RoleMap};
    let world = World::new().await;
    let agent = world.agent("a").await;
    world.entry("web", &agent.id, |spec| spec.admin = true).await;
    let role = || {
        let caller = Caller::Workload(id("/web"));
        RoleMap::default().role_of(&caller, &world.committer.snapshot(), world.now())
    };
    assert_eq!(role(), Some(Role::Admin));
    grant(&world, exception("e", "/web", 600)).await;
    assert_eq!(role(), Some(Role::Admin));
    world.clock.advance(Duration::from_secs(600));
    // It may still hold an SVID from before it was excepted.
    assert_eq!(role(), None);
}
