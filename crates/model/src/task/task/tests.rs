use std::collections::BTreeMap;

use mayfly_svid::{Serial, SpiffeId};

use super::*;
use crate::task::{Acknowledged, ActorClass, DefinitionHash, Instance, Issuance, Phase, SettledBy, TtlTerm};
use crate::{EntryId, Selectors};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW + seconds)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

fn request() -> TaskRequest {
    TaskRequest {
        task: "pay/migrate".parse().unwrap(),
        definition: DefinitionHash([7; 32]),
        workload: id("/ns/pay/migrator"),
        entry_id: EntryId::random(),
        agent_id: id("/spire/agent/t/a"),
        actor: ActorClass::Workload,
        person: Some("mallory".parse().unwrap()),
        owner: Some("olga".parse().unwrap()),
        selectors: Selectors::default(),
        reason: "a new column".into(),
        ticket: None,
        window: seconds(600),
        scopes: BTreeSet::new(),
        parameters: BTreeMap::new(),
        idempotency_key: "k".into(),
        requested_at: at(0),
    }
}

fn decided(allowed: bool) -> Decision {
    Decision {
        phase: Phase::Request,
        allowed,
        reasons: vec![],
        determining: vec![],
        policy_digest: String::new(),
        inputs_digest: String::new(),
        at: at(0),
    }
}

fn rule(count: u32, groups: &[&str]) -> ApprovalRule {
    ApprovalRule {
        count,
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        distinct_groups: None,
        valid_for: seconds(1800),
    }
}

fn submitted(approvals: Vec<ApprovalRule>, outcome: Outcome) -> Result<Task, TaskRefusal> {
    let terms = Terms {
        needs: Needs {
            approvals,
            ticket: false,
        },
        grant: Grant {
            open_by: at(3600),
            uses_left: 1,
            window_max: seconds(900),
            concurrency: 1,
            settle_before_next: false,
            heartbeat: None,
            review: false,
            checkpoints: BTreeSet::new(),
        },
        open_within: seconds(3600),
        wait_until: at(7200),
    };
    let is_allowed = outcome != Outcome::Deny;
    Task::submitted(TaskId::random(), request(), decided(is_allowed), outcome, terms, at(0))
}

fn armed() -> Task {
    submitted(vec![], Outcome::Permit).unwrap()
}

fn by(person: &str, groups: &[&str], when: i64) -> Approval {
    Approval {
        person: person.parse().unwrap(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        authenticated_as: "uid:1".into(),
        reason: "looked at it".into(),
        at: at(when),
        valid_until: at(when + 1800),
    }
}

fn approve(task: &Task, approval: Approval, when: i64) -> Result<Task, TaskRefusal> {
    let step = TaskStep::Approve {
        approval,
        digest: task.digest,
        decision: decided(true),
    };
    does(task, &step, when)
}

fn does(task: &Task, step: &TaskStep, when: i64) -> Result<Task, TaskRefusal> {
    let context = StepContext {
        now: at(when),
        next_epoch: 42,
    };
    task.apply(step, context)
}

fn lease(when: i64, until: i64) -> Issuance {
    Issuance {
        serial: Serial::from_be_bytes(&[1, u8::try_from(when.rem_euclid(256)).unwrap()]).unwrap(),
        public_key_sha256: format!("{when:064}"),
        not_before: at(when),
        not_after: at(until),
        authority_id: "a".into(),
        ttl_term: TtlTerm::Definition,
        revoked: None,
    }
}

fn window(when: i64, closes: i64) -> Window {
    Window::new(
        WindowId([9; 16]),
        Instance {
            agent_id: id("/spire/agent/t/a"),
            pid: 1,
            uid: 1,
            start_ticks: 1,
            boot_id: "b".into(),
            include_descendants: false,
        },
        id("/task/pay/migrate/ns/pay/migrator"),
        lease(when, when + 100),
        at(when),
        at(closes),
    )
}

fn open(task: &Task, window: Window, when: i64) -> Result<Task, TaskRefusal> {
    let step = TaskStep::Open {
        window: Box::new(window),
        decision: decided(true),
    };
    does(task, &step, when)
}

fn opened() -> Task {
    open(&armed(), window(0, 600), 0).unwrap()
}

fn close(cause: CloseCause) -> TaskStep {
    TaskStep::Close {
        window: WindowId([9; 16]),
        cause,
        detail: String::new(),
    }
}

// === approvals: I4, S38, S39; rows 17 to 19 of the adversarial review ===

#[test]
fn what_needs_people_is_not_armed_without_them() {
    assert_eq!(
        submitted(vec![rule(1, &["leads"])], Outcome::Permit),
        Err(TaskRefusal::ApprovalsMissing)
    );
    let waiting = submitted(vec![rule(1, &["leads"])], Outcome::WantApproval).unwrap();
    assert_eq!(waiting.stage, Stage::AwaitingApproval);
    assert!(open(&waiting, window(0, 600), 0).is_err());
    assert_eq!(
        approve(&waiting, by("ann", &["leads"], 5), 5).unwrap().stage,
        Stage::Armed
    );
}

#[test]
fn a_rule_of_nobody_or_of_nobodys_group_is_no_approval() {
    // A count of 0 in a rule that is there still wants one, and a rule without groups cannot be met at all.
    let waiting = submitted(vec![rule(0, &["leads"])], Outcome::WantApproval).unwrap();
    assert!(!waiting.is_approved(at(0)));
    assert_eq!(
        submitted(vec![rule(1, &[])], Outcome::WantApproval),
        Err(TaskRefusal::NobodyCanApprove)
    );
}

#[test]
fn nobody_approves_their_own() {
    let waiting = submitted(vec![rule(1, &["leads"])], Outcome::WantApproval).unwrap();
    // Who asked, and who owns the bot that asks.
    for person in ["mallory", "olga"] {
        assert!(matches!(
            approve(&waiting, by(person, &["leads"], 5), 5),
            Err(TaskRefusal::SelfApproval(_))
        ));
    }
}

#[test]
fn one_person_counts_once_and_only_for_their_groups() {
    let waiting = submitted(vec![rule(2, &["leads", "sre"])], Outcome::WantApproval).unwrap();
    let once = approve(&waiting, by("ann", &["leads"], 5), 5).unwrap();
    assert_eq!(once.stage, Stage::AwaitingApproval);
    assert!(matches!(
        approve(&once, by("ann", &["sre"], 6), 6),
        Err(TaskRefusal::ApprovedAlready(_))
    ));
    // A group of another team with a similar name has nothing to do with it.
    assert!(matches!(
        approve(&once, by("bob", &["web/leads"], 6), 6),
        Err(TaskRefusal::NotAnApprover(_))
    ));
    assert_eq!(approve(&once, by("bob", &["sre"], 6), 6).unwrap().stage, Stage::Armed);
}

#[test]
fn every_rule_has_to_be_met_and_every_group_that_it_asks_for() {
    let rules = vec![rule(1, &["leads"]), rule(1, &["security"])];
    let waiting = submitted(rules, Outcome::WantApproval).unwrap();
    let once = approve(&waiting, by("ann", &["leads"], 5), 5).unwrap();
    assert_eq!(once.stage, Stage::AwaitingApproval);
    assert_eq!(once.missing_approvals(at(5)).unwrap().0, 1);
    assert_eq!(
        approve(&once, by("bob", &["security"], 6), 6).unwrap().stage,
        Stage::Armed
    );

    let mut two_groups = rule(2, &["leads", "security"]);
    two_groups.distinct_groups = Some(2);
    let waiting = submitted(vec![two_groups], Outcome::WantApproval).unwrap();
    let once = approve(&waiting, by("ann", &["leads"], 5), 5).unwrap();
    let twice = approve(&once, by("bob", &["leads"], 6), 6).unwrap();
    assert_eq!(twice.stage, Stage::AwaitingApproval, "two people of one group");
    assert_eq!(
        approve(&twice, by("cay", &["security"], 7), 7).unwrap().stage,
        Stage::Armed
    );
}

#[test]
fn an_approval_is_for_exactly_what_was_looked_at() {
    let waiting = submitted(vec![rule(1, &["leads"])], Outcome::WantApproval).unwrap();
    let mut changed = request();
    changed.parameters.insert("table".into(), "users".into());
    assert_ne!(changed.digest(), waiting.digest);
    let step = TaskStep::Approve {
        approval: by("ann", &["leads"], 5),
        digest: changed.digest(),
        decision: decided(true),
    };
    assert_eq!(does(&waiting, &step, 5), Err(TaskRefusal::OtherDigest));
}

#[test]
fn an_approval_becomes_too_old() {
    let waiting = submitted(vec![rule(2, &["leads"])], Outcome::WantApproval).unwrap();
    let once = approve(&waiting, by("ann", &["leads"], 0), 0).unwrap();
    // The first is too old when the second comes; the same person may then agree again.
    let late = approve(&once, by("bob", &["leads"], 1801), 1801).unwrap();
    assert_eq!(late.stage, Stage::AwaitingApproval);
    let armed = approve(&late, by("ann", &["leads"], 1802), 1802).unwrap();
    assert_eq!(armed.stage, Stage::Armed);
    // And a grant can be opened only while all of them count.
    assert_eq!(armed.grant.open_by, at(1801 + 1800));
    assert!(open(&armed, window(3602, 4000), 3602).is_err());
    // Nobody states that their approval counts longer than the rule says.
    let mut long = by("cay", &["leads"], 5);
    long.valid_until = at(5 + 1801);
    assert_eq!(
        approve(&waiting, long, 5),
        Err(TaskRefusal::TooLong("approval.valid_for"))
    );
}

#[test]
fn a_refusal_of_policy_is_not_turned_by_an_outcome() {
    let terms_say_yes = submitted(vec![], Outcome::Permit).unwrap();
    let step = TaskStep::Open {
        window: Box::new(window(0, 600)),
        decision: decided(false),
    };
    assert_eq!(does(&terms_say_yes, &step, 0), Err(TaskRefusal::Refused));
}

// === windows: I1, I2, I5, I9, I11 ===

#[test]
fn a_grant_of_one_use_opens_one_window() {
    let task = opened();
    assert_eq!((task.stage, task.grant.uses_left), (Stage::Consumed, 0));
    assert!(open(&task, window(1, 600), 1).is_err());
}

#[test]
fn a_window_is_no_longer_than_asked_and_its_svids_no_longer_than_it() {
    let task = armed();
    assert_eq!(open(&task, window(0, 601), 0), Err(TaskRefusal::TooLong("the grant")));
    let mut outlives = window(0, 600);
    outlives.issuances = vec![lease(0, 600)]; // Its last second is the first in which the window is over.
    assert_eq!(open(&task, outlives, 0), Err(TaskRefusal::TooLong("the window")));
    assert!(open(&task, window(0, 600), 0).is_ok());
    // Stated as opened long ago, to be longer from now on.
    assert!(open(&task, window(10, 600), 0).is_err());
    assert_eq!(
        open(&task, window(3601, 3700), 3601),
        Err(TaskRefusal::TooLate(at(3600)))
    );
}

#[test]
fn renewing_never_moves_the_end() {
    let task = opened();
    let renew = |issuance, when| {
        let step = TaskStep::Renew {
            window: WindowId([9; 16]),
            issuance,
            decision: decided(true),
        };
        does(&task, &step, when)
    };
    let renewed = renew(lease(50, 150), 50).unwrap();
    assert_eq!(renewed.windows[0].closes_at, at(600));
    assert_eq!(renewed.windows[0].issued, 2);
    assert_eq!(renew(lease(550, 600), 550), Err(TaskRefusal::TooLong("the window")));
    assert_eq!(renew(lease(600, 620), 600), Err(TaskRefusal::TooLate(at(600))));
}

#[test]
fn an_extension_stays_within_the_definition_and_what_people_approved_is_not_extended() {
    let extend = |task: &Task, closes, when| {
        let step = TaskStep::Extend {
            window: WindowId([9; 16]),
            closes_at: at(closes),
            decision: decided(true),
        };
        does(task, &step, when)
    };
    let task = opened();
    assert_eq!(extend(&task, 900, 100).unwrap().windows[0].closes_at, at(900));
    assert_eq!(extend(&task, 901, 100), Err(TaskRefusal::TooLong("the definition")));
    assert_eq!(
        extend(&task, 600, 100),
        Err(TaskRefusal::TooLong("the definition")),
        "not further"
    );
    let waiting = submitted(vec![rule(1, &["leads"])], Outcome::WantApproval).unwrap();
    let approved = approve(&waiting, by("ann", &["leads"], 0), 0).unwrap();
    let approved = open(&approved, window(0, 600), 0).unwrap();
    assert_eq!(extend(&approved, 700, 100), Err(TaskRefusal::NeedsNewApproval));
}

#[test]
fn an_end_is_once_and_for_all_and_refuses_every_svid() {
    let closed = does(&opened(), &close(CloseCause::Completed), 10).unwrap();
    let window = &closed.windows[0];
    assert_eq!((window.stage, window.epoch), (Stage::Closing, Some(42)));
    assert!(window.issuances.iter().all(|issuance| issuance.revoked == Some(42)));
    assert_eq!(
        does(&closed, &close(CloseCause::Revoked), 11),
        Err(TaskRefusal::AlreadyEnded)
    );
    let renew = TaskStep::Renew {
        window: WindowId([9; 16]),
        issuance: lease(12, 100),
        decision: decided(true),
    };
    assert!(does(&closed, &renew, 12).is_err());
    assert!(!closed.is_over(), "it is not settled");
}

#[test]
fn time_ends_a_window_not_before_its_end() {
    let task = opened();
    assert_eq!(
        does(&task, &close(CloseCause::TimedOut), 599),
        Err(TaskRefusal::TooEarly(at(600)))
    );
    assert!(does(&task, &close(CloseCause::TimedOut), 600).is_ok());
}

#[test]
fn a_clock_that_is_set_back_brings_nothing_back() {
    let closed = does(&opened(), &close(CloseCause::Completed), 10).unwrap();
    assert!(does(&closed, &close(CloseCause::Completed), -600).is_err());
    let waiting = submitted(vec![rule(1, &["leads"])], Outcome::WantApproval).unwrap();
    assert!(matches!(
        does(&waiting, &TaskStep::Expire, 7200),
        Err(TaskRefusal::TooEarly(_))
    ));
    let expired = does(&waiting, &TaskStep::Expire, 7201).unwrap();
    assert!(approve(&expired, by("ann", &["leads"], -600), -600).is_err());
    assert!(expired.is_over());
}

#[test]
fn break_glass_is_looked_at_by_somebody_else() {
    let mut task = armed();
    task.grant.review = true;
    let task = open(&task, window(0, 600), 0).unwrap();
    assert!(task.review_due);
    let review = |by: &str| TaskStep::Review {
        by: by.parse().unwrap(),
        reason: "as it was said".into(),
    };
    assert!(matches!(
        does(&task, &review("mallory"), 900),
        Err(TaskRefusal::SelfApproval(_))
    ));
    let mut approved = task.clone();
    approved.approvals = vec![by("carl", &["leads"], 0)];
    assert_eq!(
        does(&approved, &review("carl"), 900),
        Err(TaskRefusal::ReviewOfOwn("carl".parse().unwrap())),
        "who approved it looks at their own approval"
    );
    let reviewed = does(&task, &review("ann"), 900).unwrap();
    assert!(!reviewed.review_due);
    assert_eq!(does(&reviewed, &review("ann"), 901), Err(TaskRefusal::AlreadyEnded));
}

#[test]
fn people_stand_for_one_group_each_where_several_groups_are_wanted() {
    let mut two_groups = rule(2, &["leads", "ops"]);
    two_groups.distinct_groups = Some(2);
    let task = submitted(vec![two_groups], Outcome::WantApproval).unwrap();
    let task = approve(&task, by("ann", &["leads", "ops"], 10), 10).unwrap();
    assert_eq!(task.stage, Stage::AwaitingApproval, "one person is not two groups");
    let task = approve(&task, by("bob", &["leads"], 11), 11).unwrap();
    assert_eq!(task.stage, Stage::Armed, "ann stands for ops");
    let mut three = rule(2, &["leads", "ops", "dba"]);
    three.distinct_groups = Some(3);
    let task = submitted(vec![three], Outcome::WantApproval).unwrap();
    let task = approve(&task, by("ann", &["leads", "ops"], 10), 10).unwrap();
    let task = approve(&task, by("bob", &["dba"], 11), 11).unwrap();
    assert_eq!(task.stage, Stage::AwaitingApproval, "two people are not three groups");
}

#[test]
fn what_is_asked_for_is_bounded_in_every_field_that_is_kept() {
    let refused = |change: fn(&mut TaskRequest)| {
        let mut request = request();
        change(&mut request);
        let fields: Vec<_> = request.check().into_iter().map(|problem| problem.field).collect();
        fields
    };
    assert!(refused(|_| {}).is_empty());
    assert!(refused(|r| r.scopes = (0..100).map(|n| format!("{n:0>128}")).collect()).is_empty());
    assert_eq!(
        refused(|r| r.scopes = (0..101).map(|n| n.to_string()).collect()),
        ["scopes"]
    );
    assert_eq!(refused(|r| r.scopes = ["x".repeat(129)].into()), ["scopes"]);
    assert_eq!(refused(|r| r.scopes = [String::new()].into()), ["scopes"]);
}

mod windows;
