//! How long decisions take: `cargo run --release -p mayfly-policy --example timing`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mayfly_model::task::Definition;
use mayfly_policy::{Access, CallFacts, Facts, Person, Phase, PolicySet, Verdict};

/// Decisions that are timed, after a tenth as many that are not.
const COUNT: usize = 5_000;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/policies");
    let mut files = BTreeMap::new();
    for file in fs::read_dir(&folder).expect("the examples are there") {
        let file = file.expect("a folder can be read").path();
        let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
        files.insert(name, fs::read_to_string(&file).expect("texts"));
    }
    let texts = files.clone();
    let definition = |name: &str| Definition::parse(&texts[name]).expect("an example");
    let builtin = PolicySet::builtin();
    let examples = load(&files);
    (0..1_000).for_each(|i| {
        files.insert(format!("other{i}.cedar"), other(i));
    });
    let crowded = load(&files);

    println!("{:<58} {:>8} {:>8} {:>8}", "decision, µs", "p50", "p99", "max");
    for (what, set) in [
        ("builtin", &builtin),
        ("6 examples", &examples),
        ("6 examples + 1,000 of other tasks", &crowded),
    ] {
        for (phase, file) in [
            (Phase::Open, "db-migrate.toml"),
            (Phase::Renew, "db-migrate.toml"),
            (Phase::Open, "export.toml"),
        ] {
            let facts = Facts::sample(phase, definition(file));
            time(&format!("{what}: {phase:?} {file}"), || set.decide(&facts));
        }
        let mut facts = Facts::sample(Phase::Request, definition("export.toml"));
        facts.approvals.clear();
        assert_eq!(set.decide(&facts).verdict, Verdict::Wait);
        time(&format!("{what}: Request that waits for two people"), || {
            set.decide(&facts)
        });
        let call = CallFacts {
            caller: Person {
                id: "alice".parse().expect("a name"),
                groups: Default::default(),
                key: None,
            },
            roles: vec!["registrar:/ns/pay/*".parse().expect("a role")],
            rpc: "spire.api.server.entry.v1.Entry/BatchCreateEntry".into(),
            access: Access::Register,
            paths: ["/ns/pay/web".into()].into(),
        };
        time(&format!("{what}: call with one path"), || set.authorize_call(&call));
    }
    let facts = Facts::sample(Phase::Open, definition("db-migrate.toml"));
    time("digest of the facts alone", || facts.digest());
}

fn load(files: &BTreeMap<String, String>) -> PolicySet {
    let begin = Instant::now();
    let set = PolicySet::load(files).unwrap_or_else(|errors| panic!("{errors}"));
    println!("loaded {} policies in {:.1?}", set.len(), begin.elapsed());
    set
}

fn other(i: usize) -> String {
    format!(
        "@id(\"other{i}\") forbid (principal, action in Mayfly::Action::\"use\", \
         resource == Mayfly::TaskDefinition::\"other/task{i}\") when {{ context.reason_length < {i} }};"
    )
}

fn time<T>(what: &str, decide: impl Fn() -> T) {
    let once = || {
        let begin = Instant::now();
        std::hint::black_box(decide());
        begin.elapsed()
    };
    (0..COUNT / 10).for_each(|_| {
        once();
    });
    let mut times: Vec<Duration> = (0..COUNT).map(|_| once()).collect();
    times.sort_unstable();
    let shown = |at: usize| times[at].as_nanos() as f64 / 1000.0;
    let (p50, p99, max) = (shown(COUNT / 2), shown(COUNT * 99 / 100), shown(COUNT - 1));
    println!("{what:<58} {p50:>8.1} {p99:>8.1} {max:>8.1}");
}
