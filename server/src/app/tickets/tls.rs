//! Which trackers are believed over https.

use std::path::Path;
use std::sync::Arc;

use mayfly_runtime::files;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::TicketSetupError;

/// The most that is read of a file with authorities, in bytes.
const CA_MAX: u64 = 1 << 20;

/// TLS with the authorities of `ca_file`, or those that browsers know; nothing is shown of ourselves.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TicketSetupError> {
    use hyper_rustls::ConfigBuilderExt;
    let builder = ClientConfig::builder_with_provider(mayfly_runtime::provider::crypto_provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.3 and 1.2");
    let builder = match ca_file {
        None => builder.with_webpki_roots(),
        Some(path) => {
            let pem = files::read_capped(path, CA_MAX)?;
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
            if roots.is_empty() {
                let path = path.to_owned();
                return Err(TicketSetupError::NoAuthority { path });
            }
            builder.with_root_certificates(roots)
        }
    };
    Ok(Arc::new(builder.with_no_client_auth()))
}
