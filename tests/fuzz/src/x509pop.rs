//! Payloads and answers of nodes: whoever is attested showed the genuine certificate and signed this very challenge.

use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use arbitrary::Unstructured;
use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mayfly_node_attest::{AttestError, Attested, Builtin, Challenger, Deps, ExchangeError, ServerHalf};
use serde_json::{Value, json};

use crate::input::{byte, edited, rest};
use crate::material::{self, AUTHORITY, NODE, NOW, trust_domain};

static X509POP: LazyLock<Box<dyn ServerHalf>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::write(folder.path().join("ca.pem"), AUTHORITY.pem()).expect("it can be written to");
    let deps = Deps {
        trust_domain: trust_domain(),
        base_dir: folder.path().to_owned(),
    };
    let section = toml::Table::from_iter([("ca_bundle_path".to_owned(), "ca.pem".into())]);
    let builtin = Builtin::find("x509pop").expect("it is built in");
    (builtin.server)(section, &deps).expect("the section is complete")
});

static JOIN_TOKEN: LazyLock<Box<dyn ServerHalf>> = LazyLock::new(|| {
    let deps = Deps {
        trust_domain: trust_domain(),
        base_dir: "/".into(),
    };
    let builtin = Builtin::find("join_token").expect("it is built in");
    (builtin.server)(toml::Table::new(), &deps).expect("it needs nothing")
});

static NODE_KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &material::node_key()).expect("a P-256 key")
});

/// The agent: answers with the bytes of the input, or honestly, with edits on the way.
struct Agent<'a> {
    input: Unstructured<'a>,
    /// Whether what was signed came through unchanged.
    honest: bool,
}

/// A payload for any method; or a chain with edits, and then an answer.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mode = byte(&mut input);
    let payload = match mode % 4 {
        0 => rest(&mut input).to_vec(),
        1 => {
            let payload = payload(&[NODE.as_ref()]);
            let count = usize::from(byte(&mut input)).min(input.len());
            edited(payload, &mut Unstructured::new(input.bytes(count).unwrap_or(&[])))
        }
        2 => {
            let count = usize::from(byte(&mut input) % 32).min(input.len());
            let node = edited(NODE.to_vec(), &mut Unstructured::new(input.bytes(count).unwrap_or(&[])));
            payload(&[&node])
        }
        _ => payload(&vec![NODE.as_ref(); usize::from(byte(&mut input) % 8)]),
    };

    let mut agent = Agent { input, honest: false };
    if let Ok(attested) = attest(&**X509POP, &payload, &mut agent) {
        assert!(agent.honest, "attested without the key");
        let id = attested
            .agent_id
            .path()
            .strip_prefix("/spire/agent/x509pop/")
            .expect("the method's space");
        assert_eq!(
            id,
            fingerprint(NODE.as_ref()),
            "attested with a certificate that nobody signed"
        );
        assert!(attested.selectors.iter().all(|selector| selector.kind() == "x509pop"));
        assert!(attested.reattestable && attested.one_time.is_none());
    } else if mode % 4 == 3 && payload == self::payload(&[NODE.as_ref()]) {
        assert!(!agent.honest, "an honest node is refused");
    }

    if let Ok(attested) = attest(&**JOIN_TOKEN, &payload, &mut agent) {
        assert!(
            attested.one_time.is_some() && !attested.reattestable,
            "a token is for one use"
        );
        assert!(attested.agent_id.path().starts_with("/spire/agent/join_token/"));
    }
}

/// Nothing in it waits, so one poll is all of it.
fn attest(server: &dyn ServerHalf, payload: &[u8], agent: &mut Agent<'_>) -> Result<Attested, AttestError> {
    let mut attestation = server.attest(payload, agent, NOW);
    match attestation.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("the attestation waits for nobody"),
    }
}

fn payload(certificates: &[&[u8]]) -> Vec<u8> {
    let certificates: Vec<_> = certificates.iter().map(|der| STANDARD.encode(der)).collect();
    json!({ "certificates": certificates }).to_string().into_bytes()
}

#[async_trait]
impl Challenger for Agent<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        let mode = byte(&mut self.input);
        if mode.is_multiple_of(4) {
            return Ok(rest(&mut self.input).to_vec());
        }
        let challenge: Value = serde_json::from_slice(&challenge).expect("a challenge is JSON");
        let asked = challenge["ecdsa_signature"]["nonce"]
            .as_str()
            .expect("the node's key is ECDSA");
        let asked = STANDARD.decode(asked).expect("a nonce is base64");
        assert_eq!(asked.len(), 32);
        let own = [7; 32];
        let signature = NODE_KEY.sign(&SystemRandom::new(), &[&asked[..], &own].concat());
        let signature = signature.expect("the key signs").as_ref().to_vec();
        let mut parts = [own.to_vec(), signature[..32].to_vec(), signature[32..].to_vec()];
        let honest = parts.clone();
        if mode % 4 > 1 {
            // One of the three, at any length.
            let which = usize::from(byte(&mut self.input) % 3);
            parts[which] = edited(std::mem::take(&mut parts[which]), &mut self.input);
        }
        let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
        // The numbers may be written with or without leading zeros.
        self.honest = parts[0] == honest[0] && (1..3).all(|part| number(&parts[part]) == number(&honest[part]));
        let [nonce, r, s] = parts.map(|part| STANDARD.encode(part));
        Ok(json!({ "ecdsa_signature": { "nonce": nonce, "r": r, "s": s } })
            .to_string()
            .into_bytes())
    }
}

fn fingerprint(der: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, der);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_honest_node_is_attested() {
        let mut agent = Agent {
            input: Unstructured::new(&[1]),
            honest: false,
        };
        attest(&**X509POP, &payload(&[NODE.as_ref()]), &mut agent).unwrap();
        assert!(agent.honest);
    }
}
