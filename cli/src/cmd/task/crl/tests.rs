//! Whole command lines against the fake server, with real lists in real files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;
use tonic::Status;

use super::list::RevocationList;
use crate::testing::{Fake, NOW};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::Sha256;
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        Self { issuer }
    }

    fn list(&self, number: u64, revoked: &[u64]) -> Vec<u8> {
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(NOW + seconds).unwrap();
        let revoked_certs = revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: at(-10),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: at(-60),
            next_update: at(540),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

fn pem(lists: &[Vec<u8>]) -> String {
    lists
        .iter()
        .map(|der| RevocationList::of(der.clone()).unwrap().pem())
        .collect()
}

fn id(der: &[u8]) -> String {
    RevocationList::of(der.to_vec()).unwrap().authority_id
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn lists_are_shown_as_a_table_as_json_or_as_pem() {
    let fake = Fake::start().await;
    let empty = fake.mayfly(&["task", "crl"]).await;
    assert!(empty.out.starts_with("There is no revocation list"), "{empty:?}");
    let list = Authority::new().list(12, &[5, 6]);
    fake.state().crls = vec![list.clone()];
    let table = fake.mayfly(&["task", "crl"]).await.text();
    insta::assert_snapshot!("crl", table.replace(&id(&list), "<authority>"));
    let json = fake.mayfly(&["task", "crl", "--output", "json"]).await.json();
    assert_eq!((&json["lists"][0]["number"], &json["epoch"]), (&"12".into(), &7.into()));
    assert_eq!(json["lists"][0]["pem"], pem(std::slice::from_ref(&list)));
    assert_eq!(fake.mayfly(&["task", "crl", "--format", "pem"]).await.out, pem(&[list]));
    assert_eq!(fake.mayfly(&["task", "crl", "--format", "der"]).await.code, 2);
}

#[tokio::test]
async fn all_lists_are_in_one_file_that_everybody_may_read() {
    let fake = Fake::start().await;
    let (a, b) = (Authority::new(), Authority::new());
    let lists = vec![a.list(1, &[]), b.list(1, &[7])];
    fake.state().crls = lists.clone();
    let dir = fake.dir().join("new/crl");
    let args = ["task", "crl", "--out", dir.to_str().unwrap()];
    let ran = fake.mayfly(&args).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let file = dir.join("crl.pem");
    assert_eq!(fs::read_to_string(&file).unwrap(), pem(&lists));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(names(&dir), ["crl.pem"], "nothing is left beside it");
    // The same again is not written again.
    assert_eq!(fake.mayfly(&args).await.out, "");
}

#[tokio::test]
async fn a_list_never_makes_way_for_an_older_one() {
    let fake = Fake::start().await;
    let a = Authority::new();
    let (new, old) = (a.list(300, &[7]), a.list(299, &[]));
    for (format, name) in [("pem", "crl.pem".to_owned()), ("der", format!("{}.crl", id(&new)))] {
        let dir = fake.dir().join(format);
        let args = ["task", "crl", "--out", dir.to_str().unwrap(), "--format", format];
        fake.state().crls = vec![new.clone()];
        assert_eq!(fake.mayfly(&args).await.code, 0);
        let before = fs::read(dir.join(&name)).unwrap();
        fake.state().crls = vec![old.clone()];
        let refused = fake.mayfly(&args).await;
        assert!(
            refused.code == 1 && refused.err.contains("number 299, older than 300"),
            "{refused:?}"
        );
        assert_eq!(fs::read(dir.join(&name)).unwrap(), before);
        // What is no list at all, of a sick server, changes nothing either.
        fake.state().crls = vec![vec![0x30, 0]];
        assert_eq!(fake.mayfly(&args).await.code, 1);
        fake.state().crls.clear();
        assert_eq!(fake.mayfly(&args).await.code, 0);
        assert_eq!(fs::read(dir.join(&name)).unwrap(), before);
    }
}

#[tokio::test]
async fn lists_of_authorities_that_are_gone_go_and_other_files_stay() {
    let fake = Fake::start().await;
    let (a, b) = (Authority::new().list(1, &[]), Authority::new().list(1, &[]));
    fake.state().crls = vec![a.clone(), b.clone()];
    let dir = fake.dir().join("der");
    let args = ["task", "crl", "--format", "der", "--out", dir.to_str().unwrap()];
    assert_eq!(fake.mayfly(&args).await.code, 0);
    assert_eq!(fs::read(dir.join(format!("{}.crl", id(&a)))).unwrap(), a);
    fs::write(dir.join("mine.crl"), "x").unwrap();
    fake.state().crls = vec![b.clone()];
    assert_eq!(fake.mayfly(&args).await.code, 0);
    let mut left = vec![format!("{}.crl", id(&b)), "mine.crl".into()];
    left.sort();
    assert_eq!(names(&dir), left);
}

#[tokio::test]
async fn while_it_watches_a_command_runs_after_each_change_until_it_succeeds() {
    let fake = Fake::start().await;
    fake.state().crls = vec![Authority::new().list(1, &[])];
    let (dir, told, allowed) = (
        fake.dir().join("crl"),
        fake.dir().join("told"),
        fake.dir().join("allowed"),
    );
    let then = format!("echo x >> '{}'; test -e '{}'", told.display(), allowed.display());
    let watch = |updates: &'static str| {
        let dir = dir.to_str().unwrap().to_owned();
        let then = then.clone();
        let fake = &fake;
        async move {
            let args = [
                "task",
                "crl",
                "--out",
                &dir,
                "--watch",
                "--every",
                "1s",
                "--updates",
                updates,
                "--then",
                &then,
            ];
            fake.mayfly(&args).await
        }
    };
    let failing = watch("2").await;
    assert_eq!(failing.code, 1, "{failing:?}");
    // The same trouble is told once; the command is tried each time.
    assert_eq!(failing.err.matches("failed: exit status: 1").count(), 1, "{failing:?}");
    assert!(failing.err.contains("run out in 9 min"), "{failing:?}");
    assert_eq!(fs::read_to_string(&told).unwrap().lines().count(), 2);
    fs::write(&allowed, "").unwrap();
    fs::remove_file(dir.join("crl.pem")).unwrap();
    let ran = watch("2").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        fs::read_to_string(&told).unwrap().lines().count(),
        3,
        "once for the one change"
    );
    fake.state().refuse = Some(Status::unavailable("away"));
    let away = watch("1").await;
    assert_eq!(away.code, 1, "{away:?}");
    assert!(dir.join("crl.pem").exists());
}
