//! The log over the API: searched, copied, proved, and made to forget.

use mayfly_model::log::canonical;
use mayfly_model::log::private::Commitment;
use mayfly_proto::mayfly::audit::audit_client::AuditClient;
use mayfly_proto::mayfly::audit::erase_request::What as EraseWhat;
use mayfly_proto::mayfly::audit::prove_request::What as ProveWhat;
use mayfly_proto::mayfly::audit::*;
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::files::{LogDir, LogKeys};
use mayfly_tlog::merkle::verify_inclusion;
use mayfly_tlog::note::VerifierKey;
use mayfly_tlog::{Hash, leaf_hash};
use serde_json::{Value, json};
use tonic::Streaming;

use super::*;

const HOUR: i64 = 3600;

impl Connected {
    fn audit(&self) -> AuditClient<Self> {
        AuditClient::new(self.clone())
    }
}

impl Server {
    async fn note(&self, kind: &'static str, body: Value) {
        let subject = String::new();
        let change = mayfly_model::Change::Note { kind, subject, body };
        self.world.commit(change).await.unwrap();
    }

    /// What was committed by now is under a checkpoint.
    async fn covered(&self) {
        self.api.evidence.pass().await.unwrap();
    }
}

async fn all<T>(stream: Result<tonic::Response<Streaming<T>>, Status>) -> Vec<T> {
    let (mut stream, mut all) = (stream.unwrap().into_inner(), vec![]);
    while let Some(message) = stream.message().await.unwrap() {
        all.push(message);
    }
    all
}

async fn found(server: &Server, request: SearchRequest) -> Vec<Value> {
    let found = all(server.local(VIEWER).audit().search(request).await).await;
    found
        .iter()
        .map(|found| serde_json::from_slice(&found.entry).unwrap())
        .collect()
}

fn kinds(found: &[Value]) -> Vec<&str> {
    found.iter().map(|entry| entry["kind"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn entries_are_found_by_kind_by_what_stands_in_them_and_by_time() {
    let server = Server::new().await;
    server.note("a.one", json!({ "task": "pay/x", "person": "joe" })).await;
    server.world.clock.advance(Duration::from_secs(3600));
    let later = server.world.now().unix();
    server.note("a.two", json!({ "task": "pay/y", "person": "joe" })).await;
    server.note("ab.three", json!({ "task": "pay/x", "joe": 1 })).await;
    let search = |kinds: &[&str], values: &[&str]| SearchRequest {
        kinds: kinds.iter().map(ToString::to_string).collect(),
        values: values.iter().map(ToString::to_string).collect(),
        ..SearchRequest::default()
    };
    assert_eq!(kinds(&found(&server, search(&["a"], &[])).await), ["a.one", "a.two"]);
    assert_eq!(
        kinds(&found(&server, search(&[], &["pay/x"])).await),
        ["a.one", "ab.three"]
    );
    let private = found(&server, search(&[], &["joe"])).await;
    assert_eq!(kinds(&private), ["a.one", "a.two"], "by the commitment to the name");
    assert!(Commitment::of(&private[0]["body"]["person"]).is_some());
    let both = SearchRequest {
        reveal: true,
        ..search(&["a"], &["joe", "pay/y"])
    };
    let both = found(&server, both).await;
    assert_eq!(both[0]["body"], json!({ "task": "pay/y", "person": "joe" }));
    let of_time = |since, until| SearchRequest {
        since,
        until,
        ..search(&["a", "ab"], &[])
    };
    assert_eq!(kinds(&found(&server, of_time(later, 0)).await), ["a.two", "ab.three"]);
    assert_eq!(kinds(&found(&server, of_time(later - HOUR, later)).await), ["a.one"]);
    let newest = SearchRequest {
        newest: 1,
        ..search(&["a"], &[])
    };
    assert_eq!(kinds(&found(&server, newest.clone()).await), ["a.two"]);
    let first = SearchRequest {
        limit: 1,
        ..search(&["a"], &[])
    };
    assert_eq!(kinds(&found(&server, first).await), ["a.one"]);
    let both = SearchRequest { limit: 1, ..newest };
    let refused = server.admin().audit().search(both).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_long_log_is_searched_page_by_page_from_both_ends() {
    let server = Server::new().await;
    for number in 0..700 {
        let kind = if number % 350 == 0 { "rare.kind" } else { "usual.kind" };
        server.note(kind, json!({ "number": number })).await;
    }
    let search = SearchRequest {
        kinds: vec!["rare".into()],
        ..SearchRequest::default()
    };
    let numbers = |found: Vec<Value>| {
        found
            .iter()
            .map(|entry| entry["body"]["number"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(found(&server, search.clone()).await), [0, 350]);
    assert_eq!(
        numbers(
            found(
                &server,
                SearchRequest {
                    newest: 2,
                    ..search.clone()
                }
            )
            .await
        ),
        [0, 350]
    );
    assert_eq!(
        numbers(
            found(
                &server,
                SearchRequest {
                    newest: 1,
                    ..search.clone()
                }
            )
            .await
        ),
        [350]
    );
    let usual = SearchRequest {
        kinds: vec!["usual".into()],
        newest: 300,
        ..SearchRequest::default()
    };
    let usual = numbers(found(&server, usual).await);
    assert_eq!((usual.len(), usual[0], usual[299]), (300, 400, 699));
}

#[tokio::test]
async fn who_follows_gets_entries_as_they_come() {
    let server = Server::new().await;
    let follow = SearchRequest {
        values: vec!["ann".into()],
        newest: 1,
        follow: true,
        reveal: true,
        ..SearchRequest::default()
    };
    let mut stream = server.local(VIEWER).audit().search(follow).await.unwrap().into_inner();
    // Nothing says `ann` yet: the commitment to the name comes with the first entry that does.
    let write = async {
        server.note("a.b", json!({ "person": "joe" })).await;
        server.note("a.c", json!({ "person": "ann" })).await;
    };
    let (message, ()) = tokio::join!(stream.message(), write);
    let entry: Value = serde_json::from_slice(&message.unwrap().unwrap().entry).unwrap();
    assert_eq!(
        (&entry["kind"], &entry["body"]["person"]),
        (&json!("a.c"), &json!("ann"))
    );
}

/// Writes what an export streams into a folder.
async fn export(server: &Server, dir: &std::path::Path, request: ExportRequest) -> Vec<String> {
    let mut paths = vec![];
    for piece in all(server.local(VIEWER).audit().export(request).await).await {
        let path = dir.join(&piece.path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if paths.last() != Some(&piece.path) {
            paths.push(piece.path.clone());
            std::fs::write(&path, b"").unwrap();
        }
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, &piece.data).unwrap();
    }
    paths
}

#[tokio::test]
async fn an_export_verifies_and_a_second_one_leaves_out_what_is_there() {
    let server = Server::new().await;
    for number in 0..600 {
        server
            .note(
                "a.b",
                json!({ "number": number, "reason": format!("reason {}", number % 3) }),
            )
            .await;
    }
    server.covered().await;
    let dir = tempfile::tempdir().unwrap();
    let paths = export(
        &server,
        dir.path(),
        ExportRequest {
            have_size: 0,
            include_private: true,
        },
    )
    .await;
    assert_eq!(&paths[paths.len() - 3..], ["keys", "checkpoint", "private.jsonl"]);
    let keys = || {
        let keys = std::fs::read_to_string(dir.path().join("keys")).unwrap();
        LogKeys::new(
            keys.lines()
                .map(|key| key.parse::<VerifierKey>().unwrap())
                .collect::<Vec<_>>(),
        )
    };
    let verified = LogDir::open(dir.path()).verify_all(&keys()).unwrap();
    let size = verified.checkpoint().size();
    assert!(size > 600);
    let private = std::fs::read_to_string(dir.path().join("private.jsonl")).unwrap();
    let mut known = 0;
    for line in private.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let salt: [u8; 16] = hex::decode(line["salt"].as_str().unwrap()).unwrap().try_into().unwrap();
        let commitment = Commitment::new(&salt, &canonical(&line["value"]));
        assert_eq!(commitment.to_string(), line["commitment"]);
        known += 1;
    }
    assert!(known >= 3, "{private}");

    server.note("a.c", json!({})).await;
    server.covered().await;
    let again = export(
        &server,
        dir.path(),
        ExportRequest {
            have_size: size,
            include_private: false,
        },
    )
    .await;
    let full = again
        .iter()
        .filter(|path| path.starts_with("tile/") && !path.contains(".p/"));
    assert_eq!(full.count(), 0, "full tiles are there already: {again:?}");
    let verified = LogDir::open(dir.path()).verify_all(&keys()).unwrap();
    assert!(verified.checkpoint().size() > size);
}

#[tokio::test]
async fn an_svid_is_proved_by_its_serial_number() {
    let server = Server::new().await;
    let caller = server.workload("/some").await;
    drop(caller);
    let note = SearchRequest {
        kinds: vec!["svid.intended".into()],
        newest: 1,
        ..SearchRequest::default()
    };
    let serial = found(&server, note).await[0]["body"]["serial"]
        .as_str()
        .unwrap()
        .to_owned();
    // Its outcome is written with the next commit.
    server.note("a.b", json!({})).await;
    server.covered().await;
    let prove = |what| {
        let mut client = server.local(VIEWER).audit();
        async move { client.prove(ProveRequest { what: Some(what) }).await }
    };
    let answers = all(prove(ProveWhat::Serial(serial.clone())).await).await;
    let key = server.api.evidence.verifier_keys();
    let checkpoint = SignedCheckpoint::open(&answers[0].checkpoint, &key).unwrap();
    let proofs: Vec<&Proof> = answers.iter().flat_map(|answer| &answer.proofs).collect();
    let mut proved = vec![];
    for proof in proofs {
        let hashes: Vec<Hash> = proof
            .hashes
            .iter()
            .map(|hash| Hash::new(hash[..].try_into().unwrap()))
            .collect();
        let (size, root) = (checkpoint.size(), checkpoint.root());
        verify_inclusion(leaf_hash(&proof.entry), proof.index, size, root, &hashes).unwrap();
        let entry: Value = serde_json::from_slice(&proof.entry).unwrap();
        assert!(entry.to_string().contains(&serial));
        proved.push(entry["kind"].as_str().unwrap().to_owned());
    }
    assert_eq!(proved, ["svid.intended", "svid.outcome"]);
    for (what, refused) in [
        (ProveWhat::Index(1 << 40), Code::NotFound),
        (ProveWhat::Serial("4711".into()), Code::NotFound),
        (ProveWhat::Serial("0xff".into()), Code::InvalidArgument),
        (ProveWhat::WindowId("00".repeat(16)), Code::NotFound),
        (ProveWhat::WindowId("w".into()), Code::InvalidArgument),
    ] {
        assert_eq!(prove(what.clone()).await.unwrap_err().code(), refused, "{what:?}");
    }
}

#[tokio::test]
async fn what_is_erased_is_gone_and_the_log_says_so_without_saying_it_again() {
    let server = Server::new().await;
    server
        .note("a.one", json!({ "person": "joe", "reason": "a reason" }))
        .await;
    server.note("a.two", json!({ "parameters": { "for": "joe" } })).await;
    let erase = |what, reason: &str| {
        let (mut client, reason) = (server.admin().audit(), reason.to_owned());
        async move {
            client
                .erase(EraseRequest { what, reason })
                .await
                .map(|answer| answer.into_inner().erased)
        }
    };
    let joe = || Some(EraseWhat::Value("joe".into()));
    assert_eq!(code(erase(joe(), "").await), Code::InvalidArgument);
    assert_eq!(
        code(erase(joe(), "joe asked for it").await),
        Code::InvalidArgument,
        "reasons are kept"
    );
    assert_eq!(code(erase(None, "why").await), Code::InvalidArgument);
    let refused = server.local(VIEWER).audit().erase(EraseRequest::default()).await;
    assert_eq!(code(refused), Code::PermissionDenied);
    assert_eq!(
        erase(joe(), "request 7").await.unwrap(),
        2,
        "by itself, and within a larger value"
    );
    assert_eq!(code(erase(joe(), "request 7").await), Code::NotFound);
    let search = SearchRequest {
        reveal: true,
        kinds: vec!["a".into(), "private".into()],
        ..SearchRequest::default()
    };
    let entries = found(&server, search.clone()).await;
    assert_eq!(kinds(&entries), ["a.one", "a.two", "private.erased"]);
    assert_eq!(entries[0]["body"]["reason"], "a reason");
    let gone = Commitment::of(&entries[0]["body"]["person"]).unwrap();
    let erased = entries[2]["body"]["commitments"].as_array().unwrap();
    assert!(erased.contains(&json!(gone.to_string())) && erased.len() == 2);
    assert_eq!(entries[2]["reason"], "request 7");
    assert!(!format!("{entries:?}").contains("joe"));
    // The rest of the first entry.
    let index = all(server.admin().audit().search(search).await).await[0].index;
    assert_eq!(erase(Some(EraseWhat::Index(index)), "all of it").await.unwrap(), 1);
}

#[tokio::test]
async fn a_new_key_signs_beside_the_old_one() {
    let server = Server::new().await;
    let old = server.api.evidence.verifier_keys();
    let reason = String::from("the old one was seen");
    let rotated = server
        .admin()
        .audit()
        .rotate_key(RotateKeyRequest { reason })
        .await
        .unwrap()
        .into_inner();
    let answer = server
        .local(VIEWER)
        .audit()
        .get_checkpoint(GetCheckpointRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.verifier_keys[0], rotated.verifier_key);
    assert_eq!(answer.verifier_keys[1], old[0].to_string());
    let new: VerifierKey = rotated.verifier_key.parse().unwrap();
    for keys in [&[new][..], &old] {
        SignedCheckpoint::open(&answer.checkpoint, keys).unwrap();
    }
    let refused = server.admin().audit().rotate_key(RotateKeyRequest::default()).await;
    assert_eq!(code(refused), Code::InvalidArgument);
}

#[tokio::test]
async fn who_reads_private_values_is_on_record_and_who_does_not_is_not() {
    let server = Server::new().await;
    server.note("a.one", json!({ "person": "joe" })).await;
    server.covered().await;
    let readings = async || {
        let search = SearchRequest {
            kinds: vec!["private.read".into()],
            ..SearchRequest::default()
        };
        found(&server, search).await
    };
    let sealed = SearchRequest::default();
    let by_text = SearchRequest {
        values: vec!["a.one".into()],
        ..SearchRequest::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let copy = |include_private| ExportRequest {
        have_size: 0,
        include_private,
    };
    found(&server, sealed.clone()).await;
    found(&server, by_text).await;
    export(&server, dir.path(), copy(false)).await;
    assert_eq!(readings().await, Vec::<Value>::new());

    // A name that finds entries says whose they are, sealed or not.
    let by_name = SearchRequest {
        values: vec!["joe".into()],
        ..SearchRequest::default()
    };
    let revealed = SearchRequest {
        reveal: true,
        kinds: vec!["a".into()],
        ..SearchRequest::default()
    };
    for search in [by_name.clone(), revealed.clone(), by_name, revealed] {
        found(&server, search).await;
    }
    let other = tempfile::tempdir().unwrap();
    export(&server, other.path(), copy(true)).await;
    let said = readings().await;
    let what: Vec<_> = said
        .iter()
        .map(|entry| entry["body"]["what"].as_str().unwrap())
        .collect();
    assert_eq!(what, ["search", "search", "export"]);
    assert!(Commitment::of(&said[0]["body"]["about"][0]["wanted"]).is_some());
    assert_eq!(said[1]["body"]["kinds"], json!(["a"]));
    assert!(said.iter().all(|entry| Commitment::of(&entry["who"]).is_some()));
}
