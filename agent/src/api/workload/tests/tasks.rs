//! Task SVIDs and revocation lists on the streams of the Workload API.

use mayfly_proto::mayfly::workload::RequestRequest;

use super::*;
use crate::svids::testing::bundle;
use crate::tasks::{Applicant, Ending, Holder, ProcessKey};
use crate::view::crls_for_tests::crl;

impl Scene {
    fn task_scene(entries: Vec<Entry>) -> Self {
        let scene = Self::with(entries);
        let (news, clock) = (Arc::clone(&scene.news), Arc::clone(&scene.stage.clock));
        scene
            .stage
            .supervisor
            .spawn_once("beacons", async move |stop: CancellationToken| {
                while !stop.is_cancelled() {
                    news.heard_beacon(1_750_000_000_000 + clock.elapsed_ms(), 2_500, 0);
                    sleep(Duration::from_millis(2_500)).await;
                }
                Ok(())
            });
        scene
    }

    /// Opens a window for `caller` as the entry `a`; returns the request's ID.
    async fn open_for(&self, caller: &Arc<Caller>, key: &str, descendants: bool) -> String {
        let applicant = Applicant {
            selectors: caller.attest(Duration::ZERO).await.unwrap(),
            attested_at: Instant::now(),
            holder: caller.clone(),
        };
        let request = RequestRequest {
            task: "pay/migrate".into(),
            idempotency_key: key.into(),
            ..RequestRequest::default()
        };
        let asked = self
            .tasks
            .request(applicant.clone(), "a".parse().unwrap(), request)
            .await;
        let request_id = asked.unwrap().request_id;
        self.tasks
            .open(applicant, request_id.clone(), descendants)
            .await
            .unwrap();
        request_id
    }

    async fn end_for(&self, caller: &Arc<Caller>, request_id: String) {
        let ended = self
            .tasks
            .end(caller.clone(), request_id, Ending::Completed, String::new());
        ended.await.unwrap();
    }

    /// The stream of another process.
    async fn svids_of(&self, process: &FakeProcess) -> (Arc<Caller>, Stream<X509svidResponse>) {
        let caller = self.api.callers.admit(Box::new(process.clone()));
        let mut request = self.request(pb::X509svidRequest {});
        request.extensions_mut().insert(Arc::clone(&caller));
        (caller, self.api.fetch_x509svid(request).await.unwrap().into_inner())
    }
}

fn hints(message: &X509svidResponse) -> Vec<&str> {
    message.svids.iter().map(|svid| svid.hint.as_str()).collect()
}

fn other_process() -> FakeProcess {
    let process = FakeProcess(Arc::new(Nature {
        user: 1,
        ..Nature::default()
    }));
    process.0.selectors.lock().unwrap().insert("s:1".parse().unwrap());
    process
}

const TASK: &str = "task/pay/migrate/a";

// I13
#[tokio::test(start_paused = true)]
async fn a_task_svid_comes_after_the_base_and_goes_by_an_update_while_the_base_stays() {
    let mut base = aged("a", 1);
    base.spec.hint = "main".into();
    let scene = Scene::task_scene(vec![base, aged("b", 2)]);
    let mut stream = scene.svids().await;
    assert_eq!(ids(&told(&mut stream).await), ["a", "b"]);
    // Right after another message: what concerns tasks does not wait for its turn.
    let start = Instant::now();
    let request_id = scene.open_for(&scene.caller, "1", false).await;
    let message = told(&mut stream).await;
    assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
    assert_eq!(ids(&message), ["a", "b", TASK]);
    assert_eq!(hints(&message), ["main", "", "task/pay/migrate"]);
    let svid = &message.svids[2];
    let parsed = X509Svid::from_concatenated_der(&svid.x509_svid).unwrap();
    let key = KeyPair::try_from(svid.x509_svid_key.as_slice()).unwrap();
    assert_eq!(key.subject_public_key_info(), parsed.public_key_der());
    let own = scene.stage.views.current().own().clone();
    verify_x509_svid(parsed.chain(), &TrustAnchors::from_bundle(&own), scene.now()).unwrap();
    // A stream that begins now has it in its first message.
    assert_eq!(ids(&told(&mut scene.svids().await).await), ["a", "b", TASK]);

    let start = Instant::now();
    scene.end_for(&scene.caller, request_id).await;
    assert_eq!(ids(&told(&mut stream).await), ["a", "b"]);
    assert!(start.elapsed() < Duration::from_millis(20), "{:?}", start.elapsed());
    assert!(quiet(&mut stream).await);
}

#[tokio::test(start_paused = true)]
async fn a_promoted_task_svid_is_the_first_and_a_base_svid_keeps_its_hint() {
    let mut base = aged("a", 1);
    base.spec.hint = "task/pay/migrate".into();
    let scene = Scene::task_scene(vec![base]);
    scene.task_server.lock().promote = true;
    scene.open_for(&scene.caller, "1", false).await;
    let message = told(&mut scene.svids().await).await;
    assert_eq!(ids(&message), [TASK, "a"]);
    assert_eq!(hints(&message), ["", "task/pay/migrate"]);
}

#[tokio::test(start_paused = true)]
async fn two_windows_of_one_task_are_told_apart_by_the_older_one_keeping_the_hint() {
    let scene = Scene::task_scene(vec![aged("a", 1)]);
    scene.open_for(&scene.caller, "1", false).await;
    scene.open_for(&scene.caller, "2", false).await;
    let message = told(&mut scene.svids().await).await;
    assert_eq!(hints(&message), ["", "task/pay/migrate", ""]);
}

#[tokio::test(start_paused = true)]
async fn another_process_of_the_same_entry_sees_nothing_of_it() {
    let scene = Scene::task_scene(vec![aged("a", 1)]);
    let other = other_process();
    let (_caller, mut stream) = scene.svids_of(&other).await;
    assert_eq!(ids(&told(&mut stream).await), ["a"]);
    let request_id = scene.open_for(&scene.caller, "1", false).await;
    assert!(quiet(&mut stream).await);
    scene.end_for(&scene.caller, request_id).await;
    assert!(quiet(&mut stream).await);
}

#[tokio::test(start_paused = true)]
async fn a_descendant_gets_it_until_it_becomes_a_daemon() {
    let scene = Scene::task_scene(vec![aged("a", 1)]);
    let child = other_process();
    let ProcessKey { pid, start_ticks } = scene.caller.key();
    child.0.above.lock().unwrap().push((pid, start_ticks));
    let (_caller, mut stream) = scene.svids_of(&child).await;
    assert_eq!(ids(&told(&mut stream).await), ["a"]);
    scene.open_for(&scene.caller, "1", true).await;
    assert_eq!(ids(&told(&mut stream).await), ["a", TASK]);
    let start = Instant::now();
    child.0.above.lock().unwrap().clear();
    assert_eq!(ids(&told(&mut stream).await), ["a"]);
    assert!(start.elapsed() <= Duration::from_millis(600), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_process_that_executes_another_program_takes_nothing_along() {
    let scene = Scene::task_scene(vec![aged("a", 1)]);
    scene.open_for(&scene.caller, "1", false).await;
    assert_eq!(ids(&told(&mut scene.svids().await).await), ["a", TASK]);
    // Number and start are the same, and it connects anew, before anybody looked.
    *scene.process.0.changed.lock().unwrap() = true;
    let next = FakeProcess::default();
    next.0.selectors.lock().unwrap().insert("s:1".parse().unwrap());
    sleep(Duration::from_millis(20)).await;
    let (caller, mut stream) = scene.svids_of(&next).await;
    assert_eq!(caller.key(), scene.caller.key());
    assert_eq!(ids(&told(&mut stream).await), ["a"]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.task_server.count("close attestation_lost"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_sweep_looks_after_a_holder_without_a_stream() {
    for (died, cause) in [(true, "close failed"), (false, "close attestation_lost")] {
        let scene = Scene::task_scene(vec![aged("a", 1)]);
        scene.open_for(&scene.caller, "1", false).await;
        if died {
            scene.process.0.ended.cancel();
        } else {
            *scene.process.0.changed.lock().unwrap() = true;
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.task_server.count(cause), 1, "{:?}", scene.task_server.log());
    }
    // The same for selectors, at the next full attestation.
    let scene = Scene::task_scene(vec![aged("a", 1)]);
    scene.open_for(&scene.caller, "1", false).await;
    scene.process.0.selectors.lock().unwrap().clear();
    sleep(Duration::from_secs(32)).await;
    assert_eq!(scene.task_server.count("close attestation_lost"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_streams_that_have_no_part_in_it_are_left_alone() {
    let settings = ApiSettings {
        streams_per_uid: 2_000,
        ..ApiSettings::default()
    };
    let scene = Scene::of(Stage::start(vec![aged("a", 1)]), settings);
    let other = other_process();
    let mut streams = vec![];
    for _ in 0..1_000 {
        let (_, mut stream) = scene.svids_of(&other).await;
        told(&mut stream).await;
        streams.push(stream);
    }
    let messages = scene.api.sources.metrics.messages.get();
    let request_id = scene.open_for(&scene.caller, "1", false).await;
    scene.end_for(&scene.caller, request_id).await;
    for stream in &mut streams {
        assert!(stream.next().now_or_never().is_none());
    }
    assert_eq!(scene.api.sources.metrics.messages.get(), messages);
}

#[tokio::test(start_paused = true)]
async fn revocation_lists_are_on_both_streams() {
    let scene = Scene::with(vec![aged("a", 1)]);
    let (mut svids, mut bundles) = (scene.svids().await, scene.bundles().await);
    assert!(told(&mut svids).await.crl.is_empty());
    assert!(told(&mut bundles).await.crl.is_empty());
    sleep(Duration::from_secs(1)).await;
    let own = scene.stage.server.ca.lock().unwrap().clone();
    let first = crl(&own, 1);
    scene.stage.update(ViewUpdate {
        crls: vec![first.clone()],
        ..ViewUpdate::default()
    });
    assert_eq!(told(&mut svids).await.crl, std::slice::from_ref(&first));
    assert_eq!(told(&mut bundles).await.crl, [first]);
    let second = crl(&own, 2);
    scene.stage.update(ViewUpdate {
        crls: vec![second.clone()],
        ..ViewUpdate::default()
    });
    assert_eq!(
        told(&mut svids).await.crl,
        std::slice::from_ref(&second),
        "in the place of the one before"
    );
    assert_eq!(told(&mut bundles).await.crl, [second]);
    scene.stage.trust(bundle(&[(&own, false), (&own, false)]));
    assert_eq!(told(&mut bundles).await.crl.len(), 1);
}
