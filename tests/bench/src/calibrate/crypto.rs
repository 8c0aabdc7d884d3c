//! CPU time of signatures.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustix::time::{ClockId, clock_gettime};

use crate::pin;

/// About the size of what is signed in a certificate, and in a certificate request.
const MESSAGE: [u8; 400] = [7; 400];

/// CPU time of one each, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Signatures {
    /// To sign.
    pub sign: f64,
    /// To verify.
    pub verify: f64,
}

/// P-256 with SHA-256 by aws-lc-rs, on the system's processor; `beside` other work of the same kind on the generator's.
///
/// # Errors
/// The library or the kernel refuses.
pub fn signatures(time: Duration, beside: bool) -> Result<Signatures> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if beside {
            scope.spawn(|| {
                pin::generator()?;
                let key = key()?;
                while !stop.load(Ordering::Relaxed) {
                    sign(&key)?;
                }
                anyhow::Ok(())
            });
        }
        let measured = pin::as_system(|| scope.spawn(|| measure(time)))?.join();
        stop.store(true, Ordering::Relaxed);
        measured.ok().context("a calibration panicked")?
    })
}

fn measure(time: Duration) -> Result<Signatures> {
    let key = key()?;
    let signature = sign(&key)?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref().to_vec());
    Ok(Signatures {
        sign: cpu_micros(time / 2, || sign(&key).map(drop))?,
        verify: cpu_micros(time / 2, || {
            public
                .verify(&MESSAGE, &signature)
                .context("a signature does not verify")
        })?,
    })
}

fn key() -> Result<EcdsaKeyPair> {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).context("no key")
}

fn sign(key: &EcdsaKeyPair) -> Result<Vec<u8>> {
    let signature = key
        .sign(&SystemRandom::new(), &MESSAGE)
        .context("the key does not sign")?;
    Ok(signature.as_ref().to_vec())
}

/// Of this thread: neighbours on the same processor take time, but hardly CPU time.
fn cpu_micros(time: Duration, mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    let now = || {
        let clock = clock_gettime(ClockId::ThreadCPUTime);
        #[allow(clippy::cast_precision_loss, reason = "seconds of a run")]
        let seconds = clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9;
        seconds
    };
    let begun = now();
    let mut count = 0u32;
    while now() - begun < time.as_secs_f64() {
        for _ in 0..20 {
            act()?;
        }
        count += 20;
    }
    Ok((now() - begun) * 1e6 / f64::from(count))
}
