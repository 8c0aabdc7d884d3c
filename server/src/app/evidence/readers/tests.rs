use super::*;
use crate::app::testing::World;

fn reader(who: &str) -> Actor {
    Actor {
        who: who.into(),
        origin: "pid:7".into(),
        reason: String::new(),
    }
}

fn search(values: &[&str], from: u64) -> Reading {
    Reading::Search {
        wanted: Arc::new(Wanted {
            values: values.iter().map(ToString::to_string).collect(),
            reveal: true,
            ..Wanted::default()
        }),
        from,
        limit: 0,
        follow: false,
    }
}

#[tokio::test]
async fn a_reading_is_recorded_once_and_names_only_what_the_log_commits_to() {
    let world = World::new().await;
    let evidence = world.evidence().await;
    let body = json!({ "person": "ann" });
    let change = mayfly_model::Change::Note {
        kind: "test.note",
        subject: String::new(),
        body,
    };
    world.commit(change).await.unwrap();
    for pid in 0..3 {
        // Every process is somewhere else.
        let reader = |who: &str| Actor {
            origin: format!("pid:{pid}"),
            ..reader(who)
        };
        let asked = search(&["ann", "nobody-knows-bob"], 0);
        evidence.record_reading(reader("uid:1000"), &asked).await.unwrap();
        evidence
            .record_reading(reader("uid:1000"), &Reading::Export)
            .await
            .unwrap();
    }
    evidence
        .record_reading(reader("uid:1001"), &Reading::Export)
        .await
        .unwrap();
    let logged = world.logged(READ);
    let said: Vec<_> = logged
        .iter()
        .map(|entry| (entry.actor.who.as_str(), entry.body["what"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [("uid:1000", "search"), ("uid:1000", "export"), ("uid:1001", "export")]
    );
    assert_eq!(logged[0].body["about"], json!([{ "wanted": "ann" }]));
    assert_eq!(logged[0].body["other_terms"], 1);
    assert!(logged[1].body["values"].as_u64().unwrap() >= 2);
    let entries = world.archive().reader().unwrap().entries(0, 1_000).unwrap();
    let values: Vec<_> = world
        .archive()
        .reader()
        .unwrap()
        .privates()
        .map(|value| value.unwrap().value)
        .collect();
    for text in entries.iter().chain(&values) {
        assert!(!text.contains("bob"), "{text}");
    }
    assert!(entries.iter().all(|entry| !entry.contains("ann")), "{entries:?}");
}

#[tokio::test]
async fn who_asks_all_the_time_does_not_fill_the_log() {
    let world = World::new().await;
    let evidence = world.evidence().await;
    for from in 0..200 {
        evidence
            .record_reading(reader("uid:1000"), &search(&[], from))
            .await
            .unwrap();
    }
    let logged = world.logged(READ);
    assert_eq!(logged.len(), QUESTIONS + 1);
    assert_eq!(logged.last().unwrap().body["what"], "all");
    assert!(logged.last().unwrap().body["until"].as_i64().unwrap() > world.now().unix());
}

#[test]
fn what_was_recorded_covers_a_minute_of_the_same_caller() {
    let begun = Instant::now();
    let later = begun + COVERED;
    let mut readers = Readers::default();
    assert_eq!(readers.due("a", "q", begun), Due::Question);
    readers.recorded("a".into(), "q".into(), Due::Question, begun);
    assert_eq!(readers.due("a", "q", begun), Due::Nothing);
    assert_eq!(readers.due("a", "p", begun), Due::Question);
    assert_eq!(readers.due("b", "q", begun), Due::Question);
    for number in 1..QUESTIONS {
        readers.recorded("a".into(), format!("q{number}"), Due::Question, begun);
    }
    assert_eq!(readers.due("a", "p", begun), Due::All);
    readers.recorded("a".into(), "p".into(), Due::All, begun);
    assert_eq!(readers.due("a", "r", begun), Due::Nothing);
    assert_eq!(readers.due("a", "q", later), Due::Question);
    // Nobody is forgotten for others: of those who are too many, each call is recorded.
    for number in 0..=CALLERS {
        readers.recorded(format!("caller-{number}"), "q".into(), Due::Question, later);
    }
    assert_eq!(readers.due(&format!("caller-{CALLERS}"), "q", later), Due::Question);
    assert_eq!(readers.due("caller-0", "q", later), Due::Nothing);
}
