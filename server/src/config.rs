//! `server.toml`: as written, and as checked.
//!
//! Every problem is reported in one run, with file, line and hint. Secrets are never values in this file: keys live in the
//! key manager, tokens are made through the API.

mod people;
mod tasks;
mod witnesses;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_keys::KeyType;
use mayfly_runtime::config::{Problems, Reader, Section};
use mayfly_runtime::listen::Limits;
use mayfly_runtime::telemetry::{LogFormat, LogSettings, check_level};
use mayfly_svid::{SpiffeId, TrustDomain};

use crate::api::AttestLimits;
use crate::api::watch::WatchSettings;
use crate::app::authorities::AuthoritySettings;
use crate::app::caller::RoleMap;
use crate::app::evidence::witnesses::RemoteWitness;
use crate::app::issue::IssueSettings;
use crate::app::people::People;
use crate::app::standing::Operators;
use crate::app::tickets::TicketSettings;

pub use tasks::TaskConfig;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// Where private keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySettings {
    /// As files under the data folder, mode 0600.
    Disk,
    /// In memory: a restarted server has new authorities, and agents that know only the old ones must be told.
    Memory,
}

/// What may attest.
#[derive(Clone, Debug, Default)]
pub struct AttestorSettings {
    /// Whether join tokens are accepted.
    pub join_token: bool,
    /// The section of `x509pop`, if there is one.
    pub x509pop: Option<X509PopSettings>,
}

/// The section `[attestor.x509pop]`.
#[derive(Clone, Debug)]
pub struct X509PopSettings {
    /// PEM file with the authorities that sign nodes' certificates.
    pub ca_bundle_path: PathBuf,
    /// Longest chain between leaf and authority.
    pub max_intermediates: usize,
}

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain that this server issues for.
    pub trust_domain: TrustDomain,
    /// Database, keys and lock live here.
    pub data_dir: PathBuf,
    /// TCP address for agents and remote operators.
    pub bind_address: SocketAddr,
    /// Unix socket for local operators.
    pub socket_path: PathBuf,
    /// Its mode bits.
    pub socket_mode: u32,
    /// Address of the health and metrics pages; none if they are off.
    pub health_address: Option<SocketAddr>,
    /// Who may what.
    pub roles: RoleMap,
    /// Who is who.
    pub people: People,
    /// How tasks behave besides what their definitions say.
    pub tasks: TaskConfig,
    /// Who knows of tickets.
    pub tickets: TicketSettings,
    /// Where keys are.
    pub keys: KeySettings,
    /// What authorities are like.
    pub authority: AuthoritySettings,
    /// Lifetimes of what is issued.
    pub issue: IssueSettings,
    /// Node attestation.
    pub attestors: AttestorSettings,
    /// Bounds on attestation.
    pub attest_limits: AttestLimits,
    /// Bounds of the TCP listener.
    pub tcp_limits: Limits,
    /// Bounds of the Unix socket.
    pub unix_limits: Limits,
    /// How agents are told of changes.
    pub watch: WatchSettings,
    /// Time for open calls to end at the stop.
    pub drain: Duration,
    /// Logs.
    pub log: LogSettings,
    /// Witnesses of the transparency log, elsewhere.
    pub witnesses: Vec<RemoteWitness>,
}

/// Settings and what to log of them at start: each key in force, with its value.
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// `key`, `value`, in the order of the file.
    pub effective: Vec<(String, String)>,
}

impl Settings {
    /// Reads `path`.
    ///
    /// # Errors
    /// All problems of the file at once.
    pub fn load(path: &Path) -> Result<Loaded, Problems> {
        Self::read(&Reader::load(path)?)
    }

    /// Reads `text`, which came from `path`.
    ///
    /// # Errors
    /// All problems of the text at once.
    pub fn parse(path: &Path, text: &str) -> Result<Loaded, Problems> {
        Self::read(&Reader::parse(path, text)?)
    }

    fn read(reader: &Reader) -> Result<Loaded, Problems> {
        let root = reader.root();
        let trust_domain = root
            .string("trust_domain")
            .parse_with_hint(
                |text| TrustDomain::parse_folded(&text),
                "use a name that is yours, such as a DNS domain: two trust domains of one name can never federate",
            )
            .required();
        let data_dir = root.path("data_dir").required();
        let drain = root
            .duration("drain")
            .range(Duration::ZERO..=10 * 60 * SECOND)
            .or(10 * SECOND);

        let listen = reader.section("listen");
        let bind_address = listen
            .socket_addr("bind_address")
            .or(SocketAddr::from(([0, 0, 0, 0], 8081)));
        let socket_path = listen.path("socket_path").or(PathBuf::from("/run/mayfly/server.sock"));
        let socket_mode = listen.mode("socket_mode").or(0o666);
        let health_address = reader.section("health").socket_addr("bind_address").optional();

        let (people, operators) = people::read(reader, trust_domain.as_ref());
        let roles = roles(&reader.section("roles"), operators);
        let task_config = tasks::tasks(&reader.section("tasks"));
        let tickets = tasks::tickets(&reader.section("tickets"));
        let (keys, authority) = authority(&reader.section("authority"));
        let issue = IssueSettings {
            require_exceptions: task_config.require_exceptions,
            ..issue(&reader.section("svid"), authority.ttl)
        };
        let attestors = attestors(&reader.section("attestor"), reader);
        let (attest_limits, tcp_limits, unix_limits) = limits(&reader.section("limits"), drain);
        let watch = watch(&reader.section("watch"), task_config.lease);
        let log = log(&reader.section("log"));
        let witnesses = witnesses::read(&root);

        let settings = reader.finish(|| {
            Some(Self {
                trust_domain: trust_domain?,
                data_dir: data_dir?,
                bind_address,
                socket_path,
                socket_mode,
                health_address,
                roles,
                people,
                tasks: task_config,
                tickets,
                keys,
                authority,
                issue,
                attestors,
                attest_limits,
                tcp_limits,
                unix_limits,
                watch,
                drain,
                log,
                witnesses,
            })
        })?;
        Ok(Loaded {
            settings,
            effective: reader.effective(),
        })
    }
}

fn roles(section: &Section<'_>, operators: Vec<Operators>) -> RoleMap {
    let numbers = |key: &str| -> BTreeSet<u32> { section.integer_list::<u32>(key).or(vec![]).into_iter().collect() };
    let ids = |key: &str| -> BTreeSet<SpiffeId> {
        section
            .string_list(key)
            .parse_each(SpiffeId::parse_folded)
            .or(vec![])
            .into_iter()
            .collect()
    };
    RoleMap {
        admin_uids: numbers("admin_uids"),
        admin_gids: numbers("admin_gids"),
        viewer_uids: numbers("viewer_uids"),
        viewer_gids: numbers("viewer_gids"),
        admin_ids: ids("admin_ids"),
        viewer_ids: ids("viewer_ids"),
        operators,
    }
}

fn authority(section: &Section<'_>) -> (KeySettings, AuthoritySettings) {
    let keys = section
        .choice(
            "key_manager",
            &[("disk", KeySettings::Disk), ("memory", KeySettings::Memory)],
        )
        .or(KeySettings::Disk);
    let types: Vec<(String, KeyType)> = KeyType::OF_AUTHORITIES
        .iter()
        .map(|kind| (kind.to_string(), *kind))
        .collect();
    let choices: Vec<(&str, KeyType)> = types.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    let key_type = section.choice("key_type", &choices).or(KeyType::EcP256);
    let ttl = section.duration("ttl").range(30 * SECOND..=10 * YEAR).or(DAY);
    (keys, AuthoritySettings { ttl, key_type })
}

fn issue(section: &Section<'_>, authority_ttl: Duration) -> IssueSettings {
    let ttl = |key: &str| section.duration(key).range(5 * SECOND..=YEAR).or(HOUR);
    let settings = IssueSettings {
        x509_svid_ttl: ttl("x509_svid_ttl"),
        agent_ttl: ttl("agent_ttl"),
        require_exceptions: false,
    };
    // An authority signs until two thirds of its life, so a third of it is what every SVID can count on.
    for (key, ttl) in [
        ("x509_svid_ttl", settings.x509_svid_ttl),
        ("agent_ttl", settings.agent_ttl),
    ] {
        if ttl > authority_ttl / 3 {
            section.problem(
                key,
                "is more than a third of authority.ttl, so SVIDs would be cut short before each change of authority",
                "lower it, or raise authority.ttl to at least three times as much",
            );
        }
    }
    settings
}

fn attestors(section: &Section<'_>, reader: &Reader) -> AttestorSettings {
    let join_token = section.section("join_token").bool("enabled").or(true);
    let x509pop = section.optional_section("x509pop").and_then(|section| {
        let ca_bundle_path = section.path("ca_bundle_path").required();
        let max_intermediates = section.integer::<usize>("max_intermediates").range(1..=6).or(4);
        Some(X509PopSettings {
            ca_bundle_path: ca_bundle_path?,
            max_intermediates,
        })
    });
    if !join_token && x509pop.is_none() {
        reader.section("attestor").section("join_token").problem(
            "enabled",
            "leaves no way for an agent to attest",
            "keep join tokens, or add [attestor.x509pop] with ca_bundle_path",
        );
    }
    AttestorSettings { join_token, x509pop }
}

fn limits(section: &Section<'_>, drain: Duration) -> (AttestLimits, Limits, Limits) {
    let defaults = AttestLimits::default();
    let attest = AttestLimits {
        per_second: section
            .integer::<u32>("attestations_per_second")
            .range(1..=100_000)
            .or(defaults.per_second),
        burst: section
            .integer::<u32>("attestation_burst")
            .range(1..=100_000)
            .or(defaults.burst),
        concurrent: section
            .integer::<usize>("attestations")
            .range(1..=10_000)
            .or(defaults.concurrent),
        ..defaults
    };
    let defaults = Limits::default();
    let tcp = Limits {
        max_connections: section
            .integer::<u32>("connections")
            .range(1..=1_000_000)
            .or(defaults.max_connections),
        max_connections_per_peer: section
            .integer::<u32>("connections_per_address")
            .range(1..=1_000_000)
            .or(defaults.max_connections_per_peer),
        max_handshakes: section
            .integer::<u32>("handshakes")
            .range(1..=10_000)
            .or(defaults.max_handshakes),
        handshake_timeout: section
            .duration("handshake_timeout")
            .range(SECOND..=60 * SECOND)
            .or(defaults.handshake_timeout),
        max_connection_age: Some(section.duration("connection_age").range(60 * SECOND..=DAY).or(HOUR)),
        drain_timeout: drain,
        ..defaults
    };
    let unix_defaults = Limits::unix();
    let unix = Limits {
        max_connections_per_peer: section
            .integer::<u32>("connections_per_uid")
            .range(1..=100_000)
            .or(unix_defaults.max_connections_per_peer),
        drain_timeout: drain,
        ..unix_defaults
    };
    (attest, tcp, unix)
}

fn watch(section: &Section<'_>, lease: Duration) -> WatchSettings {
    let defaults = WatchSettings::default();
    let beacon_interval = section
        .duration("beacon_interval")
        .range(Duration::from_millis(100)..=60 * SECOND)
        .or(defaults.beacon_interval);
    // One beacon that is late must not take every task SVID away.
    if lease < 2 * beacon_interval {
        section.problem(
            "beacon_interval",
            &format!(
                "leaves no room in tasks.lease, which is {lease:?}: agents withdraw task SVIDs when no word came for so long",
            ),
            &format!("at most half of the lease, {:?}, or raise tasks.lease", lease / 2),
        );
    }
    WatchSettings {
        beacon_interval,
        lease,
        ack_timeout: section
            .duration("ack_timeout")
            .range(SECOND..=300 * SECOND)
            .or(defaults.ack_timeout),
        admitted: section
            .integer::<usize>("admitted")
            .range(1..=100_000)
            .or(defaults.admitted),
        admission_wait: section
            .duration("admission_wait")
            .range(Duration::from_millis(100)..=60 * SECOND)
            .or(defaults.admission_wait),
        digest_interval: section
            .duration("digest_interval")
            .range(SECOND..=DAY)
            .or(defaults.digest_interval),
    }
}

fn log(section: &Section<'_>) -> LogSettings {
    let level = section
        .string("level")
        .parse(|text| check_level(&text).map(|()| text))
        .or("info".to_owned());
    let format = section
        .choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
        .or(LogFormat::Text);
    LogSettings { level, format }
}

#[cfg(test)]
mod tests;
