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
    checkpoints.says(&a, run(1, by("db", "spiffe://td/svc/one", at(7, 0))));
    checkpoints.says(&b, run(1, by("db", "spiffe://td/svc/two", at(5, 0))));
    assert_eq!(missing(5), 0);
    assert_eq!(missing(6), 1, "the other is behind");
    checkpoints.says(&b, run(1, by("db", "spiffe://td/svc/two", at(7, 1))));
    assert_eq!(missing(6), 1, "a connection is left");
    checkpoints.leaves(&b);
    assert_eq!(missing(7), 1, "what is behind it is not known");
    tokio::time::advance(Duration::from_secs(19)).await;
    assert_eq!(missing(7), 1, "its consumers may have a fresh word still");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(missing(7), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_which_there_is_nothing_left_to_remember_is_forgotten() {
    let checkpoints = Checkpoints::default();
    checkpoints.says(&agent("a"), run(1, by("db", "spiffe://td/svc/db", at(1, 0))));
    checkpoints.says(&agent("b"), run(1, BTreeMap::new()));
    checkpoints.leaves(&agent("a"));
    checkpoints.presences();
    assert_eq!(
        checkpoints.agents().len(),
        2,
        "its consumers may have a fresh word still"
    );
    tokio::time::advance(Duration::from_secs(21)).await;
    checkpoints.presences();
    assert_eq!(checkpoints.agents(), [agent("b")]);
}

// Requirement S81
#[tokio::test(start_paused = true)]
async fn the_word_of_a_checkpoint_says_how_many_refuse_what_and_since_when() {
    let checkpoints = Checkpoints::default();
    let agent: SpiffeId = "spiffe://td/spire/agent/a".parse().unwrap();
    let rules = BTreeSet::from(["/svc/*".to_owned(), "queue@/svc/*".to_owned()]);
    let mut all = by("db", "spiffe://td/svc/one", at(7, 0));
    all.extend(by("db", "spiffe://td/svc/two", at(9, 0)));
    checkpoints.says(&agent, run(1, all.clone()));
    tokio::time::advance(Duration::from_secs(5)).await;
    // It says the same again, which is not when it said so first.
    checkpoints.says(&agent, run(1, all));
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
    let there = || checkpoints.says(&agent, run(1, by("db", "spiffe://td/svc/db", at(1, 0))));
    there();
    assert_eq!(named(checkpoints.presences()), [("db@/svc/db".to_owned(), 1)]);
    for _ in 0..50 {
        checkpoints.says(&agent, run(1, BTreeMap::new()));
        assert!(checkpoints.presences().is_empty(), "it may come back");
        tokio::time::advance(Duration::from_secs(1)).await;
        there();
        assert!(checkpoints.presences().is_empty());
    }
    checkpoints.says(&agent, run(1, BTreeMap::new()));
    checkpoints.presences();
    tokio::time::advance(presence::LOST_AFTER + Duration::from_secs(1)).await;
    assert_eq!(named(checkpoints.presences()), [("db@/svc/db".to_owned(), 0)]);
    // Names that are made up one after the other.
    tokio::time::advance(Duration::from_secs(60)).await;
    let mut recorded = 0;
    for number in 0..1000 {
        checkpoints.says(
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
    checkpoints.says(&agent, run(1, all.clone()));
    assert_eq!(
        checkpoints.missing(&rules, 7),
        ["/svc/db", "db@/svc/db"],
        "it is not who was declared"
    );
    all.extend(by("db", "spiffe://td/svc/db", at(8, 0)));
    all.extend(by("db", "spiffe://td/ns/evil", at(0, 3)));
    checkpoints.says(&agent, run(1, all));
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
    checkpoints.says(&a, run(1, two([6, 6])));
    // One has lost its connection and has not acknowledged the seventh.
    checkpoints.says(&a, run(1, away(one(6))));
    assert_eq!((missing(7), missing(6)), (1, 0), "what it has acknowledged, it refuses");
    checkpoints.says(&a, run(1, one(7)));
    assert_eq!(missing(7), 0, "its lease or its process has ended, as the agent saw");

    // The agent is started anew while one is away.
    checkpoints.says(&a, run(1, away(one(6))));
    checkpoints.leaves(&a);
    checkpoints.opened(&a);
    assert_eq!(missing(6), 1, "it has not said yet who is there");
    checkpoints.says(&a, run(2, one(7)));
    assert_eq!((missing(7), missing(6)), (1, 0));
    // Coming and going does not make it forget.
    checkpoints.leaves(&a);
    checkpoints.opened(&a);
    checkpoints.says(&a, run(2, one(7)));
    checkpoints.says(&a, run(3, one(7)));
    tokio::time::advance(Duration::from_secs(19)).await;
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
    checkpoints.says(&a, run(0, two([6, 6])));
    checkpoints.says(&a, run(0, one()));
    assert_eq!(missing(7), 1);
    tokio::time::advance(Duration::from_secs(21)).await;
    assert_eq!(missing(7), 0);
    // It may have been started anew.
    checkpoints.says(&a, run(0, by("db", "spiffe://td/svc/db", at(6, 0))));
    checkpoints.leaves(&a);
    checkpoints.opened(&a);
    checkpoints.says(&a, run(0, one()));
    assert_eq!(missing(7), 1);
    tokio::time::advance(Duration::from_secs(21)).await;
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
    checkpoints.says(&a, run(1, by("db", "spiffe://td/svc/db", goes_on)));
    let said = word();
    assert_eq!(
        (said.missing, said.best_effort),
        (vec!["/svc/db".into()], vec!["/svc/db".into()])
    );
    // Its agent is started anew, and the other one comes back.
    checkpoints.leaves(&a);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert_eq!(word().best_effort, ["/svc/db"]);
    checkpoints.says(&a, run(2, by("db", "spiffe://td/svc/db", at(9, 0))));
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
    checkpoints.says(&agent("a"), said);
    assert_eq!(checkpoints.missing(&rules, 7), ["/svc/db", "db@/svc/*"]);
}

/// The last letters of those that may hide somebody.
fn silent_of(checkpoints: &Checkpoints, epoch: u64, all: [&SpiffeId; 2]) -> String {
    let silent = checkpoints.silent_of(epoch, &all.into_iter().cloned().collect());
    silent.iter().map(|id| &id.path()[13..]).collect()
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_silent_or_behind_may_have_somebody_whom_nobody_knows() {
    let checkpoints = Checkpoints::default();
    let (a, b) = (agent("a"), agent("b"));
    checkpoints.expect([&a, &b].into_iter());
    let silent = |epoch| silent_of(&checkpoints, epoch, [&a, &b]);
    assert_eq!(silent(1), "ab", "none has come back since the start");
    checkpoints.opened(&a);
    assert_eq!(silent(1), "ab", "it has said nothing yet");
    checkpoints.follows(&a, 1);
    checkpoints.says(&a, run(1, BTreeMap::new()));
    assert_eq!(
        (silent(1), silent(2)),
        ("b".into(), "ab".into()),
        "it has to have taken over as much"
    );
    tokio::time::advance(Duration::from_secs(21)).await;
    assert_eq!(silent(1), "", "whoever did not come back has had no word for long");
    checkpoints.leaves(&a);
    assert_eq!(silent(1), "a");
    tokio::time::advance(Duration::from_secs(21)).await;
    assert_eq!(silent(1), "");
}

// A stream is open and its agent says nothing on it: it is slow to take over what it is sent, or the network is.
#[tokio::test(start_paused = true)]
async fn an_agent_that_has_said_nothing_on_its_stream_yet_is_silent_however_long_that_takes() {
    let checkpoints = Checkpoints::default();
    let (a, rules) = (agent("a"), BTreeSet::from(["/svc/db".to_owned()]));
    let is_silent = |epoch| !silent_of(&checkpoints, epoch, [&a, &a]).is_empty();
    let stream = checkpoints.opened(&a);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(is_silent(0));
    checkpoints.applied(&a, stream, 7);
    assert!(is_silent(7), "it has not said who is there");
    checkpoints.report(&a, stream, run(1, by("db", "spiffe://td/svc/db", at(7, 0))));
    assert!(!is_silent(7) && checkpoints.missing(&rules, 7).is_empty());
    // It comes back, and those whom it told of count for as long as it says nothing else.
    let stream = checkpoints.opened(&a);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(is_silent(0) && !checkpoints.missing(&rules, 7).is_empty());
    checkpoints.gone(&a, stream);
    tokio::time::advance(Duration::from_secs(19)).await;
    assert!(is_silent(0), "its last word may have been read late");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!is_silent(7));
}

#[test]
fn the_end_of_an_older_stream_and_what_comes_over_it_are_no_news_of_an_agent() {
    let checkpoints = Checkpoints::default();
    let (a, rules) = (agent("a"), BTreeSet::from(["/svc/db".to_owned()]));
    let one = |epoch| run(1, by("db", "spiffe://td/svc/db", at(epoch, 0)));
    let older = checkpoints.opened(&a);
    let newer = checkpoints.opened(&a);
    checkpoints.report(&a, older, one(9));
    checkpoints.applied(&a, older, 9);
    assert_eq!(silent_of(&checkpoints, 7, [&a, &a]), "a");
    checkpoints.report(&a, newer, one(7));
    checkpoints.applied(&a, newer, 7);
    checkpoints.gone(&a, older);
    assert_eq!(checkpoints.missing(&rules, 7).len(), 0);
    checkpoints.report(&a, newer, one(6));
    assert_eq!(checkpoints.missing(&rules, 7).len(), 1, "it is counted all the time");
}

// A consumer registers, and its agent ends before it has said so.
#[tokio::test(start_paused = true)]
async fn another_run_of_an_agent_does_not_know_whom_its_predecessor_kept_to_itself() {
    let checkpoints = Checkpoints::default();
    let a = agent("a");
    let is_silent = || !silent_of(&checkpoints, 7, [&a, &a]).is_empty();
    let nobody_behind = |number| {
        checkpoints.says(&a, run(number, BTreeMap::new()));
        checkpoints.follows(&a, 7);
    };
    nobody_behind(1);
    checkpoints.leaves(&a);
    nobody_behind(1);
    assert!(!is_silent(), "the same one knows");
    for number in [2, 3] {
        checkpoints.leaves(&a);
        tokio::time::advance(Duration::from_secs(5)).await;
        nobody_behind(number);
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!(is_silent());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!is_silent(), "it is counted from the end of the stream");
    }
    // One that was there for a moment and said nothing at all.
    let b = agent("b");
    let first = checkpoints.opened(&b);
    checkpoints.gone(&b, first);
    checkpoints.says(&b, run(2, BTreeMap::new()));
    checkpoints.follows(&b, 7);
    assert_eq!(silent_of(&checkpoints, 7, [&b, &b]), "b");
}

// An entry is deleted, and its consumer goes on.
#[tokio::test(start_paused = true)]
async fn who_loses_its_entry_is_lost_and_not_gone() {
    let checkpoints = Checkpoints::default();
    let (a, rules) = (agent("a"), BTreeSet::from(["/svc/*".to_owned()]));
    let strict = || by("a", "spiffe://td/svc/a", at(7, 0));
    let goes_on = |best_effort| {
        let enforcing = Enforcing {
            best_effort,
            ..at(6, 0)
        };
        by("b", "spiffe://td/svc/b", enforcing)
    };
    let missing = || checkpoints.missing(&rules, 7).len();
    for (best_effort, kept) in [(0, 20), (1, 86_400)] {
        let mut both = strict();
        both.extend(goes_on(best_effort));
        checkpoints.says(&a, run(1, both));
        for wait in [0, kept - 1] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            let not_its_own = goes_on(best_effort);
            checkpoints.says(
                &a,
                Report {
                    not_its_own,
                    ..run(1, strict())
                },
            );
            assert_eq!(missing(), 1);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(missing(), 0);
    }
    // Whom the agent could never speak for is nothing to it.
    let not_its_own = by("c", "spiffe://td/svc/c", at(0, 0));
    checkpoints.says(
        &a,
        Report {
            not_its_own,
            ..run(1, strict())
        },
    );
    assert_eq!(missing(), 0);
}
