//! A month of activity on a stepped clock, with planted faults: the report finds every one and nothing else.
//!
//! Server and agent are the real ones and share a clock that is set forward between what people and jobs do, so that thirty
//! days are over in a minute. The clock is never set back.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_proto::mayfly::task::GrantExceptionRequest;
use mayfly_proto::mayfly::workload::{RequestRequest, Stage, TaskState};
use mayfly_proto::spire::types;
use mayfly_tests::cli::Cli;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::faults::SteppedClock;
use mayfly_tests::tasks::{JOB_UID, Job, TASK, TaskWorld, asked};
use mayfly_tests::{Lane, TRUST_DOMAIN, eventually, selector};
use serde_json::Value;

use super::debt::metrics;
use super::report::{checked, keep_picture, look_at, text, with_outcome};

const PATIENCE: Duration = Duration::from_secs(90);
/// Sunday, 1 November 2026, 00:00 UTC.
const START: i64 = 1_793_491_200;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const DAYS: i64 = 30;

const ANN: u32 = 0;
const ROB: u32 = 41_302;
/// Jobs of several users, each with an identity of its own: the release, the export, the loop, and the one that is forgotten.
const RELEASE: u32 = JOB_UID;
const EXPORT: u32 = 41_011;
const LOOP: u32 = 41_012;
const FORGOTTEN: u32 = 41_013;

/// The certificates of a month are not renewed in it: this is about tasks.
const SETTINGS: &str = "\
    [authority]\nttl = \"400d\"\n\
    [svid]\nx509_svid_ttl = \"100d\"\nagent_ttl = \"100d\"\n\
    [[people]]\nid = \"ann\"\nuids = [0]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"rob\"\nuids = [41302]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"olga\"\nuids = [41303]\n\
    [[people]]\nid = \"joe\"\nuids = [41001]\ngroups = [\"on-call\"]\n\
    [[people]]\nid = \"kim\"\nuids = [41011]\n\
    [[groups]]\nid = \"leads\"\n\
    [[groups]]\nid = \"on-call\"\n\
    [[workloads]]\npath = \"/ns/pay/*\"\nteam = \"pay\"\n\
    [tickets]\ncommand = [\"/bin/sh\", \"-c\", 'echo \"{\\\"open\\\": true, \\\"kind\\\": \\\"incident\\\"}\"']\n";

const MIGRATE: &str = "\
    name = \"pay/db-migrate\"\nowner = \"olga\"\n\
    [allowed]\nworkloads = [\"/ns/pay/*\"]\n\
    [limits]\nmax_window = \"10m\"\n";
const FIGURES: &str = "\
    name = \"pay/figures\"\nowner = \"olga\"\n\
    [allowed]\nworkloads = [\"/ns/pay/*\"]\n\
    [limits]\nmax_window = \"30m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\"]\n";
const EMERGENCY: &str = "\
    name = \"pay/emergency\"\nowner = \"olga\"\nclass = \"breakglass\"\nescalation = \"#on-call\"\n\
    [allowed]\nworkloads = [\"/ns/pay/*\"]\n\
    [limits]\nmax_window = \"10m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\", \"on-call\"]\n\
    [ticket]\nrequired = true\n";

/// What is planted, by the finding that has to come of it.
const PLANTED: [&str; 5] = [
    "disguised-standing-access",
    "expired-exception",
    "privileged-base-identity",
    "rubber-stamping",
    "unsettled-window",
];

/// A world with a clock that goes forward.
struct Month {
    world: TaskWorld,
    clock: SteppedClock,
    now: i64,
    ended: usize,
    /// How long people were waited for, and how often.
    waited: (i64, u64),
}

impl Month {
    async fn begin() -> Self {
        let clock = SteppedClock::new();
        set(&clock, START);
        let mut server = TaskWorld::prepare(SETTINGS);
        clock.give_to(&mut server.daemon);
        let world = TaskWorld::start_prepared(server, MIGRATE, Some(&clock)).await;
        world.define(FIGURES).await;
        world.define(EMERGENCY).await;
        for (path, uid) in [
            ("/ns/pay/figures", EXPORT),
            ("/ns/pay/looper", LOOP),
            ("/ns/pay/once", FORGOTTEN),
        ] {
            world.entry(path, uid).await;
        }
        Self {
            world,
            clock,
            now: START,
            ended: 0,
            waited: (0, 0),
        }
    }

    /// Goes on to an instant.
    fn at(&mut self, instant: i64) {
        assert!(instant >= self.now, "{instant} is over: it is {}", self.now);
        self.now = instant;
        set(&self.clock, instant);
    }

    fn after(&mut self, seconds: i64) {
        self.at(self.now + seconds);
    }

    async fn ask(&self, job: &Job, task: &str, reason: &str) -> TaskState {
        let request = RequestRequest {
            task: task.into(),
            reason: reason.into(),
            ticket: if task.ends_with("emergency") {
                "INC-7".into()
            } else {
                String::new()
            },
            ..asked()
        };
        job.request(request).await.expect("the request is taken")
    }

    /// Opens what was granted, works for so long, and says that it is done.
    async fn work(&mut self, job: &Job, asked: &TaskState, length: i64) {
        let opened = job.open(&asked.request_id).await.expect("the grant can be opened");
        assert_eq!(opened.stage(), Stage::Open, "{opened:?}");
        self.after(length);
        job.complete(&asked.request_id).await.expect("the window is open");
        self.ended += 1;
    }

    /// Goes on by more than the rest of any SVID, and waits until what is over is settled: a clock that runs ahead of the
    /// server would itself be one of the faults that a report finds.
    async fn settled(&mut self) {
        self.after(6 * MINUTE);
        let log = Evidence::of(self.world.server.dir());
        let ended = self.ended;
        eventually("windows to be settled", PATIENCE, async || {
            (log.count("window.settled") == ended).then_some(())
        })
        .await;
    }

    /// A run that policy alone allows.
    async fn release(&mut self, day: i64) {
        let job = self.world.job(RELEASE);
        let asked = self.ask(&job, TASK, &format!("release {day}")).await;
        assert_eq!(asked.stage(), Stage::Armed, "{asked:?}");
        self.work(&job, &asked, 60 + day * 17 % 240).await;
    }

    /// Figures that somebody wants, whom somebody else agrees to, so long after that.
    async fn figures(&mut self, day: i64, approver: u32, after: i64) {
        let job = self.world.job(EXPORT);
        let asked = self.ask(&job, "pay/figures", &format!("figures of day {day}")).await;
        assert_eq!(asked.stage(), Stage::AwaitingApproval, "{asked:?}");
        self.agree(approver, &asked, after).await;
        self.work(&job, &asked, 120 + day * 31 % 600).await;
    }

    /// Somebody agrees after so long.
    async fn agree(&mut self, approver: u32, asked: &TaskState, after: i64) {
        self.after(after);
        self.waited = (self.waited.0 + after, self.waited.1 + 1);
        let person = self.world.person(approver);
        let agreed = person.approve(&asked.request_id, &asked.digest).await;
        agreed.expect("the person may");
    }

    async fn emergency(&mut self) {
        let job = self.world.job(RELEASE);
        let asked = self.ask(&job, "pay/emergency", "the database is down").await;
        assert_eq!(asked.stage(), Stage::AwaitingApproval, "{asked:?}");
        self.agree(ANN, &asked, 40).await;
        self.work(&job, &asked, 480).await;
        self.settled().await;
        self.after(2 * HOUR);
        self.world
            .person(ROB)
            .review(&asked.request_id)
            .await
            .expect("somebody else looks at it");
    }

    /// Standing access in pieces: one thing, asked for again and again.
    async fn again_and_again(&mut self) {
        let job = self.world.job(LOOP);
        for _ in 0..26 {
            let asked = self.ask(&job, TASK, "keep going").await;
            self.work(&job, &asked, 9 * MINUTE).await;
            self.settled().await;
        }
    }

    /// An entry whose identity administers the server.
    async fn administrator(&self, path: &str) {
        let id = |path: &str| types::Spiffeid {
            trust_domain: TRUST_DOMAIN.into(),
            path: path.into(),
        };
        let parent = self
            .world
            .agent
            .id()
            .trim_start_matches(&format!("spiffe://{TRUST_DOMAIN}"))
            .to_owned();
        let entry = types::Entry {
            spiffe_id: Some(id(path)),
            parent_id: Some(id(&parent)),
            selectors: vec![selector("unix:uid:41900")],
            admin: true,
            ..types::Entry::default()
        };
        self.world
            .server
            .admin()
            .try_create(entry)
            .await
            .expect("an administrator may");
    }

    /// An exception for it, which somebody answers for.
    async fn except(&self, path: &str, days: i64) {
        let request = GrantExceptionRequest {
            identity: format!("spiffe://{TRUST_DOMAIN}{path}"),
            allows: "administers this server".into(),
            scopes: vec!["mayfly:admin".into()],
            owner: "olga".into(),
            reason: "the old console knows no tasks".into(),
            compensating_control: "a network of its own, watched".into(),
            expires_at: self.now + days * DAY,
        };
        self.world
            .person(ANN)
            .grant_exception(request)
            .await
            .expect("the exception is granted");
    }

    async fn day(&mut self, day: i64) {
        let morning = START + day * DAY + 9 * HOUR;
        self.at(morning);
        match day {
            1 => {
                // Standing power that somebody answers for is no finding.
                self.administrator("/ops/console").await;
                self.except("/ops/console", 60).await;
            }
            2 => {
                self.administrator("/ops/legacy").await;
                self.except("/ops/legacy", 10).await;
            }
            6 => self.administrator("/ops/backdoor").await,
            9 => self.emergency().await,
            _ => {}
        }
        self.release(day).await;
        self.settled().await;
        match day {
            // One who reads, and one who does not.
            3..11 => {
                self.after(HOUR);
                self.figures(day, ROB, 1).await;
            }
            _ if day % 3 == 0 => {
                self.after(HOUR);
                self.figures(day, ANN, 90 + day * 41 % 900).await;
            }
            17 => self.again_and_again().await,
            _ => {}
        }
        self.settled().await;
    }

    /// A window whose end the server is not there to see through: three hours later nothing shows that it is over.
    async fn never_settled(&mut self) -> i64 {
        let job = self.world.job(FORGOTTEN);
        let asked = self.ask(&job, TASK, "once").await;
        self.work(&job, &asked, 4 * MINUTE).await;
        self.world.server.daemon.stop();
        self.after(3 * HOUR);
        let end = self.now;
        self.after(HOUR);
        self.world.server.daemon.start();
        self.world.server.wait_ready().await;
        end
    }
}

/// Sets the clock to an instant.
fn set(clock: &SteppedClock, instant: i64) {
    let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    clock.set(instant - i64::try_from(real).unwrap());
}

/// What the server itself counted until it was stopped is what the report takes from the log.
fn the_same_as_counted(page: &str, waited: (i64, u64), report: &Value) {
    let value = |name: &str| -> f64 {
        let name = format!("mayfly_server_task_{name} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    };
    let (residual, latency) = (&report["endings"]["residual"], &report["approvals"]["latency"]);
    let rows = report["endings"]["rows"]["rows"].as_array().unwrap().iter();
    let seconds: u64 = rows.filter_map(|row| row["residual"].as_u64()).sum();
    println!(
        "counted: residual {} s in {} windows, {} s for {} answers, {} uses of break-glass",
        value("residual_seconds_sum"),
        value("residual_seconds_count"),
        value("approval_latency_seconds_sum"),
        value("approval_latency_seconds_count"),
        value("breakglass_uses_total"),
    );
    assert_eq!(
        value("residual_seconds_count") as u64,
        residual["count"].as_u64().unwrap()
    );
    assert_eq!(value("residual_seconds_sum") as u64, seconds);
    assert!(seconds > 0 && residual["max"].as_u64() > Some(0), "{residual}");
    assert_eq!(value("approval_latency_seconds_count") as u64, waited.1);
    assert_eq!(latency["count"].as_u64(), Some(waited.1));
    // People also take real time, which is little; and the clock is set forward from within a second that may be over.
    let (seconds, answers) = (waited.0 as f64, waited.1 as f64);
    let likely = seconds - answers..=seconds + 30.0 * answers;
    let counted = value("approval_latency_seconds_sum");
    assert!(likely.contains(&counted), "{counted} s of {waited:?}");
    assert_eq!(
        value("breakglass_uses_total") as usize,
        report["break_glass"]["uses"].as_array().unwrap().len()
    );
    assert_eq!(value("breakglass_uses_total"), 1.0);
}

fn codes(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    let mut codes: Vec<&str> = findings.map(|finding| finding["code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    codes
}

// Must show 3 of the report. S83
#[tokio::test]
async fn the_report_on_a_month_finds_every_planted_fault_and_nothing_else() {
    let _lane = Lane::shared();
    let begun = std::time::Instant::now();
    let mut month = Month::begin().await;
    for day in 0..DAYS {
        month.day(day).await;
    }
    let counted = metrics(month.world.server.health_port()).await;
    let waited = month.waited;
    let end = month.never_settled().await;
    let world = &month.world;
    let out = world.server.dir().join("report");
    let (from, to) = (START.to_string(), end.to_string());
    let words = [
        "audit",
        "report",
        "--from",
        &from,
        "--to",
        &to,
        "--private",
        "--out",
        text(&out),
    ];
    let told = world.cli.json(&words).await;
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    println!(
        "{DAYS} days in {:.0?}: {} entries, {} windows, {} s of power, residual {}, findings {:?}",
        begun.elapsed(),
        report["claim"]["log"]["end"]["size"],
        report["meter"]["total"]["windows"],
        report["meter"]["total"]["privileged_seconds"],
        report["endings"]["residual"],
        codes(&report),
    );
    assert_eq!(codes(&report), PLANTED, "{:#}", report["findings"]);
    assert_eq!(told["holds"], true, "none of them breaks a rule: {told:#}");
    let of = |code: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["code"] == code).unwrap().clone()
    };
    let subject = |code: &str| of(code)["subject"].as_str().unwrap().to_owned();
    assert_eq!(subject("rubber-stamping"), "rob");
    assert_eq!(
        subject("privileged-base-identity"),
        format!("spiffe://{TRUST_DOMAIN}/ops/backdoor")
    );
    assert_eq!(
        subject("disguised-standing-access"),
        format!("{TASK} spiffe://{TRUST_DOMAIN}/ns/pay/looper")
    );
    let expired = of("expired-exception");
    assert!(
        expired["message"].as_str().unwrap().contains("/ops/legacy"),
        "{expired}"
    );
    let unsettled = of("unsettled-window");
    assert!(
        unsettled["message"].as_str().unwrap().contains("/ns/pay/once"),
        "{unsettled}"
    );
    assert_eq!(unsettled["severity"], "high");
    // What is honest is in the register and is no finding.
    assert_eq!(
        report["break_glass"]["uses"][0]["review"], "done",
        "{:#}",
        report["break_glass"]
    );
    assert_eq!(report["debt"]["exceptions"].as_array().unwrap().len(), 2);

    the_same_as_counted(&counted, waited, &report);

    // Somebody else makes the same of a copy of the log, without the server.
    let key = world.cli.json(&["audit", "keys"]).await["keys"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let copy = world.server.dir().join("copy");
    world
        .cli
        .json(&["audit", "export", text(&copy), "--private", "--key", &key])
        .await;
    let file = out.join("report.json");
    let (code, found, outcome) = checked(&file, &["--key", &key, "--export", text(&copy)]).await;
    assert_eq!(code, Some(0), "{outcome:?}");
    assert!(
        with_outcome(&found, "passed").contains(&"same bytes from the log"),
        "{found:#}"
    );
    // And the rules of the log hold, by the tool that has nothing to do with reports.
    let verified = Cli::new(Path::new("/nowhere"))
        .run(&["audit", "verify", text(&copy), "--key", &key])
        .await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let charts = look_at(&out.join("report.html")).await;
    assert!(charts.len() >= 10, "{charts:?}");
    keep_picture(&out.join("report.html"));
}
