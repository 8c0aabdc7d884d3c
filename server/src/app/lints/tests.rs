use std::time::Duration;

use mayfly_audit::Severity;
use mayfly_model::task::Definition;
use mayfly_model::{Change, ExceptionState, ExceptionStep};

use super::*;
use crate::app::testing::{World, id};

const TASK: &str = "name = \"pay/backup\"\nowner = \"ann\"\nscopes = [\"backup:read\", \"mayfly:admin\"]\n\
                    [allowed]\nworkloads = [\"/web\"]\n[approval]\ncount = 1\ngroups = [\"leads\"]\n";

async fn world(scopes: &str) -> World {
    let world = World::new().await;
    let text = TASK.replace("\"backup:read\", \"mayfly:admin\"", scopes);
    let definition = Box::new(Definition::parse(&text).unwrap());
    let author = "ann".into();
    world
        .commit(Change::DefinitionPut { definition, author })
        .await
        .unwrap();
    world
}

async fn except(world: &World, identity: Excepted, scopes: &[&str]) {
    let exception = Exception {
        id: identity.to_string(),
        identity,
        allows: "reads backups".into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        owner: "ann".parse().unwrap(),
        reason: "no task fits".into(),
        compensating_control: "watched".into(),
        approved_by: String::new(),
        granted_at: world.now(),
        approved_at: world.now(),
        expires_at: world.now().plus(Duration::from_secs(600)),
        renewals: 0,
        state: ExceptionState::InForce,
        ended_at: None,
        power_removed: false,
    };
    let change = Change::ExceptionStep {
        id: exception.id.clone(),
        step: Box::new(ExceptionStep::Grant {
            exception: Box::new(exception),
        }),
        approved_by: "bob".into(),
    };
    world.commit(change).await.unwrap();
}

fn found(world: &World) -> Vec<(String, String)> {
    let lints = lint(&world.committer.snapshot(), &PolicySet::builtin(), &[], world.now());
    assert!(
        lints
            .iter()
            .all(|lint| lint.requirement == "S5" && lint.code == "base-has-scopes")
    );
    lints.into_iter().map(|lint| (lint.subject, lint.message)).collect()
}

// S5
#[tokio::test]
async fn a_task_that_gives_what_somebody_has_anyway_is_found() {
    let world = world("\"backup:read\", \"mayfly:admin\"").await;
    assert_eq!(found(&world), []);
    except(&world, Excepted::Identity(id("/web")), &["backup:read"]).await;
    let first = found(&world);
    assert_eq!(first.len(), 1);
    assert!(
        first[0].0 == "pay/backup" && first[0].1.contains("`backup:read`"),
        "{first:?}"
    );
    assert!(first[0].1.contains("the task adds nothing"), "{first:?}");
    let agent = world.agent("a").await;
    let root = world.entry("root", &agent.id, |spec| spec.admin = true).await;
    let both = found(&world);
    assert_eq!(both.len(), 2);
    assert!(
        both[0].1.contains("/root") && both[0].1.contains("a way around the task"),
        "{both:?}"
    );
    // What is over is not held any more.
    world.clock.advance(Duration::from_secs(600));
    world.commit(Change::EntryDelete(root)).await.unwrap();
    assert_eq!(found(&world), []);
}

#[tokio::test]
async fn a_task_that_gives_something_else_is_not() {
    let world = world("\"backup:write\"").await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |spec| spec.admin = true).await;
    except(&world, Excepted::Identity(id("/web")), &["backup:read"]).await;
    except(&world, Excepted::Entry(entry), &["mayfly:admin"]).await;
    assert_eq!(found(&world), []);
}

// S19 S42 S85
#[tokio::test]
async fn policies_people_and_windows_are_judged_by_who_knows_them() {
    let world = World::new().await;
    let finding = |code: &str| Finding {
        code: code.into(),
        severity: Severity::Medium,
        subject: "x".into(),
        since: 0,
        message: "seen".into(),
        evidence: vec![1],
    };
    let text = r#"@id("all") permit (principal in Mayfly::Group::"leads", action in Mayfly::Action::"use", resource);"#;
    let policies = PolicySet::load(&[("x.cedar".to_owned(), text.to_owned())].into()).unwrap();
    let findings = ["rubber-stamping", "disguised-standing-access", "unsettled-window"].map(finding);
    let lints = lint(&world.committer.snapshot(), &policies, &findings, world.now());
    let codes: Vec<(&str, &str)> = lints
        .iter()
        .map(|lint| (lint.requirement, lint.code.as_str()))
        .collect();
    assert_eq!(
        codes,
        [
            ("S19", "principals-only"),
            ("S42", "rubber-stamping"),
            ("S5", "no-window-bound"),
            ("S85", "disguised-standing-access")
        ]
    );
    assert_eq!(lints[0].file, "x.cedar");
}
