//! The one place that chooses who does the cryptography of TLS: aws-lc-rs.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// Makes aws-lc-rs the provider of this process. Call it first in every `main` and in tests that use TLS.
///
/// Calling it again changes nothing.
pub fn install_crypto_provider() {
    // The error only says that a provider is there already: ours, from an earlier call.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The provider, for builders that take it as an argument (which works without [`install_crypto_provider`]).
pub fn crypto_provider() -> Arc<CryptoProvider> {
    install_crypto_provider();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_twice_is_fine_and_the_post_quantum_group_comes_first() {
        install_crypto_provider();
        install_crypto_provider();
        assert_eq!(
            crypto_provider().kx_groups[0].name(),
            rustls::NamedGroup::X25519MLKEM768
        );
    }
}
