//! Each library alone with the Workload API, from its first SVID through all that an agent can do to it.
//!
//! All libraries go through the same scene at the same time, each with its own server and agent. What a library makes of
//! it beyond the common contract is a note on the page.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_proto::spire::types::EntryMask;
use mayfly_tests::{Agent, AgentOptions, EntrySpec, Lane, Library, Server, TRUST_DOMAIN, eventually};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::client::{ANSWER, Client, domains, expected, hides_hints, serials, svids, text};
use super::page::{self, Cell};

const NO_HINTS: &str = "Its interface does not tell hints.";
const SILENT: &str = "Comes again without telling the program why.";
const KEEPS: &str = "Tells the program of the refusal; what to do with the SVID it has is the program's affair.";
const WITHDRAWS: &str = "Withdraws the SVID by itself.";
const LEFT_TO_USERS: &str = "Has no watch that comes again: the program here opens the next one.";
const HIDES_MESSAGE: &str = "Tells the code but not the message.";

/// One library, in its own corner.
struct Scene {
    library: Library,
    uid: u32,
    server: Server,
    agent: Agent,
    client: Client,
    cells: Vec<Cell>,
}

// Promise 2; WEP-08, WEP-20, WEP-23, WEP-27, WEP-29, WAPI-06, WAPI-09, WAPI-12, WAPI-30, WAX-01, WAX-02, WAX-13, WAX-19,
// IOP-01, IOP-14, IOP-15, IOP-17, IOP-20
#[tokio::test(flavor = "multi_thread")]
async fn every_library_fetches_watches_and_recovers_as_the_page_says() {
    let _lane = Lane::shared();
    // Threads of their own: building a program may take its time, and nothing else can be done meanwhile.
    let play = |library| tokio::task::spawn_blocking(move || Handle::current().block_on(play(library)));
    let scenes: Vec<_> = Library::ALL
        .into_iter()
        .map(|library| (library, play(library)))
        .collect();
    let mut results = vec![];
    let mut failed = vec![];
    for (library, scene) in scenes {
        match scene.await {
            Ok(cells) => results.push((library, cells)),
            Err(_) => failed.push(library.name()),
        }
    }
    assert!(failed.is_empty(), "see above what went wrong with {failed:?}");
    let seen: Vec<Value> = results
        .iter()
        .flat_map(|(library, cells)| cells.iter().map(move |cell| (library, cell)))
        .map(|(library, Cell { case, note })| {
            json!({"library": library.name(), "version": library.version(), "case": case, "note": note})
        })
        .collect();
    page::keep("cases", &json!(seen));
    page::compare("cases", &page::cases(&results));
}

async fn play(library: Library) -> Vec<Cell> {
    let mut scene = Scene::set(library).await;
    let entry = scene.first_svid().await;
    scene.rotation(&entry).await;
    scene.several_svids(&entry).await;
    scene.redaction(&entry).await;
    scene.refusals().await;
    scene.late_entry().await;
    scene.restart_of_the_agent().await;
    scene.agent_that_cannot_answer().await;
    scene.cells
}

impl Scene {
    async fn set(library: Library) -> Self {
        let server = Server::start().await;
        // It says at this level how each stream ends.
        let options = AgentOptions {
            workload_api: "[log]\nlevel = \"debug\"\n".into(),
            ..Default::default()
        };
        let agent = Agent::join_with(&server, options).await;
        let place = Library::ALL.iter().position(|other| *other == library);
        let uid = 43_000 + 10 * u32::try_from(place.expect("one of all")).expect("a few");
        let client = Client::start(library, &agent.socket(), uid);
        Self {
            library,
            uid,
            server,
            agent,
            client,
            cells: vec![],
        }
    }

    fn done(&mut self, case: &'static str, note: Option<&'static str>) {
        println!(
            "{}: {case}: ok{}",
            self.library,
            note.map(|note| format!(" ({note})")).unwrap_or_default()
        );
        self.cells.push(Cell { case, note });
    }

    /// What there is to say of a watch that was not served for a while, with these codes.
    fn watch_note(&self, told: &BTreeSet<String>) -> Option<&'static str> {
        match self.library {
            Library::Grpcio | Library::Node => Some(LEFT_TO_USERS),
            _ => told.is_empty().then_some(SILENT),
        }
    }

    fn entry(&self, path: &str) -> EntrySpec {
        EntrySpec::new(path, self.agent.id(), &[&format!("unix:uid:{}", self.uid)])
    }

    async fn first_svid(&mut self) -> String {
        let entry = self.server.admin().create(&self.entry("/first").ttl(20)).await;
        let fetched = self.client.fetch().await;
        assert_eq!(fetched["event"], "fetched", "{}: {fetched}", self.library);
        assert_eq!(
            svids(&fetched),
            expected(&[("/first", "")], &fetched),
            "{}: {fetched}",
            self.library
        );
        assert_eq!(domains(&fetched), [TRUST_DOMAIN], "{}: {fetched}", self.library);
        self.done("one-shot fetch of SVIDs and bundle", None);

        let answered = self
            .client
            .ask(json!({"call": "FetchX509Bundles"}), &["answered"])
            .await;
        assert_eq!(answered["code"], "OK", "{}: {answered}", self.library);
        assert_eq!(domains(&answered), [TRUST_DOMAIN], "{}: {answered}", self.library);
        self.done("`FetchX509Bundles`", None);
        entry
    }

    async fn rotation(&mut self, entry: &str) {
        self.client.watch().await;
        let first = self.client.update(|_| true).await;
        assert_eq!(domains(&first), [TRUST_DOMAIN], "{}: {first}", self.library);
        let next = self
            .client
            .update(|update| serials(update).is_disjoint(&serials(&first)))
            .await;
        self.done("watch: a renewed SVID comes by itself", None);

        self.server.restart().await;
        let old = serials(&next);
        self.client.update(|update| serials(update).is_disjoint(&old)).await;
        self.done("watch: goes on while the server restarts", None);

        // From here on what is new is new because of what the story does.
        let (spec, mask) = (
            EntrySpec {
                id: entry.into(),
                ..self.entry("/first")
            },
            EntryMask {
                x509_svid_ttl: true,
                ..Default::default()
            },
        );
        self.server.admin().try_update(spec.to_wire(), mask).await.unwrap();
    }

    async fn several_svids(&mut self, entry: &str) {
        let admin = self.server.admin();
        let spec = EntrySpec {
            id: entry.into(),
            hint: "internal".into(),
            ..self.entry("/first")
        };
        let mask = EntryMask {
            hint: true,
            ..Default::default()
        };
        admin.try_update(spec.to_wire(), mask).await.unwrap();
        let second = admin
            .create(&EntrySpec {
                hint: "external".into(),
                ..self.entry("/second")
            })
            .await;
        let wanted = [("/first", "internal"), ("/second", "external")];
        let both = self
            .client
            .update(|update| svids(update) == expected(&wanted, update))
            .await;
        let silent = hides_hints(&both);
        let fetched = self.client.fetch().await;
        assert_eq!(svids(&fetched), svids(&both), "{}", self.library);
        self.done("two SVIDs with hints", silent.then_some(NO_HINTS));

        admin.delete(&second).await;
        self.client
            .update(|update| svids(update) == expected(&[("/first", "internal")], update))
            .await;
        self.done("watch: one of two SVIDs is taken away", None);
    }

    async fn redaction(&mut self, entry: &str) {
        let before = self.client.setbacks();
        self.server.admin().delete(entry).await;
        let refused = self.refusal_of_fetch("PERMISSION_DENIED", "no identity issued").await;
        self.done("no entry any more: fetch sees `PERMISSION_DENIED`", refused);

        self.server.admin().create(&self.entry("/again")).await;
        self.client
            .update(|update| svids(update) == expected(&[("/again", "")], update))
            .await;
        let told = self.client.codes_after(before);
        assert!(
            told.is_subset(&BTreeSet::from(["PERMISSION_DENIED".into()])),
            "{}: {told:?}",
            self.library
        );
        let own = if self.library == Library::Rust {
            WITHDRAWS
        } else {
            KEEPS
        };
        self.done(
            "watch: outlives `PERMISSION_DENIED`; a new entry comes by itself",
            self.watch_note(&told).or(Some(own)),
        );
    }

    async fn refusals(&mut self) {
        for header in [Value::Null, json!("True"), json!("")] {
            let raw = json!({"raw": {"method": "FetchX509SVID", "header": header}});
            let refused = self.client.ask(raw, &["fetched", "refused"]).await;
            assert_eq!(
                refused["code"], "INVALID_ARGUMENT",
                "{}: {header}: {refused}",
                self.library
            );
        }
        let raw = json!({"raw": {"method": "FetchX509SVID", "header": "true"}});
        let fetched = self.client.ask(raw, &["fetched", "refused"]).await;
        assert_eq!(
            svids(&fetched),
            expected(&[("/again", "")], &fetched),
            "{}: {fetched}",
            self.library
        );
        self.done("security header missing or not `true`: `INVALID_ARGUMENT`", None);

        for rpc in ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"] {
            let answered = self.client.ask(json!({"call": rpc}), &["answered"]).await;
            assert_eq!(answered["code"], "UNIMPLEMENTED", "{}: {rpc}: {answered}", self.library);
        }
        self.done("JWT-SVIDs, which Mayfly does not offer: `UNIMPLEMENTED`", None);
    }

    /// A program that is there before its entry.
    async fn late_entry(&mut self) {
        let (library, uid) = (self.library, self.uid + 1);
        let mut late = Client::start(library, &self.agent.socket(), uid);
        let before = self.agent.daemon.log().matches("reason=NoIdentity").count();
        let refused = late.fetch().await;
        assert_eq!(refused["code"], "PERMISSION_DENIED", "{library}: {refused}");
        late.watch().await;
        // One refusal for the fetch, one for the watch.
        eventually("the watch to be refused", ANSWER, async || {
            (self.agent.daemon.log().matches("reason=NoIdentity").count() > before + 1).then_some(())
        })
        .await;
        let selector = format!("unix:uid:{uid}");
        let spec = EntrySpec::new("/late", self.agent.id(), &[&selector]);
        self.server.admin().create(&spec).await;
        let update = late.update(|_| true).await;
        assert_eq!(
            svids(&update),
            expected(&[("/late", "")], &update),
            "{library}: {update}"
        );
        self.done(
            "watch: begun before there is an entry, gets the SVID when there is one",
            None,
        );
    }

    async fn restart_of_the_agent(&mut self) {
        let (before, fetched) = (self.client.setbacks(), self.client.fetch().await);
        self.agent.restart().await;
        let old = serials(&fetched);
        self.client.update(|update| serials(update).is_disjoint(&old)).await;
        let told = self.client.codes_after(before);
        assert!(
            told.is_subset(&BTreeSet::from(["UNAVAILABLE".into()])),
            "{}: {told:?}",
            self.library
        );
        self.done(
            "watch: drained with `UNAVAILABLE` and back after a restart of the agent",
            self.watch_note(&told),
        );
    }

    /// An agent that is down, then one that has not heard its server yet, then everything is well again.
    async fn agent_that_cannot_answer(&mut self) {
        let (before, fetched) = (self.client.setbacks(), self.client.fetch().await);
        let old = serials(&fetched);
        self.agent.daemon.stop();
        let refused = self.client.fetch().await;
        assert_eq!(refused["code"], "UNAVAILABLE", "{}: {refused}", self.library);
        self.done("agent down: fetch sees `UNAVAILABLE`", None);

        self.server.daemon.stop();
        self.agent.daemon.start();
        let hidden = self
            .refusal_of_fetch("UNAVAILABLE", "has not heard its server yet")
            .await;
        self.done("agent up without its server: fetch sees `UNAVAILABLE` and why", hidden);

        self.server.daemon.start();
        self.server.wait_ready().await;
        self.client.update(|update| serials(update).is_disjoint(&old)).await;
        let told = self.client.codes_after(before);
        assert!(
            told.is_subset(&BTreeSet::from(["UNAVAILABLE".into()])),
            "{}: {told:?}",
            self.library
        );
        self.done("watch: outlives both and comes back by itself", self.watch_note(&told));
    }

    /// Fetches until the refusal has this message; every refusal before it has the same code. A note, if the library
    /// hides messages.
    async fn refusal_of_fetch(&mut self, code: &str, message: &str) -> Option<&'static str> {
        for _ in 0..200 {
            let refused = self.client.fetch().await;
            // What was cached a moment ago may still be told.
            if refused["event"] == "fetched" && code == "PERMISSION_DENIED" {
                continue;
            }
            assert_eq!(refused["code"], code, "{}: {refused}", self.library);
            if text(&refused["message"]).contains(message) {
                return None;
            }
            if text(&refused["message"]).is_empty() {
                return Some(HIDES_MESSAGE);
            }
            // A connection that failed is tried again after a second at the earliest.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("{} never heard `{message}`", self.library);
    }
}
