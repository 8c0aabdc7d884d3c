use proptest::prelude::*;
use rcgen::CustomExtension;

use super::*;
use crate::test_certs::{ca, issue, leaf_params};

fn extension() -> TaskExtension {
    TaskExtension {
        window_id: WindowId([7; 16]),
        definition_hash: [9; 16],
        closes: Timestamp::from_unix(1_750_000_000),
        log_index: 300,
    }
}

fn certificate(values: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut params = leaf_params("spiffe://td.example/task/pay/db-migrate/job");
    for (value, critical) in values {
        let mut extension = CustomExtension::from_oid_content(TASK_EXTENSION_ARCS, value.clone());
        extension.set_criticality(*critical);
        params.custom_extensions.push(extension);
    }
    issue(&ca("ca"), &params).to_vec()
}

#[test]
fn the_encoding_is_fixed_for_good() {
    let expected = [
        &[0x30, 0x31, 2, 1, 1, 4, 16][..],
        &[7; 16],
        &[4, 16],
        &[9; 16],
        &[2, 4, 0x68, 0x4e, 0xe1, 0x80, 2, 2, 1, 44],
    ]
    .concat();
    assert_eq!(extension().to_der(), expected);
    assert_eq!(TaskExtension::parse(&expected), Ok(extension()));
}

#[test]
fn the_three_spellings_of_the_oid_are_one() {
    let numbers: Vec<String> = TASK_EXTENSION_ARCS.iter().map(u64::to_string).collect();
    assert_eq!(numbers.join("."), TASK_EXTENSION_OID);
    let der = certificate(&[(extension().to_der(), false)]);
    assert_eq!(TaskExtension::from_certificate_der(&der), Ok(Some(extension())));
    // What Go's parser of certificates takes at most.
    assert!(TASK_EXTENSION_ARCS.iter().all(|arc| *arc < 1 << 31));
}

#[test]
fn everything_but_that_encoding_is_refused() {
    let good = extension().to_der();
    let malformed = Err(TaskExtensionError::Malformed);
    for len in 0..good.len() {
        assert_eq!(TaskExtension::parse(&good[..len]), malformed, "{len} bytes");
    }
    assert_eq!(TaskExtension::parse(&[&good[..], &[0]].concat()), malformed);
    let changed = |at: usize, byte: u8| {
        let mut der = good.clone();
        der[at] = byte;
        TaskExtension::parse(&der)
    };
    assert_eq!(changed(4, 2), Err(TaskExtensionError::Version { version: 2 }));
    assert_eq!(changed(4, 0), Err(TaskExtensionError::Version { version: 0 }));
    for (at, byte) in [
        (0, 0x31),
        (1, 0x32),
        (1, 0x81),
        (2, 4),
        (3, 2),
        (5, 0x24),
        (6, 15),
        (6, 17),
    ] {
        assert_eq!(changed(at, byte), malformed, "byte {at} as {byte:#x}");
    }
    // A number with a needless zero, one that is negative where none may be, and a field too many.
    let with_tail = |tail: &[u8]| {
        let mut der = [&good[..good.len() - 4], tail].concat();
        der[1] = u8::try_from(der.len() - 2).unwrap();
        TaskExtension::parse(&der)
    };
    assert_eq!(with_tail(&[2, 2, 1, 44]), Ok(extension()));
    assert_eq!(with_tail(&[2, 3, 0, 1, 44]), malformed);
    assert_eq!(with_tail(&[2, 1, 0xff]), malformed);
    assert_eq!(with_tail(&[2, 0]), malformed);
    assert_eq!(with_tail(&[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]), malformed);
    assert_eq!(with_tail(&[2, 2, 1, 44, 2, 1, 0]), malformed);
    assert_eq!(with_tail(&[2, 0x81, 2, 1, 44]), malformed);
}

#[test]
fn a_certificate_has_it_once_and_not_critical() {
    let good = extension().to_der();
    assert_eq!(TaskExtension::from_certificate_der(&certificate(&[])), Ok(None));
    let twice = certificate(&[(good.clone(), false), (good.clone(), false)]);
    assert_eq!(
        TaskExtension::from_certificate_der(&twice),
        Err(TaskExtensionError::Twice)
    );
    let critical = certificate(&[(good.clone(), true)]);
    assert_eq!(
        TaskExtension::from_certificate_der(&critical),
        Err(TaskExtensionError::Critical)
    );
    let junk = certificate(&[(vec![5, 0], false)]);
    assert_eq!(
        TaskExtension::from_certificate_der(&junk),
        Err(TaskExtensionError::Malformed)
    );
    let followed = [certificate(&[(good, false)]), vec![0]].concat();
    assert_eq!(
        TaskExtension::from_certificate_der(&followed),
        Err(TaskExtensionError::Malformed)
    );
}

#[test]
fn window_ids_have_one_spelling() {
    let text = "000102030405060708090a0b0c0d0eff";
    let id: WindowId = text.parse().unwrap();
    assert_eq!(
        (id.0[0], id.0[1], id.0[15], id.to_string().as_str()),
        (0, 1, 0xff, text)
    );
    for wrong in [
        "",
        "00",
        "000102030405060708090A0B0C0D0EFF",
        "+00102030405060708090a0b0c0d0eff",
        "000102030405060708090a0b0c0d0eff00",
        "000102030405060708090a0b0c0d0e g",
    ] {
        assert!(wrong.parse::<WindowId>().is_err(), "{wrong}");
    }
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
    assert_eq!(WindowId::from_bytes(&[0; 15]), None);
}

#[test]
fn names_of_task_svids_have_a_root_a_team_a_task_and_a_base_path() {
    let id: SpiffeId = "spiffe://td.example/task/pay/db-migrate/ns/pay/job".parse().unwrap();
    let parts = TaskPath::of(&id).unwrap();
    let expected = TaskPath {
        root: TaskRoot::Task,
        team: "pay",
        task: "db-migrate",
        base: "/ns/pay/job",
    };
    assert_eq!(parts, expected);
    assert_eq!(parts.to_id(&id.trust_domain()).unwrap(), id);
    let glass: SpiffeId = "spiffe://td.example/breakglass/pay/fix/human/ann".parse().unwrap();
    assert_eq!(TaskPath::of(&glass).unwrap().root, TaskRoot::Breakglass);
    for other in [
        "",
        "/task",
        "/task/pay",
        "/task/pay/db-migrate",
        "/tasks/pay/db-migrate/job",
        "/ns/task/pay/db-migrate/job",
        "/Task/pay/db-migrate/job",
        "/spire/agent/a/b",
    ] {
        let id: SpiffeId = format!("spiffe://td.example{other}").parse().unwrap();
        assert_eq!(TaskPath::of(&id), None, "{other}");
    }
    assert!(
        TaskPath {
            team: "a/../b",
            ..expected
        }
        .to_id(&id.trust_domain())
        .is_err()
    );
}

proptest! {
    #[test]
    fn every_extension_is_read_as_it_was_written(
        window in any::<[u8; 16]>(), hash in any::<[u8; 16]>(), closes in any::<i64>(), log_index in any::<u64>(),
    ) {
        let extension = TaskExtension {
            window_id: WindowId(window),
            definition_hash: hash,
            closes: Timestamp::from_unix(closes),
            log_index,
        };
        let der = extension.to_der();
        prop_assert!(der.len() <= 200);
        prop_assert_eq!(TaskExtension::parse(&der), Ok(extension));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = TaskExtension::parse(&bytes);
    }
}
