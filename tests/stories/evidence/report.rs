//! The report as people get it: signed, checked by somebody without a server, and a page that draws itself and asks for nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_proto::mayfly::workload::{RequestRequest, Stage};
use mayfly_tests::browser::{Browser, Scheme};
use mayfly_tests::cli::{Cli, Outcome};
use mayfly_tests::tasks::{JOB_UID, TaskWorld, UNATTENDED, asked};
use mayfly_tests::{Lane, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const BOB: u32 = 41_302;
/// Where the picture of the page goes, if somebody wants to keep it: `docs/images/report.png` is made so.
const SCREENSHOT: &str = "MAYFLY_SCREENSHOT";

const PEOPLE: &str = "\
    [[people]]\nid = \"ann\"\nuids = [0]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"bob\"\nuids = [41302]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"joe\"\nuids = [41001]\ngroups = [\"leads\"]\n\
    [[groups]]\nid = \"leads\"\n\
    [[workloads]]\npath = \"/ns/pay/*\"\nteam = \"pay\"\n\
    [tickets]\ncommand = [\"/bin/sh\", \"-c\", 'echo \"{\\\"open\\\": true, \\\"kind\\\": \\\"incident\\\"}\"']\n";

const EMERGENCY: &str = "\
    name = \"pay/emergency\"\nowner = \"ann\"\nclass = \"breakglass\"\nescalation = \"#on-call\"\n\
    [allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
    [limits]\nmax_window = \"10m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\"]\n\
    [ticket]\nrequired = true\n";

/// What somebody writes who knows that it will be on a page.
const HOSTILE: &str = "<script>alert(1)</script>\"onload=\"alert(2)<img src=http://192.0.2.1/x>\u{202e}drow";

/// How the charts of a page are laid out: for each its name, its size, and how many of its marks take up room.
const CHARTS: &str = "[...document.querySelectorAll('svg')].map(svg => {
    const box = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll('rect, circle, path, line')].map(mark => mark.getBBox());
    const within = marks.every(m => m.x >= -1 && m.y >= -1 && m.x + m.width <= svg.viewBox.baseVal.width + 1
        && m.y + m.height <= svg.viewBox.baseVal.height + 1);
    const texts = [...svg.querySelectorAll('text')].filter(text => text.getBoundingClientRect().width > 0);
    return { id: svg.id, width: box.width, height: box.height, within, texts: texts.length,
        marks: marks.filter(m => m.width > 0 || m.height > 0).length };
})";

/// Opens the page of a report in a browser: charts are drawn, nothing is asked for, nobody complains, it prints. Answers the
/// names of the charts.
pub(super) async fn look_at(page: &Path) -> Vec<String> {
    let mut browser = Browser::start(1280, 900).await;
    let opened = browser.open(page).await;
    assert_eq!(
        opened.requests,
        [format!("file://{}", page.display())],
        "the page asks for something"
    );
    assert_eq!(opened.complaints, [""; 0], "the browser complains");
    let charts = browser.evaluate(CHARTS).await;
    let charts = charts.as_array().unwrap();
    for chart in charts {
        let is_drawn = chart["width"].as_f64() > Some(100.0) && chart["height"].as_f64() > Some(20.0);
        assert!(is_drawn, "{chart}");
        assert!(
            chart["marks"].as_u64() > Some(0) && chart["texts"].as_u64() > Some(0),
            "{chart}"
        );
        assert_eq!(chart["within"], true, "{chart}");
    }
    // Nothing is wider than the window, and what the page was told not to do, it cannot.
    let widths = "[document.documentElement.scrollWidth, window.innerWidth]";
    let widths = browser.evaluate(widths).await;
    assert!(
        widths[0].as_f64() <= widths[1].as_f64(),
        "the page has to be moved sideways: {widths}"
    );
    let sections = browser
        .evaluate("document.querySelectorAll('main > section').length")
        .await;
    assert_eq!(sections, 15, "thirteen parts, findings, and how to check");
    let refused = "fetch('http://192.0.2.1/').then(() => 'let out', () => 'refused')";
    assert_eq!(browser.evaluate(refused).await, "refused");

    let pictures = [Scheme::Light, Scheme::Dark];
    let mut seen = vec![];
    for scheme in pictures {
        browser.prefer(scheme).await;
        let picture = browser.screenshot(0, 1280, 1700).await;
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() > 50_000,
            "{} bytes",
            picture.len()
        );
        let path = page.with_extension(format!("{scheme:?}.png").to_lowercase());
        fs::write(&path, &picture).unwrap();
        seen.push(picture);
    }
    assert_ne!(seen[0], seen[1], "light and dark look the same");
    browser.prefer(Scheme::Light).await;
    // The charts of part 7, to look at.
    let top = browser
        .evaluate("document.querySelector('#part-7').getBoundingClientRect().top + window.scrollY")
        .await;
    let charts_seen = browser.screenshot(top.as_f64().unwrap() as u32, 1280, 1500).await;
    fs::write(page.with_extension("charts.png"), &charts_seen).unwrap();
    let pdf = browser.pdf().await;
    assert!(pdf.starts_with(b"%PDF-") && pdf.len() > 20_000, "{} bytes", pdf.len());
    fs::write(page.with_extension("pdf"), &pdf).unwrap();
    let names: Vec<String> = charts
        .iter()
        .map(|chart| chart["id"].as_str().unwrap().to_owned())
        .collect();
    println!(
        "{}: {} charts, no request, {} bytes as PDF: {names:?}",
        page.display(),
        names.len(),
        pdf.len()
    );
    names
}

/// Keeps the picture of a page, if somebody asked for it.
pub(super) fn keep_picture(page: &Path) {
    if let Some(kept) = std::env::var_os(SCREENSHOT) {
        fs::copy(page.with_extension("light.png"), &kept).unwrap();
        let charts = PathBuf::from(&kept).with_file_name("report-charts.png");
        fs::copy(page.with_extension("charts.png"), charts).unwrap();
        println!("kept {}", PathBuf::from(kept).display());
    }
}

/// The words of `mayfly audit check-report`, without a server.
pub(super) async fn checked(report: &Path, more: &[&str]) -> (Option<i32>, Value, Outcome) {
    let offline = Cli::new(Path::new("/nowhere"));
    let words = [&["audit", "check-report", text(report), "--output", "json"], more].concat();
    let outcome = offline.run(&words).await;
    let json = serde_json::from_str(&outcome.stdout).unwrap_or(Value::Null);
    (outcome.code, json, outcome)
}

/// The checks with this outcome.
pub(super) fn with_outcome<'a>(found: &'a Value, outcome: &str) -> Vec<&'a str> {
    let checks = found["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["outcome"] == outcome)
        .map(|check| check["check"].as_str().unwrap())
        .collect()
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A window that is over, and an emergency with hostile words.
async fn world() -> TaskWorld {
    let world = TaskWorld::start_among(UNATTENDED, PEOPLE).await;
    world.define(EMERGENCY).await;
    let guarded = world.guarded().await;
    let dir = world.job_dir("job");
    let status = world.run(&dir, &[], "sleep 2").status().await.unwrap();
    assert!(status.success(), "{status}");
    drop(guarded);
    let job = world.job(JOB_UID);
    let emergency = RequestRequest {
        task: "pay/emergency".into(),
        reason: HOSTILE.into(),
        ticket: "INC-7".into(),
        ..asked()
    };
    let asked = job.request(emergency).await.unwrap();
    let (ann, bob) = (world.person(0), world.person(BOB));
    assert_eq!(asked.stage(), Stage::AwaitingApproval, "{asked:?}");
    eventually("to be asked", PATIENCE, async || {
        (ann.task(&asked.request_id).await.stage == "awaiting_approval").then_some(())
    })
    .await;
    ann.approve(&asked.request_id, &asked.digest).await.unwrap();
    let opened = job.open(&asked.request_id).await.unwrap();
    assert_eq!(opened.stage(), Stage::Open, "{opened:?}");
    job.complete(&asked.request_id).await.unwrap();
    eventually("a review", PATIENCE, async || bob.review(&asked.request_id).await.ok()).await;
    world
}

// Must show 5 of the report: charts are drawn, and no request leaves the page.
#[tokio::test]
async fn a_report_is_signed_checked_without_a_server_and_read_in_a_browser() {
    let _lane = Lane::shared();
    let world = world().await;
    let path = |name: &str| world.server.dir().join(name);
    let keys = world.cli.json(&["audit", "keys"]).await;
    let key = keys["keys"][0].as_str().unwrap().to_owned();
    // Up to this second, for all of the reports.
    let to = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
    eventually("that second to be over", PATIENCE, async || {
        (UNIX_EPOCH + Duration::from_secs(to) < SystemTime::now()).then_some(())
    })
    .await;
    let (from, to) = ((to - 7_200).to_string(), to.to_string());
    let report = |out: &Path, more: &[&str]| {
        let words = ["audit", "report", "--from", &from, "--to", &to, "--out", text(out)];
        [&words[..], more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let run = async |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = world.cli.run(&words).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome
    };

    // People are in it only if somebody says so.
    let plain = path("plain");
    run(report(&plain, &[])).await;
    let json = fs::read_to_string(plain.join("report.json")).unwrap();
    let html = fs::read_to_string(plain.join("report.html")).unwrap();
    for name in ["\"joe\"", "\"ann\"", "alert(1)", "INC-7"] {
        assert!(
            !json.contains(name) && !html.contains(name),
            "{name} is in a report without names"
        );
    }
    let named = path("named/nov.json");
    run(report(&named, &["--private"])).await;
    let with_names = fs::read_to_string(&named).unwrap();
    for name in ["\"joe\"", "\"ann\"", "alert(1)", "INC-7"] {
        assert!(with_names.contains(name), "{name} is missing");
    }
    let page = path("named/nov.html");
    let shown = fs::read_to_string(&page).unwrap();
    assert!(shown.contains("&lt;script&gt;alert(1)") && !shown.contains("<script") && !shown.contains('\u{202e}'));

    // The log says that both were made, by their hashes.
    let logged = world
        .cli
        .json_lines(&["audit", "search", "--kind", "audit.reported"])
        .await;
    let digests: Vec<&str> = logged
        .iter()
        .map(|entry| entry["body"]["sha256"].as_str().unwrap())
        .collect();
    assert_eq!(digests, [sha256(&plain.join("report.json")), sha256(&named)]);

    // Of what is to come nothing is said, and a person is named only by who says so; the log keeps the name beside it.
    let refused = async |words: &[&str], says: &str| {
        let out = path("refused");
        let outcome = world
            .cli
            .run(&[&["audit", "report", "--out", text(&out)], words].concat())
            .await;
        assert!(outcome.code != Some(0) && outcome.stderr.contains(says), "{outcome:?}");
        assert!(!out.join("report.json").exists());
    };
    refused(&["--from", "1h", "--to", "2099-01-01"], "in the future").await;
    refused(&["--from", "1h", "--to", "2h"], "later than").await;
    refused(&["--from", "1h", "--to", "now", "--scope", "owner:ann"], "--private").await;
    run(report(&path("ann"), &["--scope", "owner:ann", "--private"])).await;
    let sealed = ["audit", "search", "--kind", "audit.reported", "--last", "1", "--sealed"];
    let sealed = &world.cli.json_lines(&sealed).await[0];
    assert_eq!(sealed["body"]["scope"], "owner", "{sealed}");
    assert!(sealed["body"]["owner"]["commitment"].is_string(), "{sealed}");

    // Somebody without a server, who has the key from the operator.
    let note = fs::read_to_string(path("named/nov.json.note")).unwrap();
    let origin = keys["origin"]
        .as_str()
        .map_or_else(|| key.split('+').next().unwrap().to_owned(), str::to_owned);
    assert_eq!(note.lines().next(), Some(format!("{origin}/report").as_str()));
    let (code, found, outcome) = checked(&named, &["--key", &key]).await;
    assert_eq!((code, &found["ok"]), (Some(0), &Value::Bool(true)), "{outcome:?}");
    let copy = path("copy");
    world
        .cli
        .json(&["audit", "export", text(&copy), "--private", "--key", &key])
        .await;
    for report in [&named, &plain.join("report.json")] {
        let (code, found, outcome) = checked(report, &["--key", &key, "--export", text(&copy)]).await;
        assert_eq!(code, Some(0), "{outcome:?}");
        assert!(
            with_outcome(&found, "passed").contains(&"same bytes from the log"),
            "{found:#}"
        );
    }

    // Whatever is changed in it is told.
    damage(&named, &with_names, &key).await;
    let (code, _, outcome) = checked(&named, &[]).await;
    assert_eq!(code, Some(1), "without a key nothing is known: {outcome:?}");
    let other = foreign_key(&origin);
    let (code, found, _) = checked(&named, &["--key", &other]).await;
    assert_eq!(
        (code, with_outcome(&found, "failed")),
        (Some(1), vec!["signature", "checkpoint"])
    );

    // From the copy, without a server: the same bytes each time, and checked as well.
    let offline = Cli::new(Path::new("/nowhere"));
    let mut made = vec![];
    for name in ["one", "two"] {
        let out = path(name);
        let words = report(&out, &["--export", text(&copy), "--private"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let outcome = offline.run(&words).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let (code, _, outcome) = checked(
            &out.join("report.json"),
            &["--key", &key, "--unsigned", "--export", text(&copy)],
        )
        .await;
        assert_eq!(code, Some(0), "{outcome:?}");
        made.push((
            fs::read(out.join("report.json")).unwrap(),
            fs::read(out.join("report.html")).unwrap(),
        ));
    }
    assert!(made[0] == made[1], "the same log makes another report");

    let charts = look_at(&page).await;
    for chart in [
        "chart-owners",
        "chart-tasks",
        "chart-residual",
        "chart-latency",
        "chart-duty",
        "chart-break-glass",
        "chart-standing",
    ] {
        assert!(
            charts.iter().any(|name| name == chart),
            "{chart} is missing: {charts:?}"
        );
    }
}

/// Changes the report in several places, each by itself.
async fn damage(report: &Path, whole: &str, key: &str) {
    let total = "\"privileged_seconds\":";
    let at = whole.rfind("\"name\":\"all\"").unwrap();
    let at = at + whole[at..].find(total).unwrap() + total.len();
    let longer = format!("{}9{}", &whole[..at], &whole[at..]);
    for (damaged, wrong) in [
        (longer, vec!["sums", "signature", "page"]),
        (
            whole.replace("\"holds\":true", "\"holds\":false"),
            vec!["sums", "signature", "page"],
        ),
        (
            whole.replace("\"size\":", "\"size\": "),
            vec!["form", "signature", "page"],
        ),
        (whole.replace("\"INC-7\"", "\"INC-8\""), vec!["signature", "page"]),
        (
            whole.replace("\"limits\":[", "\"limits\":[{\"what\":\"\",\"why\":\"\"},"),
            vec!["signature", "page"],
        ),
    ] {
        assert_ne!(damaged, whole);
        fs::write(report, &damaged).unwrap();
        let (code, found, outcome) = checked(report, &["--key", key]).await;
        assert_eq!((code, with_outcome(&found, "failed")), (Some(1), wrong), "{outcome:?}");
    }
    fs::write(report, &whole[..whole.len() / 2]).unwrap();
    let (code, found, _) = checked(report, &["--key", key]).await;
    assert_eq!((code, with_outcome(&found, "failed")), (Some(1), vec!["form"]));
    fs::write(report, whole).unwrap();
    // The page is not signed by itself: it is the one that the report makes, or it is told.
    let page = report.with_extension("html");
    let shown = fs::read_to_string(&page).unwrap();
    fs::write(&page, shown.replacen("The claim holds", "The claim holds!", 1)).unwrap();
    let mine = report.with_extension("mine.html");
    let (code, found, _) = checked(report, &["--key", key, "--write-page", text(&mine)]).await;
    assert_eq!((code, with_outcome(&found, "failed")), (Some(1), vec!["page"]));
    assert!(fs::read_to_string(&mine).unwrap() == shown, "anybody can make the page");
    fs::write(&page, shown).unwrap();
}

/// A key of the right name that the log never had.
fn foreign_key(origin: &str) -> String {
    use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner};
    let (key, _) = Ed25519Key::generate(origin, Algorithm::Ed25519).unwrap();
    key.verifier_key().to_string()
}

/// As others compute it.
fn sha256(file: &Path) -> String {
    let printed = std::process::Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(printed.stdout).unwrap()[..64].to_owned()
}
