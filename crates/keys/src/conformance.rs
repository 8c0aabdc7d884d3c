//! What every key manager must do. For tests: a broken promise panics.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};

use crate::{KeyError, KeyManager, KeyType, Signer};

/// Sign, list, overwrite, delete; on a manager that holds no keys. Makes one RSA key of each size, which takes seconds.
///
/// # Panics
/// If the manager breaks a promise of [`KeyManager`].
pub async fn check(keys: &dyn KeyManager) {
    assert!(keys.list().await.expect("an empty manager lists").is_empty());
    assert!(keys.find("a").await.expect("an empty manager answers").is_none());

    for key_type in KeyType::ALL {
        let signer = keys
            .generate("a", key_type)
            .await
            .expect("a key of each type can be made");
        assert_eq!(signer.key_type(), key_type);
        assert_signs(&*signer);
        assert!(
            !format!("{signer:?}{keys:?}").contains("48, 130"),
            "Debug shows key material"
        );
    }

    let first = keys.generate("b", KeyType::EcP256).await.expect("a second key");
    assert_eq!(keys.list().await.expect("lists"), ["a", "b"]);
    let second = keys
        .generate("b", KeyType::EcP256)
        .await
        .expect("a key replaces the one of its name");
    assert_ne!(
        first.public_key_der(),
        second.public_key_der(),
        "a replaced key is a new key"
    );
    let found = keys.find("b").await.expect("answers").expect("the key is there");
    assert_eq!(found.public_key_der(), second.public_key_der());
    assert_signs(&*first); // what is out keeps working

    keys.delete("b").await.expect("deletes");
    keys.delete("b").await.expect("deleting twice is no error");
    assert!(keys.find("b").await.expect("answers").is_none());
    assert_eq!(keys.list().await.expect("lists"), ["a"]);

    for bad in ["", ".a", "a/b", "../a", "a b", "é", &"a".repeat(65)] {
        let error = keys
            .generate(bad, KeyType::EcP256)
            .await
            .expect_err("a bad name is refused");
        assert!(matches!(error, KeyError::KeyId { .. }), "{bad}: {error}");
    }
}

/// Keys are there again after a restart, and what was replaced or deleted is not. `open` opens the same keys each time.
///
/// # Panics
/// If they are not.
pub async fn check_restart<K: KeyManager>(open: impl Fn() -> K) {
    let keys = open();
    keys.generate("kept", KeyType::EcP384).await.expect("a key");
    let kept = keys.generate("kept", KeyType::EcP256).await.expect("its successor");
    keys.generate("gone", KeyType::EcP256).await.expect("another key");
    keys.delete("gone").await.expect("deletes");
    drop(keys);

    let keys = open();
    assert_eq!(keys.list().await.expect("lists"), ["kept"]);
    let found = keys.find("kept").await.expect("answers").expect("the key survived");
    assert_eq!(found.public_key_der(), kept.public_key_der());
    assert_eq!(found.key_type(), KeyType::EcP256);
    assert_signs(&*found);

    for key_type in KeyType::ALL {
        let made = keys.generate("kept", key_type).await.expect("a key of each type");
        let found = open().find("kept").await.expect("answers").expect("the key survived");
        assert_eq!(found.key_type(), key_type);
        assert_eq!(found.public_key_der(), made.public_key_der());
        assert_signs(&*found);
    }
}

fn assert_signs(signer: &dyn Signer) {
    let algorithm: &dyn VerificationAlgorithm = match signer.key_type() {
        KeyType::EcP256 => &ECDSA_P256_SHA256_ASN1,
        KeyType::EcP384 => &ECDSA_P384_SHA384_ASN1,
        KeyType::Rsa2048 | KeyType::Rsa4096 => &RSA_PKCS1_2048_8192_SHA256,
        KeyType::Ed25519 => &ED25519,
    };
    let signature = signer.sign(b"message").expect("signs");
    let key = UnparsedPublicKey::new(algorithm, signer.public_key_der());
    key.verify(b"message", &signature)
        .expect("the public half verifies what the private half signed");
    key.verify(b"another", &signature).expect_err("and nothing else");
}
