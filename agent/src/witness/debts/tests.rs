use std::fs;

use mayfly_proto::mayfly::agent::LogHead;
use mayfly_svid::{TASK_EXTENSION_ARCS, WindowId};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose};
use rcgen::{PublicKeyData, SanType, SerialNumber};
use serde_json::{Value, json};

use super::*;
use crate::witness::Watching;
use crate::witness::tests::{Log, Node};

const ID: &str = "spiffe://td/task/pay/migrate/a";
const WINDOW: WindowId = WindowId([1; 16]);
const SILENCE: Duration = Duration::from_secs(10);

/// The certificate of a task SVID that says that the log has it at `index`, and the entry that there should be.
fn issued(index: u64, serial: u64) -> (Vec<u8>, Value) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_after = time::OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
    let extension = TaskExtension {
        window_id: WINDOW,
        definition_hash: [1; 16],
        closes: Timestamp::from_unix(1_900_000_000),
        log_index: index,
    };
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        TASK_EXTENSION_ARCS,
        extension.to_der(),
    )];
    let certificate = params.self_signed(&key).unwrap();
    let hash = hex::encode(digest(&SHA256, &key.subject_public_key_info()));
    let entry = json!({
        "kind": "svid.intended", "subject": ID, "who": "spiffe://td/spire/agent/a", "v": 1,
        "body": {
            "serial": serial.to_string(), "public_key_sha256": hash, "not_after": 1_900_000_000, "entry_id": null,
            "window_id": WINDOW,
        },
    });
    (certificate.der().to_vec(), entry)
}

/// A node that knows nine entries, and got an SVID that says that the next one is its own; `log` has it.
pub(crate) fn sent() -> (Node, Log, Value) {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let (certificate, entry) = issued(9, 7);
    node.witness.was_sent(&certificate);
    log.entries.push(entry.to_string().into_bytes());
    (node, log, entry)
}

fn shows(node: &Node, log: &Log, indexes: &[u64]) -> LogHead {
    log.head_with(node.known(), indexes)
}

async fn passes(stream: &mut Watching, node: &Node, seconds: u64) {
    for _ in 0..seconds {
        tokio::time::advance(Duration::from_secs(1)).await;
        if let Some(missing) = stream.overdue(SILENCE, false) {
            node.witness.misses(&missing);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_svid_says_of_the_log_is_asked_for_once_and_then_known_to_be_so() {
    let (node, log, _) = sent();
    let mut stream = Watching::new(node.witness.clone());
    stream.owes().await;
    assert_eq!(stream.question().unwrap().indexes, [9]);
    assert_eq!(stream.question(), None);
    // Another stream begins anew.
    let mut stream = Watching::new(node.witness.clone());
    assert_eq!(stream.question().unwrap().indexes, [9]);
    let said = node.witness.consider(&shows(&node, &log, &[9]));
    assert_eq!((said.size, said.refused.as_str()), (10, ""));
    assert!(!said.cosignature.is_empty());
    passes(&mut stream, &node, 100).await;
    node.trusts();
    assert_eq!(stream.question(), None);
    // Certificates of nobody's window owe nothing.
    node.witness.was_sent(b"no certificate");
    assert_eq!(stream.question(), None);
}

#[tokio::test(start_paused = true)]
async fn another_entry_than_that_of_the_svid_is_refused_for_good() {
    let changes: [fn(&mut Value); 6] = [
        |entry| entry["body"]["serial"] = json!("8"),
        |entry| entry["body"]["public_key_sha256"] = json!("00"),
        |entry| entry["body"]["not_after"] = json!(1_899_999_999),
        |entry| entry["subject"] = json!("spiffe://td/task/pay/migrate/b"),
        |entry| entry["kind"] = json!("svid.outcome"),
        |entry| *entry = json!([]),
    ];
    for change in changes {
        let (node, mut log, mut entry) = sent();
        change(&mut entry);
        log.entries[9] = entry.to_string().into_bytes();
        let said = node.witness.consider(&shows(&node, &log, &[9]));
        let why = "its entry 9 is not that of the SVID 7, which names it";
        assert!(said.refused.contains(why), "{said:?}");
        assert!(said.cosignature.is_empty());
        // It is what it is: no later head makes it good, and nobody asks for it again.
        for node in [&node, &node] {
            log.entries.push(vec![1]);
            assert!(node.sees(&log).refused.contains(why));
        }
        let node = node.restart();
        node.is_refusing(why);
        assert_eq!(Watching::new(node.witness.clone()).question(), None);
        log.entries.push(vec![1]);
        assert!(node.sees(&log).refused.contains(why));
        assert_eq!(node.known(), 13, "what the log shows of itself is in order");
    }
}

#[test]
fn the_record_of_another_window_or_of_none_is_refused() {
    let changes: [(fn(&mut Value), &str); 3] = [
        (
            |body| body["window_id"] = json!(WindowId([2; 16])),
            "it names another window, or none",
        ),
        (
            |body| drop(body.as_object_mut().unwrap().remove("window_id")),
            "it names another window, or none",
        ),
        (|body| body["window_id"] = Value::Null, "it is no record of an SVID"),
    ];
    for (change, why) in changes {
        let (node, mut log, mut entry) = sent();
        change(&mut entry["body"]);
        log.entries[9] = entry.to_string().into_bytes();
        let said = node.witness.consider(&shows(&node, &log, &[9]));
        assert!(
            said.refused.contains("is not that of the SVID 7") && said.refused.contains(why),
            "{said:?}"
        );
        assert!(said.cosignature.is_empty());
        node.restart().is_refusing(why);
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_that_the_log_does_not_show_is_missed_after_half_a_minute_until_it_does() {
    let (node, mut log, _) = sent();
    let mut stream = Watching::new(node.witness.clone());
    stream.question();
    // The log goes on, and says nothing of it.
    log.entries.push(vec![1]);
    node.sees(&log);
    passes(&mut stream, &node, 29).await;
    node.trusts();
    passes(&mut stream, &node, 1).await;
    let why = "does not show in it the SVID 7, which names its entry 9";
    node.is_refusing(why);
    // Nor does the log that goes on help, nor another process, nor what proves nothing.
    log.entries.push(vec![2]);
    assert!(node.sees(&log).refused.contains(why));
    let node = node.restart();
    node.is_refusing(why);
    let mut stream = Watching::new(node.witness.clone());
    assert_eq!(stream.question().unwrap().indexes, [9]);
    for change in [
        (|head| head.inclusions[0].proof.clear()) as fn(&mut LogHead),
        |head| head.inclusions[0].proof[0].truncate(31),
        |head| head.inclusions[0].entry[0] ^= 1,
        |head| head.inclusions[0].index = 8,
    ] {
        let mut head = shows(&node, &log, &[9]);
        change(&mut head);
        assert!(node.witness.consider(&head).refused.contains(why));
    }
    assert_eq!(node.witness.consider(&shows(&node, &log, &[9])).refused, "");
    node.trusts();
    node.restart().trusts();
}

#[test]
fn two_svids_cannot_name_one_entry() {
    let (node, log, _) = sent();
    let (second, _) = issued(9, 8);
    node.witness.was_sent(&second);
    let said = node.witness.consider(&shows(&node, &log, &[9]));
    assert!(said.refused.contains("is not that of the SVID 8"), "{said:?}");
    // Also when the first has been shown already.
    let (node, log, _) = sent();
    node.witness.consider(&shows(&node, &log, &[9]));
    node.trusts();
    node.witness.was_sent(&second);
    let said = node.witness.consider(&shows(&node, &log, &[9]));
    assert!(said.refused.contains("is not that of the SVID 8"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_stands_still_while_svids_are_issued_is_refused_after_a_minute_until_it_goes_on() {
    let (node, mut log) = (Node::new(), Log::new(9));
    // Nobody has shown a log yet: there is nothing that could stand still.
    node.witness.was_issued(node.witness.asks());
    let mut stream = Watching::new(node.witness.clone());
    node.sees(&log);
    passes(&mut stream, &node, 100).await;
    node.trusts();
    let asked = node.witness.asks();
    node.witness.was_issued(asked);
    node.sees(&log);
    passes(&mut stream, &node, 59).await;
    node.trusts();
    // It is shown, and has not grown.
    node.sees(&log);
    passes(&mut stream, &node, 1).await;
    let why = "it stands at 9 entries, although the server has issued SVIDs since";
    node.is_refusing(why);
    assert!(node.sees(&log).refused.contains(why));
    let node = node.restart();
    assert!(node.sees(&log).refused.contains(why));
    log.entries.push(vec![1]);
    assert_eq!(node.sees(&log).refused, "");
    node.trusts();
    // It went on while the answer was on its way.
    let mut stream = Watching::new(node.witness.clone());
    node.sees(&log);
    let asked = node.witness.asks();
    log.entries.push(vec![2]);
    node.sees(&log);
    node.witness.was_issued(asked);
    passes(&mut stream, &node, 100).await;
    node.trusts();
}

#[tokio::test(start_paused = true)]
async fn while_this_process_stood_still_nobody_was_late() {
    let (node, log, _) = sent();
    let mut stream = Watching::new(node.witness.clone());
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(stream.overdue(SILENCE, false).is_none());
    // Nor while there was no stream.
    drop(stream);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let mut stream = Watching::new(node.witness.clone());
    assert!(stream.overdue(SILENCE, false).is_none());
    node.witness.consider(&shows(&node, &log, &[9]));
    node.trusts();
}

#[tokio::test(start_paused = true)]
async fn what_was_shown_was_shown_also_when_this_node_cannot_remember_it() {
    let disk_fails = |node: &Node| {
        let file = node.dir.path().join("witness.json");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
    };
    let (node, log, _) = sent();
    node.witness.was_issued(node.witness.asks());
    let mut stream = Watching::new(node.witness.clone());
    disk_fails(&node);
    let said = node.witness.consider(&shows(&node, &log, &[9]));
    assert!(said.cosignature.is_empty(), "what is not remembered is not cosigned");
    passes(&mut stream, &node, 100).await;
    node.trusts();
    // So was what should not be.
    let (node, mut log, _) = sent();
    disk_fails(&node);
    log.entries[9] = vec![1];
    let said = node.witness.consider(&shows(&node, &log, &[9]));
    assert!(said.refused.contains("is not that of the SVID 7"), "{said:?}");
    node.is_refusing("is not that of the SVID 7");
}

#[tokio::test(start_paused = true)]
async fn who_cuts_each_stream_off_at_once_gains_little_time() {
    let (node, log, _) = sent();
    let head = node.witness.consider(&log.head(node.known()));
    assert_eq!(head.refused, "");
    let mut streams = 0;
    while node.witness.hello().unwrap().refused.is_empty() {
        let mut stream = Watching::new(node.witness.clone());
        passes(&mut stream, &node, 0).await;
        if let Some(missing) = stream.overdue(SILENCE, false) {
            node.witness.misses(&missing);
        }
        drop(stream);
        tokio::time::advance(Duration::from_secs(60)).await;
        streams += 1;
        assert!(streams < 100);
    }
    node.is_refusing("does not show in it the SVID 7");
    assert_eq!(streams, 7);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_late_while_the_log_is_refused_leaves_the_evidence_as_it_is() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let mut stream = Watching::new(node.witness.clone());
    log.entries[4] = vec![0xff];
    let fork = log.head(9);
    node.witness.consider(&fork);
    let evidence = |node: &Node| {
        let file = fs::read_to_string(node.dir.path().join("witness.json")).unwrap();
        let file: Value = serde_json::from_str(&file).unwrap();
        (file["refused"].clone(), file["overdue"].clone())
    };
    let (refused, _) = evidence(&node);
    assert_eq!(refused["checkpoint"].as_str().unwrap().as_bytes(), fork.checkpoint);
    // Base SVIDs are renewed, and the log of this agent stands still; an SVID of a window came before, and is late, too.
    node.witness.was_issued(node.witness.asks());
    node.witness.was_sent(&issued(9, 7).0);
    passes(&mut stream, &node, 100).await;
    node.is_refusing("it has another past");
    let (now, overdue) = evidence(&node);
    assert_eq!(now, refused);
    assert_eq!(
        (
            overdue["stands_at"].as_u64(),
            overdue["entries"][0]["issued"]["index"].as_u64()
        ),
        (Some(9), Some(9))
    );
    // The right log, without what is owed, is refused for that.
    let node = node.restart();
    log.entries[4] = vec![4];
    assert!(node.sees(&log).refused.contains("does not show in it the SVID 7"));
}

#[tokio::test(start_paused = true)]
async fn of_more_missing_entries_than_are_remembered_it_is_never_known_that_all_were_shown() {
    let (node, mut log) = (Node::new(), Log::new(9));
    node.sees(&log);
    let (certificate, entry) = issued(9, 7);
    let first = Issued::of(&certificate).unwrap();
    {
        let state = &mut *node.witness.lock();
        for index in 9..9 + KEPT as u64 + 44 {
            let issued = Issued { index, ..first.clone() };
            state.debts.owe(issued, state.streamed);
        }
    }
    let mut stream = Watching::new(node.witness.clone());
    passes(&mut stream, &node, 31).await;
    node.is_refusing("does not show in it the SVID 7, which names its entry 9");
    // All of those that are remembered are shown; the tree of this test has no tiles, so not in a log.
    let node = node.restart();
    let mut memory = node.witness.lock().memory.clone();
    assert_eq!(memory.overdue.entries.len(), KEPT);
    let settled: Vec<Issued> = memory.overdue.entries[1..]
        .iter()
        .map(|late| late.issued.clone())
        .collect();
    memory.overdue.settle(&settled);
    node.witness.show(memory);
    log.entries.push(entry.to_string().into_bytes());
    let why = "more SVIDs without showing them in it than this agent can remember";
    assert!(node.witness.consider(&shows(&node, &log, &[9])).refused.contains(why));
    let node = node.restart();
    node.is_refusing(why);
    log.entries.push(vec![1]);
    assert!(node.sees(&log).refused.contains(why));
}
