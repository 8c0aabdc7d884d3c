//! The operators' policy: loaded, checked, tried on the past, explained.
//!
//! What is decided by is always the policy of the state that is decided about: [`PolicyHolder`] loads it when it meets a new
//! one. A policy that cannot be loaded (of another version of the server, say) permits no task at all.
//!
//! Not here: Cedar (`mayfly-policy`), bringing a policy into force (`changes`), who may call what (`standing`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use mayfly_model::task::{DefinitionVersion, PolicyFiles, TaskId, TaskName};
use mayfly_model::{ErrorKind, LogEntry};
use mayfly_policy::{Decision, Facts, Flip, PolicyError, PolicyErrors, PolicySet, Verdict};
use mayfly_store::{ArchiveReader, StoreError};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::app::archive::{Archive, ArchiveError};
use crate::commit::{Committer, Snapshot};

/// Past decisions that are looked at.
pub const REPLAYED_MAX: usize = 10_000;
/// Differences that are shown.
const DIFFERENCES_MAX: usize = 1_000;
/// The most files.
const FILES_MAX: usize = 1_000;
/// The longest name of a file, in bytes.
const FILE_NAME_MAX: usize = 128;

/// No task while the policies cannot be read. Ending is never refused, and operators have to mend it.
const UNUSABLE: &str = r#"@id("policies-unusable")
@reason("the policies cannot be read by this server; an administrator has to set them anew")
forbid (principal, action in [Mayfly::Action::"use", Mayfly::Action::"approve"], resource);
"#;

/// The policy in force.
pub struct PolicyHolder {
    committer: Committer,
    archive: Archive,
    loaded: ArcSwap<InForce>,
    loading: Mutex<()>,
    replays: Semaphore,
}

/// A policy that is or was in force, loaded.
#[derive(Debug)]
pub struct InForce {
    files: Option<Arc<PolicyFiles>>,
    set: Arc<PolicySet>,
    is_usable: bool,
}

/// Why a policy was not tried or explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyRefusal {
    /// It is not one.
    #[error("the policy is refused:\n{0}")]
    Policy(#[from] PolicyErrors),
    /// One at a time.
    #[error("another policy is being tried on the past; ask again when that is done")]
    Busy,
    /// Nothing was decided about it lately.
    #[error("the newest {REPLAYED_MAX} decisions have none about request `{0}`")]
    NotDecided(TaskId),
    /// The log could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopped,
}

/// What another policy would have decided.
#[derive(Clone, Debug, Default)]
pub struct WhatIf {
    /// Past decisions that were looked at.
    pub decisions: usize,
    /// How many of them would differ.
    pub differing: usize,
    /// The newest of those that would.
    pub differences: Vec<PastDifference>,
}

/// A past decision that would differ.
#[derive(Clone, Debug)]
pub struct PastDifference {
    /// The request that it was about.
    pub request_id: String,
    /// Its inputs.
    pub facts: Facts,
    /// What was decided.
    pub was: Decision,
    /// What would be.
    pub would_be: Decision,
}

/// Why something was decided.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The inputs of the last decision.
    pub facts: Facts,
    /// The same decided by the policy in force.
    pub now: Decision,
    /// What would turn it, the least first.
    pub flips: Vec<Flip>,
}

/// The body of a record `policy.decided`.
#[derive(Deserialize)]
struct Decided {
    facts: Facts,
    decision: Decision,
}

// === impl PolicyHolder ===

impl PolicyHolder {
    /// Holds the policy of `committer`'s state.
    pub fn new(committer: Committer, archive: Archive) -> Self {
        let loaded = InForce::load(committer.snapshot().policy().cloned());
        Self {
            committer,
            archive,
            loaded: ArcSwap::from_pointee(loaded),
            loading: Mutex::new(()),
            replays: Semaphore::new(1),
        }
    }

    /// The policies of the newest state.
    pub fn current(&self) -> Arc<PolicySet> {
        self.of(&self.committer.snapshot()).set.clone()
    }

    /// The policy of a state.
    pub fn of(&self, snapshot: &Snapshot) -> Arc<InForce> {
        let loaded = self.loaded.load();
        if loaded.is_of(snapshot.policy()) {
            return loaded.clone();
        }
        // One loads it, the others wait for that: it is work of milliseconds, once for each policy.
        let _turn = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = self.loaded.load_full();
        if loaded.is_of(snapshot.policy()) {
            return loaded;
        }
        let loaded = Arc::new(InForce::load(snapshot.policy().cloned()));
        info!(digest = %loaded.set.digest(), policies = loaded.set.len(), "policy in force");
        self.loaded.store(loaded.clone());
        loaded
    }

    /// How the newest decisions would differ under `files`; nothing is changed.
    ///
    /// # Errors
    /// They could not be set, another one is being tried, or the log cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn what_if(&self, files: &BTreeMap<String, String>) -> Result<WhatIf, PolicyRefusal> {
        let _turn = self.replays.try_acquire().map_err(|_| PolicyRefusal::Busy)?;
        let other = check_aside(files).await?;
        let log = self.decisions().await?;
        // Seconds of work for thousands of decisions.
        let replay = tokio::task::spawn_blocking(move || replay(&log, &other));
        replay.await.map_err(|_| PolicyRefusal::Stopped)
    }

    /// Why the last decision about `id` was as it was: taken again, by the policy in force, on what was known then.
    ///
    /// # Errors
    /// There was none lately, or the log cannot be read.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn explain(&self, id: &TaskId) -> Result<Explanation, PolicyRefusal> {
        // It is much to read and to hold: one at a time, also of those who ask why.
        let _turn = self.replays.acquire().await.map_err(|_| PolicyRefusal::Stopped)?;
        let log = self.decisions().await?;
        let not_decided = || PolicyRefusal::NotDecided(id.clone());
        let last = log.into_iter().find(|record| record.subject == id.to_string());
        let Decided { facts, .. } = decided(&last.ok_or_else(not_decided)?).ok_or_else(not_decided)?;
        let set = self.current();
        let explain = move || Explanation {
            now: set.decide(&facts),
            flips: set.why_not(&facts),
            facts,
        };
        tokio::task::spawn_blocking(explain)
            .await
            .map_err(|_| PolicyRefusal::Stopped)
    }

    async fn decisions(&self) -> Result<Vec<LogEntry>, ArchiveError> {
        self.archive.read(decisions).await
    }
}

impl fmt::Debug for PolicyHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyHolder")
            .field("digest", &self.loaded.load().set.digest())
            .finish_non_exhaustive()
    }
}

// === impl InForce ===

impl InForce {
    fn load(files: Option<Arc<PolicyFiles>>) -> Self {
        let texts = files.as_ref().map(|policy| policy.files.clone()).unwrap_or_default();
        let (set, is_usable) = match PolicySet::load(&texts) {
            Ok(set) => (set, true),
            Err(errors) => {
                error!(%errors, "the policies cannot be read: no task is permitted until they are set anew");
                let unusable = BTreeMap::from([("unusable.cedar".to_owned(), UNUSABLE.to_owned())]);
                (PolicySet::load(&unusable).expect("a test loads it"), false)
            }
        };
        Self {
            files,
            set: Arc::new(set),
            is_usable,
        }
    }

    /// What decides.
    pub fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    /// Whether the operators' policies could be read.
    pub fn is_usable(&self) -> bool {
        self.is_usable
    }

    /// Whether there are none besides the built-in ones.
    pub fn is_builtin(&self) -> bool {
        self.is_usable && self.set.is_empty()
    }

    fn is_of(&self, files: Option<&Arc<PolicyFiles>>) -> bool {
        match (&self.files, files) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        }
    }
}

/// Reads policies as they would be in force.
///
/// # Errors
/// All that is wrong with them, with file and line.
pub fn check(files: &BTreeMap<String, String>) -> Result<PolicySet, PolicyErrors> {
    let refuse = |file: &str, problem: String, hint: &str| PolicyError {
        file: file.to_owned(),
        line: 0,
        policy: None,
        problem,
        hint: Some(hint.to_owned()),
    };
    let mut errors = vec![];
    if files.len() > FILES_MAX {
        let problem = format!("there are {} files, at most {FILES_MAX} are taken", files.len());
        errors.push(refuse("policies", problem, "put several policies into one file"));
    }
    for name in files.keys() {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let is_whole = name.len() <= FILE_NAME_MAX && name.bytes().all(is_plain) && !name.starts_with('.');
        // What has another ending is not read: a forbid in it would be silent.
        if !is_whole || !name.ends_with(".cedar") {
            let problem =
                format!("this is no name of a policy file; it has at most {FILE_NAME_MAX} of A-Z a-z 0-9 . _ -");
            let shown: String = name.chars().take(FILE_NAME_MAX).flat_map(char::escape_debug).collect();
            errors.push(refuse(&shown, problem, "it ends in .cedar"));
        }
    }
    if errors.is_empty() {
        PolicySet::load(files)
    } else {
        Err(PolicyErrors(errors))
    }
}

/// [`check`] beside the calls of others: a large policy takes its time.
///
/// # Errors
/// As for [`check`].
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn check_aside(files: &BTreeMap<String, String>) -> Result<PolicySet, PolicyErrors> {
    let files = files.clone();
    let checked = tokio::task::spawn_blocking(move || check(&files));
    checked.await.unwrap_or_else(|_| {
        Err(PolicyErrors(vec![PolicyError {
            file: "policies".into(),
            line: 0,
            policy: None,
            problem: "the check did not end".into(),
            hint: None,
        }]))
    })
}

/// The newest decisions, each with the definition that it names.
fn decisions(archive: &mut ArchiveReader) -> Result<Vec<LogEntry>, StoreError> {
    let mut versions: HashMap<String, Vec<DefinitionVersion>> = HashMap::new();
    let mut records = archive.decisions(REPLAYED_MAX)?;
    for record in &mut records {
        let named = &mut record.body["facts"]["definition"];
        let Some((name, hash)) = named["name"].as_str().zip(named["hash"].as_str()) else {
            continue;
        };
        if !versions.contains_key(name) {
            let found = match name.parse::<TaskName>() {
                Ok(task) => archive.definition_versions(&task)?,
                Err(_) => vec![],
            };
            versions.insert(name.to_owned(), found);
        }
        let version = versions[name].iter().find(|version| version.hash.to_string() == hash);
        if let Some(version) = version {
            *named = serde_json::to_value(&version.definition).unwrap_or(Value::Null);
        }
    }
    Ok(records)
}

fn replay(log: &[LogEntry], other: &PolicySet) -> WhatIf {
    let mut what_if = WhatIf::default();
    let mut unread = 0;
    for record in log {
        let Some(Decided { facts, decision: was }) = decided(record) else {
            unread += 1;
            continue;
        };
        what_if.decisions += 1;
        let would_be = other.decide(&facts);
        if differs(&was, &would_be) {
            what_if.differing += 1;
            if what_if.differences.len() < DIFFERENCES_MAX {
                what_if.differences.push(PastDifference {
                    request_id: record.subject.clone(),
                    facts,
                    was,
                    would_be,
                });
            }
        }
    }
    if unread > 0 {
        warn!(unread, "decisions of another version of the server were not tried");
    }
    what_if
}

/// The reasons for one verdict are words for people; what it comes to is the rest.
fn differs(was: &Decision, would_be: &Decision) -> bool {
    was.verdict != would_be.verdict || was.missing != would_be.missing || was.obligations != would_be.obligations
}

fn decided(record: &LogEntry) -> Option<Decided> {
    Decided::deserialize(&record.body).ok()
}

/// A decision in one line: the verdict, and the ids of its reasons or what comes with it.
pub fn in_words(decision: &Decision) -> String {
    let verdict = match decision.verdict {
        Verdict::Allow => "allowed",
        Verdict::Wait => "waiting",
        Verdict::Deny => "refused",
    };
    let mut more: Vec<String> = vec![];
    let mut seen = HashSet::new();
    more.extend(
        decision
            .reason_ids()
            .into_iter()
            .filter(|id| seen.insert(*id))
            .map(str::to_owned),
    );
    let obligations = &decision.obligations;
    if decision.verdict != Verdict::Deny {
        let shown = |cap: std::time::Duration| format!("{} s", cap.as_secs());
        more.extend(
            obligations
                .ttl_cap
                .map(|cap| format!("SVIDs of at most {}", shown(cap))),
        );
        more.extend(
            obligations
                .window_cap
                .map(|cap| format!("windows of at most {}", shown(cap))),
        );
        let approvals: u32 = obligations.approvals.iter().map(|rule| rule.count).sum();
        more.extend((approvals > 0).then(|| format!("{approvals} approvals")));
        more.extend(obligations.duties.iter().map(ToString::to_string));
    }
    if more.is_empty() {
        verdict.into()
    } else {
        format!("{verdict}: {}", more.join(", "))
    }
}

impl PolicyRefusal {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Policy(_) => ErrorKind::InvalidArgument,
            Self::Busy => ErrorKind::ResourceExhausted,
            Self::NotDecided(_) => ErrorKind::NotFound,
            Self::Archive(error) => error.kind(),
            Self::Stopped => ErrorKind::Unavailable,
        }
    }
}
