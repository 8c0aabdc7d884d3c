//! A library's program as a client of the Workload API, and how to read what it says.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mayfly_tests::{Library, Program, TRUST_DOMAIN};
use serde_json::{Value, json};

/// For an answer of a program, which may have to start first.
pub(super) const ANSWER: Duration = Duration::from_secs(90);
/// For what comes by itself: longer than any library's longest back-off.
const BY_ITSELF: Duration = Duration::from_secs(150);
/// Between the end of a watch and the next, where that is the program's affair.
const BEFORE_AGAIN: Duration = Duration::from_millis(300);

/// A program and its watch.
pub(super) struct Client {
    library: Library,
    program: Program,
    reopened: usize,
}

/// SPIFFE ID and hint of each SVID of an answer. A library that tells no hints has none, not even an empty one.
pub(super) type Svids = BTreeSet<(String, Option<String>)>;

impl Client {
    pub(super) fn start(library: Library, socket: &Path, uid: u32) -> Self {
        Self {
            library,
            program: library.client(socket, uid),
            reopened: 0,
        }
    }

    pub(super) async fn ask(&mut self, command: Value, answers: &[&str]) -> Value {
        self.program.ask(command, answers, ANSWER).await
    }

    pub(super) async fn fetch(&mut self) -> Value {
        self.ask(json!({"fetch": true}), &["fetched", "refused"]).await
    }

    pub(super) async fn watch(&mut self) {
        self.program.tell(json!({"watch": true})).await;
    }

    /// What the watch says next that is `wanted`.
    ///
    /// It may not end meanwhile, but for a library that leaves it to its users to open the next one.
    pub(super) async fn update(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let ends = self.program.seen("ended");
            if let Some(end) = ends.get(self.reopened) {
                assert!(!self.library.watches(), "{}: {end}", self.library);
                tokio::time::sleep(BEFORE_AGAIN).await;
                self.watch().await;
                self.reopened += 1;
            }
            let line = self
                .program
                .find(BY_ITSELF, |line| {
                    line["event"] == "ended" || (line["event"] == "update" && wanted(line))
                })
                .await;
            if line["event"] == "update" {
                return line;
            }
        }
    }

    /// How often the watch has told so far that it was not served.
    pub(super) fn setbacks(&self) -> usize {
        self.program.seen("retry").len() + self.program.seen("ended").len()
    }

    /// The codes that the watch has ever told when it was not served, after `before` of them.
    pub(super) fn codes_after(&self, before: usize) -> BTreeSet<String> {
        let kind = if self.library.watches() { "retry" } else { "ended" };
        let setbacks = self.program.seen(kind);
        setbacks[before..].iter().map(|line| text(&line["code"])).collect()
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list<'a>(answer: &'a Value, member: &str) -> &'a [Value] {
    answer[member].as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn svids(answer: &Value) -> Svids {
    let hint = |svid: &Value| svid["hint"].as_str().map(str::to_owned);
    list(answer, "svids")
        .iter()
        .map(|svid| (text(&svid["spiffe_id"]), hint(svid)))
        .collect()
}

/// Whether the library says nothing of hints.
pub(super) fn hides_hints(answer: &Value) -> bool {
    list(answer, "svids").iter().all(|svid| svid["hint"].is_null())
}

/// What [`svids`] has to be, from paths and hints, for a library that tells hints as `like` does.
pub(super) fn expected(wanted: &[(&str, &str)], like: &Value) -> Svids {
    let tells = !hides_hints(like);
    wanted
        .iter()
        .map(|(path, hint)| {
            (
                format!("spiffe://{TRUST_DOMAIN}{path}"),
                tells.then(|| (*hint).to_owned()),
            )
        })
        .collect()
}

pub(super) fn serials(answer: &Value) -> BTreeSet<String> {
    list(answer, "svids").iter().map(|svid| text(&svid["serial"])).collect()
}

/// The trust domains whose bundles came, sorted.
pub(super) fn domains(answer: &Value) -> Vec<String> {
    let plain = |domain: &Value| text(domain).trim_start_matches("spiffe://").to_owned();
    let mut domains: Vec<String> = list(answer, "bundles").iter().map(plain).collect();
    domains.sort();
    domains
}
