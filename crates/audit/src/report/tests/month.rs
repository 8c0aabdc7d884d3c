//! The script of a month: who does what when, and what is planted among it.

use std::collections::BTreeMap;

use mayfly_model::Change;
use mayfly_model::task::{CloseCause, TaskId, TaskStep};
use mayfly_svid::WindowId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::testing::{APPROVED, START, UNATTENDED, World};

pub(super) const DAY: i64 = 86_400;
pub(super) const MONTH: i64 = 30 * DAY;

const BREAKGLASS: &str = "\
    name = \"ops/rescue\"\nowner = \"olga\"\nescalation = \"#ops\"\nclass = \"breakglass\"\nsensitivity = 3\n\
    [allowed]\nworkloads = [\"/ns/*\"]\n\
    [limits]\nmax_window = \"30m\"\nmax_ttl = \"5m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\"]\n\
    [ticket]\nrequired = true\n";

/// What can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    NeverSettled,
    RubberStamp,
    Loop,
    PrivilegedBase,
    ExpiredException,
}

pub(super) const ALL: [Fault; 5] = [
    Fault::NeverSettled,
    Fault::RubberStamp,
    Fault::Loop,
    Fault::PrivilegedBase,
    Fault::ExpiredException,
];

impl Fault {
    pub(super) fn code(self) -> &'static str {
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

pub(super) fn play(seed: u64, faults: &[Fault]) -> World {
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
