//! Task definitions: read, checked against what this server knows, and found again.
//!
//! A definition that could not be safe by itself is refused by the model ([`Definition::parse`]). Here is what takes people
//! and entries to see: an owner or approvers that nobody is, and names that a workload has already.
//!
//! Not here: bringing one into force (`changes`).

use mayfly_model::ErrorKind;
use mayfly_model::task::{Definition, DefinitionError, DefinitionProblem, DefinitionVersion, TaskClass, TaskName};
use mayfly_svid::SpiffeId;

use super::people::People;
use crate::app::archive::{Archive, ArchiveError};
use crate::commit::Snapshot;

/// The fewest hex digits that name a version.
const HASH_DIGITS_MIN: usize = 12;
/// Entries that are looked at before others get a turn.
const TURN: usize = 4096;

/// Why a definition was not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// There never was one.
    #[error("there is no task definition `{0}`")]
    NoSuchDefinition(TaskName),
    /// None of its versions.
    #[error("no version of `{name}` has a hash that begins with `{hash}`")]
    NoSuchVersion {
        /// Of what.
        name: TaskName,
        /// What was asked for.
        hash: String,
    },
    /// Not the beginning of a hash.
    #[error("hash: is not {HASH_DIGITS_MIN} to 64 hex digits")]
    Hash,
    /// It could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Reads a definition that this server could bring into force.
///
/// # Errors
/// It is not one, or could not be safe: every reason at once, with line or key.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn read(text: &str, people: &People, snapshot: &Snapshot) -> Result<Definition, DefinitionError> {
    let definition = Definition::parse(text)?;
    check(&definition, people, snapshot).await?;
    Ok(definition)
}

/// Whether a definition fits the people and the entries that there are.
///
/// # Errors
/// Every reason why not.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn check(definition: &Definition, people: &People, snapshot: &Snapshot) -> Result<(), DefinitionError> {
    let mut problems = vec![];
    let mut refuse = |field, problem: String| problems.push(DefinitionProblem { field, problem });
    if !people.is_known(&definition.owner) {
        refuse(
            "owner",
            format!(
                "`{}` is nobody whom the server knows; an administrator can add a `[[people]]` section",
                definition.owner
            ),
        );
    }
    let rule = &definition.approval;
    let unknown: Vec<_> = rule.groups.iter().filter(|group| !people.is_group(group)).collect();
    for group in &unknown {
        refuse(
            "approval.groups",
            format!("`{group}` is no group that the server knows; an administrator can add a `[[groups]]` section"),
        );
    }
    let enough = people.count_in(&rule.groups);
    if unknown.is_empty() && usize::try_from(rule.count).is_ok_and(|count| count > enough) {
        refuse(
            "approval.count",
            format!(
                "{} people have to approve, and there are {enough} in these groups",
                rule.count
            ),
        );
    }
    // Who approved the last use does not approve the next one, so it would end with the first.
    let in_turn = usize::try_from(rule.count).unwrap_or(usize::MAX).saturating_mul(2);
    if unknown.is_empty() && definition.class == TaskClass::Breakglass && (1..in_turn).contains(&enough) {
        refuse(
            "approval.groups",
            format!(
                "nobody approves break-glass twice in a row, so it takes {in_turn} people who may approve, and there \
                 {} in these groups; name another group, or have an administrator add people to these",
                if enough == 1 {
                    "is 1".to_owned()
                } else {
                    format!("are {enough}")
                }
            ),
        );
    }
    // S2: what is a task's is nobody's base identity.
    if let Some(taken) = taken(definition, snapshot).await {
        refuse(
            "name",
            format!(
                "RESERVED_PATH: an entry gives `{taken}`, which would be an identity of this task; delete that entry"
            ),
        );
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(DefinitionError::Unsafe(problems))
    }
}

/// A base identity that is the task's own path, or below it.
async fn taken(definition: &Definition, snapshot: &Snapshot) -> Option<SpiffeId> {
    let own = format!("/{}/{}", definition.root(), definition.name);
    for (walked, entry) in snapshot.entries_after(None).enumerate() {
        if walked % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let id = &entry.spec.spiffe_id;
        let below = id.path().strip_prefix(&own);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && id.is_member_of(snapshot.trust_domain())
        {
            return Some(id.clone());
        }
    }
    None
}

/// The newest version of a definition, retired or not, or the newest whose hash begins with `hash`.
///
/// # Errors
/// There is none, or the store cannot be read.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn find(
    snapshot: &Snapshot,
    archive: &Archive,
    name: &TaskName,
    hash: &str,
) -> Result<DefinitionVersion, FindError> {
    let is_hash = (HASH_DIGITS_MIN..=64).contains(&hash.len()) && hash.bytes().all(|b| b.is_ascii_hexdigit());
    if !hash.is_empty() && !is_hash {
        return Err(FindError::Hash);
    }
    let wanted = hash.to_ascii_lowercase();
    let is_wanted = |version: &DefinitionVersion| version.hash.to_string().starts_with(&wanted);
    let in_force = snapshot.definition(name).cloned();
    if let Some(version) = in_force.filter(|version| is_wanted(version)) {
        return Ok(DefinitionVersion::clone(&version));
    }
    let of = name.clone();
    let versions = archive.read(move |reader| reader.definition_versions(&of)).await?;
    if versions.is_empty() {
        return Err(FindError::NoSuchDefinition(name.clone()));
    }
    let found = versions.into_iter().rev().find(is_wanted);
    found.ok_or_else(|| FindError::NoSuchVersion {
        name: name.clone(),
        hash: hash.to_owned(),
    })
}

impl FindError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchDefinition(_) | Self::NoSuchVersion { .. } => ErrorKind::NotFound,
            Self::Hash => ErrorKind::InvalidArgument,
            Self::Archive(error) => error.kind(),
        }
    }
}
