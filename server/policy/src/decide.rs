//! Decisions about tasks.
//!
//! One question to Cedar answers openings, renewals and extensions. A request needs a look ahead: it is asked whether
//! the opening would be permitted as things are, and if not, whether it would be with a ticket, with approvals, or with
//! both. What passes by itself (evidence that was taken at the request, windows that are not settled yet) is left to
//! the opening.

use cedar_policy::{Context, Entities, Entity, EntityUid};
use mayfly_model::task::{APPROVALS_MAX, ActorClass, ApprovalRule, TaskClass};

use crate::annotation::Obligations;
use crate::cedar::{
    Action, Attributes, Kind, duration, entity, flag, instant, number, record, reference, set, text, uid, uses,
};
use crate::decision::{Decision, Missing, Reason, Verdict};
use crate::derive::{self, Assumed, Counted};
use crate::facts::{Facts, Person, Phase};
use crate::reason;
use crate::set::{Answered, Loaded, PolicySet, Question};

/// What came of one question.
enum Run<'s> {
    Allowed(Obligations, Vec<&'s Loaded>),
    Denied(Vec<Reason>, Vec<&'s Loaded>),
}

/// An answer before its digests.
struct Outcome {
    verdict: Verdict,
    reasons: Vec<Reason>,
    missing: Vec<Missing>,
    obligations: Obligations,
    determining: Vec<String>,
}

/// Facts as entities: built once, asked several times.
struct Case<'f> {
    facts: &'f Facts,
    entities: Entities,
    principal: EntityUid,
    resource: EntityUid,
}

impl PolicySet {
    /// Decides. Total: whatever cannot be decided is denied with the reason `engine-error` or `input-…`.
    pub fn decide(&self, facts: &Facts) -> Decision {
        let problems = derive::out_of_range(facts);
        let outcome = if problems.is_empty() {
            self.outcome(facts).unwrap_or_else(|error| {
                let text = format!("the policies could not be evaluated, so nothing is allowed: {error}");
                Outcome::denied(vec![Reason::new("engine-error", text)], &[])
            })
        } else {
            Outcome::denied(problems, &[])
        };
        Decision {
            verdict: outcome.verdict,
            reasons: outcome.reasons,
            missing: outcome.missing,
            obligations: outcome.obligations,
            determining: outcome.determining,
            policy_digest: self.digest,
            inputs_digest: facts.digest(),
        }
    }

    fn outcome(&self, facts: &Facts) -> Result<Outcome, String> {
        let case = Case::new(facts)?;
        let action = match facts.phase {
            Phase::Request => match self.run(&case, Action::Request, &Assumed::default())? {
                Run::Denied(reasons, by) => return Ok(Outcome::denied(reasons, &by)),
                Run::Allowed(..) => return self.look_ahead(&case),
            },
            Phase::Arm => return self.look_ahead(&case),
            Phase::Approve => return self.approve(&case),
            Phase::Open => Action::Open,
            Phase::Renew | Phase::Sweep => Action::Renew,
            Phase::Extend => Action::Extend,
        };
        Ok(self.run(&case, action, &Assumed::default())?.into())
    }

    /// Whether the opening would be permitted now, and with what if not.
    fn look_ahead(&self, case: &Case) -> Result<Outcome, String> {
        let now = Assumed {
            later: true,
            ..Assumed::default()
        };
        let as_is = self.run(case, Action::Open, &now)?;
        if let Run::Allowed(..) = as_is {
            return Ok(as_is.into());
        }
        let (count, with_all) = self.with_all(case)?;
        let Run::Allowed(mut obligations, by) = with_all else {
            return Ok(with_all.into());
        };
        // People that nobody named cannot be asked: then only a ticket can help.
        let can_ask = !obligations.approvals.is_empty() && obligations.approvals.iter().all(|r| !r.groups.is_empty());
        let approvals = can_ask.then_some(count);
        let ahead = |ticket, approvals| Assumed {
            ticket,
            approvals,
            later: true,
        };
        let is_enough = |assumed| Ok::<_, String>(matches!(self.run(case, Action::Open, &assumed)?, Run::Allowed(..)));
        let missing = if is_enough(ahead(true, None))? {
            vec![Missing::Ticket]
        } else if approvals.is_none() {
            return Ok(as_is.into());
        } else if is_enough(ahead(false, approvals))? {
            vec![Missing::Approvals]
        } else {
            vec![Missing::Ticket, Missing::Approvals]
        };
        if missing.contains(&Missing::Approvals) && obligations.approvals.iter().all(|rule| rule.count < count) {
            obligations.approvals[0].count = count;
        }
        let Run::Denied(mut reasons, _) = as_is else {
            unreachable!("handled above")
        };
        // One for each rule, also of permits, whose want shows only once the rest is there.
        reasons.retain(|reason| reason.id != "approvals-missing");
        let unmet = obligations
            .approvals
            .iter()
            .filter(|rule| !derive::is_met(case.facts, rule));
        reasons.extend(unmet.map(|rule| Reason::new("approvals-missing", reason::approvals(case.facts, rule))));
        Ok(Outcome {
            verdict: Verdict::Wait,
            reasons,
            missing,
            obligations,
            determining: ids(&by),
        })
    }

    /// The opening with a ticket and with as many approvals as it takes.
    fn with_all<'s>(&'s self, case: &Case) -> Result<(u32, Run<'s>), String> {
        let with = |count| {
            let assumed = Assumed {
                ticket: true,
                approvals: Some(count),
                later: true,
            };
            self.run(case, Action::Open, &assumed)
        };
        let least = derive::rule_of(case.facts)
            .map_or(1, |rule| rule.count)
            .clamp(1, APPROVALS_MAX);
        let first = with(least)?;
        if matches!(first, Run::Allowed(..)) || least == APPROVALS_MAX {
            return Ok((least, first));
        }
        let most = with(APPROVALS_MAX)?;
        if matches!(most, Run::Denied(..)) {
            return Ok((APPROVALS_MAX, most));
        }
        for count in least + 1..APPROVALS_MAX {
            let run = with(count)?;
            if matches!(run, Run::Allowed(..)) {
                return Ok((count, run));
            }
        }
        Ok((APPROVALS_MAX, most))
    }

    /// Whether the approver may, of a request that could be opened with approvals.
    fn approve(&self, case: &Case) -> Result<Outcome, String> {
        let approver = case.facts.approver.as_ref().ok_or("an approval without approver")?;
        let (_, with_all) = self.with_all(case)?;
        let Run::Allowed(obligations, _) = with_all else {
            return Ok(with_all.into());
        };
        let is_eligible = |rule: &ApprovalRule| !rule.groups.is_disjoint(&approver.groups);
        let eligible = obligations.approvals.iter().any(is_eligible);
        let question = Question {
            principal: uid(Kind::Human, approver.id.as_str()),
            ..case.question(Action::Approve)
        };
        let context = case.context(&Assumed::default(), Some((approver, eligible)))?;
        Ok(match self.ask(&question, context)? {
            // What the request would need is no condition of its approval.
            Answered::Permitted(by) => Outcome {
                verdict: Verdict::Allow,
                reasons: vec![],
                missing: vec![],
                obligations,
                determining: ids(&by),
            },
            Answered::Forbidden(by) => Outcome::denied(denials(case.facts, &by), &by),
        })
    }

    fn run<'s>(&'s self, case: &Case, action: Action, assumed: &Assumed) -> Result<Run<'s>, String> {
        let facts = case.facts;
        match self.ask(&case.question(action), case.context(assumed, None)?)? {
            Answered::Forbidden(by) => Ok(Run::Denied(denials(facts, &by), by)),
            Answered::Permitted(by) => {
                let mut obligations = Obligations::default();
                obligations.approvals.extend(derive::rule_of(facts));
                by.iter().for_each(|policy| obligations.add(&policy.annotations));
                let unmet: Vec<&ApprovalRule> = match (action, assumed.approvals) {
                    (Action::Request, _) | (_, Some(_)) => vec![],
                    _ => obligations
                        .approvals
                        .iter()
                        .filter(|rule| !derive::is_met(facts, rule))
                        .collect(),
                };
                if unmet.is_empty() {
                    return Ok(Run::Allowed(obligations, by));
                }
                let reason = |rule: &ApprovalRule| Reason::new("approvals-missing", reason::approvals(facts, rule));
                let reasons = unmet.into_iter().map(reason).collect();
                let wanting = by.into_iter().filter(|policy| policy.annotations.approvals.is_some());
                Ok(Run::Denied(reasons, wanting.collect()))
            }
        }
    }
}

fn ids(policies: &[&Loaded]) -> Vec<String> {
    let mut ids: Vec<String> = policies.iter().map(|policy| policy.id.clone()).collect();
    ids.sort_unstable();
    ids
}

/// Why these forbids deny; why nothing permits if there are none.
fn denials(facts: &Facts, by: &[&Loaded]) -> Vec<Reason> {
    if by.is_empty() {
        let text = "no policy permits it; a permit whose conditions hold is needed";
        return vec![Reason::new("no-permit", text)];
    }
    let text = |policy: &Loaded| match &policy.annotations.reason {
        Some(text) => text.clone(),
        None if policy.is_builtin => reason::guard(&policy.id, facts),
        None => format!("forbidden by policy `{}` in {}", policy.id, policy.file),
    };
    by.iter().map(|policy| Reason::new(&policy.id, text(policy))).collect()
}

impl Outcome {
    fn denied(reasons: Vec<Reason>, by: &[&Loaded]) -> Self {
        Self {
            verdict: Verdict::Deny,
            reasons,
            missing: vec![],
            obligations: Obligations::default(),
            determining: ids(by),
        }
    }
}

impl From<Run<'_>> for Outcome {
    fn from(run: Run) -> Self {
        match run {
            Run::Denied(reasons, by) => Self::denied(reasons, &by),
            Run::Allowed(obligations, by) => Self {
                verdict: Verdict::Allow,
                reasons: vec![],
                missing: vec![],
                obligations,
                determining: ids(&by),
            },
        }
    }
}

impl<'f> Case<'f> {
    fn new(facts: &'f Facts) -> Result<Self, String> {
        let process = uid(Kind::Workload, facts.process.id.as_str());
        let resource = uid(Kind::TaskDefinition, facts.definition.name.as_str());
        let principal = match (facts.process.actor, &facts.person) {
            (ActorClass::Human, Some(person)) => uid(Kind::Human, person.id.as_str()),
            (ActorClass::Human, None) => return Err("a person's process without the person".into()),
            (ActorClass::Workload, _) => process,
        };
        let mut entities = vec![workload(facts)?, node(facts)?, definition(facts)?, parameters(facts)?];
        let asks = facts.person.as_ref();
        // Were they one, the two records could say different things of their groups.
        let approves = facts
            .approver
            .as_ref()
            .filter(|approver| asks.is_none_or(|asks| asks.id != approver.id));
        for person in asks.into_iter().chain(approves) {
            entities.push(human(person)?);
        }
        entities.extend(uses());
        Ok(Self {
            facts,
            entities: Entities::from_entities(entities, None).map_err(|e| e.to_string())?,
            principal,
            resource,
        })
    }

    fn question(&self, action: Action) -> Question<'_> {
        let name = &self.facts.definition.name;
        Question {
            action,
            principal: self.principal.clone(),
            resource: self.resource.clone(),
            definition: Some((name.team(), name.as_str())),
            entities: &self.entities,
        }
    }

    fn context(&self, assumed: &Assumed, approver: Option<(&Person, bool)>) -> Result<Context, String> {
        let facts = self.facts;
        let mut context = vec![
            ("now", instant(facts.now)),
            ("process", reference(Kind::Workload, facts.process.id.as_str())),
            ("actor", text(actor(facts.process.actor))),
            ("allowed", flag(derive::is_allowed(facts))),
            ("evidence_age", duration(derive::evidence_shown(facts, assumed))),
            ("scopes", set(&facts.scopes, text)),
            ("duration", duration(facts.duration)),
            ("reason_length", number(facts.reason_length)),
            ("parameters", reference(Kind::Parameters, "")),
            ("ticket", ticket(facts, assumed)?),
            ("approvals", approvals(facts, assumed)?),
            ("usage", usage(facts, assumed)?),
            ("sweep", flag(facts.phase == Phase::Sweep)),
        ];
        if let Some(person) = &facts.person {
            context.push(("person", reference(Kind::Human, person.id.as_str())));
        }
        if let Some((approver, eligible)) = approver {
            let record = record(vec![
                ("eligible", flag(eligible)),
                ("shares_key", flag(derive::shares_key(facts, approver))),
                (
                    "approved_previous",
                    flag(facts.usage.previous_approvers.contains(&approver.id)),
                ),
            ])?;
            context.push(("approver", record));
        }
        let pairs = context.into_iter().map(|(key, value)| (key.to_owned(), value));
        Context::from_pairs(pairs).map_err(|e| e.to_string())
    }
}

fn actor(actor: ActorClass) -> &'static str {
    match actor {
        ActorClass::Workload => "workload",
        ActorClass::Human => "human",
    }
}

fn workload(facts: &Facts) -> Result<Entity, String> {
    let process = &facts.process;
    let mut attributes: Attributes = vec![
        ("path", text(process.id.path())),
        ("environment", text(&process.environment)),
        ("node", reference(Kind::Node, process.node.id.as_str())),
        ("selectors", set(&process.selectors, |selector| text(selector.as_str()))),
        ("attested_at", instant(process.attested_at)),
    ];
    attributes.extend(process.owner.as_ref().map(|owner| ("owner", text(owner.as_str()))));
    let team = process.team.as_ref().map(|team| uid(Kind::Team, team));
    entity(uid(Kind::Workload, process.id.as_str()), attributes, team)
}

fn node(facts: &Facts) -> Result<Entity, String> {
    let node = &facts.process.node;
    let attributes = vec![
        ("banned", flag(node.banned)),
        ("attested_at", instant(node.attested_at)),
    ];
    entity(uid(Kind::Node, node.id.as_str()), attributes, None)
}

pub(crate) fn human(person: &Person) -> Result<Entity, String> {
    let groups = person.groups.iter().map(|group| uid(Kind::Group, group.as_str()));
    entity(
        uid(Kind::Human, person.id.as_str()),
        vec![("id", text(person.id.as_str()))],
        groups,
    )
}

fn definition(facts: &Facts) -> Result<Entity, String> {
    definition_entity(&facts.definition)
}

pub(crate) fn definition_entity(definition: &crate::Pinned) -> Result<Entity, String> {
    definition.entity(make_definition)
}

fn make_definition(definition: &crate::Pinned) -> Result<Entity, String> {
    let limits = &definition.limits;
    let mut attributes: Attributes = vec![
        ("environment", text(&definition.environment)),
        ("sensitivity", number(definition.sensitivity)),
        ("actor", text(actor(definition.actor))),
        ("breakglass", flag(definition.class == TaskClass::Breakglass)),
        ("owner", text(definition.owner.as_str())),
        ("scopes", set(&definition.scopes, text)),
        ("max_window", duration(limits.max_window)),
        ("max_ttl", duration(limits.max_ttl)),
        ("concurrency", number(limits.concurrency)),
        ("evidence_max_age", duration(limits.evidence_max_age)),
        ("settle_before_next", flag(definition.ending.settle_before_next)),
        ("ticket_required", flag(definition.ticket.required)),
        ("ticket_kinds", set(&definition.ticket.kinds, text)),
    ];
    attributes.extend(definition.review_by.map(|at| ("review_by", instant(at))));
    let team = uid(Kind::Team, definition.name.team());
    entity(
        uid(Kind::TaskDefinition, definition.name.as_str()),
        attributes,
        Some(team),
    )
}

fn parameters(facts: &Facts) -> Result<Entity, String> {
    let tags = facts.parameters.iter().map(|(key, value)| (key.clone(), text(value)));
    Entity::new_with_tags(uid(Kind::Parameters, ""), [], [], tags).map_err(|e| e.to_string())
}

fn ticket(facts: &Facts, assumed: &Assumed) -> Result<cedar_policy::RestrictedExpression, String> {
    let ticket = derive::ticket(facts, assumed);
    let seen = ticket.clone().unwrap_or_default();
    let mut fields = vec![
        ("present", flag(ticket.is_some())),
        ("open", flag(seen.open)),
        ("kind", text(seen.kind)),
    ];
    fields.extend(seen.owner.map(|owner| ("owner", text(owner.as_str()))));
    record(fields)
}

fn approvals(facts: &Facts, assumed: &Assumed) -> Result<cedar_policy::RestrictedExpression, String> {
    let rule = derive::rule_of(facts);
    let asked = rule.as_ref().unwrap_or(&facts.definition.approval);
    let counted = match assumed.approvals {
        None => derive::counted(facts, asked),
        Some(count) => Counted {
            count,
            distinct_groups: count.min(u32::try_from(asked.groups.len()).unwrap_or(u32::MAX)),
            groups: asked.groups.clone(),
            ..Counted::default()
        },
    };
    let is_as_is = assumed.approvals.is_none();
    let any = |test: &dyn Fn(&Person) -> bool| flag(is_as_is && facts.approvals.iter().any(|a| test(&a.by)));
    record(vec![
        ("needed", number(rule.as_ref().map_or(0, |rule| rule.count))),
        ("groups_needed", number(rule.as_ref().map_or(0, derive::groups_needed))),
        ("count", number(counted.count)),
        ("distinct_groups", number(counted.distinct_groups)),
        ("oldest", duration(counted.oldest)),
        ("by", set(&counted.by, |person| text(person.as_str()))),
        ("groups", set(&counted.groups, |group| text(group.as_str()))),
        ("includes_requester", any(&|person| derive::is_requester(facts, person))),
        ("includes_owner", any(&|person| derive::is_owner(facts, person))),
        (
            "includes_previous",
            any(&|person| facts.usage.previous_approvers.contains(&person.id)),
        ),
    ])
}

fn usage(facts: &Facts, assumed: &Assumed) -> Result<cedar_policy::RestrictedExpression, String> {
    let usage = &facts.usage;
    let now = |count: u32| number(if assumed.later { 0 } else { count });
    record(vec![
        ("open_windows", now(usage.open_windows)),
        ("unsettled", now(usage.unsettled)),
        ("reviews_due", number(usage.reviews_due)),
        ("same_day", number(usage.same_day)),
    ])
}
