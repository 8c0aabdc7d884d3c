//! The settings of one agent: read from one TOML file, checked as a whole.
//!
//! `deploy/agent.toml` shows every key with its default; a test loads it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_node_attest::{Builtin, Deps};
use mayfly_runtime::client::HostPort;
use mayfly_runtime::config::{Problems, Reader, Section};
use mayfly_runtime::telemetry::{self, LogFormat, LogSettings};
use mayfly_svid::TrustDomain;

use crate::api::ApiSettings;
use crate::attest::Attestors;
use crate::svids::SvidSettings;
use crate::sync::{BundleUrl, Evidence, TrustSource};
use crate::tasks::TaskSettings;

/// What an agent runs with. Nothing in here is a secret: those lie in files that are named here.
#[derive(Debug)]
pub struct Settings {
    /// The trust domain of the server and of the identities that it gives.
    pub trust_domain: TrustDomain,
    /// Where bundle, own key and SVID are kept.
    pub data_dir: PathBuf,
    /// The server.
    pub server: HostPort,
    /// Where the first trust bundle comes from, if none is kept yet.
    pub trust_source: Option<TrustSource>,
    /// What proves the node.
    pub evidence: Evidence,
    /// What describes processes.
    pub attestors: Attestors,
    /// The Workload API.
    pub api: ApiSettings,
    /// How SVIDs are asked for and kept.
    pub svids: SvidSettings,
    /// How windows of tasks are kept.
    pub tasks: TaskSettings,
    /// Logs.
    pub log: LogSettings,
    /// Where the health and metrics pages are; off if none.
    pub health: Option<SocketAddr>,
    /// How long open streams may take to end when the agent stops.
    pub drain: Duration,
    /// All settings in force, defaults included, as key and text: for the log at start.
    pub effective: Vec<(String, String)>,
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Attest by the join token in this file.
    pub join_token_file: Option<PathBuf>,
}

/// Reads and checks the file `path`.
///
/// # Errors
/// All problems at once.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Settings, Problems> {
    settings(&Reader::load(path)?, overrides)
}

/// Checks `text`, which came from `path`.
///
/// # Errors
/// All problems at once.
pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Settings, Problems> {
    settings(&Reader::parse(path, text)?, overrides)
}

fn settings(reader: &Reader, overrides: &Overrides) -> Result<Settings, Problems> {
    let root = reader.root();
    let trust_domain = root
        .string("trust_domain")
        .parse_with_hint(|text| text.parse::<TrustDomain>(), TRUST_DOMAIN_HINT)
        .required();
    let server = root
        .string("server_address")
        .parse_with_hint(|text| text.parse::<HostPort>(), SERVER_HINT)
        .required();
    let data_dir = root.path("data_dir").or("/var/lib/mayfly/agent".into());
    let drain = root
        .duration("drain")
        .range(MIN_DRAIN..=MAX_DRAIN)
        .or(Duration::from_secs(10));
    let trust_source = trust_source(&root);
    let evidence = evidence(reader, trust_domain.as_ref(), overrides);
    let attestors = Attestors::from_config(&reader.section("attest"));
    let api = api(reader, drain);
    let svids = svids(&reader.section("svid"));
    let tasks = tasks(&reader.section("tasks"));
    let log = log(&reader.section("log"));
    let health = reader.section("health").socket_addr("bind_address").optional();
    let effective = reader.effective();
    reader.finish(|| {
        Some(Settings {
            trust_domain: trust_domain?,
            data_dir,
            server: server?,
            trust_source,
            evidence: evidence?,
            attestors,
            api,
            svids,
            tasks,
            log,
            health,
            drain,
            effective,
        })
    })
}

const TRUST_DOMAIN_HINT: &str = "write the server's trust domain without spiffe://, for example example.org";
const SERVER_HINT: &str = "write host and port, for example server.example.org:8081";
const MIN_DRAIN: Duration = Duration::from_millis(100);
const MAX_DRAIN: Duration = Duration::from_secs(120);

fn trust_source(root: &Section<'_>) -> Option<TrustSource> {
    const KEYS: &str = "trust_bundle_path, trust_bundle_url and insecure_bootstrap";
    let path = root.path("trust_bundle_path").optional();
    let url = root
        .string("trust_bundle_url")
        .parse_with_hint(|text| text.parse::<BundleUrl>(), "write https://host/path")
        .optional();
    let insecure = root.bool("insecure_bootstrap").or(false);
    let given = [
        ("trust_bundle_path", path.map(TrustSource::Path)),
        ("trust_bundle_url", url.map(TrustSource::Url)),
        ("insecure_bootstrap", insecure.then_some(TrustSource::InsecureBootstrap)),
    ];
    let mut first = None;
    for (key, source) in given
        .into_iter()
        .filter_map(|(key, source)| source.map(|source| (key, source)))
    {
        if first.is_some() {
            root.problem(
                key,
                &format!("is one too many: at most one of {KEYS} may be set"),
                "keep the one you mean",
            );
        } else {
            first = Some(source);
        }
    }
    first
}

fn evidence(reader: &Reader, trust_domain: Option<&TrustDomain>, overrides: &Overrides) -> Option<Evidence> {
    let all = reader.section("attestor");
    let mut given: Vec<(&'static str, toml::Table, Vec<PathBuf>)> = Vec::new();
    if all.section("join_token").exists() || overrides.join_token_file.is_some() {
        let section = all.section("join_token");
        let written = section.path("token_file").optional();
        match overrides.join_token_file.clone().or(written) {
            Some(path) => given.extend(table(&section, "join_token", vec![("token_file", path)])),
            None => section.problem(
                "token_file",
                "is missing",
                "name the file with the token, or use --join-token-file",
            ),
        }
    }
    if all.section("x509pop").exists() {
        let section = all.section("x509pop");
        let paths = ["private_key_path", "certificate_path"].map(|key| (key, section.path(key).required()));
        let mut paths: Vec<_> = paths.into_iter().filter_map(|(key, path)| Some((key, path?))).collect();
        let complete = paths.len() == 2;
        paths.extend(
            section
                .path("intermediates_path")
                .optional()
                .map(|path| ("intermediates_path", path)),
        );
        if complete {
            given.extend(table(&section, "x509pop", paths));
        }
    }
    let written = all.section("join_token").exists() as usize + all.section("x509pop").exists() as usize;
    match (given.len(), written) {
        (0, 0) => {
            all.problem(
                "",
                "no node attestor is configured",
                "write [attestor.join_token] or [attestor.x509pop]",
            );
            None
        }
        (0, _) => None,
        (1, _) => {
            let (name, section, files) = given.remove(0);
            let deps = Deps {
                trust_domain: trust_domain?.clone(),
                base_dir: PathBuf::new(),
            };
            let builtin = Builtin::find(name)?;
            match (builtin.agent)(section, &deps) {
                Ok(half) => {
                    let remedy = remedy(name, &files);
                    Some(Evidence::new(half, files, remedy))
                }
                Err(error) => {
                    let what = telemetry::Chain(&error).to_string();
                    all.section(name).problem("", &what, "");
                    None
                }
            }
        }
        _ => {
            all.problem(
                "",
                "an agent attests in one way only, several are configured",
                "keep one [attestor.…] section",
            );
            None
        }
    }
}

/// The section as the node attestor reads it: paths that are ready to be opened.
fn table(
    section: &Section<'_>,
    name: &'static str,
    paths: Vec<(&'static str, PathBuf)>,
) -> Option<(&'static str, toml::Table, Vec<PathBuf>)> {
    let mut table = toml::Table::new();
    for (key, path) in &paths {
        let Some(text) = path.to_str() else {
            section.problem(key, "is a path that is not UTF-8", "rename the file");
            return None;
        };
        table.insert((*key).to_owned(), text.into());
    }
    Some((name, table, paths.into_iter().map(|(_, path)| path).collect()))
}

fn remedy(attestor: &str, files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|path| format!("`{}`", path.display())).collect();
    let files = files.join(", ");
    if attestor == "join_token" {
        format!(
            "a join token works once and for a limited time: make a new one (mayfly token create) and write it to \
             {files} with mode 600; the agent takes it up by itself"
        )
    } else {
        format!("replace {files} by what the server accepts for {attestor}; the agent takes it up by itself")
    }
}

fn api(reader: &Reader, drain: Duration) -> ApiSettings {
    let default = ApiSettings::default();
    let socket_path = reader.root().path("socket_path").or(default.socket_path);
    let section = reader.section("workload_api");
    let mut limits = default.limits;
    limits.max_connections = section
        .integer("max_connections")
        .range(1..=1_000_000)
        .or(limits.max_connections);
    limits.max_connections_per_peer = section
        .integer("max_connections_per_uid")
        .range(1..=1_000_000)
        .or(limits.max_connections_per_peer);
    limits.drain_timeout = drain;
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    ApiSettings {
        socket_path,
        socket_mode: section.mode("socket_mode").or(default.socket_mode),
        hold: section.duration("hold").range(ms(0)..=s(10)).or(default.hold),
        issue_hold: section
            .duration("issue_hold")
            .range(ms(0)..=s(30))
            .or(default.issue_hold),
        update_gap: section
            .duration("update_gap")
            .range(ms(0)..=s(10))
            .or(default.update_gap),
        reattest_interval: section
            .duration("reattest_interval")
            .range(s(1)..=s(3600))
            .or(default.reattest_interval),
        sweep_interval: section
            .duration("sweep_interval")
            .range(ms(50)..=s(60))
            .or(default.sweep_interval),
        attestations_at_a_time: section
            .integer("attestations_at_a_time")
            .range(1..=1024)
            .or(default.attestations_at_a_time),
        attestations_waiting: section
            .integer("attestations_waiting")
            .range(1..=65_536)
            .or(default.attestations_waiting),
        streams_per_uid: section
            .integer("streams_per_uid")
            .range(1..=1_000_000)
            .or(default.streams_per_uid),
        limits,
    }
}

fn svids(section: &Section<'_>) -> SvidSettings {
    let default = SvidSettings::default();
    let s = Duration::from_secs;
    SvidSettings {
        linger: section.duration("linger").range(s(0)..=s(600)).or(default.linger),
        batch_size: section.integer("batch_size").range(1..=500).or(default.batch_size),
        calls_in_flight: section
            .integer("calls_in_flight")
            .range(1..=64)
            .or(default.calls_in_flight),
        call_timeout: section
            .duration("call_timeout")
            .range(s(1)..=s(300))
            .or(default.call_timeout),
        ..default
    }
}

fn tasks(section: &Section<'_>) -> TaskSettings {
    let default = TaskSettings::default();
    let wanted = section.bool("tripwires").or(default.tripwires.is_some());
    TaskSettings {
        tripwires: default.tripwires.filter(|_| wanted),
        ..default
    }
}

fn log(section: &Section<'_>) -> LogSettings {
    let default = LogSettings::default();
    let checked = |level: String| telemetry::check_level(&level).map(|()| level);
    let level = section
        .string("level")
        .parse_with_hint(checked, "write error, warn, info, debug or trace");
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    LogSettings {
        level: level.or(default.level),
        format: section.choice("format", &formats).or(default.format),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        parse(Path::new("/etc/mayfly/agent.toml"), text, &Overrides::default()).map_err(|problems| problems.to_string())
    }

    const LEAST: &str = "trust_domain = 'example.org'\nserver_address = 'server:8081'\n";

    #[test]
    fn the_sample_shows_every_key_with_its_default() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/agent.toml");
        let written = load(Path::new(sample), &Overrides::default()).unwrap_or_else(|problems| panic!("{problems}"));
        let least = read(&format!(
            "{LEAST}[attestor.join_token]\ntoken_file = '/run/mayfly/join-token'\n"
        ))
        .unwrap();
        assert_eq!(written.api, least.api);
        assert_eq!(written.svids, least.svids);
        assert_eq!(written.tasks, least.tasks);
        assert_eq!(written.log, least.log);
        assert_eq!((&written.data_dir, written.drain), (&least.data_dir, least.drain));
        let number = |settings: &Settings, wanted: &str| {
            let (_, value) = settings.effective.iter().find(|(key, _)| key == wanted)?;
            value.parse::<i64>().ok()
        };
        let text = std::fs::read_to_string(sample).unwrap();
        for (key, _) in &least.effective {
            if let (Some(shown), Some(default)) = (number(&written, key), number(&least, key)) {
                assert_eq!(shown, default, "{key}");
            }
            let name = key.rsplit('.').next().unwrap();
            let shown = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} ="));
            assert!(text.lines().any(shown), "`{key}` is not in the sample");
        }
    }

    #[test]
    fn tripwires_are_on_unless_somebody_says_no() {
        let least = format!("{LEAST}[attestor.join_token]\ntoken_file = 't'\n");
        assert!(read(&least).unwrap().tasks.tripwires.is_some());
        let off = read(&format!("{least}[tasks]\ntripwires = false\n"));
        assert_eq!(off.unwrap().tasks.tripwires, None);
    }

    #[test]
    fn paths_start_at_the_folder_of_the_file() {
        let text =
            format!("{LEAST}data_dir = 'd'\ntrust_bundle_path = 'b.pem'\n[attestor.join_token]\ntoken_file = 't'\n");
        let settings = read(&text).unwrap();
        assert_eq!(settings.data_dir, Path::new("/etc/mayfly/d"));
        assert_eq!(
            settings.trust_source,
            Some(TrustSource::Path("/etc/mayfly/b.pem".into()))
        );
        assert_eq!(settings.evidence.name(), "join_token");
    }

    #[test]
    fn all_problems_are_told_in_one_run() {
        let text = "trust_domain = 'spiffe://x/y'\nserver_address = 'server'\ntrust_bundle_url = 'http://x/'\n\
                    [attestor.x509pop]\nprivate_key_path = 'k'\n[workload_api]\nhold = '5'\nholdd = '1s'\n";
        let problems = read(text).unwrap_err();
        for expected in [
            "agent.toml:1: trust_domain",
            "agent.toml:2: server_address",
            "agent.toml:3: trust_bundle_url",
            "only https://",
            "certificate_path",
            "workload_api.hold = ",
            "did you mean `hold`?",
        ] {
            assert!(problems.contains(expected), "{expected} is missing in:\n{problems}");
        }
    }

    #[test]
    fn trust_comes_from_one_place_and_the_node_is_proved_in_one_way() {
        let both = format!(
            "{LEAST}trust_bundle_path = 'b'\ninsecure_bootstrap = true\n[attestor.join_token]\ntoken_file = 't'\n\
             [attestor.x509pop]\nprivate_key_path = 'k'\ncertificate_path = 'c'\n"
        );
        let problems = read(&both).unwrap_err();
        assert!(
            problems.contains("insecure_bootstrap") && problems.contains("one too many"),
            "{problems}"
        );
        assert!(problems.contains("in one way only"), "{problems}");
        assert!(read(LEAST).unwrap_err().contains("no node attestor is configured"));
    }

    #[test]
    fn a_token_file_can_be_named_on_the_command_line() {
        let overrides = Overrides {
            join_token_file: Some("/tmp/token".into()),
        };
        let read = |text: &str| parse(Path::new("agent.toml"), text, &overrides);
        assert_eq!(read(LEAST).unwrap().evidence.name(), "join_token");
        assert!(read(&format!("{LEAST}[attestor.join_token]\n")).is_ok());
    }

    #[test]
    fn a_node_can_be_proved_by_its_certificate() {
        let text = format!("{LEAST}[attestor.x509pop]\nprivate_key_path = 'k'\ncertificate_path = 'c'\n");
        assert_eq!(read(&text).unwrap().evidence.name(), "x509pop");
    }

    #[test]
    fn a_token_is_never_a_value_in_the_file() {
        let text = format!("{LEAST}[attestor.join_token]\ntoken = 'squeamish'\ntoken_file = 't'\n");
        let problems = read(&text).unwrap_err();
        assert!(
            problems.contains("token_file") && !problems.contains("squeamish"),
            "{problems}"
        );
    }
}
