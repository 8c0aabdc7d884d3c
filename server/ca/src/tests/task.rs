//! Task SVIDs: what only their authorities sign, and only once it is recorded.

use mayfly_svid::{TASK_EXTENSION_OID, TaskExtension, TaskRoot, WindowId};

use super::*;

const ID: &str = "spiffe://td.example/task/pay/migrate/web";

async fn issuer_below(root: TaskRoot) -> Issuer {
    let signer = signer(KeyType::EcP256).await;
    let cert = create_authority(&td(), signer.clone(), 24 * HOUR, NOW, &random_serial()).unwrap();
    Issuer::of_tasks(td(), root, cert, signer).unwrap()
}

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW.unix() + seconds)
}

fn extension(closes: i64) -> TaskExtension {
    TaskExtension {
        window_id: WindowId([7; 16]),
        definition_hash: [9; 16],
        closes: later(closes),
        log_index: 0,
    }
}

fn lease(id: &str, until: i64) -> X509SvidRequest {
    X509SvidRequest {
        validity: Validity::Between(later(-3), later(until)),
        ..request(id)
    }
}

#[tokio::test]
async fn a_task_svid_says_its_window_in_an_extension_that_others_may_pass_over() {
    let issuer = issuer_below(TaskRoot::Task).await;
    let ticket = issuer.prepare_task(lease(ID, 300), extension(900), NOW).unwrap();
    let svid = issuer.sign(ticket.recorded_at(4711)).unwrap();
    let (begin, end) = (svid.not_before(), svid.not_after());
    assert_eq!((begin, end), (later(-3), later(300)));
    let leaf = decode(&svid.chain()[0]);
    assert_eq!(leaf.extensions.len(), 7);
    assert!(!leaf.extensions[TASK_EXTENSION_OID].0, "not critical");
    openssl_verify(issuer.cert_der(), &svid.chain()[0], NOW).unwrap();
    assert_eq!(verify_x509_svid(svid.chain(), &anchors(&issuer), NOW).unwrap(), svid);
    let read = TaskExtension::from_certificate_der(&svid.chain()[0]).unwrap().unwrap();
    let expected = TaskExtension {
        log_index: 4711,
        ..extension(900)
    };
    assert_eq!(read, expected);
}

#[tokio::test]
async fn each_authority_signs_below_its_own_root_only() {
    let base = issuer().await;
    let (task, breakglass) = (
        issuer_below(TaskRoot::Task).await,
        issuer_below(TaskRoot::Breakglass).await,
    );
    let refused = |error| assert!(matches!(error, Err(ProfileError::OtherRoot { .. })));
    for reserved in [
        "task",
        "task/pay/migrate/web",
        "breakglass",
        "breakglass/ops/fix/web",
        "task/pay",
    ] {
        let id = format!("spiffe://td.example/{reserved}");
        refused(base.prepare(request(&id), NOW).map(drop));
        refused(base.prepare_task(request(&id), extension(4000), NOW).map(drop));
    }
    for free in ["web", "taskforce", "a/task/b/c", "spire/server"] {
        let id = format!("spiffe://td.example/{free}");
        base.prepare(request(&id), NOW).unwrap();
        for issuer in [&task, &breakglass] {
            refused(issuer.prepare(request(&id), NOW).map(drop));
            refused(issuer.prepare_task(request(&id), extension(4000), NOW).map(drop));
        }
    }
    // Nor without a window what is below their own root, nor what names no workload there.
    refused(task.prepare(request(ID), NOW).map(drop));
    let short = "spiffe://td.example/task/pay/migrate";
    refused(task.prepare_task(request(short), extension(4000), NOW).map(drop));
    refused(breakglass.prepare_task(request(ID), extension(4000), NOW).map(drop));
    let emergency = "spiffe://td.example/breakglass/pay/migrate/web";
    refused(task.prepare_task(request(emergency), extension(4000), NOW).map(drop));
    breakglass
        .prepare_task(request(emergency), extension(4000), NOW)
        .unwrap();
}

// I2: an SVID never lasts longer than its window.
#[tokio::test]
async fn an_svid_that_would_last_longer_than_its_window_is_refused() {
    let issuer = issuer_below(TaskRoot::Task).await;
    issuer.prepare_task(lease(ID, 300), extension(300), NOW).unwrap();
    let beyond = issuer.prepare_task(lease(ID, 301), extension(300), NOW);
    assert!(matches!(beyond, Err(ProfileError::BeyondWindow { .. })));
    let future = X509SvidRequest {
        validity: Validity::Between(later(1), later(100)),
        ..request(ID)
    };
    let future = issuer.prepare_task(future, extension(300), NOW);
    assert_eq!(future.err(), Some(ProfileError::NoValidity));
}

// I3: log before mint.
#[tokio::test]
async fn a_task_svid_is_not_signed_before_it_is_known_where_it_is_recorded() {
    let issuer = issuer_below(TaskRoot::Task).await;
    let ticket = issuer.prepare_task(lease(ID, 300), extension(300), NOW).unwrap();
    assert!(matches!(issuer.sign(ticket), Err(SignError::NotRecorded)));
}
