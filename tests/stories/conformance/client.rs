//! Our client of the Workload API, the `mayfly` program, against an endpoint of other make that plays a script.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_tests::binaries::binary;
use mayfly_tests::daemon::story_dir;
use mayfly_tests::program::endpoint;
use mayfly_tests::{Lane, Program};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const PATIENCE: Duration = Duration::from_secs(60);

/// The endpoint, and a client's folder.
struct Scene {
    dir: TempDir,
    endpoint: Program,
    _lane: Lane,
}

/// What a run of the client has said.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Scene {
    async fn play(script: Value) -> Self {
        let lane = Lane::shared();
        let dir = story_dir();
        let socket = dir.path().join("w.sock");
        let mut endpoint = Program::python("fake_endpoint.py", &[socket.to_str().unwrap(), &script.to_string()]);
        endpoint.expect("listening", PATIENCE).await;
        Self {
            dir,
            endpoint,
            _lane: lane,
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("w.sock")
    }

    /// Runs `mayfly` with the socket by option.
    async fn mayfly(&self, args: &[&str]) -> Ran {
        let socket = endpoint(&self.socket());
        self.run(&[&["--agent-socket", &socket], args].concat(), None).await
    }

    /// Runs `mayfly` with `SPIFFE_ENDPOINT_SOCKET`, or without it.
    async fn run(&self, args: &[&str], variable: Option<&str>) -> Ran {
        let mut command = Command::new(binary("mayfly"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("SPIFFE_ENDPOINT_SOCKET");
        if let Some(value) = variable {
            command.env("SPIFFE_ENDPOINT_SOCKET", value);
        }
        let ran = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output());
        let output = ran.await.expect("it ends by itself").unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// All calls so far. What has been answered is among them, as the endpoint speaks before it answers.
    async fn calls(mut self) -> Vec<Value> {
        self.endpoint.tell(json!({"report": true})).await;
        self.endpoint.expect("report", PATIENCE).await;
        self.endpoint.seen("call").into_iter().cloned().collect()
    }
}

impl Ran {
    fn events(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

// WEP-04 WEP-07 WEP-24 WEP-26 WEP-28 WEP-35 WAPI-09 WAPI-31 WAX-17 IOP-22
#[tokio::test(flavor = "multi_thread")]
async fn our_client_comes_back_after_all_that_is_not_final_and_slower_each_time() {
    let scene = Scene::play(json!([
        {"send": ["less"], "end": "UNAVAILABLE"},
        {"end": "UNAVAILABLE"},
        {"end": "INTERNAL"},
        {"end": "PERMISSION_DENIED"},
        {"end": "UNKNOWN"},
        {"send": ["less"], "end": "CANCELLED"},
        {"send": ["less"], "end": "CANCELLED"},
        {"send": ["less"], "end": "CANCELLED"},
        {"end": "INVALID_ARGUMENT"},
    ]))
    .await;
    let ran = scene.mayfly(&["svid", "watch", "--output", "json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("as the script says"), "it is reported: {}", ran.err);
    let updates = ran.events().iter().filter(|event| event["event"] == "update").count();
    assert_eq!(updates, 4);

    let calls = scene.calls().await;
    assert_eq!(calls.len(), 9, "the last code is final: {calls:?}");
    for call in &calls {
        assert_eq!((&call["path"], &call["header"]), (&json!(FETCH), &json!(["true"])));
    }
    let at: Vec<f64> = calls.iter().map(|call| call["at"].as_f64().unwrap()).collect();
    let pauses: Vec<f64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("pauses: {pauses:.3?} s");
    // Half of a step is the least; each step is twice the one before, and an answer begins them anew.
    for (pause, least) in pauses.iter().zip([0.05, 0.1, 0.2, 0.4, 0.8, 0.05, 0.05, 0.05]) {
        assert!(*pause >= least, "{pauses:?}");
    }
    let after_an_answer = pauses[5..].iter().copied().fold(f64::MAX, f64::min);
    assert!(after_an_answer < 0.5, "at once after the stream was lost: {pauses:?}");
}

// WEP-24 WEP-30
#[tokio::test(flavor = "multi_thread")]
async fn our_client_reports_the_final_codes_after_one_attempt() {
    for code in ["UNIMPLEMENTED", "INVALID_ARGUMENT"] {
        for verb in ["fetch", "watch"] {
            let scene = Scene::play(json!([{"end": code}])).await;
            let ran = scene.mayfly(&["svid", verb]).await;
            assert_ne!(ran.code, Some(0), "{code}");
            assert!(ran.err.contains("as the script says"), "{code}: {}", ran.err);
            assert_eq!(scene.calls().await.len(), 1, "{code}");
        }
    }
}

// WAPI-07 WAPI-16 WAPI-17 WAPI-18
#[tokio::test(flavor = "multi_thread")]
async fn our_client_keeps_the_stream_and_takes_what_is_empty_as_gone() {
    let scene = Scene::play(json!([{"send": ["full", "less"]}])).await;
    let ran = scene
        .mayfly(&["svid", "watch", "--updates", "2", "--output", "json"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let shown: Vec<(usize, Value, Value)> = ran
        .events()
        .iter()
        .map(|event| {
            let svids = event["svids"].as_array().unwrap();
            (svids.len(), svids[0]["federated"].clone(), svids[0]["hint"].clone())
        })
        .collect();
    assert_eq!(
        shown,
        [
            (2, json!(["partner.example"]), json!("internal")),
            (1, json!([]), json!(""))
        ]
    );
    assert_eq!(scene.calls().await.len(), 1, "both came on one stream");
}

// WAPI-20
#[tokio::test(flavor = "multi_thread")]
async fn our_client_discards_an_answer_without_what_has_to_be_there() {
    for message in ["none", "keyless"] {
        let scene = Scene::play(json!([{"send": ["less"]}, {"send": [message]}])).await;
        let folder = scene.dir.path().join("id");
        let fetch = ["svid", "fetch", "--write", folder.to_str().unwrap()];
        let ran = scene.mayfly(&fetch).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let before = contents(&folder);
        let ran = scene.mayfly(&fetch).await;
        assert_ne!(ran.code, Some(0), "{message}: {}", ran.out);
        assert!(!ran.err.is_empty());
        println!("{message}: {}", ran.err.trim());
        assert_eq!(contents(&folder), before, "{message}: what was there stays in use");
    }
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    files
}

// WEP-10 WEP-11 WEP-12 WEP-13 IOP-23
#[tokio::test(flavor = "multi_thread")]
async fn our_client_finds_the_socket_as_the_standard_says() {
    let scene = Scene::play(json!([{"send": ["less"]}])).await;
    let here = endpoint(&scene.socket());
    let fetch = ["svid", "fetch"];
    let ran = scene.run(&fetch, Some(&here)).await;
    assert!(
        ran.code == Some(0) && ran.out.contains("spiffe://example.org/web"),
        "{}",
        ran.err
    );
    let ran = scene
        .run(&["svid", "fetch", "--agent-socket", &here], Some("unix:///nowhere"))
        .await;
    assert_eq!(ran.code, Some(0), "the option counts: {}", ran.err);
    let ran = scene.run(&fetch, Some("unix:///nowhere")).await;
    assert!(ran.code != Some(0) && ran.err.contains("/nowhere"), "{}", ran.err);
    for plain in ["/w.sock", "http://127.0.0.1:1"] {
        let ran = scene.run(&fetch, Some(plain)).await;
        assert!(
            ran.code != Some(0) && ran.err.contains("not the address"),
            "{plain}: {}",
            ran.err
        );
    }
    // Empty is as unset: the default place, which is not there.
    let (unset, empty) = (scene.run(&fetch, None).await, scene.run(&fetch, Some("")).await);
    assert!(empty.err.contains("/run/mayfly/agent.sock"), "{}", empty.err);
    assert_eq!((empty.code, empty.err), (unset.code, unset.err));
}

// IOP-33
#[tokio::test(flavor = "multi_thread")]
async fn our_client_receives_messages_of_4_mib() {
    let scene = Scene::play(json!([{"send": ["large"]}])).await;
    let ran = scene.mayfly(&["svid", "fetch", "--timeout", "60s"]).await;
    assert!(
        ran.code == Some(0) && ran.out.contains("partner.example"),
        "{}",
        ran.err
    );
}
