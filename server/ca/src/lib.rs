//! Turns an approved request into a signed X.509-SVID.
//!
//! The only door to the signing key, in two steps. [`Issuer::prepare`] checks the leaf profile (X509-SVID §4) and
//! returns a [`Ticket`]; [`Issuer::sign`] consumes it. Unchecked is unsigned; nothing is signed twice. Between the
//! two the caller writes down what it is about to sign: the ticket says it all.
//!
//! Not here: who may ask for which ID (`server/src/app`), reserved paths, the record of it, when authorities rotate.
//! Start at [`Issuer`]; [`parse_csr`] is how foreign bytes come in, [`create_authority`] how an authority comes to be.

mod authority;
mod csr;
mod der;
mod issuer;
mod leaf;
mod public_key;
mod signing;

pub use authority::{CreateAuthorityError, create_authority};
pub use csr::{CsrError, VerifiedCsr, parse_csr};
pub use issuer::{
    AuthorityError, BACKDATE, Issuer, ProfileError, SignError, Ticket, Validity, X509SvidRequest, random_serial,
};
pub use public_key::{PublicKey, PublicKeyError};

#[cfg(test)]
mod tests;
