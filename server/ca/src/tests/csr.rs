use std::process::Stdio;

use proptest::prelude::*;

use super::*;

/// A request that openssl made with a fresh key: `algorithm` and options are those of `openssl genpkey`.
fn openssl_csr(options: &[&str], digest: &str) -> Vec<u8> {
    let files = Files::new();
    let key = files.0.path().join("key.pem");
    let csr = files.0.path().join("csr.der");
    let (key, csr) = (key.to_str().unwrap(), csr.to_str().unwrap());
    let made = Command::new("openssl")
        .arg("genpkey")
        .args(options)
        .args(["-out", key])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    let subject = [
        "-subj",
        "/CN=admin",
        "-addext",
        "subjectAltName=URI:spiffe://td.example/admin",
        "-addext",
    ];
    let mut arguments = vec!["req", "-new", "-key", key, "-outform", "DER", "-out", csr, digest];
    arguments.extend(subject);
    arguments.push("basicConstraints=critical,CA:TRUE");
    openssl(&arguments).unwrap();
    std::fs::read(csr).unwrap()
}

// SVID-14 XSVID-29
#[tokio::test]
async fn only_the_key_of_a_request_is_used() {
    let issuer = issuer().await;
    for (options, digest) in [
        (
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..],
            "-sha256",
        ),
        (&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "-sha384"),
        (&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "-sha384"),
        (&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "-sha256"),
        (&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"], "-sha512"),
        (&["-algorithm", "ED25519"], "-sha256"),
    ] {
        let csr = parse_csr(&openssl_csr(options, digest)).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let request = X509SvidRequest {
            public_key: csr.public_key,
            ..request("spiffe://td.example/a")
        };
        let svid = issue(&issuer, request);
        let leaf = decode(&svid.chain()[0]);
        assert_eq!(
            leaf.uncritical("X509v3 Subject Alternative Name"),
            "URI:spiffe://td.example/a"
        );
        assert_eq!(leaf.extensions["X509v3 Basic Constraints"].1, "CA:FALSE");
        assert_eq!(leaf.line("Subject:"), "O=td.example");
        openssl_verify(issuer.cert_der(), &svid.chain()[0], NOW).unwrap();
    }
}

#[test]
fn keys_that_verifiers_cannot_use_are_refused() {
    use PublicKeyError::{Kind, RsaExponent, RsaSize};
    for (options, digest, expected) in [
        (
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"][..],
            "-sha512",
            Kind,
        ),
        (
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
            "-sha256",
            Kind,
        ),
        (&["-algorithm", "ED448"], "-sha256", Kind),
        (
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
            "-sha256",
            RsaSize { bits: 1024 },
        ),
        (
            &[
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-pkeyopt",
                "rsa_keygen_pubexp:3",
            ],
            "-sha256",
            RsaExponent,
        ),
        (
            &[
                "-algorithm",
                "RSA",
                "-pkeyopt",
                "rsa_keygen_bits:2048",
                "-pkeyopt",
                "rsa_keygen_pubexp:4294967297",
            ],
            "-sha256",
            RsaExponent,
        ),
    ] {
        assert_eq!(
            parse_csr(&openssl_csr(options, digest)),
            Err(CsrError::PublicKey(expected)),
            "{options:?}"
        );
    }
}

#[test]
fn damaged_requests_are_refused() {
    let good = openssl_csr(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "-sha256");
    let sha1 = openssl_csr(&["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "-sha1");
    assert_eq!(parse_csr(&sha1), Err(CsrError::Algorithm));
    assert_eq!(parse_csr(&[0; 4097]), Err(CsrError::TooLarge { bytes: 4097 }));
    assert_eq!(parse_csr(&[]), Err(CsrError::Malformed));
    assert_eq!(
        parse_csr(b"-----BEGIN CERTIFICATE REQUEST-----"),
        Err(CsrError::Malformed)
    );
    assert_eq!(parse_csr(&[&good[..], b"\0"].concat()), Err(CsrError::Malformed));
    let mut other_name = good.clone();
    let at = good.windows(5).position(|window| window == b"admin").unwrap();
    other_name[at] = b'b';
    assert_eq!(parse_csr(&other_name), Err(CsrError::Signature));
    let verified = parse_csr(&good).unwrap();
    for at in 0..good.len() {
        let _ = parse_csr(&good[..at]);
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        assert_ne!(parse_csr(&flipped).as_ref(), Ok(&verified), "byte {at}");
    }
}

#[test]
fn a_bare_key_is_checked_like_that_of_a_request() {
    let good = workload_key();
    let mut off_curve = good.clone();
    *off_curve.last_mut().unwrap() ^= 1;
    for bad in [
        vec![],
        vec![0x30, 0],
        off_curve,
        [&good[..], b"\0"].concat(),
        good[..good.len() - 1].to_vec(),
    ] {
        assert_eq!(PublicKey::from_der(&bad), Err(PublicKeyError::Malformed), "{bad:?}");
    }
}

#[test]
fn a_request_with_other_tags_is_refused_even_if_its_key_signed_it() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let algorithm = b"\x30\x05\x06\x03\x2b\x65\x70";
    let tlv = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let bits = |bytes: &[u8]| [&[0], bytes].concat();
    let spki = tlv(
        0x30,
        &[&algorithm[..], &tlv(0x03, &bits(key.public_key().as_ref()))].concat(),
    );
    let request_of = |whole, info, version, name: &[u8], attributes: &[u8], signature| {
        let content = [&tlv(version, b"\0")[..], name, &spki, attributes].concat();
        let info = tlv(info, &content);
        let signature = tlv(signature, &bits(key.sign(&info).as_ref()));
        // Its content has 128 to 255 bytes.
        let content = [&info[..], algorithm, &signature].concat();
        [&[whole, 0x81, u8::try_from(content.len()).unwrap()], &content[..]].concat()
    };
    let request =
        |whole, info, version, signature| request_of(whole, info, version, b"\x30\x00", b"\xa0\x00", signature);
    let with = |name, attributes| parse_csr(&request_of(0x30, 0x30, 0x02, name, attributes, 0x03));
    for (name, attributes) in [
        // The name's length takes the first byte of the key with it.
        (&b"\x30\x01"[..], &b"\xa0\x00"[..]),
        (b"\x31\x00", b"\xa0\x00"),
        // The number of SEQUENCE, in the long form and another class.
        (b"\xff\x10\x00", b"\xa0\x00"),
        (b"\x30\x00", b""),
        (b"\x30\x00", b"\xa1\x00"),
        (b"\x30\x00", b"\xa0\x00\x05\x00"),
        (b"\x30\x00", b"\xa0\x01"),
    ] {
        assert_eq!(
            with(name, attributes),
            Err(CsrError::Malformed),
            "{name:x?} {attributes:x?}"
        );
    }
    assert_eq!(
        parse_csr(&request(0x30, 0x30, 0x02, 0x03)).unwrap().public_key.der(),
        spki
    );
    for (whole, info, version, signature) in [
        (0xb0, 0x30, 0x02, 0x03),
        (0x30, 0xb0, 0x02, 0x03),
        (0x30, 0x30, 0x82, 0x03),
        (0x30, 0x30, 0x02, 0x83),
    ] {
        let csr = request(whole, info, version, signature);
        assert_eq!(
            parse_csr(&csr),
            Err(CsrError::Malformed),
            "{whole:#x} {info:#x} {version:#x} {signature:#x}"
        );
    }
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse_csr(&bytes).is_err());
    }
}
