use super::*;

fn at(epoch: u64, left: u32) -> Enforcing {
    Enforcing {
        consumers: 1,
        epoch,
        left,
        ..Enforcing::default()
    }
}

/// What the run `run` of an agent says.
fn run(run: u64, consumers: BTreeMap<ConsumerKey, Enforcing>) -> Report {
    Report {
        run,
        consumers,
        ..Report::default()
    }
}

fn agent(name: &str) -> SpiffeId {
    format!("spiffe://td/spire/agent/{name}").parse().unwrap()
}

fn by(name: &str, id: &str, enforcing: Enforcing) -> BTreeMap<ConsumerKey, Enforcing> {
    [((name.to_owned(), id.parse().unwrap()), enforcing)].into()
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_enforces_only_when_all_behind_all_agents_do() {
    let checkpoints = Checkpoints::default();
    let (a, b): (SpiffeId, SpiffeId) = (
        "spiffe://td/spire/agent/a".parse().unwrap(),
        "spiffe://td/spire/agent/b".parse().unwrap(),
    );
    let rules = BTreeSet::from(["db@/svc/*".to_owned()]);
    let missing = |epoch| checkpoints.missing(&rules, epoch).len();
    assert_eq!(missing(1), 1, "nobody is registered");
    checkpoints.report(&a, run(1, by("db", "spiffe://td/svc/one", at(7, 0))));
    checkpoints.report(&b, run(1, by("db", "spiffe://td/svc/two", at(5, 0))));
    assert_eq!(missing(5), 0);
    assert_eq!(missing(6), 1, "the other is behind");
    checkpoints.report(&b, run(1, by("db", "spiffe://td/svc/two", at(7, 1))));
    assert_eq!(missing(6), 1, "a connection is left");
    checkpoints.gone(&b);
    assert_eq!(missing(7), 1, "what is behind it is not known");
    tokio::time::advance(Duration::from_secs(14)).await;
    assert_eq!(missing(7), 1, "its consumers may have a fresh word still");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(missing(7), 0);
}

// Requirement S81
#[tokio::test(start_paused = true)]
async fn the_word_of_a_checkpoint_says_how_many_refuse_what_and_since_when() {
    let checkpoints = Checkpoints::default();
    let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
    let rules = BTreeSet::from(["/svc/*".to_owned(), "queue@/svc/*".to_owned()]);
    let mut all = by("db", "spiffe://td/svc/one", at(7, 0));
    all.extend(by("db", "spiffe://td/svc/two", at(9, 0)));
    checkpoints.report(&agent, run(1, all.clone()));
    tokio::time::advance(Duration::from_secs(5)).await;
    // It says the same again, which is not when it said so first.
    checkpoints.report(&agent, run(1, all));
    let word = checkpoints.word(&rules, 7, Timestamp::from_unix(1_005));
    let said = Acknowledged {
        name: "/svc/*".into(),
        consumers: 2,
        epoch: 7,
        at: Timestamp::from_unix(1_000),
    };
    assert_eq!(
        (word.enforced, word.missing),
        (vec![said], vec!["queue@/svc/*".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn who_comes_and_goes_all_the_time_is_not_recorded_all_the_time() {
    let checkpoints = Checkpoints::default();
    let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
    let named = |presences: Vec<Presence>| {
        let each = presences.into_iter();
        each.map(|presence| (presence.name, presence.consumers))
            .collect::<Vec<_>>()
    };
    let there = || checkpoints.report(&agent, run(1, by("db", "spiffe://td/svc/db", at(1, 0))));
    there();
    assert_eq!(named(checkpoints.presences()), [("db@/svc/db".to_owned(), 1)]);
    for _ in 0..50 {
        checkpoints.report(&agent, run(1, BTreeMap::new()));
        assert!(checkpoints.presences().is_empty(), "it may come back");
        tokio::time::advance(Duration::from_secs(1)).await;
        there();
        assert!(checkpoints.presences().is_empty());
    }
    checkpoints.report(&agent, run(1, BTreeMap::new()));
    checkpoints.presences();
    tokio::time::advance(presence::LOST_AFTER + Duration::from_secs(1)).await;
    assert_eq!(named(checkpoints.presences()), [("db@/svc/db".to_owned(), 0)]);
    // Names that are made up one after the other.
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut recorded = 0;
    for number in 0..1000 {
        checkpoints.report(
            &agent,
            run(1, by(&format!("n{number}"), "spiffe://td/svc/db", at(1, 0))),
        );
        recorded += checkpoints.presences().len();
    }
    assert_eq!(recorded, usize::try_from(presence::RECORDS_A_MINUTE).unwrap());
}

#[test]
fn who_takes_a_name_of_others_neither_settles_anything_nor_holds_it_up() {
    let checkpoints = Checkpoints::default();
    let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
    let rules = BTreeSet::from(["/svc/db".to_owned(), "db@/svc/db".to_owned()]);
    let mut all = by("db", "spiffe://td/ns/evil", at(9, 0));
    checkpoints.report(&agent, run(1, all.clone()));
    assert_eq!(
        checkpoints.missing(&rules, 7),
        ["/svc/db", "db@/svc/db"],
        "it is not who was declared"
    );
    all.extend(by("db", "spiffe://td/svc/db", at(8, 0)));
    all.extend(by("db", "spiffe://td/ns/evil", at(0, 3)));
    checkpoints.report(&agent, run(1, all));
    assert!(checkpoints.missing(&rules, 7).is_empty(), "and nobody waits for it");
    let old = BTreeSet::from(["db".to_owned()]);
    assert_eq!(checkpoints.missing(&old, 1), ["db"], "a name alone means nobody");
}

/// Two consumers behind one agent, of which one has acknowledged more.
fn two(epochs: [u64; 2]) -> BTreeMap<ConsumerKey, Enforcing> {
    let both = Enforcing {
        consumers: 2,
        ..at(epochs[0].min(epochs[1]), 0)
    };
    by("db", "spiffe://td/svc/db", both)
}

// A consumer is away, stopped or cut off, and may go on for as long as its lease lasts.
#[tokio::test(start_paused = true)]
async fn an_agent_that_knows_who_is_away_is_believed_and_another_run_of_it_is_not() {
    let checkpoints = Checkpoints::default();
    let (a, rules) = (agent("a"), BTreeSet::from(["/svc/db".to_owned()]));
    let missing = |epoch| checkpoints.missing(&rules, epoch).len();
    let one = |epoch| by("db", "spiffe://td/svc/db", at(epoch, 0));
    let away = |mut all: BTreeMap<ConsumerKey, Enforcing>| {
        all.values_mut().for_each(|enforcing| enforcing.away = 1);
        all
    };
    checkpoints.report(&a, run(1, two([6, 6])));
    // One has lost its connection and has not acknowledged the seventh.
    checkpoints.report(&a, run(1, away(one(6))));
    assert_eq!((missing(7), missing(6)), (1, 0), "what it has acknowledged, it refuses");
    checkpoints.report(&a, run(1, one(7)));
    assert_eq!(missing(7), 0, "its lease or its process has ended, as the agent saw");

    // The agent is started anew while one is away.
    checkpoints.report(&a, run(1, away(one(6))));
    checkpoints.gone(&a);
    checkpoints.opened(&a);
    assert_eq!(missing(6), 1, "it has not said yet who is there");
    checkpoints.report(&a, run(2, one(7)));
    assert_eq!((missing(7), missing(6)), (1, 0));
    // Coming and going does not make it forget.
    checkpoints.gone(&a);
    checkpoints.opened(&a);
    checkpoints.report(&a, run(2, one(7)));
    checkpoints.report(&a, run(3, one(7)));
    tokio::time::advance(Duration::from_secs(14)).await;
    assert_eq!(missing(7), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(missing(7), 0, "strict ones refuse everything by now");
}

#[tokio::test(start_paused = true)]
async fn of_an_agent_that_does_not_say_who_is_away_whoever_is_missing_is() {
    let checkpoints = Checkpoints::default();
    let (a, rules) = (agent("a"), BTreeSet::from(["/svc/db".to_owned()]));
    let missing = |epoch| checkpoints.missing(&rules, epoch).len();
    let one = || by("db", "spiffe://td/svc/db", at(7, 0));
    checkpoints.report(&a, run(0, two([6, 6])));
    checkpoints.report(&a, run(0, one()));
    assert_eq!(missing(7), 1);
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(missing(7), 0);
    // It may have been started anew.
    checkpoints.report(&a, run(0, by("db", "spiffe://td/svc/db", at(6, 0))));
    checkpoints.gone(&a);
    checkpoints.opened(&a);
    checkpoints.report(&a, run(0, one()));
    assert_eq!(missing(7), 1);
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(missing(7), 0);
}

#[tokio::test(start_paused = true)]
async fn one_of_best_effort_proves_nothing_by_its_word_and_nothing_by_its_absence() {
    let checkpoints = Checkpoints::default();
    let (a, rules) = (agent("a"), BTreeSet::from(["/svc/db".to_owned()]));
    let goes_on = Enforcing {
        consumers: 2,
        best_effort: 1,
        ..at(9, 0)
    };
    let word = || checkpoints.word(&rules, 7, Timestamp::from_unix(0));
    checkpoints.report(&a, run(1, by("db", "spiffe://td/svc/db", goes_on)));
    let said = word();
    assert_eq!(
        (said.missing, said.best_effort),
        (vec!["/svc/db".into()], vec!["/svc/db".into()])
    );
    // Its agent is started anew, and the other one comes back.
    checkpoints.gone(&a);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(word().best_effort, ["/svc/db"]);
    checkpoints.report(&a, run(2, by("db", "spiffe://td/svc/db", at(9, 0))));
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(word().best_effort, ["/svc/db"], "nobody has seen it end");
    tokio::time::advance(Duration::from_secs(86_400)).await;
    assert!(word().missing.is_empty());
}

#[test]
fn who_is_left_out_of_a_report_that_is_too_long_enforces_nothing_under_any_name() {
    let checkpoints = Checkpoints::default();
    let rules = ["/svc/db", "db@/svc/*", "/ns/*"].map(String::from).into();
    let mut said = run(1, by("db", "spiffe://td/svc/other", at(9, 0)));
    said.consumers.extend(by("x", "spiffe://td/ns/x", at(9, 0)));
    said.left_out.insert("spiffe://td/svc/db".parse().unwrap());
    checkpoints.report(&agent("a"), said);
    assert_eq!(checkpoints.missing(&rules, 7), ["/svc/db", "db@/svc/*"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_silent_or_behind_may_have_somebody_whom_nobody_knows() {
    let checkpoints = Checkpoints::default();
    let (a, b) = (agent("a"), agent("b"));
    let all = [a.clone(), b.clone()];
    let silent = |epoch| {
        let silent = checkpoints.silent(epoch, all.iter());
        let mut names: Vec<String> = silent.iter().map(|id| id.path()[13..].to_owned()).collect();
        names.sort();
        names.concat()
    };
    assert_eq!(silent(1), "ab", "none has come back since the start");
    checkpoints.opened(&a);
    assert_eq!(silent(1), "ab", "it has said nothing yet");
    checkpoints.applied(&a, 1);
    checkpoints.report(&a, run(1, BTreeMap::new()));
    assert_eq!(
        (silent(1), silent(2)),
        ("b".into(), "ab".into()),
        "it has to have taken over as much"
    );
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(silent(1), "", "whoever did not come back has had no word for long");
    checkpoints.gone(&a);
    assert_eq!(silent(1), "a");
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(silent(1), "");
}
