//! Renewals have a pace, and settlements their proof.

use super::*;

// === renewals have a pace ===

fn renew(task: &Task, number: u32, when: i64, until: i64) -> Result<Task, TaskRefusal> {
    let issuance = Issuance {
        serial: Serial::from_be_bytes(&[&[1], &number.to_be_bytes()[..]].concat()).unwrap(),
        ..lease(when - 10, until)
    };
    let step = TaskStep::Renew {
        window: WindowId([9; 16]),
        issuance,
        decision: decided(true),
    };
    does(task, &step, when)
}

#[test]
fn an_agent_that_renews_without_end_gets_a_few_svids_and_then_one_for_each_tenth_of_their_life() {
    let mut task = armed();
    task.request.window = seconds(8 * 3600);
    task.grant.window_max = seconds(8 * 3600);
    let mut task = open(&task, window(0, 8 * 3600), 0).unwrap();
    let mut given = vec![];
    for when in 0..300 {
        match renew(&task, u32::try_from(when).unwrap(), when, when + 90) {
            Ok(next) => {
                task = next;
                given.push(when);
            }
            Err(TaskRefusal::TooSoon(until)) => assert!(until > at(when) && until <= at(when + 50), "{when}: {until}"),
            other => panic!("{when}: {other:?}"),
        }
    }
    // The life is 100 s with what it begins earlier, so five of them take fifty.
    assert!(given.iter().take(4).all(|when| *when < 5), "some at once: {given:?}");
    assert!((28..=32).contains(&given.len()), "one for ten seconds: {given:?}");
}

#[test]
fn who_renews_at_half_of_the_shortest_life_is_never_refused_and_one_window_never_has_more_svids_than_it_may() {
    let mut task = armed();
    task.request.window = seconds(8 * 3600);
    task.grant.window_max = seconds(8 * 3600);
    let opened = open(&task, window(0, 8 * 3600), 0).unwrap();
    let mut honest = opened.clone();
    for number in 1..600_u32 {
        let when = i64::from(number) * 9;
        honest = renew(&honest, number, when, when + 20).unwrap_or_else(|refused| panic!("{number}: {refused}"));
    }
    assert!(honest.windows[0].issuances.len() < ISSUANCES_MAX);
    let mut greedy = opened;
    let mut given = 0;
    for when in 0..3600 {
        if let Ok(next) = renew(&greedy, u32::try_from(when).unwrap(), when, when + 20) {
            greedy = next;
            given += 1;
        }
        assert!(greedy.windows[0].issuances.len() <= ISSUANCES_MAX);
    }
    // Each one is kept for 20 s and a quarter of an hour.
    assert!((500..=640).contains(&given), "{given}");
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_renewals() {
    let mut task = opened();
    for number in 1..=10_u32 {
        let when = i64::from(number) * 20;
        task = renew(&task, number, when, when + 40).unwrap();
    }
    task.windows[0].opened_at = at(-7200);
    assert!(renew(&task, 11, -600, -560).is_ok());
}

// === settlement: T31 to T33 ===

fn closed(checkpoints: &[&str]) -> Task {
    let mut task = opened();
    task.grant.checkpoints = checkpoints.iter().map(|name| (*name).to_owned()).collect();
    let task = does(&task, &close(CloseCause::Completed), 10).unwrap();
    let window = WindowId([9; 16]);
    does(&task, &TaskStep::Confirm { window }, 10).unwrap()
}

fn settle(term: SettledBy, said: &[(&str, u32, u64)]) -> TaskStep {
    let said = said.iter().map(|(name, consumers, epoch)| Acknowledged {
        name: (*name).to_owned(),
        consumers: *consumers,
        epoch: *epoch,
        at: at(11),
    });
    TaskStep::Settle {
        window: WindowId([9; 16]),
        residual: 1,
        term,
        checkpoints: said.collect(),
    }
}

#[test]
fn a_window_is_settled_by_time_only_when_clocks_that_are_behind_take_its_svids_no_more() {
    let task = closed(&[]);
    let expired = settle(SettledBy::Expired, &[]);
    // Its SVID ends at 100.
    assert_eq!(does(&task, &expired, 101), Err(TaskRefusal::TooEarly(at(130))));
    assert_eq!(does(&task, &expired, 130), Err(TaskRefusal::TooEarly(at(130))));
    let settled = does(&task, &expired, 131).unwrap();
    assert_eq!(settled.windows[0].stage, Stage::Settled);
    assert_eq!(settled.windows[0].settled_by, Some(SettledBy::Expired));
    assert!(
        does(&task, &settle(SettledBy::Enforced, &[]), 20).is_err(),
        "nobody was declared"
    );
}

#[test]
fn a_window_is_settled_by_its_checkpoints_only_when_every_one_is_shown_to_refuse_it() {
    let task = closed(&["db", "queue"]);
    let by = |said: &[(&str, u32, u64)]| does(&task, &settle(SettledBy::Enforced, said), 20);
    let missing = |name: &str| Err(TaskRefusal::NotEnforced(name.to_owned()));
    assert_eq!(by(&[]), missing("db"));
    assert_eq!(by(&[("db", 1, 42)]), missing("queue"));
    assert_eq!(by(&[("db", 1, 42), ("queue", 1, 41)]), missing("queue"), "it is behind");
    assert_eq!(
        by(&[("db", 1, 42), ("queue", 0, 42)]),
        missing("queue"),
        "nobody is there"
    );
    assert!(by(&[("db", 1, 42), ("queue", 2, 43)]).is_ok());
}

#[test]
fn a_risk_is_accepted_by_two() {
    let given_up = TaskStep::GiveUp {
        window: WindowId([9; 16]),
        detail: "not acknowledged by db".into(),
        checkpoints: vec![],
    };
    let task = does(&closed(&["db"]), &given_up, 50).unwrap();
    let accept = |by: &str| TaskStep::AcceptRisk {
        window: WindowId([9; 16]),
        by: by.parse().unwrap(),
        reason: "the host is gone".into(),
    };
    for own in ["mallory", "olga"] {
        assert!(matches!(
            does(&task, &accept(own), 60),
            Err(TaskRefusal::SelfApproval(_))
        ));
    }
    let first = does(&task, &accept("ann"), 60).unwrap();
    let window = &first.windows[0];
    assert_eq!(window.stage, Stage::RevocationIncomplete, "one is not enough");
    assert!(
        window.detail.contains("ann accepts the risk: the host is gone"),
        "{}",
        window.detail
    );
    let again = does(&first, &accept("ann"), 61).unwrap_err();
    assert_eq!(again, TaskRefusal::SecondPerson("ann".parse().unwrap()));
    assert!(again.to_string().contains("[[operators]]"), "{again}");
    let second = does(&first, &accept("bob"), 62).unwrap();
    let window = &second.windows[0];
    assert_eq!((window.stage, window.settled_at), (Stage::Settled, Some(at(62))));
    let people = window.risk.iter().chain(&window.risk_agreed);
    let people: Vec<_> = people.map(|risk| (risk.by.as_str(), risk.at)).collect();
    assert_eq!(
        (people, window.settled_by),
        (vec![("ann", at(60)), ("bob", at(62))], None)
    );
    assert!(
        window.detail.contains("ann") && window.detail.contains("bob"),
        "{}",
        window.detail
    );
    // What settles by itself meanwhile needs nobody.
    assert!(does(&first, &settle(SettledBy::Enforced, &[("db", 1, 42)]), 63).is_ok());
}

#[test]
fn what_was_stopped_goes_on_with_new_svids_only() {
    let window = WindowId([9; 16]);
    let suspend = TaskStep::Suspend {
        window,
        reason: "odd".into(),
    };
    let stopped = does(&opened(), &suspend, 10).unwrap();
    assert_eq!(stopped.windows[0].stage, Stage::Suspended);
    let renew = TaskStep::Renew {
        window,
        issuance: lease(20, 100),
        decision: decided(true),
    };
    assert!(does(&stopped, &renew, 20).is_err());
    let resume = TaskStep::Resume {
        window,
        decision: decided(true),
    };
    let resumed = does(&stopped, &resume, 30).unwrap();
    assert_eq!(resumed.windows[0].closes_at, at(600), "its clock ran on");
    assert_eq!(resumed.windows[0].issuances[0].revoked, Some(42));
    assert!(does(&resumed, &renew, 31).is_ok());
    assert!(does(&stopped, &resume, 600).is_err(), "its time is over");
}

#[test]
fn a_missing_sign_of_life_stops_renewals() {
    let mut task = armed();
    task.grant.heartbeat = Some(seconds(30));
    let task = open(&task, window(0, 600), 0).unwrap();
    assert_eq!(task.windows[0].heartbeat_due, Some(at(30)));
    let window = WindowId([9; 16]);
    let alive = does(&task, &TaskStep::Heartbeat { window }, 25).unwrap();
    assert_eq!(alive.windows[0].heartbeat_due, Some(at(55)));
    let renew = TaskStep::Renew {
        window,
        issuance: lease(40, 100),
        decision: decided(true),
    };
    assert!(does(&alive, &renew, 40).is_ok());
    assert!(does(&task, &renew, 40).is_err());
    // What was missed is not made up for.
    let decision = decided(true);
    let extend = TaskStep::Extend {
        window,
        closes_at: at(900),
        decision,
    };
    let beat = TaskStep::Heartbeat { window };
    for late in [&beat, &extend] {
        assert!(matches!(does(&task, late, 30), Err(TaskRefusal::TooLate(due)) if due == at(30)));
    }
}
