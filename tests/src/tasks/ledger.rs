//! The invariants of the task model, asked of the log: what a server has done, read by somebody who trusts none of its
//! code.
//!
//! I1 no task SVID without an open window · I2 none outlives its window · I3 the log has it before it is signed · I4 who
//! asks does not approve · I5 a renewal moves no end · I9 a grant opens as often as it may · I10 each key belongs to one
//! SVID · I11 what has ended stays so · I12 an end needs nobody · I14 the store has nothing that the log has not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// One record of the log.
#[derive(Debug)]
struct Record {
    index: i64,
    revision: i64,
    kind: String,
    subject: String,
    time: i64,
    body: Value,
}

/// What the log has said of a window so far.
#[derive(Debug)]
struct Window {
    task: String,
    closes_at: i64,
    suspended: bool,
    closing: bool,
    settled: bool,
}

/// What the log has said of a request so far.
#[derive(Debug)]
struct Request {
    body: Value,
    approvals: Vec<Value>,
    opened: u64,
}

/// How much there was to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Requests.
    pub requests: usize,
    /// Windows.
    pub windows: usize,
    /// SVIDs of windows.
    pub svids: usize,
    /// Decisions of policy.
    pub decisions: usize,
}

/// Reads the log of the server whose folder is `dir`, and fails unless every invariant holds in it.
///
/// # Panics
/// One does not hold; says which record breaks it.
pub fn check(dir: &Path) -> Checked {
    let path = dir.join("server/server.db");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut database =
        Connection::open_with_flags(&path, flags).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    database
        .busy_timeout(std::time::Duration::from_secs(10))
        .expect("a plain setting");
    // One view of log and state, while the server goes on.
    let view = database.transaction().expect("the database can be read");
    let records = read(&view);
    let mut reader = Reader::default();
    for record in &records {
        reader.take(record);
    }
    reader.compare(&view, &records)
}

/// Everything that was read so far.
#[derive(Debug, Default)]
struct Reader {
    uses: BTreeMap<String, u64>,
    classes: BTreeMap<String, String>,
    requests: BTreeMap<String, Request>,
    windows: BTreeMap<String, Window>,
    /// Serial numbers of task SVIDs that windows have recorded, with their commit.
    recorded: BTreeMap<String, i64>,
    /// The same of all that were to be signed.
    intended: BTreeMap<String, i64>,
    keys: BTreeSet<String>,
    /// Requests about which policy has said yes, with the commit.
    allowed: BTreeSet<(i64, String, String)>,
    epoch: u64,
    decisions: usize,
    task_svids: Vec<(String, i64, i64)>,
}

impl Reader {
    fn take(&mut self, record: &Record) {
        let Record { subject, body, .. } = record;
        match record.kind.as_str() {
            "definition.put" => {
                let uses = body["definition"]["limits"]["max_uses"].as_u64();
                self.uses
                    .insert(text(&body["hash"]), uses.expect("a definition says how often"));
            }
            "authority.prepared" => {
                self.classes.insert(subject.clone(), text(&body["class"]));
            }
            "task.requested" => {
                let request = Request {
                    body: body.clone(),
                    approvals: vec![],
                    opened: 0,
                };
                let before = self.requests.insert(subject.clone(), request);
                assert!(before.is_none(), "one request, requested twice: {record:?}");
            }
            "policy.decided" => {
                self.decisions += 1;
                if body["decision"]["verdict"] == "allow" {
                    let phase = text(&body["facts"]["phase"]);
                    self.allowed.insert((record.revision, subject.clone(), phase));
                }
            }
            "task.approved" => self.approved(record),
            "svid.intended" => self.intended(record),
            "svid.outcome" => {
                for serial in body["signed"].as_array().into_iter().flatten() {
                    let known = self.intended.contains_key(&serial.to_string());
                    assert!(known, "I3: signed before the log has it: {record:?}");
                }
            }
            "window.opened" => self.opened(record),
            kind if kind.starts_with("window.") || kind == "svid.revoked" => self.window(record),
            _ => {}
        }
        if let Some(epoch) = body["epoch"].as_u64() {
            assert!(epoch > self.epoch, "epochs only grow, after {}: {record:?}", self.epoch);
            self.epoch = epoch;
        }
    }

    // I4
    fn approved(&mut self, record: &Record) {
        let request = self.requests.get_mut(&record.subject).expect("a request comes first");
        let (approval, asked) = (&record.body["approval"], &request.body["request"]);
        let person = &approval["person"];
        assert!(
            person != &asked["person"] && person != &asked["owner"],
            "I4: by who asks or owns: {record:?}"
        );
        assert_eq!(
            record.body["digest"], request.body["digest"],
            "I4: of another digest: {record:?}"
        );
        request.approvals.push(approval.clone());
    }

    fn intended(&mut self, record: &Record) {
        let body = &record.body;
        let key = text(&body["public_key_sha256"]);
        let serial = body["serial"].to_string();
        let is_new = self.intended.insert(serial.clone(), record.revision).is_none();
        assert!(is_new, "a serial number twice: {record:?}");
        let class = self.classes.get(&text(&body["authority_id"])).map(String::as_str);
        let path = record.subject.splitn(4, '/').nth(3).unwrap_or_default();
        let root = path.split('/').next().unwrap_or_default();
        match root {
            "task" | "breakglass" => {
                assert!(self.keys.insert(key), "I10: a key twice: {record:?}");
                assert_eq!(class, Some(root), "signed by an authority of another class: {record:?}");
                let not_after = body["not_after"].as_i64().expect("an instant");
                self.task_svids.push((serial, record.revision, not_after));
            }
            _ => assert_eq!(class, Some("base"), "no task, but signed as one: {record:?}"),
        }
    }

    fn opened(&mut self, record: &Record) {
        let found = &record.body["window"];
        let (id, opened_at) = (text(&found["id"]), found["opened_at"].as_i64().expect("an instant"));
        let closes_at = found["closes_at"].as_i64().expect("an instant");
        let request = self.requests.get_mut(&record.subject).expect("a request comes first");
        let longest = request.body["request"]["window"]["secs"].as_i64().expect("a duration");
        assert!(closes_at <= opened_at + longest, "longer than asked for: {record:?}");
        request.opened += 1;
        let most = self.uses.get(&text(&request.body["request"]["definition"]));
        assert!(
            most.is_some_and(|most| request.opened <= *most),
            "I9: opened {} times: {record:?}",
            request.opened
        );
        let counted = |approval: &&Value| {
            approval["valid_until"]
                .as_i64()
                .is_some_and(|until| until >= record.time)
        };
        for rule in request.body["needs"]["approvals"].as_array().into_iter().flatten() {
            let of = |approval: &&Value| {
                let groups = approval["groups"].as_array().into_iter().flatten();
                let wanted = rule["groups"].as_array().expect("a rule names groups");
                groups.into_iter().any(|group| wanted.contains(group))
            };
            let people: BTreeSet<String> = request
                .approvals
                .iter()
                .filter(counted)
                .filter(of)
                .map(|approval| text(&approval["person"]))
                .collect();
            let needed = usize::try_from(rule["count"].as_u64().expect("a count"))
                .expect("small")
                .max(1);
            assert!(
                people.len() >= needed,
                "I4: opened with approvals of {people:?}: {record:?}"
            );
        }
        let window = Window {
            task: record.subject.clone(),
            closes_at,
            suspended: false,
            closing: false,
            settled: false,
        };
        assert!(
            self.windows.insert(id, window).is_none(),
            "I11: opened twice: {record:?}"
        );
        self.issued(record, &found["issuances"][0], closes_at);
    }

    fn window(&mut self, record: &Record) {
        let id = text(&record.body["window"]);
        let window = self.windows.get_mut(&id);
        let window = window.unwrap_or_else(|| panic!("I1: of no window: {record:?}"));
        assert_eq!(window.task, record.subject, "of another request: {record:?}");
        let is_live = !window.closing;
        match record.kind.as_str() {
            "window.renewed" => {
                assert!(is_live && !window.suspended, "I11: renewed after its end: {record:?}");
                assert!(
                    record.body.get("closes_at").is_none(),
                    "I5: it moves the end: {record:?}"
                );
                assert!(record.time < window.closes_at, "renewed when it was over: {record:?}");
                let closes_at = window.closes_at;
                self.issued(record, &record.body["issuance"], closes_at);
            }
            "window.extended" => {
                assert!(is_live, "I11: extended after its end: {record:?}");
                let needs = &self.requests[&record.subject].body["needs"]["approvals"];
                assert!(
                    needs.as_array().is_none_or(Vec::is_empty),
                    "I5: people approved it: {record:?}"
                );
                window.closes_at = record.body["closes_at"].as_i64().expect("an instant");
            }
            "window.suspended" => window.suspended = true,
            "window.resumed" => {
                assert!(is_live, "I11: resumed after its end: {record:?}");
                window.suspended = false;
            }
            "window.heartbeat" | "svid.revoked" => assert!(is_live, "I11: it has ended: {record:?}"),
            "window.closing" => {
                assert!(is_live, "I11: ended twice: {record:?}");
                assert!(record.body["epoch"].is_u64(), "an end without an epoch: {record:?}");
                window.closing = true;
            }
            _ => {
                assert!(!is_live, "it has not ended: {record:?}");
                assert!(!window.settled, "it was settled: {record:?}");
                window.settled = record.kind == "window.settled" || record.kind == "window.risk_accepted";
            }
        }
    }

    // I2
    fn issued(&mut self, record: &Record, issuance: &Value, closes_at: i64) {
        let not_after = issuance["not_after"].as_i64().expect("an instant");
        assert!(not_after < closes_at, "I2: it outlives its window: {record:?}");
        let before = self.recorded.insert(issuance["serial"].to_string(), record.revision);
        assert!(before.is_none(), "one SVID of two windows: {record:?}");
    }

    /// What has to be seen from the end: the order within a commit says nothing.
    fn compare(self, view: &Connection, records: &[Record]) -> Checked {
        for (serial, revision, _) in &self.task_svids {
            let recorded = self.recorded.get(serial);
            assert_eq!(recorded, Some(revision), "I1: SVID {serial} belongs to no window");
        }
        assert_eq!(
            self.recorded.len(),
            self.task_svids.len(),
            "windows have SVIDs that nobody signed"
        );
        for record in records {
            let phase = match record.kind.as_str() {
                "window.opened" => "open",
                "window.renewed" => "renew",
                "window.extended" => "extend",
                _ => continue,
            };
            let decided = (record.revision, record.subject.clone(), phase.to_owned());
            assert!(
                self.allowed.contains(&decided),
                "I1, I8: policy has not said yes: {record:?}"
            );
        }
        // I14
        let revision: i64 = view
            .query_row("SELECT revision FROM store", [], |row| row.get(0))
            .expect("the row is always there");
        let last = records.last().map_or(0, |record| record.revision);
        assert!(last <= revision, "I14: the state is behind its log");
        for (place, record) in records.iter().enumerate() {
            let expected = i64::try_from(place + 1).expect("a count");
            assert_eq!(record.index, expected, "I14: the log has a gap: {record:?}");
        }
        self.compare_state(view);
        Checked {
            requests: self.requests.len(),
            windows: self.windows.len(),
            svids: self.task_svids.len(),
            decisions: self.decisions,
        }
    }

    /// What the server goes by is what its log says.
    fn compare_state(&self, view: &Connection) {
        let mut statement = view.prepare("SELECT data FROM tasks").expect("plain SQL");
        let tasks = statement
            .query_map([], |row| row.get::<_, String>(0))
            .expect("the tasks can be read");
        for task in tasks {
            let task: Value = serde_json::from_str(&task.expect("a text")).expect("JSON");
            for held in task["windows"].as_array().into_iter().flatten() {
                let logged = self.windows.get(&text(&held["id"]));
                let logged = logged.unwrap_or_else(|| panic!("I14: not in the log: {held}"));
                let is_live = matches!(held["stage"].as_str(), Some("open" | "suspended"));
                assert_eq!(is_live, !logged.closing, "I14: the log says otherwise: {held}");
                assert_eq!(held["closes_at"].as_i64(), Some(logged.closes_at), "I14: {held}");
                for issuance in held["issuances"].as_array().into_iter().flatten() {
                    let known = self.intended.contains_key(&issuance["serial"].to_string());
                    assert!(known, "I3, I14: not in the log: {issuance}");
                }
            }
        }
    }
}

fn read(view: &Connection) -> Vec<Record> {
    let sql = "SELECT log_index, revision, kind, subject, time, body FROM log ORDER BY log_index";
    let mut statement = view.prepare(sql).expect("plain SQL");
    let rows = statement
        .query_map([], |row| {
            let body: String = row.get(5)?;
            Ok(Record {
                index: row.get(0)?,
                revision: row.get(1)?,
                kind: row.get(2)?,
                subject: row.get(3)?,
                time: row.get(4)?,
                body: serde_json::from_str(&body).unwrap_or(Value::Null),
            })
        })
        .expect("the log can be read");
    rows.map(|row| row.expect("a record")).collect()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
        .to_owned()
}
