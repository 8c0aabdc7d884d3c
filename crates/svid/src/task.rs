//! What the certificates of task SVIDs carry beside a name: [`TaskExtension`], and the form of that name: [`TaskPath`].
//!
//! The name is what consumers authorize by. The extension is evidence: which window, of which definition, until when,
//! and where the record stands. It is not critical, so whoever does not know it loses nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{IdError, SpiffeId, Timestamp, TrustDomain};

/// The extension's OID, as text. It is the UUID `8b55c211-0347-451b-b410-e6d0c9b6f710` in the arc that Microsoft keeps
/// for identifiers made from UUIDs, which splits it into seven numbers. In the arc 2.25 the UUID would be one number of
/// 128 bits, and Go refuses every certificate with an arc above 2^31: "x509: malformed extension OID field".
pub const TASK_EXTENSION_OID: &str = "1.2.840.113556.1.8000.2554.35669.49681.839.17691.46096.15126729.11990800";

/// [`TASK_EXTENSION_OID`] as its numbers.
pub const TASK_EXTENSION_ARCS: &[u64] = &[
    1, 2, 840, 113_556, 1, 8000, 2554, 35669, 49681, 839, 17691, 46096, 15_126_729, 11_990_800,
];

/// [`TASK_EXTENSION_OID`] as the content octets of its DER.
const OID_DER: &[u8] = &[
    0x2a, 0x86, 0x48, 0x86, 0xf7, 0x14, 0x01, 0xbe, 0x40, 0x93, 0x7a, 0x82, 0x96, 0x55, 0x83, 0x84, 0x11, 0x86, 0x47,
    0x81, 0x8a, 0x1b, 0x82, 0xe8, 0x10, 0x87, 0x9b, 0xa1, 0x49, 0x85, 0xdb, 0xee, 0x10,
];

const VERSION: u8 = 1;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// The name of a window: 128 random bits, never used again. `Display` and [`FromStr`] are 32 hexadecimal digits, lower
/// case: one spelling only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct WindowId(pub [u8; 16]);

/// The text is not a [`WindowId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a window ID is 32 hexadecimal digits in lower case")]
pub struct WindowIdError;

/// What the certificate of a task SVID says about its window.
///
/// ```text
/// TaskExtension ::= SEQUENCE {
///     version         INTEGER (1),
///     windowId        OCTET STRING (SIZE (16)),
///     definitionHash  OCTET STRING (SIZE (16)),   -- first half of the SHA-256
///     closes          INTEGER,                    -- Unix seconds
///     logIndex        INTEGER (0..2^64-1) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskExtension {
    /// The window that the SVID is a lease on.
    pub window_id: WindowId,
    /// The first 16 bytes of the SHA-256 of the definition.
    pub definition_hash: [u8; 16],
    /// When the window ends, whatever the certificate's own validity says: from this second on it is over.
    pub closes: Timestamp,
    /// Where the decision stands in the log.
    pub log_index: u64,
}

/// Why there is no [`TaskExtension`] to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskExtensionError {
    /// Not the DER of one, or something follows it.
    #[error("the task extension is not well-formed")]
    Malformed,
    /// Of a version that is not known here.
    #[error("the task extension has version {version}, only 1 is known")]
    Version {
        /// Its version.
        version: u8,
    },
    /// The certificate has more than one.
    #[error("the certificate has more than one task extension")]
    Twice,
    /// The certificate marks it as critical, which ours never do.
    #[error("the task extension is marked as critical")]
    Critical,
}

/// Which reserved root a task's name is under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskRoot {
    /// `/task`: planned work.
    Task,
    /// `/breakglass`: emergencies.
    Breakglass,
}

/// The parts of the SPIFFE ID of a task SVID: `spiffe://<td>/{task|breakglass}/<team>/<task>/<base path…>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskPath<'a> {
    /// Which kind of authority.
    pub root: TaskRoot,
    /// Whose task it is.
    pub team: &'a str,
    /// The task.
    pub task: &'a str,
    /// The path of the base SVID of who does it, with its leading slash; for definitions with `instance_id` followed
    /// by `/w/<window>`.
    pub base: &'a str,
}

// === impl WindowId ===

impl WindowId {
    /// The ID that `bytes` are, if they are 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowId({self})")
    }
}

impl FromStr for WindowId {
    type Err = WindowIdError;

    fn from_str(text: &str) -> Result<Self, WindowIdError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(digit) {
            return Err(WindowIdError);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| WindowIdError)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl From<WindowId> for String {
    fn from(id: WindowId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for WindowId {
    type Error = WindowIdError;

    fn try_from(text: String) -> Result<Self, WindowIdError> {
        text.parse()
    }
}

// === impl TaskExtension ===

impl TaskExtension {
    /// The extension's value, at most 63 bytes of DER.
    pub fn to_der(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        put(&mut body, INTEGER, &[VERSION]);
        put(&mut body, OCTET_STRING, &self.window_id.0);
        put(&mut body, OCTET_STRING, &self.definition_hash);
        put(
            &mut body,
            INTEGER,
            shortest(&i128::from(self.closes.unix()).to_be_bytes()),
        );
        put(&mut body, INTEGER, shortest(&i128::from(self.log_index).to_be_bytes()));
        let mut der = Vec::with_capacity(body.len() + 2);
        put(&mut der, SEQUENCE, &body);
        der
    }

    /// Reads the extension's value.
    ///
    /// # Errors
    /// It is anything but what [`to_der`](Self::to_der) writes.
    pub fn parse(der: &[u8]) -> Result<Self, TaskExtensionError> {
        let read = read(der)?;
        // Whatever is left open by the reading, such as numbers with needless zeros: one content has one encoding.
        if read.to_der() != der {
            return Err(TaskExtensionError::Malformed);
        }
        Ok(read)
    }

    /// The extension that `certificate` carries, if any.
    ///
    /// # Errors
    /// It carries several, or a critical one, or one that [`parse`](Self::parse) refuses.
    pub fn from_certificate(certificate: &X509Certificate<'_>) -> Result<Option<Self>, TaskExtensionError> {
        let mut ours = certificate
            .extensions()
            .iter()
            .filter(|extension| extension.oid.as_bytes() == OID_DER);
        let Some(extension) = ours.next() else {
            return Ok(None);
        };
        if ours.next().is_some() {
            return Err(TaskExtensionError::Twice);
        }
        if extension.critical {
            return Err(TaskExtensionError::Critical);
        }
        Self::parse(extension.value).map(Some)
    }

    /// [`from_certificate`](Self::from_certificate) of a certificate's DER.
    ///
    /// # Errors
    /// As there, and [`TaskExtensionError::Malformed`] for what is not one certificate.
    pub fn from_certificate_der(der: &[u8]) -> Result<Option<Self>, TaskExtensionError> {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Self::from_certificate(&certificate),
            _ => Err(TaskExtensionError::Malformed),
        }
    }
}

/// Appends one value; all of ours are shorter than 128 bytes.
fn put(der: &mut Vec<u8>, tag: u8, content: &[u8]) {
    debug_assert!(content.len() < 0x80);
    der.extend([tag, content.len() as u8]);
    der.extend(content);
}

/// The least octets that a two's complement number needs (X.690 §8.3.2).
fn shortest(mut number: &[u8]) -> &[u8] {
    while let [first @ (0x00 | 0xff), rest @ ..] = number {
        match rest.first() {
            Some(second) if second & 0x80 == first & 0x80 => number = rest,
            _ => break,
        }
    }
    number
}

fn read(der: &[u8]) -> Result<TaskExtension, TaskExtensionError> {
    let malformed = TaskExtensionError::Malformed;
    let mut outer = der;
    let mut body = take(&mut outer, SEQUENCE).ok_or(malformed)?;
    match take(&mut body, INTEGER).ok_or(malformed)? {
        [VERSION] => {}
        [version] => return Err(TaskExtensionError::Version { version: *version }),
        _ => return Err(malformed),
    }
    let mut half_hash = || take(&mut body, OCTET_STRING)?.try_into().ok();
    let window_id = WindowId(half_hash().ok_or(malformed)?);
    let definition_hash = half_hash().ok_or(malformed)?;
    let closes = take(&mut body, INTEGER).and_then(number).ok_or(malformed)?;
    let log_index = take(&mut body, INTEGER).and_then(number).ok_or(malformed)?;
    if !body.is_empty() || !outer.is_empty() {
        return Err(malformed);
    }
    Ok(TaskExtension {
        window_id,
        definition_hash,
        closes: Timestamp::from_unix(closes.try_into().map_err(|_| malformed)?),
        log_index: log_index.try_into().map_err(|_| malformed)?,
    })
}

/// Takes one value with this tag off the front.
fn take<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (head, after) = rest.split_first_chunk::<2>()?;
    let (content, after) = after.split_at_checked(usize::from(head[1]))?;
    *rest = after;
    (head[0] == tag && head[1] < 0x80).then_some(content)
}

fn number(content: &[u8]) -> Option<i128> {
    if content.is_empty() || content.len() > 9 {
        return None;
    }
    let sign = if content[0] & 0x80 == 0 { 0 } else { -1 };
    Some(
        content
            .iter()
            .fold(sign, |number, byte| (number << 8) | i128::from(*byte)),
    )
}

// === impl TaskPath ===

impl TaskRoot {
    /// The first segment of its names.
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Breakglass => "breakglass",
        }
    }
}

impl<'a> TaskPath<'a> {
    /// The parts of `id`; `None` if it is not the name of a task SVID.
    pub fn of(id: &'a SpiffeId) -> Option<Self> {
        let (root, rest) = id.path().strip_prefix('/')?.split_once('/')?;
        let root = match root {
            "task" => TaskRoot::Task,
            "breakglass" => TaskRoot::Breakglass,
            _ => return None,
        };
        let (team, rest) = rest.split_once('/')?;
        let (task, base) = rest.split_once('/')?;
        let base = &rest[rest.len() - base.len() - 1..];
        Some(Self { root, team, task, base })
    }

    /// The SPIFFE ID that has these parts.
    ///
    /// # Errors
    /// One of them breaks the grammar of SPIFFE IDs, or the whole is too long.
    pub fn to_id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, IdError> {
        let Self { root, team, task, base } = self;
        trust_domain.with_path(&format!("/{}/{team}/{task}{base}", root.segment()))
    }
}

#[cfg(test)]
mod tests;
