use std::{path::Path, sync::Mutex};

use mayfly_runtime::config::Reader;

use super::{
    testing::{Actor, Stage},
    *,
};

/// An attestor that does what it is told.
struct Told(&'static str, Option<&'static [&'static str]>);

#[async_trait]
impl WorkloadAttestor for Told {
    fn name(&self) -> &'static str {
        self.0
    }

    async fn attest(&self, _: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError> {
        match self.1 {
            Some(texts) => Ok(texts.iter().map(|text| text.parse().unwrap()).collect()),
            None => Err(AttestError::Thread),
        }
    }
}

/// One that never comes to an end.
struct Stuck;

#[async_trait]
impl WorkloadAttestor for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }

    async fn attest(&self, _: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError> {
        std::future::pending().await
    }
}

/// One that meets a process in the middle of executing another program.
struct Amid(Mutex<Actor>);

#[async_trait]
impl WorkloadAttestor for Amid {
    fn name(&self) -> &'static str {
        "amid"
    }

    async fn attest(&self, peer: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError> {
        peer.inspect(|_, _| {
            self.0.lock().unwrap().act();
            Ok(BTreeSet::new())
        })
    }
}

async fn attest(attestors: Vec<Box<dyn WorkloadAttestor>>) -> Result<Vec<String>, AttestError> {
    let stage = Stage::new();
    let (_client, server) = stage.own().await;
    let selectors = Attestors::new(attestors).attest(&PeerProcess::of(&server)?).await?;
    Ok(selectors.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn selectors_of_all_attestors_are_merged() {
    let attestors: Vec<Box<dyn WorkloadAttestor>> =
        vec![Box::new(Told("b", Some(&["b:1"]))), Box::new(Told("a", Some(&["a:1"])))];
    assert_eq!(attest(attestors).await.unwrap(), ["a:1", "b:1"]);
    assert_eq!(attest(vec![]).await.unwrap(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_attestor_that_fails_or_hangs_only_lacks_its_own_selectors() {
    let attestors: Vec<Box<dyn WorkloadAttestor>> = vec![
        Box::new(Told("a", None)),
        Box::new(Stuck),
        Box::new(Told("b", Some(&["b:1"]))),
    ];
    assert_eq!(attest(attestors).await.unwrap(), ["b:1"]);
}

#[tokio::test]
async fn an_attestor_cannot_state_what_another_owns() {
    let attestors: Vec<Box<dyn WorkloadAttestor>> = vec![Box::new(Told("a", Some(&["a:1", "unix:uid:0"])))];
    assert_eq!(attest(attestors).await.unwrap(), ["a:1"]);
}

// Attack 18
#[tokio::test]
async fn nothing_is_stated_of_a_process_that_one_attestor_saw_to_be_another() {
    let stage = Stage::new();
    let child = stage.child("exec");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    let attestors: Vec<Box<dyn WorkloadAttestor>> =
        vec![Box::new(Amid(Mutex::new(child))), Box::new(Told("b", Some(&["b:1"])))];
    let error = Attestors::new(attestors).attest(&peer).await.unwrap_err();
    let is_changed = matches!(
        &error,
        AttestError::Peer {
            source: PeerError::Changed { .. }
        }
    );
    assert!(is_changed, "{error:?}");
}

#[tokio::test]
async fn when_every_attestor_fails_the_caller_is_to_come_again() {
    let attestors: Vec<Box<dyn WorkloadAttestor>> = vec![Box::new(Told("a", None)), Box::new(Told("b", None))];
    let error = attest(attestors).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            ErrorKind::Unavailable,
            "none of the 2 workload attestors could describe the process"
        )
    );
}

#[test]
fn the_config_says_which_attestors_run() {
    for (text, names) in [
        ("", &["unix"][..]),
        ("[workload_attestor.unix]\ndiscover_workload_path = false\n", &["unix"]),
        ("[workload_attestor.unix]\nenabled = false\n", &[]),
    ] {
        let reader = Reader::parse(Path::new("agent.toml"), text).unwrap();
        let attestors = Attestors::from_config(&reader.section("workload_attestor"));
        reader.finish(|| Some(())).unwrap();
        assert_eq!(attestors.names().collect::<Vec<_>>(), names, "{text}");
    }
}

#[test]
fn every_attestor_has_its_page() {
    for builtin in BUILTINS {
        let page = format!("{}/../docs/attestor-{}.md", env!("CARGO_MANIFEST_DIR"), builtin.name);
        assert!(Path::new(&page).is_file(), "{page}");
    }
}
