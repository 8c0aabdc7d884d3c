//! How an identity is shown. Its key never is.

use mayfly_svid::verify::verify_x509_svid;
use mayfly_svid::{Timestamp, TrustAnchors};
use serde::Serialize;

use crate::certs::{AuthorityView, chain_pem};
use crate::output::{Field, Output, visible_line};
use crate::workload::Identity;

/// An X.509-SVID for display. The field names are the keys of the JSON form; times are RFC 3339 in UTC.
#[derive(Debug, Serialize)]
pub(crate) struct IdentityView {
    spiffe_id: String,
    serial: String,
    not_before: String,
    not_after: String,
    hint: String,
    /// Whether the chain verifies now against the bundle that came with it.
    pub(crate) verified: bool,
    /// Why not.
    pub(crate) problem: Option<String>,
    chain_pem: String,
    bundle_pem: String,
    federated: Vec<String>,
    #[serde(skip)]
    starts: Timestamp,
    #[serde(skip)]
    ends: Timestamp,
    #[serde(skip)]
    certificates: usize,
    #[serde(skip)]
    authorities: Vec<AuthorityView>,
}

impl IdentityView {
    /// The view of `identity` at `now`.
    pub(crate) fn of(identity: &Identity, now: Timestamp) -> Self {
        let svid = &identity.svid;
        let verified = verify_x509_svid(svid.chain(), &TrustAnchors::from_bundle(&identity.bundle), now);
        Self {
            spiffe_id: svid.spiffe_id().to_string(),
            serial: svid.serial().to_string(),
            not_before: svid.not_before().to_string(),
            not_after: svid.not_after().to_string(),
            hint: identity.hint.clone(),
            verified: verified.is_ok(),
            problem: verified.err().map(|error| mayfly_runtime::Chain(&error).to_string()),
            chain_pem: chain_pem(svid.chain()),
            bundle_pem: identity.bundle.x509_to_pem(),
            federated: identity
                .federated
                .iter()
                .map(|bundle| bundle.trust_domain.to_string())
                .collect(),
            starts: svid.not_before(),
            ends: svid.not_after(),
            certificates: svid.chain().len(),
            authorities: identity
                .bundle
                .x509_authorities
                .iter()
                .filter_map(AuthorityView::of)
                .collect(),
        }
    }

    /// In plain words. `also` marks those after the first.
    pub(crate) fn fields(&self, also: bool, output: &Output, now: Timestamp) -> Vec<Field> {
        let chain = match self.certificates {
            1 => "1 certificate".to_owned(),
            count => format!("{count} certificates"),
        };
        let trust = match &self.problem {
            None => "verified against the bundle".to_owned(),
            Some(problem) => format!("NOT verified: {problem}"),
        };
        let (authorities, ends) = match self.authorities.len() {
            1 => ("1 authority".to_owned(), "ends"),
            count => (format!("{count} authorities"), "the last ends"),
        };
        let last = self.authorities.iter().map(|authority| authority.not_after).max();
        let mut fields = vec![
            (if also { "You are also" } else { "You are" }, self.spiffe_id.clone()),
            ("Until", output.time(self.ends, now)),
            ("Since", output.time(self.starts, now)),
            ("Serial", self.serial.clone()),
            ("Chain", format!("{chain}, {trust}")),
            (
                "Bundle",
                last.map_or(authorities.clone(), |last| {
                    format!("{authorities}, {ends} {}", output.time(last, now))
                }),
            ),
        ];
        if !self.hint.is_empty() {
            fields.push(("Hint", visible_line(&self.hint)));
        }
        if !self.federated.is_empty() {
            fields.push(("Also trusts", self.federated.join("\n")));
        }
        fields
    }

    /// One line, for a stream of them.
    pub(crate) fn line(&self, output: &Output, now: Timestamp) -> String {
        let problem = self
            .problem
            .as_ref()
            .map(|problem| format!("  NOT verified: {problem}"))
            .unwrap_or_default();
        format!(
            "{}  serial {}  until {}{problem}",
            self.spiffe_id,
            self.serial,
            output.time(self.ends, now)
        )
    }
}
