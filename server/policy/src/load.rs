//! From texts to a [`PolicySet`]: parsed, read whole, validated strictly against the schema; all that is wrong at once.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::LazyLock;

use aws_lc_rs::digest::{Context, SHA256};
use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, ResourceConstraint, ValidationMode, Validator,
};
use miette::Diagnostic;

use crate::annotation::Annotations;
use crate::builtin::FILES;
use crate::cedar::{Action, SCHEMA, SCHEMA_PARSED};
use crate::error::{PolicyError, PolicyErrors};
use crate::set::{Loaded, PolicySet, Slices};
use crate::{Digest, GUARDS};

/// The longest set of files, in bytes together.
const TEXT_MAX: usize = 1024 * 1024;
/// The most policies of users.
const POLICIES_MAX: usize = 2000;

/// The built-in policies, read and validated once.
static BUILTIN: LazyLock<Vec<(Policy, Loaded, usize)>> = LazyLock::new(|| {
    let mut loading = Loading::default();
    FILES.iter().for_each(|(file, text)| loading.read(file, text, true));
    loading.validate(true, |name| {
        FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text)
    });
    assert!(loading.errors.is_empty(), "our own policies: {:?}", loading.errors);
    loading.policies
});

/// What has been read so far.
#[derive(Default)]
struct Loading {
    policies: Vec<(Policy, Loaded, usize)>,
    errors: Vec<PolicyError>,
}

impl PolicySet {
    /// The built-in set alone.
    pub fn builtin() -> Self {
        Self::load(&BTreeMap::new()).expect("our own policies; tests load them")
    }

    /// Reads the policies in `files` (name to text; names that do not end in `.cedar` are left out) on top of the
    /// built-in ones.
    ///
    /// # Errors
    /// All that is wrong, each with file, line and, where there is one, a hint. Nothing is loaded then.
    pub fn load(files: &BTreeMap<String, String>) -> Result<Self, PolicyErrors> {
        let mut loading = Loading {
            policies: BUILTIN.clone(),
            ..Loading::default()
        };
        let files = || files.iter().filter(|(name, _)| name.ends_with(".cedar"));
        let length: usize = files().map(|(_, text)| text.len()).sum();
        if length > TEXT_MAX {
            let problem = format!("the policies have {length} bytes, at most {TEXT_MAX} are allowed");
            loading.error("policies", 0, None, problem, None);
        } else {
            files().for_each(|(file, text)| loading.read(file, text, false));
        }
        loading.check_number();
        loading.check_ids();
        loading.validate(false, |name| {
            files().find(|(file, _)| *file == name).map(|(_, text)| text.as_str())
        });
        if !loading.errors.is_empty() {
            loading.errors.sort();
            loading.errors.dedup();
            return Err(PolicyErrors(loading.errors));
        }
        let digest = digest(files().map(|(name, text)| (name.as_str(), text.as_str())));
        Ok(loading.finish(digest))
    }
}

/// Over all texts with their lengths, so that no two sets read the same.
fn digest<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Digest {
    let mut hash = Context::new(&SHA256);
    let own = [("schema.cedarschema", SCHEMA)].into_iter().chain(FILES);
    hash.update(b"mayfly policy set 1\n");
    for (name, text) in own.chain(files) {
        for part in [name, text] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    Digest(hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

impl Loading {
    fn error(
        &mut self,
        file: &str,
        line: usize,
        policy: Option<&str>,
        problem: impl Into<String>,
        hint: Option<String>,
    ) {
        self.errors.push(PolicyError {
            file: file.into(),
            line,
            policy: policy.map(Into::into),
            problem: problem.into(),
            hint,
        });
    }

    fn read(&mut self, file: &str, text: &str, is_builtin: bool) {
        let parsed = match cedar_policy::PolicySet::from_str(text) {
            Ok(parsed) => parsed,
            Err(errors) => {
                for error in errors.iter() {
                    let (line, hint) = place(error, text);
                    self.error(file, line, None, error.to_string(), hint);
                }
                return;
            }
        };
        for template in parsed.templates() {
            let id = template.annotation("id").unwrap_or("a policy");
            self.error(
                file,
                0,
                Some(id),
                "slots such as `?principal` are not filled here",
                None,
            );
        }
        let mut policies: Vec<(usize, &Policy)> = parsed.policies().map(|policy| (offset(policy), policy)).collect();
        policies.sort_by_key(|(offset, _)| *offset);
        for (number, (offset, policy)) in policies.into_iter().enumerate() {
            let line = line_of(text, offset);
            self.take(file, line, number + 1, policy, is_builtin);
        }
    }

    fn take(&mut self, file: &str, line: usize, number: usize, policy: &Policy, is_builtin: bool) {
        let is_permit = policy.effect() == Effect::Permit;
        let shown = policy
            .annotation("id")
            .map_or_else(|| format!("policy {number}"), Into::into);
        let mut annotations = Annotations::default();
        for (key, value) in policy.annotations() {
            if let Err(problem) = annotations.read(key, value, is_permit) {
                self.error(file, line, Some(&shown), problem, None);
            }
        }
        let Some(id) = policy.annotation("id") else {
            let problem = "has no `@id`";
            let hint = "decisions and records name it; write @id(\"what-it-forbids\") before it";
            return self.error(file, line, Some(&shown), problem, Some(hint.into()));
        };
        let is_id = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_./".contains(&byte);
        if !(1..=128).contains(&id.len()) || !id.bytes().all(is_id) {
            let problem = format!("`{id}` is no id: 1 to 128 of a-z 0-9 - _ . /");
            return self.error(file, line, Some(&shown), problem, None);
        }
        if is_permit && policy.action_constraint() == ActionConstraint::Any {
            let hint = "write `action in Mayfly::Action::\"use\"`; without it, it would open the API too";
            self.error(
                file,
                line,
                Some(&shown),
                "a permit has to say for which actions",
                Some(hint.into()),
            );
        }
        let loaded = Loaded {
            id: id.into(),
            file: file.into(),
            text: policy.to_string(),
            annotations,
            is_builtin,
        };
        self.policies.push((policy.new_id(PolicyId::new(id)), loaded, line));
    }

    fn check_number(&mut self) {
        let number = self.policies.iter().filter(|(_, loaded, _)| !loaded.is_builtin).count();
        if number > POLICIES_MAX {
            let problem = format!("{number} policies, at most {POLICIES_MAX} are allowed");
            self.error("policies", 0, None, problem, None);
        }
    }

    fn check_ids(&mut self) {
        let reserved = ["no-permit", "engine-error"];
        let mut first: HashMap<String, (String, usize)> = HashMap::new();
        let mut errors = vec![];
        for (_, loaded, line) in &self.policies {
            let is_reserved = reserved.contains(&loaded.id.as_str()) || loaded.id.starts_with("input-");
            let place = (loaded.file.clone(), *line);
            if is_reserved {
                errors.push((
                    place,
                    loaded.id.clone(),
                    "this id has a meaning of its own; choose another".to_owned(),
                ));
            } else if let Some((file, line)) = first.get(&loaded.id) {
                let is_guard = GUARDS.iter().any(|guard| guard.id == loaded.id);
                let what = if is_guard {
                    "a guard, which nothing replaces"
                } else {
                    "another policy"
                };
                errors.push((
                    place,
                    loaded.id.clone(),
                    format!("this is the id of {what}, at {file}:{line}"),
                ));
            } else {
                first.insert(loaded.id.clone(), place);
            }
        }
        for ((file, line), id, problem) in errors {
            self.error(&file, line, Some(&id), problem, None);
        }
    }

    /// The built-in ones or all others. Strictly, warnings included: a policy that can never apply, or whose letters
    /// look like others, is a mistake.
    fn validate<'a>(&mut self, is_builtin: bool, text_of: impl Fn(&str) -> Option<&'a str>) {
        static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| Validator::new(SCHEMA_PARSED.clone()));
        let mut set = cedar_policy::PolicySet::new();
        let mut places = HashMap::new();
        for (policy, loaded, line) in self
            .policies
            .iter()
            .filter(|(_, loaded, _)| loaded.is_builtin == is_builtin)
        {
            // The first of an id counts; the second was reported.
            if set.add(policy.clone()).is_ok() {
                places.insert(policy.id().clone(), (loaded.file.clone(), *line));
            }
        }
        let result = VALIDATOR.validate(&set, ValidationMode::Strict);
        let mut report = |id: &PolicyId, diagnostic: &dyn Diagnostic| {
            let (file, begin) = places.get(id).cloned().unwrap_or_default();
            let (line, hint) = text_of(&file).map_or((0, None), |text| place(diagnostic, text));
            let problem = diagnostic.to_string();
            let own = format!("for policy `{id}`, ");
            let problem = problem.strip_prefix(&own).unwrap_or(&problem).to_owned();
            self.error(
                &file,
                if line > 0 { line } else { begin },
                Some(id.as_ref()),
                problem,
                hint,
            );
        };
        result
            .validation_errors()
            .for_each(|error| report(error.policy_id(), error));
        result
            .validation_warnings()
            .for_each(|warning| report(warning.policy_id(), warning));
    }

    fn finish(self, digest: Digest) -> PolicySet {
        let mut slices: Vec<Slices> = Action::ALL.iter().map(|_| Slices::default()).collect();
        let mut policies = HashMap::new();
        for (policy, loaded, _) in self.policies {
            for action in Action::ALL.iter().filter(|action| may_be_about(&policy, **action)) {
                let slice = &mut slices[*action as usize];
                let set = match scope(&policy) {
                    Scope::All => &mut slice.global,
                    Scope::Team(team) => slice.teams.entry(team).or_default(),
                    Scope::Definition(name) => slice.definitions.entry(name).or_default(),
                };
                set.add(policy.clone()).expect("ids were checked");
            }
            policies.insert(policy.id().clone(), loaded);
        }
        PolicySet {
            slices,
            policies,
            digest,
        }
    }
}

/// What a policy's resource scope names.
enum Scope {
    All,
    Team(String),
    Definition(String),
}

fn scope(policy: &Policy) -> Scope {
    let (ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid)) =
        policy.resource_constraint()
    else {
        return Scope::All;
    };
    let id = uid.id().unescaped().to_owned();
    match uid.type_name().basename() {
        "TaskDefinition" => Scope::Definition(id),
        "Team" => Scope::Team(id),
        _ => Scope::All,
    }
}

/// Whether the scopes of `policy` leave `action` possible.
fn may_be_about(policy: &Policy, action: Action) -> bool {
    let group: EntityUid = "Mayfly::Action::\"use\"".parse().expect("a constant");
    let is_in = |uid: &EntityUid| *uid == action.uid() || *uid == group && action.is_use();
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == action.uid(),
        ActionConstraint::In(uids) => uids.iter().any(is_in),
    }
}

/// Line and hint of a diagnostic of Cedar in `text`; line 0 if it names none.
fn place(diagnostic: &dyn Diagnostic, text: &str) -> (usize, Option<String>) {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let line = label.as_ref().map_or(0, |label| line_of(text, label.offset()));
    let hint = diagnostic.help().map(|help| help.to_string());
    let hint = hint.or_else(|| label.and_then(|label| label.label().map(Into::into)));
    (line, hint)
}

fn line_of(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    1 + text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count()
}

fn offset(policy: &Policy) -> usize {
    policy.as_ref().loc().map_or(0, |loc| loc.span.offset())
}
