use super::*;
use crate::app::tickets::TicketSource;

const MINIMAL: &str = "trust_domain = \"example.org\"\ndata_dir = \"data\"\n";

fn parse(text: &str) -> Result<Settings, Problems> {
    Settings::parse(Path::new("/etc/mayfly/server.toml"), text).map(|loaded| loaded.settings)
}

#[test]
fn two_keys_are_enough() {
    let settings = parse(MINIMAL).unwrap();
    assert_eq!(settings.data_dir, Path::new("/etc/mayfly/data"));
    assert_eq!(settings.bind_address.port(), 8081);
    assert!(settings.attestors.join_token && settings.roles == RoleMap::default());
}

#[test]
fn the_sample_in_deploy_states_the_defaults() {
    let sample = include_str!("../../../deploy/server.toml");
    let stated = parse(sample).unwrap();
    let bare = "trust_domain = \"example.org\"\ndata_dir = \"/var/lib/mayfly/server\"\n";
    let mut default = parse(bare).unwrap();
    // The one key that is off by default and shown on.
    default.health_address = stated.health_address;
    assert_eq!(format!("{stated:?}"), format!("{default:?}"));
}

// Promise 7
#[test]
fn every_problem_is_reported_at_once_with_line_and_hint() {
    let text = "trust_domain = \"Not A Domain\"\n\
                data_dri = \"x\"\n\
                [listen]\nbind_address = \"nonsense\"\n\
                [authority]\nttl = \"1h\"\nkey_type = \"dsa\"\n\
                [svid]\nx509_svid_ttl = \"50m\"\n\
                [attestor.join_token]\nenabled = false\n\
                [log]\nlevel = \"lound\"\n";
    let problems = parse(text).unwrap_err();
    let all = problems.to_string();
    for expected in [
        "server.toml:1: trust_domain",
        "data_dir",
        "server.toml:4: listen.bind_address",
        "server.toml:7: authority.key_type",
        "server.toml:9: svid.x509_svid_ttl",
        "attestor.join_token.enabled",
        "log.level",
        "data_dri",
    ] {
        assert!(all.contains(expected), "no `{expected}` in:\n{all}");
    }
    assert!(problems.len() >= 8, "{all}");
}

#[test]
fn an_authority_has_no_key_that_verifiers_of_svids_need_not_read() {
    for key_type in KeyType::ALL {
        let parsed = parse(&format!("{MINIMAL}[authority]\nkey_type = \"{key_type}\"\n"));
        assert_eq!(
            parsed.is_ok(),
            KeyType::OF_AUTHORITIES.contains(&key_type),
            "{key_type}"
        );
    }
    assert!(!KeyType::OF_AUTHORITIES.contains(&KeyType::Ed25519));
}

const PEOPLE: &str = r#"
[[groups]]
id = "pay/leads"
[[groups]]
id = "engineers"
members = ["pay/leads"]

[[people]]
id = "alice"
uids = [1000]
groups = ["pay/leads"]
[[people]]
id = "bob"
spiffe_ids = ["spiffe://Example.org/people/bob", "spiffe://partner.org/bob"]

[[workloads]]
path = "/ns/pay/*"
team = "pay"
environment = "prod"
owner = "bob"

[[operators]]
roles = ["viewer", "registrar:/ns/pay/*"]
groups = ["engineers"]
[[operators]]
roles = ["author"]
uids = [1001]

[tasks]
two_person = true

[tickets]
command = ["/usr/local/bin/ticket-state", "--json"]
cache = "0s"
"#;

#[test]
fn people_their_groups_and_their_roles_are_read_together() {
    let settings = parse(&format!("{MINIMAL}{PEOPLE}")).unwrap();
    let alice = settings.people.person_of_uid(1000).unwrap();
    let groups: Vec<&str> = alice.groups.iter().map(|group| group.as_str()).collect();
    assert_eq!(groups, ["engineers", "pay/leads"]);
    let facts = settings
        .people
        .workload_facts(&"spiffe://example.org/ns/pay/x".parse().unwrap());
    assert_eq!(facts.owner.unwrap().as_str(), "bob");
    assert!(settings.tasks.two_person);
    assert_eq!(settings.roles.operators.len(), 2);
    let command = ["/usr/local/bin/ticket-state", "--json"].map(String::from).to_vec();
    assert_eq!(settings.tickets.source, Some(TicketSource::Command(command)));
    // Without people nobody is a person, and no ticket is open.
    let bare = parse(MINIMAL).unwrap();
    assert!(bare.people.person_of_uid(0).is_none() && bare.tickets.source.is_none() && !bare.tasks.two_person);
}

// Promise 7
#[test]
fn each_mistake_about_people_is_told_with_its_line() {
    let whole = format!("{MINIMAL}{PEOPLE}");
    for (old, new, says) in [
        (
            "[\"pay/leads\"]\n\n",
            "[\"pay/lead\"]\n\n",
            "groups[1].members = [\"pay/lead\"]: `pay/lead` is no group",
        ),
        (
            "groups = [\"pay/leads\"]",
            "groups = [\"web/leads\"]",
            "people[0].groups",
        ),
        (
            "groups = [\"engineers\"]",
            "groups = [\"engineer\"]",
            "operators[0].groups",
        ),
        ("uids = [1000]\n", "", "nobody can prove to be this person"),
        ("uids = [1000]", "uids = []", "nobody can prove to be this person"),
        (
            "[[people]]\nid = \"bob\"",
            "[[people]]\nid = \"bob\"\nuids = [7, 1000]",
            "`1000` is that of `alice` already",
        ),
        (
            "uids = [1000]",
            "spiffe_ids = [\"spiffe://example.org/people/bob\"]",
            "`spiffe://example.org/people/bob` is that of `alice` already",
        ),
        (
            "id = \"bob\"",
            "id = \"alice\"",
            "people[1].id = \"alice\": is defined twice",
        ),
        ("id = \"bob\"", "id = \"uid-7\"", "begins with `uid-`"),
        ("id = \"bob\"", "id = \"Bob\"", "is not a name"),
        ("/people/bob\"", "/spire/agent/x\"", "/spire names servers and agents"),
        (
            "/people/bob\"",
            "/task/pay/x\"",
            "/task is minted from task windows only",
        ),
        ("id = \"engineers\"", "id = \"pay/leads\"", "groups[1].id"),
        (
            "owner = \"bob\"",
            "owner = \"carol\"",
            "workloads[0].owner = \"carol\": is nobody that there is",
        ),
        ("/ns/pay/*\"\nteam", "/task/*\"\nteam", "is a reserved path"),
        ("path = \"/ns/pay/*\"", "path = \"ns/pay\"", "is not a path"),
        ("team = \"pay\"", "teem = \"pay\"", "did you mean `team`?"),
        (
            "\"viewer\", ",
            "\"viewer:/ns/pay/*\", ",
            "`viewer` is for everything or not at all",
        ),
        ("\"viewer\", ", "\"wiewer\", ", "is no role"),
        ("registrar:/ns/pay/*", "registrar:ns/pay", "is no role"),
        ("uids = [1001]", "", "are those of nobody"),
        ("roles = [\"author\"]", "", "operators[1].roles: is missing"),
        (
            "\"/usr/local/bin/ticket-state\"",
            "\"ticket-state\"",
            "the whole path of a program",
        ),
        (
            "[\"/usr/local/bin/ticket-state\", \"--json\"]",
            "[]",
            "the whole path of a program",
        ),
        ("cache = \"0s\"", "cache = \"2m\"", "tickets.cache"),
        ("cache = \"0s\"", "url = \"https://t/{ticket}\"", "stands beside url"),
        ("cache = \"0s\"", "token_file = \"x\"", "is for url, which is not there"),
        ("two_person = true", "two_persons = true", "did you mean `two_person`?"),
        ("two_person = true", "retention = \"1h\"", "tasks.retention"),
        (
            "[tickets]",
            "[watch]\nbeacon_interval = \"5100ms\"\n[tickets]",
            "leaves no room in tasks.lease, which is 10s",
        ),
    ] {
        assert!(whole.contains(old), "{old}");
        let all = parse(&whole.replacen(old, new, 1)).unwrap_err().to_string();
        assert!(
            all.contains(says) && all.contains("server.toml:"),
            "no `{says}` in:\n{all}"
        );
    }
    let short = parse(&format!("{MINIMAL}[tasks]\nlease = \"4s\"\n"))
        .unwrap_err()
        .to_string();
    assert!(short.contains("at most half of the lease, 2s"), "{short}");
    assert!(parse(&format!("{MINIMAL}[tasks]\nlease = \"5s\"\n")).is_ok());
    let url = "[tickets]\nurl = \"http://tracker.example.org/{ticket}\"\n";
    let all = parse(&format!("{MINIMAL}{url}")).unwrap_err().to_string();
    assert!(
        all.contains("server.toml:4: tickets.url") && all.contains("neither https"),
        "{all}"
    );
}
