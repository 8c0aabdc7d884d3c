//! What a worker does, with a server and clocks that tests turn by hand.

use std::sync::atomic::Ordering;

use mayfly_model::{AdditionalAttributes, ErrorKind};
use rcgen::{CertifiedIssuer, KeyPair};
use tokio::time::{advance, sleep};

use super::testing::*;
use super::*;

async fn ready(subscription: &mut Subscription) -> Arc<X509Material> {
    loop {
        if let SvidState::Ready(material) = subscription.current() {
            return material;
        }
        subscription.changed().await.unwrap();
    }
}

/// Lets everything that is due happen, and no time pass to speak of.
async fn rest() {
    sleep(Duration::from_millis(5)).await;
}

fn serial(state: SvidState) -> String {
    match state {
        SvidState::Ready(material) => material.svid().serial().to_string(),
        other => format!("{other:?}"),
    }
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

#[tokio::test(start_paused = true)]
async fn makes_an_svid_when_asked_and_shares_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let (mut one, mut two) = (stage.subscribe("a").await, stage.subscribe("a").await);
    let (first, second) = (ready(&mut one).await, ready(&mut two).await);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(first.svid().spiffe_id().as_str(), "spiffe://td/a");
    // WAX-04 WAX-08
    let key = KeyPair::try_from(first.expose_for_workload()).unwrap();
    assert_eq!(
        rcgen::PublicKeyData::subject_public_key_info(&key),
        first.svid().public_key_der()
    );
    assert_eq!(stage.server.issued(), 1);
    assert_eq!(stage.metrics.held.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_key_shows_in_debug() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    let material = ready(&mut subscription).await;
    let text = format!("{material:?} {subscription:?} {:?}", subscription.current());
    assert!(!text.contains("key"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn renews_at_half_life_give_or_take_a_tenth() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    sleep(minutes(26)).await;
    assert_eq!(stage.server.issued(), 1);
    sleep(minutes(8)).await;
    assert_eq!(serial(subscription.current()), "2");
    assert_eq!(stage.server.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn serves_the_old_svid_while_renewal_fails_and_withdraws_it_at_its_end() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    sleep(minutes(58)).await;
    assert_eq!(serial(subscription.current()), "1");
    sleep(minutes(3)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::ServerAway)));
    stage.server.set_away(false);
    sleep(minutes(1)).await;
    assert_eq!(serial(subscription.current()), "2");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_refused_delays_no_other() {
    let stage = Stage::start(vec![entry("bad", &["s:1"]), entry("good", &["s:1"])]);
    stage
        .server
        .refused
        .lock()
        .unwrap()
        .insert("bad".parse().unwrap(), ErrorKind::PermissionDenied);
    let mut bad = stage.subscribe("bad").await;
    for _ in 0..20 {
        sleep(minutes(1)).await;
    }
    assert!(matches!(bad.current(), SvidState::Failed(Failure::Denied)));
    let start = Instant::now();
    ready(&mut stage.subscribe("good").await).await;
    assert!(start.elapsed() < Duration::from_millis(10));
    let asked = stage.server.batches.lock().unwrap().len();
    assert!((20..80).contains(&asked), "asked {asked} times in 20 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_and_goes_costs_one_signature() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    for _ in 0..20 {
        ready(&mut stage.subscribe("a").await).await;
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(stage.server.issued(), 1);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0, "wiped when nobody wants it any more");
    ready(&mut stage.subscribe("a").await).await;
    assert_eq!(stage.server.issued(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_only_lingers_is_not_renewed() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    *stage.server.ttl.lock().unwrap() = Duration::from_secs(4);
    ready(&mut stage.subscribe("a").await).await;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.server.issued(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_stays_while_the_server_is_away_and_goes_when_it_is_back_or_at_its_end() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    ready(&mut stage.subscribe("a").await).await;
    stage.heard.send_replace(None);
    stage.server.set_away(true);
    sleep(minutes(50)).await;
    assert_eq!(serial(stage.subscribe("a").await.current()), "1", "served as before");
    stage.heard.send_replace(always());
    stage.server.set_away(false);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.metrics.held.get(), 1, "it lingers anew");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.metrics.held.get(), 0);

    ready(&mut stage.subscribe("a").await).await;
    stage.heard.send_replace(None);
    sleep(minutes(61)).await;
    assert_eq!(stage.metrics.held.get(), 0, "and never longer than it is valid");
}

#[tokio::test(start_paused = true)]
async fn what_lingers_stays_until_the_server_gave_a_sign_of_life_after_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let hear = || {
        let now = Some(Instant::now());
        stage
            .heard
            .send_if_modified(|heard| std::mem::replace(heard, now).is_none());
    };
    ready(&mut stage.subscribe("a").await).await;
    hear();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(stage.metrics.held.get(), 1, "it hangs, and nobody knows yet");
    hear();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_lingers_stays_while_nothing_can_be_issued() {
    let stage = Stage::start(vec![entry("a", &["s:1"]), entry("b", &["s:1"])]);
    ready(&mut stage.subscribe("a").await).await;
    stage.server.set_away(true);
    let mut b = stage.subscribe("b").await;
    sleep(minutes(1)).await;
    assert_eq!(serial(stage.subscribe("a").await.current()), "1");
    stage.server.set_away(false);
    ready(&mut b).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 1, "b's only");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_no_claim_behind() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    for _ in 0..100 {
        // Polled once, so that the request is on its way, and dropped.
        let mut asking = Box::pin(stage.svids.subscribe("a".parse().unwrap()));
        assert!(futures_util::poll!(&mut asking).is_pending());
    }
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_together_share_a_call_and_no_call_is_too_large() {
    let entries = (0..130).map(|i| entry(&format!("e{i}"), &["s:1"])).collect();
    let stage = Stage::start(entries);
    let ids: Vec<String> = (0..130).map(|i| format!("e{i}")).collect();
    let mut subscriptions = futures_util::future::join_all(ids.iter().map(|id| stage.subscribe(id))).await;
    for subscription in &mut subscriptions {
        ready(subscription).await;
    }
    let sizes: Vec<usize> = stage.server.batches.lock().unwrap().iter().map(Vec::len).collect();
    assert!(sizes.iter().all(|size| *size <= 50), "{sizes:?}");
    assert!(sizes.len() <= 6, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_goes_takes_its_svid_with_it_at_once() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.remove("a");
    rest().await;
    assert!(matches!(subscription.current(), SvidState::Withdrawn));
    assert_eq!(stage.metrics.held.get(), 0);
    stage.put(entry("a", &["s:1"]));
    rest().await;
    assert_eq!(serial(subscription.current()), "2", "and it comes back with it");
}

#[tokio::test(start_paused = true)]
async fn a_changed_entry_is_signed_anew_and_another_identity_replaces_the_old_at_once() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    let mut changed = Entry {
        revision_number: 1,
        ..entry("a", &["s:1"])
    };
    changed.spec.dns_names = vec!["a.example".into()];
    stage.put(changed.clone());
    rest().await;
    assert_eq!(serial(subscription.current()), "2");

    stage.server.set_away(true);
    changed.revision_number = 2;
    changed.spec.spiffe_id = "spiffe://td/b".parse().unwrap();
    stage.put(changed);
    rest().await;
    assert!(
        matches!(subscription.current(), SvidState::Failed(_)),
        "the old identity is not the entry's any more"
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_its_svid_at_its_own_end_without_the_server() {
    let mut short = entry("a", &["s:1"]);
    short.spec.expires_at = Some(Timestamp::from_unix(1_750_000_600));
    let stage = Stage::start(vec![short]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    sleep(Duration::from_secs(598)).await;
    assert!(matches!(subscription.current(), SvidState::Ready(_)));
    sleep(Duration::from_secs(3)).await;
    assert!(matches!(subscription.current(), SvidState::Withdrawn));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_back_extends_nothing() {
    let mut short = entry("short", &["s:1"]);
    short.spec.expires_at = Some(Timestamp::from_unix(1_750_000_600));
    let stage = Stage::start(vec![entry("a", &["s:1"]), short]);
    let (mut a, mut short) = (stage.subscribe("a").await, stage.subscribe("short").await);
    let material = ready(&mut a).await;
    ready(&mut short).await;
    stage.server.set_away(true);
    stage.clock.jump(-86_400);
    sleep(Duration::from_secs(602)).await;
    assert!(matches!(short.current(), SvidState::Withdrawn));
    sleep(minutes(51)).await;
    assert!(matches!(a.current(), SvidState::Failed(_)));
    assert!(!material.is_valid(Timestamp::from(stage.clock.now()), Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_clock_behind_the_servers_neither_stops_the_service_nor_extends_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.clock.jump(-600);
    stage.server.ahead.store(600, Ordering::Relaxed);
    sleep(minutes(34)).await;
    assert_eq!(serial(subscription.current()), "2", "renewed in time");
    assert_eq!(stage.server.issued(), 2, "and once");
    stage.server.set_away(true);
    sleep(minutes(61)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(_)));
}

// Attack 24
#[tokio::test(start_paused = true)]
async fn what_a_server_ahead_of_our_clock_gave_ends_when_the_server_meant() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    stage.clock.jump(-600);
    stage.server.ahead.store(600, Ordering::Relaxed);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    sleep(Duration::from_secs(3_598)).await;
    assert!(matches!(subscription.current(), SvidState::Ready(_)));
    sleep(Duration::from_secs(5)).await;
    assert!(!matches!(subscription.current(), SvidState::Ready(_)));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_ends_what_has_expired_by_it() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    stage.server.set_away(true);
    stage.clock.jump(3601);
    sleep(Duration::from_secs(2)).await;
    assert!(matches!(
        subscription.current(),
        SvidState::Failed(_) | SvidState::Pending
    ));
    stage.clock.jump(-3601);
    stage.server.set_away(false);
    sleep(minutes(1)).await;
    assert!(matches!(subscription.current(), SvidState::Ready(_)));
}

#[tokio::test(start_paused = true)]
async fn an_svid_of_a_tainted_authority_is_renewed_at_once_and_served_until_then() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    let (old, new) = (stage.server.ca.lock().unwrap().clone(), Arc::new(ca("second")));

    stage.trust(bundle(&[(&old, true), (&new, false)]));
    sleep(Duration::from_secs(10)).await;
    let asked = stage.server.issued();
    assert!(
        (2..10).contains(&asked),
        "asked {asked} times although the server still signs with it"
    );
    assert!(matches!(subscription.current(), SvidState::Ready(_)));

    *stage.server.ca.lock().unwrap() = new.clone();
    sleep(minutes(1)).await;
    let material = ready(&mut subscription).await;
    assert_eq!(material.authority(), new.der());
    let asked = stage.server.issued();
    sleep(minutes(5)).await;
    assert_eq!(stage.server.issued(), asked, "now it is at rest");
}

// WAX-09
#[tokio::test(start_paused = true)]
async fn an_svid_whose_authority_left_the_bundle_is_not_served() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let mut subscription = stage.subscribe("a").await;
    ready(&mut subscription).await;
    let new = Arc::new(ca("second"));
    stage.server.set_away(true);
    stage.trust(bundle(&[(&new, false)]));
    rest().await;
    assert!(matches!(subscription.current(), SvidState::Failed(_)));
    *stage.server.ca.lock().unwrap() = new;
    stage.server.set_away(false);
    stage.heard.send_replace(always());
    rest().await;
    assert_eq!(
        serial(subscription.current()),
        "2",
        "asked for at once, not after the pause"
    );
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_not_what_was_asked_for_is_refused() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    *stage.server.impostor.lock().unwrap() = Some("spiffe://td/somebody-else".into());
    let mut subscription = stage.subscribe("a").await;
    rest().await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::Faulty)));

    *stage.server.impostor.lock().unwrap() = None;
    *stage.server.other_csr.lock().unwrap() = Some(super::check::NewKey::generate().unwrap().1);
    sleep(minutes(1)).await;
    assert!(
        matches!(subscription.current(), SvidState::Failed(Failure::Faulty)),
        "somebody else's key"
    );

    *stage.server.other_csr.lock().unwrap() = None;
    let new = Arc::new(ca("not heard of yet"));
    *stage.server.ca.lock().unwrap() = new.clone();
    sleep(minutes(1)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::Faulty)));
    stage.trust(bundle(&[(&new, false)]));
    rest().await;
    assert!(
        matches!(subscription.current(), SvidState::Ready(_)),
        "tried again as soon as the bundle came"
    );
}

// WAX-05 WAX-06 WAX-09 IOP-07 IOP-08
#[tokio::test(start_paused = true)]
async fn intermediates_follow_the_leaf_and_the_root_is_left_out() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    let root = ca("root");
    let key = KeyPair::generate().unwrap();
    let between = CertifiedIssuer::signed_by(ca_params("between"), key, &root).unwrap();
    *stage.server.above_leaf.lock().unwrap() = vec![between.der().clone(), root.der().clone()];
    let between_der = between.der().clone();
    *stage.server.ca.lock().unwrap() = Arc::new(between);
    stage.trust(bundle(&[(&root, false)]));
    let mut subscription = stage.subscribe("a").await;
    let material = ready(&mut subscription).await;
    assert_eq!(material.svid().chain().len(), 2);
    assert_eq!(material.svid().chain()[1], between_der);
    assert_eq!(material.authority(), root.der());
}

#[tokio::test(start_paused = true)]
async fn prefetched_entries_are_held_without_a_workload() {
    let mut wanted = entry("a", &["s:1"]);
    wanted.spec.additional_attributes = Some(AdditionalAttributes::default());
    let stage = Stage::start(vec![wanted, entry("b", &["s:1"])]);
    sleep(minutes(120)).await;
    assert_eq!(stage.metrics.held.get(), 1);
    assert!(stage.server.issued() >= 3);
    stage.put(Entry {
        revision_number: 1,
        ..entry("a", &["s:1"])
    });
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.metrics.held.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_or_is_dropped_does_not_stop_the_worker() {
    let stage = Stage::start(vec![entry("a", &["s:1"])]);
    *stage.server.latency.lock().unwrap() = minutes(600);
    let mut subscription = stage.subscribe("a").await;
    sleep(Duration::from_secs(31)).await;
    assert!(matches!(subscription.current(), SvidState::Failed(Failure::ServerAway)));
    *stage.server.latency.lock().unwrap() = Duration::ZERO;
    sleep(minutes(1)).await;
    ready(&mut subscription).await;
    stage.supervisor.shutdown(Duration::from_secs(1)).await.unwrap();
    assert!(subscription.changed().await.is_err());
    advance(Duration::ZERO).await;
    assert_eq!(stage.svids.subscribe("a".parse().unwrap()).await.unwrap_err(), Stopped);
}
