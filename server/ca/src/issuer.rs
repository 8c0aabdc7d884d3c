//! Leaf profile, ticket, signature.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mayfly_keys::Signer;
use mayfly_svid::{
    LeafFields, Serial, SpiffeId, TaskExtension, TaskPath, TaskRoot, Timestamp, TrustDomain, WindowId, X509Svid,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, GeneralSubtree, X509Certificate};

use crate::leaf::{Draft, Leaf, Template};
use crate::{AuthorityError, ProfileError, PublicKey, SignError};

/// How far back validity begins, for verifiers whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(10);

/// The most DNS names that an SVID has.
const MAX_DNS_NAMES: usize = 100;

/// How long an SVID shall be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// So long from now.
    For(Duration),
    /// Up to and including this instant.
    Until(Timestamp),
    /// From this instant on, which has come, up to and including that one.
    Between(Timestamp, Timestamp),
}

/// An X.509-SVID that somebody is entitled to.
#[derive(Clone, Debug)]
pub struct X509SvidRequest {
    /// For whom: an ID of the issuer's trust domain with a path.
    pub spiffe_id: SpiffeId,
    /// The public key; whoever asks has shown possession of the private half.
    pub public_key: PublicKey,
    /// DNS names, in order; the first one becomes the common name as well (IOP-29). Duplicates count once.
    pub dns_names: Vec<String>,
    /// How long; cut to the life of the authority.
    pub validity: Validity,
}

/// One authority that signs. One of tasks signs below its reserved root and nowhere else, the others sign anywhere else.
pub struct Issuer {
    trust_domain: TrustDomain,
    root: Option<TaskRoot>,
    signer: Arc<dyn Signer>,
    template: Template,
    cert_der: CertificateDer<'static>,
    key_id: Vec<u8>,
    self_signed: bool,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// A checked request, ready to be recorded and signed once.
pub struct Ticket {
    leaf: LeafFields,
    public_key_hash: [u8; 32],
    authority_key_id: Vec<u8>,
    draft: Draft,
    task: Option<TaskTicket>,
}

/// What a task SVID has besides.
struct TaskTicket {
    extension: TaskExtension,
    is_recorded: bool,
}

impl Issuer {
    /// Issues base SVIDs for `trust_domain` with an authority: its certificate, and the signer of its key.
    ///
    /// # Errors
    /// The two cannot issue, see [`AuthorityError`]. Its validity is looked at when it is used.
    pub fn new(
        trust_domain: TrustDomain,
        cert_der: CertificateDer<'static>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, AuthorityError> {
        Self::of(trust_domain, None, cert_der, signer)
    }

    /// Issues task SVIDs below `root`.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn of_tasks(
        trust_domain: TrustDomain,
        root: TaskRoot,
        cert_der: CertificateDer<'static>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, AuthorityError> {
        Self::of(trust_domain, Some(root), cert_der, signer)
    }

    fn of(
        trust_domain: TrustDomain,
        root: Option<TaskRoot>,
        cert_der: CertificateDer<'static>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, AuthorityError> {
        let Ok((rest, certificate)) = X509Certificate::from_der(&cert_der) else {
            return Err(AuthorityError::Malformed);
        };
        if !rest.is_empty() || certificate.subject().iter().any(|names| names.iter().next().is_none()) {
            return Err(AuthorityError::Malformed);
        }
        let malformed = |_| AuthorityError::Malformed;
        let constraints = certificate.basic_constraints().map_err(malformed)?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(AuthorityError::NotCa);
        }
        let usage = certificate.key_usage().map_err(malformed)?;
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(AuthorityError::NoKeyCertSign);
        }
        if constrains_uris(&certificate)? {
            return Err(AuthorityError::NameConstraints);
        }
        check_authority_name(&trust_domain, &certificate)?;
        let key_id = subject_key_id(&certificate).ok_or(AuthorityError::Unnamed)?;
        if certificate.subject().iter().next().is_none() {
            return Err(AuthorityError::Unnamed);
        }
        if certificate.public_key().raw != signer.public_key_der() {
            return Err(AuthorityError::KeyMismatch);
        }
        let template = Template::new(
            &trust_domain,
            signer.key_type(),
            certificate.subject().as_raw(),
            &key_id,
        );
        Ok(Self {
            trust_domain,
            root,
            signer,
            template,
            key_id,
            self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            not_before: Timestamp::from_unix(certificate.validity().not_before.timestamp()),
            not_after: Timestamp::from_unix(certificate.validity().not_after.timestamp()),
            cert_der,
        })
    }

    /// Whose SVIDs this issues.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authority's certificate.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.cert_der
    }

    /// The last second in which the authority, and whatever it signs, is valid.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// What certificates that it signed say of their authority: its subject key identifier.
    pub(crate) fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// The key.
    pub(crate) fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Whether [`Self::sign`] is so quick that it needs no thread that may block ([`Signer::is_quick`]).
    pub fn is_quick(&self) -> bool {
        self.signer.is_quick()
    }

    /// Checks `request` against the leaf profile and fixes everything that will be signed, without touching the key.
    ///
    /// Validity begins ten seconds before `now`, or as asked, and ends as asked, but both within the authority's own
    /// (XINH-07).
    ///
    /// # Errors
    /// See [`ProfileError`]: among others for all that is below a reserved root of tasks, and for an authority of tasks.
    pub fn prepare(&self, request: X509SvidRequest, now: Timestamp) -> Result<Ticket, ProfileError> {
        let is_of_tasks = matches!(request.spiffe_id.segments().next(), Some("task" | "breakglass"));
        if self.root.is_some() || is_of_tasks {
            return Err(self.other_root(request.spiffe_id));
        }
        self.draft(request, now)
    }

    /// [`Self::prepare`] for a task SVID, whose certificate says what `extension` says: a lease on that window, and so no
    /// longer than it. Its log index counts for nothing yet, see [`Ticket::recorded_at`].
    ///
    /// # Errors
    /// See [`ProfileError`]: among others for all that is not below this authority's root.
    pub fn prepare_task(
        &self,
        request: X509SvidRequest,
        extension: TaskExtension,
        now: Timestamp,
    ) -> Result<Ticket, ProfileError> {
        let root = TaskPath::of(&request.spiffe_id).map(|path| path.root);
        if root.is_none() || root != self.root {
            return Err(self.other_root(request.spiffe_id));
        }
        let mut ticket = self.draft(request, now)?;
        if ticket.leaf.not_after > extension.closes {
            return Err(ProfileError::BeyondWindow {
                not_after: ticket.leaf.not_after,
                closes: extension.closes,
            });
        }
        ticket.task = Some(TaskTicket {
            extension,
            is_recorded: false,
        });
        Ok(ticket)
    }

    fn other_root(&self, spiffe_id: SpiffeId) -> ProfileError {
        let root = match self.root {
            None => "base SVIDs",
            Some(TaskRoot::Task) => "/task",
            Some(TaskRoot::Breakglass) => "/breakglass",
        };
        ProfileError::OtherRoot { spiffe_id, root }
    }

    fn draft(&self, request: X509SvidRequest, now: Timestamp) -> Result<Ticket, ProfileError> {
        let X509SvidRequest {
            spiffe_id,
            public_key,
            dns_names,
            validity,
        } = request;
        if !spiffe_id.is_member_of(&self.trust_domain) {
            return Err(ProfileError::OtherTrustDomain {
                spiffe_id,
                trust_domain: self.trust_domain.clone(),
            });
        }
        if spiffe_id.path().is_empty() {
            return Err(ProfileError::RootPath { spiffe_id });
        }
        let dns_names = check_dns_names(dns_names)?;
        let (not_before, not_after) = self.bounds(validity, now)?;
        let serial = random_serial();
        let leaf = Leaf {
            spiffe_id: &spiffe_id,
            serial: &serial,
            not_before,
            not_after,
            public_key: &public_key,
            dns_names: &dns_names,
        };
        let draft = self.template.fill(&leaf).ok_or(ProfileError::NoValidity)?;
        Ok(Ticket {
            public_key_hash: *public_key.sha256(),
            leaf: LeafFields {
                spiffe_id,
                serial,
                not_before,
                not_after,
                public_key_der: public_key.into_der(),
            },
            authority_key_id: self.key_id.clone(),
            draft,
            task: None,
        })
    }

    fn bounds(&self, validity: Validity, now: Timestamp) -> Result<(Timestamp, Timestamp), ProfileError> {
        if now < self.not_before || now > self.not_after {
            return Err(ProfileError::AuthorityNotValid {
                not_before: self.not_before,
                not_after: self.not_after,
            });
        }
        let (begin, end) = match validity {
            Validity::For(ttl) => (now.minus(BACKDATE), now.plus(ttl)),
            Validity::Until(not_after) => (now.minus(BACKDATE), not_after),
            Validity::Between(not_before, not_after) => (not_before, not_after),
        };
        if end <= now || begin > now {
            return Err(ProfileError::NoValidity);
        }
        Ok((begin.max(self.not_before), end.min(self.not_after)))
    }

    /// Signs what the ticket says, once. Whoever calls has recorded it durably before. Blocks as [`Signer::sign`] does.
    ///
    /// The chain holds the leaf, and the authority's certificate where that is not self-signed.
    ///
    /// # Errors
    /// See [`SignError`]; whatever was signed by then is dropped.
    pub fn sign(&self, ticket: Ticket) -> Result<X509Svid, SignError> {
        if ticket.authority_key_id != self.key_id {
            return Err(SignError::OtherAuthority);
        }
        if ticket.task.as_ref().is_some_and(|task| !task.is_recorded) {
            return Err(SignError::NotRecorded);
        }
        let extension = ticket.task.as_ref().map(|task| &task.extension);
        let to_be_signed = ticket.draft.to_be_signed(extension);
        let signature = self.signer.sign(&to_be_signed).map_err(SignError::Key)?;
        let leaf = CertificateDer::from(self.template.seal(&to_be_signed, &signature));
        let mut chain = vec![leaf];
        if !self.self_signed {
            chain.push(self.cert_der.clone());
        }
        X509Svid::issued(ticket.leaf, chain).map_err(SignError::Profile)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({}, until {})", self.trust_domain, self.not_after)
    }
}

impl Ticket {
    /// The ticket of a task SVID once it is durably recorded: `log_index` is where. Others stay as they are.
    #[must_use]
    pub fn recorded_at(mut self, log_index: u64) -> Self {
        if let Some(task) = &mut self.task {
            task.extension.log_index = log_index;
            task.is_recorded = true;
        }
        self
    }

    /// For whom.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.leaf.spiffe_id
    }

    /// The serial number that the SVID will have: random, 126 bits.
    pub fn serial(&self) -> &Serial {
        &self.leaf.serial
    }

    /// The window that its certificate will name; none for a base SVID.
    pub fn window_id(&self) -> Option<WindowId> {
        self.task.as_ref().map(|task| task.extension.window_id)
    }

    /// The first second in which the SVID will be valid.
    pub fn not_before(&self) -> Timestamp {
        self.leaf.not_before
    }

    /// The last second in which the SVID will be valid.
    pub fn not_after(&self) -> Timestamp {
        self.leaf.not_after
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub fn public_key_hash(&self) -> &[u8; 32] {
        &self.public_key_hash
    }

    /// The key identifier of the authority that prepared this and alone can sign it.
    pub fn authority_key_id(&self) -> &[u8] {
        &self.authority_key_id
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Ticket({}, serial {}, until {})",
            self.leaf.spiffe_id, self.leaf.serial, self.leaf.not_after
        )
    }
}

/// A new serial number: 126 random bits in 16 octets, positive and without leading zeros (XINH-01).
///
/// # Panics
/// If the system gives no randomness; nothing can be signed then.
pub fn random_serial() -> Serial {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives randomness");
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Serial::from_be_bytes(&bytes).expect("16 octets that begin with 0x40 to 0x7f are a serial number")
}

fn constrains_uris(certificate: &X509Certificate<'_>) -> Result<bool, AuthorityError> {
    let constraints = certificate.name_constraints().map_err(|_| AuthorityError::Malformed)?;
    let is_of_uris = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
        let mut bases = subtrees.iter().flatten().map(|subtree| &subtree.base);
        bases.any(|base| matches!(base, GeneralName::URI(_)))
    };
    Ok(constraints
        .is_some_and(|found| is_of_uris(&found.value.permitted_subtrees) || is_of_uris(&found.value.excluded_subtrees)))
}

fn check_authority_name(trust_domain: &TrustDomain, certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| AuthorityError::Malformed)?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        // AMB-04: a corporate root without any SPIFFE ID is accepted.
        if let GeneralName::URI(name) = name
            && name.starts_with("spiffe:")
            && *name != trust_domain.id().as_str()
        {
            return Err(AuthorityError::SpiffeId {
                name: (*name).into(),
                expected: trust_domain.id(),
            });
        }
    }
    Ok(())
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier;
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            SubjectKeyIdentifier(id) if !id.0.is_empty() => Some(id.0.to_vec()),
            _ => None,
        })
}

fn check_dns_names(names: Vec<String>) -> Result<Vec<String>, ProfileError> {
    if names.len() > MAX_DNS_NAMES {
        return Err(ProfileError::TooManyDnsNames { count: names.len() });
    }
    let mut kept: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !is_dns_name(&name) {
            return Err(ProfileError::DnsName {
                name: name.chars().take(255).collect(),
            });
        }
        if !kept.contains(&name) {
            kept.push(name);
        }
    }
    Ok(kept)
}

fn is_dns_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let below_wildcard = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253 && below_wildcard.split('.').all(label)
}
