//! Without a request there is nothing (S1).

use std::process::Stdio;

use mayfly_tests::caller::Caller;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::tasks::ledger::Checked;
use mayfly_tests::tasks::{JOB_UID, TaskWorld, UNATTENDED};
use mayfly_tests::{EntrySpec, Lane};
use tokio::process::Command;

// S1
#[tokio::test]
async fn fifty_workloads_without_a_request_get_nothing_below_task_and_their_base_svids_open_no_door() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(UNATTENDED).await;
    let guarded = world.guarded().await;
    let admin = world.server.admin();
    for index in 0..50 {
        let path = format!("/ns/pay/worker-{index}");
        let selector = format!("unix:uid:{}", JOB_UID + 1 + index);
        admin
            .create(&EntrySpec::new(&path, world.agent.id(), &[&selector]))
            .await;
    }
    for index in 0..50 {
        let mut caller = Caller::spawn(JOB_UID + 1 + index);
        let workload = caller.workload(&world.agent.socket());
        let answer = workload.fetch().await.unwrap();
        assert_eq!(answer.svids.len(), 1, "{answer:?}");
        if index == 0 {
            let (cert, key) = (world.server.dir().join("base.pem"), world.server.dir().join("base.key"));
            let svid = &answer.svids[0];
            std::fs::write(&cert, pem("CERTIFICATE", &svid.x509_svid)).unwrap();
            std::fs::write(&key, pem("PRIVATE KEY", &svid.x509_svid_key)).unwrap();
            let curl = Command::new("curl")
                .args(["-sS", "--insecure", "--max-time", "10", "--cert"])
                .arg(&cert)
                .arg("--key")
                .arg(&key)
                .arg(format!("https://{}/", guarded.address))
                .stdin(Stdio::null())
                .output()
                .await
                .unwrap();
            assert!(!curl.status.success(), "a base SVID opened the door: {curl:?}");
        }
        caller.exit();
    }
    let evidence = Evidence::of(world.server.dir());
    assert_eq!(evidence.count("window.opened"), 0);
    let below = evidence.subjects("svid.intended");
    assert!(below.len() > 50, "{}", below.len());
    for id in below {
        assert!(!id.contains("/task/") && !id.contains("/breakglass/"), "{id}");
    }
    assert_eq!(world.check_log(), Checked::default());
}

/// One PEM block of the first certificate, or of the key.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
