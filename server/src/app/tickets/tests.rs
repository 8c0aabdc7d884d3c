mod command;
mod http;

use std::sync::atomic::{AtomicU32, Ordering};

use mayfly_runtime::ManualClock;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);
const NOW: u64 = 1_800_000_000;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at_unix(NOW))
}

fn made(source: TicketSource, timeout: Duration) -> Arc<dyn TicketChecker> {
    let settings = TicketSettings {
        source: Some(source),
        timeout,
        cache: Duration::ZERO,
    };
    checker(&settings, clock()).unwrap()
}

/// Counts what it is asked; `broken` ones cannot be asked about.
#[derive(Debug, Default)]
struct Counting(Arc<AtomicU32>);

#[async_trait]
impl Tracker for Counting {
    async fn ask(&self, reference: &str) -> Result<Answer, AskError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        match reference {
            "absent" => Err(AskError::Absent),
            "broken" => Err(AskError::Status(500)),
            slow if slow.starts_with("slow") => std::future::pending().await,
            _ => Ok(Answer::parse(br#"{"open": true, "expires": 1800000060}"#).unwrap()),
        }
    }
}

fn counting(clock: Arc<ManualClock>) -> (Cached, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let tracker = Box::new(Counting(asked.clone()));
    (Cached::new(tracker, Duration::from_secs(5), TIMEOUT, clock), asked)
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_are_one_question_and_its_answer_counts_for_seconds() {
    let (cached, asked) = counting(clock());
    let all = futures_util::future::join_all((0..50).map(|_| cached.check("CHG-1"))).await;
    assert!(all.iter().all(|state| state.open));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_millis(4_900)).await;
    cached.check("CHG-1").await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    cached.check("CHG-2").await;
    assert_eq!(asked.load(Ordering::Relaxed), 2, "another ticket is another question");
    tokio::time::advance(Duration::from_millis(200)).await;
    cached.check("CHG-1").await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_not_open_says_why_and_is_asked_again_after_a_second() {
    let (cached, asked) = counting(clock());
    let state = cached.check("broken").await;
    assert!(
        state.present && !state.open && state.problem.contains("500"),
        "{state:?}"
    );
    cached.check("broken").await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_millis(1_100)).await;
    cached.check("broken").await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let state = cached.check("absent").await;
    assert!(!state.present && !state.open && state.problem.contains("no such ticket"));
}

#[tokio::test(start_paused = true)]
async fn a_tracker_that_says_nothing_has_no_open_ticket_and_holds_up_nobody_for_long() {
    let (cached, _) = counting(clock());
    let before = tokio::time::Instant::now();
    // More than are asked at a time, and those that wait for a turn wait no longer than the others.
    let names: Vec<String> = (0..40).map(|n| format!("slow{n}")).collect();
    let slow = names.iter().map(|name| cached.check(name));
    let states = futures_util::future::join_all(slow).await;
    assert!(
        states
            .iter()
            .all(|state| !state.open && state.problem.contains("did not answer"))
    );
    assert!(
        before.elapsed() <= TIMEOUT + Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
}

// A ticket that ends is not open a second longer because its answer is kept.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_kept_ends_with_the_ticket() {
    let clock = clock();
    let (cached, asked) = counting(clock.clone());
    assert!(cached.check("CHG-1").await.open);
    clock.advance(Duration::from_secs(60));
    let state = cached.check("CHG-1").await;
    assert!(!state.open && state.problem.contains("ended"), "{state:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_no_reference_is_not_handed_on() {
    let (cached, asked) = counting(clock());
    let long = "x".repeat(129);
    for reference in ["", "-rf", "--help", "a b", "a\n", "ü", "..", "a/../b", ".\\x", &long] {
        let state = cached.check(reference).await;
        assert!(
            !state.open && state.problem.contains("not the reference"),
            "{reference:?}"
        );
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    for reference in ["CHG-1", "org/repo#12", "a..b", "...", "#-1"] {
        assert!(is_reference(reference), "{reference}");
    }
}

#[tokio::test]
async fn without_a_tracker_no_ticket_is_open() {
    let settings = TicketSettings {
        source: None,
        timeout: TIMEOUT,
        cache: Duration::ZERO,
    };
    let state = checker(&settings, clock()).unwrap().check("CHG-1").await;
    assert!(!state.open && state.problem.contains("[tickets]"), "{state:?}");
}
