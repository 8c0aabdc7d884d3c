//! One revocation list (RFC 5280 §5).

use mayfly_svid::Timestamp;
use serde::Serialize;
use x509_parser::extensions::ParsedExtension;
use x509_parser::num_bigint::BigUint;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::certs::pem;
use crate::cmd::task::view::At;
use crate::errors::CliError;

/// Columns of the table.
pub(super) const HEADER: [&str; 5] = ["authority", "number", "revoked", "made", "runs out"];

/// A list that could be read. The field names are the keys of the JSON form.
#[derive(Debug, Serialize)]
pub(super) struct RevocationList {
    /// The key identifier of who signed, lower-case hex.
    pub(super) authority_id: String,
    #[serde(serialize_with = "decimal")]
    pub(super) number: BigUint,
    pub(super) revoked: usize,
    this_update: At,
    pub(super) next_update: At,
    #[serde(rename = "pem", serialize_with = "as_pem")]
    pub(super) der: Vec<u8>,
}

impl RevocationList {
    /// What the server sent.
    ///
    /// # Errors
    /// It is no list, has no number, or does not say whose it is.
    pub(super) fn of(der: Vec<u8>) -> Result<Self, CliError> {
        Self::parse(der).map_err(|what| CliError::BadAnswer {
            who: "the server",
            what: format!("a revocation list that {what}"),
        })
    }

    /// Reads DER.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(der: Vec<u8>) -> Result<Self, &'static str> {
        let (rest, list) = CertificateRevocationList::from_der(&der).map_err(|_| "cannot be read")?;
        if !rest.is_empty() {
            return Err("has something behind it");
        }
        let number = list.crl_number().ok_or("has no number")?.clone();
        let key = list
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref(),
                _ => None,
            });
        let authority_id = hex::encode(key.ok_or("does not say whose it is")?.0);
        let at = |time: x509_parser::time::ASN1Time| At(Some(Timestamp::from_unix(time.timestamp())));
        let (this_update, next_update) = (at(list.last_update()), list.next_update().map_or(At(None), at));
        Ok(Self {
            authority_id,
            number,
            revoked: list.iter_revoked_certificates().count(),
            this_update,
            next_update,
            der,
        })
    }

    pub(super) fn pem(&self) -> String {
        pem("X509 CRL", &self.der)
    }

    /// One row under [`HEADER`].
    pub(super) fn row(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.authority_id.clone(),
            self.number.to_string(),
            self.revoked.to_string(),
            self.this_update.relative(now),
            self.next_update.relative(now),
        ]
    }
}

fn decimal<S: serde::Serializer>(number: &BigUint, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

fn as_pem<S: serde::Serializer>(der: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&pem("X509 CRL", der))
}
