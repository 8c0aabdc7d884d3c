use std::time::Duration;

use mayfly_model::task::{CloseCause, TaskStep};
use mayfly_model::{Change, Excepted, Exception, ExceptionStep};
use prometheus_client::encoding::text;

use super::*;
use crate::app::testing::tasks::step_of;
use crate::app::testing::{START, World, id};

/// A world whose commits a meter follows, and what it shows.
async fn metered() -> (World, Meter, impl Fn() -> String) {
    let meter: Arc<Mutex<Option<Meter>>> = Arc::default();
    let follower = meter.clone();
    let world = World::observed(move |applied| {
        if let Some(meter) = &*follower.lock().unwrap() {
            meter.observe(applied);
        }
    })
    .await;
    let made = Meter::new(world.clock.clone(), &world.committer.snapshot());
    *meter.lock().unwrap() = Some(made.clone());
    let mut registry = Registry::with_prefix("mayfly_server");
    made.register(&mut registry, world.committer.clone());
    let shown = move || {
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    };
    (world, made, shown)
}

/// The value of a line that begins like this.
fn value(page: &str, name: &str) -> String {
    let line = page.lines().find(|line| line.starts_with(&format!("{name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
    line.rsplit(' ').next().unwrap().to_owned()
}

const SECONDS: &str = r#"mayfly_server_task_privileged_seconds_total{task="pay/migrate"}"#;

// S83
#[tokio::test]
async fn seconds_of_power_are_counted_while_a_window_is_open_and_not_after() {
    let (world, _, shown) = metered().await;
    let agent = world.agent("a").await;
    let (first, _) = world.opened(&agent).await;
    let (second, _) = world.opened(&agent).await;
    assert_eq!(value(&shown(), "mayfly_server_task_open_windows"), "2");
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(value(&shown(), SECONDS), "20");
    world.close(&first).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    let page = shown();
    assert_eq!(value(&page, SECONDS), "25");
    assert_eq!(value(&page, "mayfly_server_task_open_windows"), "1");
    assert_eq!(value(&page, "mayfly_server_task_unsettled_windows"), "1");
    // A clock that is set back takes nothing away.
    world
        .clock
        .set(std::time::UNIX_EPOCH + Duration::from_secs(START - 100));
    assert_eq!(value(&shown(), SECONDS), "25");
    // Nor does one go on for ever that nobody ended.
    world
        .clock
        .set(std::time::UNIX_EPOCH + Duration::from_secs(START + 900 + 10_000));
    assert_eq!(value(&shown(), SECONDS), (10 + 900).to_string());
    drop(second);
}

// S83
#[tokio::test]
async fn ends_are_counted_once_however_many_steps_a_commit_has() {
    let (world, _, shown) = metered().await;
    let agent = world.agent("a").await;
    let (opened, _) = world.opened(&agent).await;
    world.clock.advance(Duration::from_secs(10));
    let window = opened.window_id;
    let close = TaskStep::Close {
        window,
        cause: CloseCause::Completed,
        detail: String::new(),
    };
    let steps = [close, TaskStep::Confirm { window }].map(|step| step_of(&opened.task_id, step));
    world.commit(Change::Together(steps.into())).await.unwrap();
    let settled = step_of(
        &opened.task_id,
        TaskStep::GiveUp {
            window,
            detail: "the consumer is silent".into(),
            checkpoints: vec![],
        },
    );
    world.commit(settled).await.unwrap();
    let page = shown();
    assert_eq!(value(&page, SECONDS), "10");
    assert_eq!(value(&page, "mayfly_server_task_revocation_incomplete_windows"), "1");
    assert_eq!(value(&page, "mayfly_server_task_breakglass_uses_total"), "0");
    assert_eq!(value(&page, "mayfly_server_task_approval_latency_seconds_count"), "0");
    assert_eq!(value(&page, "mayfly_server_task_residual_seconds_count"), "0");
}

#[tokio::test]
async fn a_meter_that_begins_in_a_window_counts_from_then_on() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    world.opened(&agent).await;
    world.clock.advance(Duration::from_secs(100));
    let meter = Meter::new(world.clock.clone(), &world.committer.snapshot());
    world.clock.advance(Duration::from_secs(7));
    assert_eq!(meter.lock().totals(world.now()), [("pay/migrate".to_owned(), 7)]);
}

// S6
#[tokio::test]
async fn identities_with_power_and_no_exception_in_force_are_counted_once() {
    let (world, _, shown) = metered().await;
    let agent = world.agent("a").await;
    world.entry("web", &agent.id, |spec| spec.admin = true).await;
    let again = ["unix:uid:2".parse().unwrap()].into_iter().collect();
    world
        .entry("web", &agent.id, |spec| {
            spec.downstream = true;
            spec.selectors = again;
        })
        .await;
    let gauge = "mayfly_server_standing_privileged_identities";
    assert_eq!(value(&shown(), gauge), "1");
    let exception = Exception {
        id: "e".into(),
        identity: Excepted::Identity(id("/web")),
        allows: "everything".into(),
        scopes: Default::default(),
        owner: "ann".parse().unwrap(),
        reason: "no task fits".into(),
        compensating_control: "watched".into(),
        approved_by: String::new(),
        granted_at: world.now(),
        approved_at: world.now(),
        expires_at: world.now().plus(Duration::from_secs(60)),
        renewals: 0,
        state: ExceptionState::InForce,
        ended_at: None,
        power_removed: false,
        gives: None,
    };
    let granted = Change::ExceptionStep {
        id: "e".into(),
        step: Box::new(ExceptionStep::Grant {
            exception: Box::new(exception),
        }),
        approved_by: "bob".into(),
    };
    world.commit(granted).await.unwrap();
    let in_force = r#"mayfly_server_exceptions{state="in_force"}"#;
    let page = shown();
    assert_eq!((value(&page, gauge), value(&page, in_force)), ("0".into(), "1".into()));
    world.clock.advance(Duration::from_secs(60));
    let page = shown();
    assert_eq!((value(&page, gauge), value(&page, in_force)), ("1".into(), "0".into()));
    assert_eq!(value(&page, r#"mayfly_server_exceptions{state="expired"}"#), "1");
}
