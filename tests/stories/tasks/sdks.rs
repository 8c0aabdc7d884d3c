//! The libraries that people have gain the task SVID when the window opens and lose it when it closes, with programs that
//! know nothing of tasks: the parent of each opens the window. A section of `docs/clients.md` comes of it.

use std::time::{Duration, Instant};

use mayfly_tests::tasks::{Guarded, TASK, TaskWorld};
use mayfly_tests::{Lane, Library, Program, TRUST_DOMAIN};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::clients::page::{self, Cell};

const PATIENCE: Duration = Duration::from_secs(90);
const FIRST_UID: u32 = 41_300;

const BY_ID: &str = "Its interface does not tell hints: the picker here looks at SPIFFE IDs.";
const CLOSES: &str =
    "There its source closes for good, as the picker raised an error; the others have the next window's.";
const OWN_SOURCE: &str = "Has no source: the one here is a few lines over its gRPC.";

/// Every language's workload may have the task.
const DEFINITION: &str = "\
    name = \"pay/db-migrate\"\nowner = \"ann\"\n\
    [allowed]\nworkloads = [\"/ns/pay/*\"]\n\
    [limits]\nmax_window = \"10m\"\n\
    [ending]\ncheckpoints = [\"/svc/pay-db\"]\n";
const PROMOTING: &str = "[identity]\npromote_default = true\n";

/// A library's program below a parent that opens windows.
struct Client {
    library: Library,
    program: Program,
    base: String,
    task: String,
    /// Where the service is.
    port: u16,
    /// What the watch had last.
    last: Vec<String>,
    /// The serial number that the base SVID has throughout.
    serial: Value,
    cells: Vec<Cell>,
    /// How long each update took to come after the word that led to it.
    times: Vec<(&'static str, Duration)>,
}

// S1, S44, S58; WAPI-11, WAPI-23
#[tokio::test(flavor = "multi_thread")]
async fn stock_sources_gain_the_task_svid_when_the_window_opens_and_lose_it_by_an_update_when_it_closes() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(DEFINITION).await;
    let guarded = world.guarded().await;
    let mut starting = vec![];
    for (uid, library) in (FIRST_UID..).zip(Library::PEERS) {
        world.entry(&path(library), uid).await;
        let (socket, port) = (world.agent.socket(), port(&guarded));
        // Threads of their own: building a program may take its time, and nothing else can be done meanwhile.
        starting.push(tokio::task::spawn_blocking(move || {
            let program = library.client_in_task(&socket, uid, TASK);
            Handle::current().block_on(Client::begin(library, program, port))
        }));
    }
    let mut clients = vec![];
    for client in starting {
        clients.push(client.await.expect("see above"));
    }

    for client in &mut clients {
        client.gains_beside_the_default().await;
        client.completes().await;
    }
    // No window is open: from now on the task SVID comes first.
    world.define(&format!("{DEFINITION}{PROMOTING}")).await;
    for client in &mut clients {
        client.gains_as_default().await;
        client.is_revoked(&world).await;
        client.has_seen_no_error();
    }
    report(&clients);
    world.check_log();
}

fn path(library: Library) -> String {
    format!("/ns/pay/{}", library.language().to_lowercase())
}

fn port(guarded: &Guarded) -> u16 {
    let (_, port) = guarded.address.rsplit_once(':').expect("an address with a port");
    port.parse().expect("a port")
}

fn ids(update: &Value) -> Vec<String> {
    let svids = update["svids"].as_array().expect("a list");
    let id = |svid: &Value| svid["spiffe_id"].as_str().expect("a text").to_owned();
    svids.iter().map(id).collect()
}

impl Client {
    /// Its watch and its sources have the base SVID, and the service refuses that.
    async fn begin(library: Library, mut program: Program, port: u16) -> Self {
        program.tell(json!({"watch": true})).await;
        let first = program.expect("update", PATIENCE).await;
        let mut client = Self {
            library,
            program,
            base: format!("spiffe://{TRUST_DOMAIN}{}", path(library)),
            task: format!("spiffe://{TRUST_DOMAIN}/task/{TASK}{}", path(library)),
            port,
            last: ids(&first),
            serial: first["svids"][0]["serial"].clone(),
            cells: vec![],
            times: vec![],
        };
        assert_eq!(client.last, [client.base.clone()], "{library}: {first}");
        client.sources_have_the_task(&[]).await;
        client.is_let_in_with(&[]).await;
        client.done("no window: the base SVID alone, which the service refuses", None);
        client
    }

    async fn gains_beside_the_default(&mut self) {
        let both = [self.base.clone(), self.task.clone()];
        let update = self.told_to("open", &both, "opened").await;
        let hint = &update["svids"][1]["hint"];
        assert!(hint.is_null() || *hint == format!("task/{TASK}"), "{update}");
        self.done("opened: the stream has the base SVID and the task SVID", None);

        self.sources_have_the_task(&["picked"]).await;
        let note = match self.library {
            Library::Python => Some(BY_ID),
            Library::Node => Some(OWN_SOURCE),
            _ => None,
        };
        self.done(
            "opened: a source that picks has the task SVID, one with its defaults the base SVID",
            note,
        );
        self.is_let_in_with(&["picked"]).await;
        self.done("opened: the service lets the task SVID in, and only that", None);
        assert_eq!(self.strict_has().await, json!(self.task), "{}", self.library);
    }

    async fn completes(&mut self) {
        let base = [self.base.clone()];
        self.told_to("complete", &base, "completed").await;
        self.sources_have_the_task(&[]).await;
        self.is_let_in_with(&[]).await;
        self.done(
            "completed: stream and sources are back at the base SVID, which the service refuses",
            None,
        );
        self.strict_comes_to_have(Value::Null).await;
    }

    async fn gains_as_default(&mut self) {
        let both = [self.task.clone(), self.base.clone()];
        self.told_to("open", &both, "opened, promoted").await;
        let (wanted, note) = match self.library {
            Library::Python => (Value::Null, Some(CLOSES)),
            Library::Node => (json!(self.task), Some(OWN_SOURCE)),
            _ => (json!(self.task), None),
        };
        self.strict_comes_to_have(wanted).await;
        self.done(
            "a picker that takes nothing but the task SVID has nothing between windows",
            note,
        );
        self.sources_have_the_task(&["default", "picked"]).await;
        self.is_let_in_with(&["default", "picked"]).await;
        self.done(
            "`promote_default`, opened: a source with its defaults has the task SVID; the service lets it in",
            None,
        );
    }

    /// Ended by an operator, with no word to the program or its parent.
    async fn is_revoked(&mut self, world: &TaskWorld) {
        let opened = self.program.seen("task");
        let window = opened.last().expect("it was opened")["window"]
            .as_str()
            .expect("a text");
        let begun = Instant::now();
        let outcome = world
            .cli
            .run(&["task", "revoke", "--window", window, "--reason", "a story"])
            .await;
        assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
        let base = [self.base.clone()];
        self.update(&base).await;
        self.times.push(("revoked", begun.elapsed()));
        self.sources_have_the_task(&[]).await;
        self.is_let_in_with(&[]).await;
        self.done(
            "`promote_default`, revoked from outside: stream and sources are back at the base SVID",
            None,
        );
    }

    /// In two windows: no watch ended or came again, no source refused, and the parent was always heard.
    fn has_seen_no_error(&mut self) {
        for trouble in ["retry", "ended", "refused"] {
            let seen = self.program.seen(trouble);
            assert!(seen.is_empty(), "{}: {seen:?}", self.library);
        }
        self.done("throughout: no error, and the same base SVID", None);
    }

    fn done(&mut self, case: &'static str, note: Option<&'static str>) {
        println!("{}: {case}: ok", self.library.language());
        self.cells.push(Cell { case, note });
    }

    /// Lets the parent do something; gives the update that comes of it to the program.
    async fn told_to(&mut self, what: &str, wanted: &[String], name: &'static str) -> Value {
        let before = self.program.seen("task").len();
        let begun = Instant::now();
        self.program.tell(json!({"task": what})).await;
        let update = self.update(wanted).await;
        self.times.push((name, begun.elapsed()));
        // The answer may come before the update or after it.
        if self.program.seen("task").len() == before {
            self.program.expect("task", PATIENCE).await;
        }
        let answers = self.program.seen("task");
        let answer = answers.last().expect("it has answered");
        assert!(answer["refused"].is_null(), "{}: {answer}", self.library);
        update
    }

    /// The update that has the `wanted` SVIDs; until then there are those that there were, if any come.
    async fn update(&mut self, wanted: &[String]) -> Value {
        loop {
            let update = self.program.expect("update", PATIENCE).await;
            let found = ids(&update);
            let svids = update["svids"].as_array().expect("a list");
            let base = svids.iter().find(|svid| svid["spiffe_id"] == self.base);
            let serial = base.map(|svid| &svid["serial"]);
            assert_eq!(
                serial,
                Some(&self.serial),
                "{}: the base SVID stays: {update}",
                self.library
            );
            if found == wanted {
                self.last = found;
                return update;
            }
            assert_eq!(found, self.last, "{}: {update}", self.library);
        }
    }

    /// Waits until those of the sources have the task SVID that are `named`, and the others the base SVID.
    async fn sources_have_the_task(&mut self, named: &[&str]) {
        let wanted =
            ["default", "picked"].map(|name| if named.contains(&name) { &self.task } else { &self.base }.clone());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = json!({"sources": format!("task/{TASK}")});
            let found = self.program.ask(told, &["sources", "refused"], PATIENCE).await;
            assert_eq!(found["event"], "sources", "{}: {found}", self.library);
            if ["default", "picked"].map(|name| found[name]["spiffe_id"].clone())
                == wanted.each_ref().map(|id| json!(id))
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{}: not {wanted:?} but {found}",
                self.library
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the source has whose picker takes nothing but the task SVID.
    async fn strict_has(&mut self) -> Value {
        let told = json!({"strict": format!("task/{TASK}")});
        let found = self.program.ask(told, &["strict"], PATIENCE).await;
        found["has"]["spiffe_id"].clone()
    }

    async fn strict_comes_to_have(&mut self, wanted: Value) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.strict_has().await;
            if found == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{}: not {wanted} but {found}", self.library);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The service lets in who has what the sources have that are `named`, and nobody else.
    async fn is_let_in_with(&mut self, named: &[&str]) {
        let server = format!("spiffe://{TRUST_DOMAIN}/svc/pay-db");
        for name in ["default", "picked"] {
            let told = json!({"reach": {"port": self.port, "server": server, "with": name}});
            let reached = self.program.ask(told, &["reached"], PATIENCE).await;
            let wanted = named.contains(&name).then(|| format!("{}\n", self.task));
            assert_eq!(reached["answer"], json!(wanted), "{}: {name}: {reached}", self.library);
        }
    }
}

/// Prints when updates came, and compares the page.
fn report(clients: &[Client]) {
    println!("updates, each after the word that led to it:");
    for client in clients {
        let times: Vec<String> = client
            .times
            .iter()
            .map(|(name, took)| format!("{name} {took:.1?}"))
            .collect();
        println!("{:>8}: {}", client.library.language(), times.join(", "));
    }
    let seen: Vec<Value> = clients
        .iter()
        .map(|client| {
            let times = client.times.iter();
            let ms = times.map(|(name, took)| ((*name).to_owned(), json!(took.as_millis() as u64)));
            json!({
                "library": client.library.name(), "version": client.library.version(),
                "cases": client.cells.len(), "ms": ms.collect::<serde_json::Map<_, _>>(),
            })
        })
        .collect();
    page::keep("tasks", &json!(seen));
    let results: Vec<(Library, Vec<Cell>)> = clients
        .iter()
        .map(|client| (client.library, client.cells.clone()))
        .collect();
    page::compare("tasks", &page::cases(&results));
}
