//! A month of activity on a stepped clock: hundreds of ordinary requests, and faults that were planted among them. The
//! report finds every one and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_model::Change;
use mayfly_model::task::{CloseCause, TaskId, TaskStep};
use mayfly_svid::WindowId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::finding::{CODES, Severity, Thresholds};
use crate::meter::View;
use crate::report::{LogFacts, Report, State, TreeHead};
use crate::testing::{APPROVED, START, UNATTENDED, World};
use crate::{Details, Finding, Scope};

const DAY: i64 = 86_400;
const MONTH: i64 = 30 * DAY;

const BREAKGLASS: &str = "\
    name = \"ops/rescue\"\nowner = \"olga\"\nescalation = \"#ops\"\nclass = \"breakglass\"\nsensitivity = 3\n\
    [allowed]\nworkloads = [\"/ns/*\"]\n\
    [limits]\nmax_window = \"30m\"\nmax_ttl = \"5m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\"]\n\
    [ticket]\nrequired = true\n";

/// What can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    NeverSettled,
    RubberStamp,
    Loop,
    PrivilegedBase,
    ExpiredException,
}

const ALL: [Fault; 5] = [
    Fault::NeverSettled,
    Fault::RubberStamp,
    Fault::Loop,
    Fault::PrivilegedBase,
    Fault::ExpiredException,
];

impl Fault {
    fn code(self) -> &'static str {
        match self {
            Self::NeverSettled => "unsettled-window",
            Self::RubberStamp => "rubber-stamping",
            Self::Loop => "disguised-standing-access",
            Self::PrivilegedBase => "privileged-base-identity",
            Self::ExpiredException => "expired-exception",
        }
    }
}

/// Something that happens at an instant of the month.
enum Act {
    /// Work that policy alone allows, for so many seconds.
    Work(String, i64),
    /// Work that a person agrees to, so long after it was asked for; or does not.
    Approved {
        desk: String,
        who: &'static str,
        after: i64,
        agrees: bool,
        length: i64,
    },
    /// An emergency, and its review so much later.
    Emergency(i64),
    /// A base SVID.
    Base(String),
    /// One of the loop's windows.
    Again,
    Plant(Fault),
    /// An exception for the identity with this path.
    Except(&'static str, i64),
    /// An identity with privileges, by its path.
    Admin(&'static str),
}

/// The acts of a month, in order, the same for the same seed.
fn month(seed: u64, faults: &[Fault]) -> Vec<(i64, Act)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acts: Vec<(i64, Act)> = vec![];
    for day in 0..30 {
        let start = START + day * DAY;
        // Services renew who they are; jobs run by night and by day.
        for service in 0..4 {
            acts.push((start + 60 * service, Act::Base(format!("spiffe://td/ns/web/{service}"))));
        }
        for job in 0..random.random_range(12..24) {
            let at = start + random.random_range(0..DAY - 3_600);
            let workload = format!("spiffe://td/ns/pay/job{job}");
            acts.push((at, Act::Work(workload, random.random_range(5..800))));
        }
        // People agree after they have read, and not to everything.
        for desk in 0..3 {
            let who = ["ann", "bob"][random.random_range(0..2)];
            let agrees = random.random_range(0..10) > 0;
            let after = random.random_range(20..1_500);
            let at = start + 8 * 3_600 + random.random_range(0..8 * 3_600);
            acts.push((
                at,
                Act::Approved {
                    desk: format!("spiffe://td/ns/pay/desk{desk}"),
                    who,
                    after,
                    agrees,
                    length: random.random_range(60..1_700),
                },
            ));
        }
    }
    acts.push((START + 9 * DAY + 4_000, Act::Emergency(3 * 3_600)));
    // Standing power that somebody answers for: nothing to find.
    acts.push((START + DAY, Act::Admin("/ops/console")));
    acts.push((START + DAY + 600, Act::Except("/ops/console", 80 * DAY)));
    if faults.contains(&Fault::RubberStamp) {
        for day in 3..11 {
            let at = START + day * DAY + 40_000;
            acts.push((
                at,
                Act::Approved {
                    desk: "spiffe://td/ns/pay/desk-r".into(),
                    who: "rob",
                    after: 2,
                    agrees: true,
                    length: 300,
                },
            ));
        }
    }
    if faults.contains(&Fault::Loop) {
        for turn in 0..60 {
            acts.push((START + 17 * DAY + turn * 930, Act::Again));
        }
    }
    if faults.contains(&Fault::NeverSettled) {
        acts.push((START + 12 * DAY + 500, Act::Plant(Fault::NeverSettled)));
    }
    if faults.contains(&Fault::PrivilegedBase) {
        acts.push((START + 6 * DAY, Act::Admin("/ops/backdoor")));
    }
    if faults.contains(&Fault::ExpiredException) {
        acts.push((START + 2 * DAY, Act::Admin("/ops/legacy")));
        acts.push((START + 2 * DAY + 60, Act::Except("/ops/legacy", 10 * DAY)));
        acts.push((START + 12 * DAY + 60, Act::Plant(Fault::ExpiredException)));
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

/// What is to be done at an instant; windows run beside each other.
enum Job {
    Begin(Act),
    Answer {
        id: TaskId,
        who: &'static str,
        agrees: bool,
        length: i64,
    },
    Open {
        id: TaskId,
        length: i64,
    },
    Renew {
        id: TaskId,
        window: WindowId,
        end: i64,
    },
    End {
        id: TaskId,
        window: WindowId,
        cause: CloseCause,
    },
    Settle {
        id: TaskId,
        window: WindowId,
    },
    Review {
        id: TaskId,
    },
}

/// A world with what is still to be done in it.
struct Stage {
    world: World,
    jobs: BTreeMap<(i64, usize), Job>,
    count: usize,
}

impl Stage {
    fn plan(&mut self, at: i64, job: Job) {
        self.count += 1;
        self.jobs.insert((at, self.count), job);
    }

    fn ttl(&self, id: &TaskId) -> i64 {
        let task = self.world.tasks[id].request.task.to_string();
        i64::try_from(self.world.definition(&task).limits.max_ttl.as_secs()).unwrap()
    }

    fn renew_or_end(&mut self, id: TaskId, window: WindowId, end: i64) {
        let next = self.world.now + self.ttl(&id) / 2;
        match next < end {
            true => self.plan(next, Job::Renew { id, window, end }),
            false => self.plan(
                end,
                Job::End {
                    id,
                    window,
                    cause: CloseCause::Completed,
                },
            ),
        }
    }

    fn run(&mut self, job: Job) {
        let now = self.world.now;
        let world = &mut self.world;
        match job {
            Job::Begin(act) => self.begin(act),
            Job::Answer {
                id, who, agrees: false, ..
            } => world.refuse(&id, who),
            Job::Answer { id, who, length, .. } => {
                world.approve(&id, who);
                self.plan(now + 20, Job::Open { id, length });
            }
            Job::Open { id, length } => {
                let window = world.open(&id);
                self.renew_or_end(id, window, now + length);
            }
            Job::Renew { id, window, end } => {
                world.renew(&id, window);
                self.renew_or_end(id, window, end);
            }
            Job::End { id, window, cause } => {
                world.close(&id, window, cause);
                world.confirm(&id, window);
                if cause != CloseCause::Failed {
                    self.plan(now + 2, Job::Settle { id, window });
                }
            }
            Job::Settle { id, window } => world.settle(&id, window, 2),
            Job::Review { id } => {
                let review = TaskStep::Review {
                    by: "bob".parse().unwrap(),
                    reason: "it did".into(),
                };
                world.step(&id, review, vec![]);
            }
        }
    }

    fn begin(&mut self, act: Act) {
        let (now, count) = (self.world.now, self.count);
        let world = &mut self.world;
        match act {
            Act::Base(workload) => world.base_svid(&workload),
            Act::Work(workload, length) => {
                let id = world.request("pay/db-migrate", &workload, None, &format!("release {count}"));
                self.plan(now + 1, Job::Open { id, length });
            }
            Act::Approved {
                desk,
                who,
                after,
                agrees,
                length,
            } => {
                let person = ["joe", "kim", "lee"][count % 3];
                let id = world.request("pay/export", &desk, Some(person), &format!("figures {count}"));
                self.plan(
                    now + after,
                    Job::Answer {
                        id,
                        who,
                        agrees,
                        length,
                    },
                );
            }
            Act::Emergency(reviewed_after) => {
                let id = world.request("ops/rescue", "spiffe://td/ns/pay/console", Some("joe"), "it burns");
                self.plan(
                    now + 30,
                    Job::Answer {
                        id: id.clone(),
                        who: "ann",
                        agrees: true,
                        length: 900,
                    },
                );
                self.plan(now + 950 + reviewed_after, Job::Review { id });
            }
            Act::Again => {
                let id = world.request("pay/db-migrate", "spiffe://td/ns/pay/looper", None, "keep going");
                self.plan(now, Job::Open { id, length: 890 });
            }
            Act::Admin(path) => drop(world.register(&format!("spiffe://td{path}"), true)),
            Act::Except(path, days) => {
                let body = json!({
                    "id": format!("x{path}"), "identity": format!("spiffe://td{path}"), "owner": "olga",
                    "reason": "no other way yet", "control": "watched", "expires_at": now + days,
                });
                let subject = format!("x{path}");
                let note = Change::Note {
                    kind: "exception.granted",
                    subject,
                    body,
                };
                world.commit("uid:0", vec![(note, vec![])]);
            }
            Act::Plant(Fault::ExpiredException) => {
                world.raw("exception.expired", "x/ops/legacy", json!({ "id": "x/ops/legacy" }));
            }
            Act::Plant(_) => {
                // Its end is not followed by a settlement.
                let id = world.request("pay/db-migrate", "spiffe://td/ns/pay/forgotten", None, "once");
                let window = world.open(&id);
                self.plan(
                    now + 100,
                    Job::End {
                        id,
                        window,
                        cause: CloseCause::Failed,
                    },
                );
            }
        }
    }
}

fn play(seed: u64, faults: &[Fault]) -> World {
    let mut stage = Stage {
        world: World::new(),
        jobs: BTreeMap::new(),
        count: 0,
    };
    for toml in [UNATTENDED, APPROVED, BREAKGLASS] {
        stage.world.define(toml);
    }
    for (at, act) in month(seed, faults) {
        stage.plan(at, Job::Begin(act));
    }
    while let Some(((at, _), job)) = stage.jobs.pop_first() {
        stage.world.now = at;
        stage.run(job);
    }
    assert!(stage.world.now < START + MONTH, "the month is over");
    stage.world
}

fn view() -> View {
    View {
        from: START,
        to: START + MONTH,
        scope: Scope::All,
        thresholds: Thresholds::default(),
    }
}

fn facts(world: &World) -> LogFacts {
    LogFacts {
        origin: "td/log".into(),
        end: TreeHead {
            size: world.log.len() as u64,
            root: "5e".repeat(32),
        },
        ..LogFacts::default()
    }
}

fn report_of(world: &World, details: Details, view: &View) -> Report {
    Report::build(world.entries().into_iter().map(Ok), details, view, facts(world))
}

fn report(world: &World) -> Report {
    report_of(world, world.details.clone(), &view())
}

fn codes(report: &Report) -> Vec<&str> {
    let mut codes: Vec<&str> = report.findings.iter().map(|finding| finding.code.as_str()).collect();
    codes.sort_unstable();
    codes
}

fn expected(faults: &[Fault]) -> Vec<&'static str> {
    let mut codes: Vec<&str> = faults.iter().map(|fault| fault.code()).collect();
    codes.sort_unstable();
    codes
}

#[test]
fn a_month_with_planted_faults_shows_every_one_and_nothing_else() {
    let world = play(1, &ALL);
    let report = report(&world);
    assert_eq!(codes(&report), expected(&ALL), "{:#?}", report.findings);
    let of = |code: &str| -> &Finding { report.findings.iter().find(|finding| finding.code == code).unwrap() };
    assert_eq!(of("rubber-stamping").subject, "rob");
    assert_eq!(of("rubber-stamping").evidence.len(), 8);
    assert_eq!(
        of("disguised-standing-access").subject,
        "pay/db-migrate spiffe://td/ns/pay/looper"
    );
    assert_eq!(of("privileged-base-identity").subject, "spiffe://td/ops/backdoor");
    assert_eq!(of("expired-exception").subject, "x/ops/legacy");
    assert_eq!(of("expired-exception").since, START + 12 * DAY + 60);
    assert_eq!(of("unsettled-window").severity, Severity::High);
    let entries = world.entries();
    for finding in &report.findings {
        assert!(!finding.evidence.is_empty(), "{finding:?}");
        assert!(CODES.iter().any(|(code, _)| *code == finding.code), "{finding:?}");
        for index in &finding.evidence {
            assert!(entries.get(*index as usize).is_some(), "{finding:?}");
        }
    }
    let requests = report.approvals.requests.values().sum::<u64>();
    println!(
        "{} entries, {requests} requests, {} findings",
        world.log.len(),
        report.findings.len()
    );
    assert!(requests > 500, "{requests} requests are no noise");
}

#[test]
fn each_fault_is_found_by_itself_and_none_where_none_is() {
    for seed in 2..5 {
        let honest = report(&play(seed, &[]));
        assert_eq!(honest.findings, [], "seed {seed}");
        assert!(honest.claim.holds);
    }
    for fault in ALL {
        let report = report(&play(7, &[fault]));
        assert_eq!(codes(&report), [fault.code()], "{:#?}", report.findings);
    }
}

#[test]
fn who_knows_no_names_finds_the_same() {
    let world = play(1, &ALL);
    let blind = report_of(&world, Details::default(), &view());
    assert_eq!(codes(&blind), expected(&ALL));
    let text = String::from_utf8(blind.to_json()).unwrap();
    for name in ["rob", "olga", "keep going", "joe"] {
        assert!(
            !text.contains(&format!("\"{name}\"")),
            "{name} is in the report of somebody who does not know it"
        );
    }
    assert!(
        blind
            .approvals
            .people
            .iter()
            .any(|row| row.person.starts_with("commitment:"))
    );
}

#[test]
fn the_same_input_makes_the_same_bytes() {
    let world = play(3, &ALL);
    let (first, second) = (report(&world), report(&world));
    assert_eq!(first.to_json(), second.to_json());
    let read: Report = serde_json::from_slice(&first.to_json()).unwrap();
    assert_eq!(read, first);
    assert_eq!(read.to_json(), first.to_json());
    let mut other = facts(&world);
    other.end.root = "00".repeat(32);
    let other = Report::build(
        world.entries().into_iter().map(Ok),
        world.details.clone(),
        &view(),
        other,
    );
    assert_ne!(other.zero_standing.most, u64::MAX);
    assert_ne!(
        other.to_json(),
        first.to_json(),
        "the instants follow from the root hash"
    );
}

#[test]
fn every_part_says_what_there_was() {
    let world = play(1, &ALL);
    let report = report(&world);
    assert_eq!(report.completeness.entries, world.log.len() as u64);
    assert!(report.completeness.is_whole && report.completeness.gaps.is_empty());
    assert_eq!((report.zero_standing.hourly, report.zero_standing.random), (720, 256));
    assert_eq!(report.zero_standing.state, State::Held);
    assert_eq!(report.zero_standing.differences.rows, []);
    assert!(report.zero_standing.most >= 2, "nobody had power at any instant");
    assert!(report.joins.checks.iter().all(|check| check.state != State::Broken));
    assert_eq!(report.endings.windows, report.joins.windows);
    assert_eq!(report.endings.unsettled.rows.len(), 1);
    assert_eq!((report.endings.residual.p50, report.endings.residual.max), (2, 2));
    assert_eq!(report.probes.state, State::NotTested);
    let total = &report.meter.total;
    let by_day: i64 = report.meter.by_day.iter().map(|day| day.privileged_seconds).sum();
    let by_task: i64 = report.meter.by_task.rows.iter().map(|row| row.privileged_seconds).sum();
    assert_eq!((by_day, by_task), (total.privileged_seconds, total.privileged_seconds));
    assert_eq!(report.meter.by_day.len(), 30);
    assert_eq!(report.meter.patterns[0].identical_requests, 60);
    assert_eq!(report.meter.patterns[0].chain_windows, 60);
    let exceptions: Vec<_> = report
        .debt
        .exceptions
        .iter()
        .map(|row| (row.id.as_str(), row.state.as_str()))
        .collect();
    assert_eq!(exceptions, [("x/ops/console", "in_force"), ("x/ops/legacy", "expired")]);
    assert_eq!(report.debt.privileged.len(), 3);
    let emergency = &report.break_glass.uses[0];
    assert_eq!(
        (emergency.review.as_str(), emergency.reviewed_by.as_str()),
        ("done", "bob")
    );
    assert_eq!(emergency.approvers, ["ann"]);
    assert_eq!(report.policy.digests.len(), 1);
    assert_eq!(report.policy.definitions.len(), 3);
    let overprivileged = report
        .controls
        .iter()
        .find(|control| control.id == "NHI5:2025")
        .unwrap();
    assert_eq!(
        (overprivileged.state, overprivileged.older_labels.as_slice()),
        (State::Broken, &["NHI-03".to_owned()][..])
    );
    assert!(report.limits.iter().any(|limit| limit.what == "Probes"));
}

#[test]
fn a_scope_measures_its_part_and_judges_the_whole_log() {
    let world = play(1, &ALL);
    let mut view = view();
    view.scope = "task:pay/export".parse().unwrap();
    let part = report_of(&world, world.details.clone(), &view);
    assert_eq!(codes(&part), ["rubber-stamping"]);
    assert_eq!(part.meter.by_task.rows.len(), 1);
    assert_eq!(part.joins.windows, report(&world).joins.windows);
    view.scope = "workload:spiffe://td/ops/*".parse().unwrap();
    let part = report_of(&world, world.details.clone(), &view);
    assert_eq!(codes(&part), ["expired-exception", "privileged-base-identity"]);
}

#[test]
fn what_is_later_than_the_period_is_left_out() {
    let world = play(1, &ALL);
    let mut view = view();
    view.to = START + 5 * DAY;
    let early = report_of(&world, world.details.clone(), &view);
    assert!(early.completeness.after_period > 0 && early.completeness.is_whole);
    assert_eq!(codes(&early), Vec::<&str>::new(), "{:#?}", early.findings);
    view.to = START + 10 * DAY;
    let week = report_of(&world, world.details.clone(), &view);
    assert_eq!(codes(&week), ["privileged-base-identity", "rubber-stamping"]);
}

#[test]
fn an_entry_that_is_missing_breaks_the_claim() {
    let world = play(1, &[]);
    let entries = || world.entries().into_iter().filter(|entry| entry.index != 700).map(Ok);
    let report = Report::build(entries(), world.details.clone(), &view(), facts(&world));
    assert!(!report.claim.holds && !report.completeness.is_whole);
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.code == "invariant-violated")
    );
}

#[test]
fn a_stray_svid_is_standing_authority() {
    let mut world = play(1, &[]);
    let body = json!({
        "authority_id": "authority-task", "entry_id": null, "not_after": START + MONTH + 7_200,
        "public_key_sha256": "77", "serial": "777777",
    });
    world.now += 60;
    world.raw("svid.intended", "spiffe://td/task/pay/db-migrate/ns/pay/x", body);
    let mut view = view();
    view.to += DAY;
    let report = report_of(&world, world.details.clone(), &view);
    assert!(!report.claim.holds);
    let codes: BTreeSet<&str> = codes(&report).into_iter().collect();
    assert_eq!(codes, ["invariant-violated", "standing-authority"].into());
    assert_eq!(report.zero_standing.state, State::Broken);
}
