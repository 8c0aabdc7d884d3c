//! Turns an approved request into a signed X.509-SVID.
//!
//! The only door to the signing key, in two steps. [`Issuer::prepare`] checks the leaf profile (X509-SVID §4) and
//! returns a [`Ticket`]; [`Issuer::sign`] consumes it. Unchecked is unsigned; nothing is signed twice. Between the
//! two the caller writes down what it is about to sign: the ticket says it all. A task SVID's certificate says where that
//! record stands, so its ticket is not signed before ([`Ticket::recorded_at`]). [`Issuer::sign_crl`] says what was revoked.
//!
//! Not here: who may ask for which ID (`server/src/app`), reserved paths, the record of it, when authorities rotate.
//! Start at [`Issuer`]; [`parse_csr`] is how foreign bytes come in, [`create_authority`] how an authority comes to be.

mod authority;
mod crl;
mod csr;
mod der;
mod error;
mod issuer;
mod leaf;
mod public_key;
mod signing;

pub use authority::{CreateAuthorityError, Voucher, create_authority, vouch};
pub use crl::{CrlError, RevocationList, Revoked};
pub use csr::{CsrError, VerifiedCsr, parse_csr};
pub use error::{AuthorityError, ProfileError, SignError};
pub use issuer::{BACKDATE, Issuer, Ticket, Validity, X509SvidRequest, random_serial};
pub use public_key::{PublicKey, PublicKeyError};

#[cfg(test)]
mod tests;
