use std::fmt::Debug;
use std::net::SocketAddr;

use super::*;
use std::time::Duration;

#[derive(Debug)]
struct Settings {
    data_dir: PathBuf,
    listen: SocketAddr,
    ttl: Duration,
    roles: Vec<(String, Vec<String>)>,
    attestors: Vec<(String, u32)>,
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// What a daemon does with its file.
fn read(text: &str) -> Result<(Settings, Vec<(String, String)>), Problems> {
    let reader = Reader::parse(Path::new("/etc/app/server.toml"), text)?;
    let root = reader.root();
    let data_dir = root.path("data_dir").required();
    let listen = root.socket_addr("listen").or(SocketAddr::from(([127, 0, 0, 1], 8081)));
    let _ = root.bool("verbose").or(false);
    let _ = root.integer::<u16>("workers").range(1..=64).or(4);
    let _ = root.size("buffer").optional();
    let _ = root.mode("socket_mode").or(0o660);
    let ca = reader.section("ca");
    let ttl = ca.duration("ttl").range(minutes(1)..=minutes(1440)).or(minutes(60));
    let authority = ca.duration("authority_ttl").or(minutes(1440));
    if ttl > authority {
        ca.problem(
            "ttl",
            "outlives the authority that signs it",
            "lower it, or raise ca.authority_ttl",
        );
    }
    let _ = ca.choice("key_type", &[("ec-p256", 1), ("rsa-2048", 2)]).or(1);
    let mut roles = Vec::new();
    for role in reader.root().section_list("role") {
        let name = role.string("name").required();
        let users = role
            .string_list("users")
            .parse_each(|user| {
                if user.contains(' ') {
                    Err("has a space")
                } else {
                    Ok(user.to_owned())
                }
            })
            .or(Vec::new());
        roles.extend(name.map(|name| (name, users)));
    }
    let mut attestors = Vec::new();
    for (name, section) in reader.root().named_sections("attestor") {
        attestors.push((name, section.integer("depth").or(3)));
    }
    let settings = reader.finish(|| {
        Some(Settings {
            data_dir: data_dir?,
            listen,
            ttl,
            roles,
            attestors,
        })
    })?;
    Ok((settings, reader.effective()))
}

#[test]
fn every_problem_of_a_bad_file_is_reported_at_once_with_its_line_and_a_hint() {
    let bad = r#"
listen = "localhost:8081"
verbose = "yes"
workers = 500
buffer = "10MB"
socket_mode = "999"
join_token = "s3cret"

[ca]
ttl = "90d"
autority_ttl = "24h"
key_type = "ec-p265"

[[role]]
users = ["alice", "bob the builder"]

[[role]]
name = "reader"
user = ["carol"]

[attestor.pop]
depth = "three"

[atestor.tpm]
depth = 1
"#;
    let problems = read(bad).unwrap_err();
    let golden = r#"
/etc/app/server.toml: data_dir: is missing
  hint: add `data_dir = …` before the first section
/etc/app/server.toml:2: listen = "localhost:8081": is not an address with a port
  hint: write an IP address and a port: 127.0.0.1:8081, 0.0.0.0:8081, [::1]:8081
/etc/app/server.toml:3: verbose = "yes": is a string, not true or false
  hint: write it without quotes
/etc/app/server.toml:4: workers = 500: must be from 1 to 64
/etc/app/server.toml:5: buffer = "10MB": is not a size
  hint: write a number and a unit: 512B, 64KiB, 10MiB, 1GiB
/etc/app/server.toml:6: socket_mode = "999": is not a file mode
  hint: write it in octal: "0660"
/etc/app/server.toml:7: join_token: unknown key
  hint: known here: attestor, buffer, ca, data_dir, listen, role, socket_mode, verbose, workers
/etc/app/server.toml:10: ca.ttl = "90d": must be from 1m to 1d
/etc/app/server.toml:11: ca.autority_ttl: unknown key
  hint: did you mean `authority_ttl`?
/etc/app/server.toml:12: ca.key_type = "ec-p265": must be one of ec-p256, rsa-2048
  hint: did you mean "ec-p256"?
/etc/app/server.toml:14: role[0].name: is missing
  hint: add `name = …` to [role[0]]
/etc/app/server.toml:15: role[0].users[1] = "bob the builder": has a space
/etc/app/server.toml:19: role[1].user: unknown key
  hint: did you mean `users`?
/etc/app/server.toml:22: attestor.pop.depth = "three": is a string, not a whole number
  hint: write it without quotes
/etc/app/server.toml:24: atestor: unknown section
  hint: did you mean `attestor`?
"#;
    assert_eq!(problems.to_string(), golden.trim());
}

#[test]
fn a_good_file_gives_settings_and_lists_what_is_in_force() {
    let good = r#"
data_dir = "var"
listen = "[::1]:9000"
[ca]
ttl = "1h30m"
[[role]]
name = "admin"
users = ["root"]
[attestor.z_first]
[attestor.a_second]
depth = 5
"#;
    let (settings, effective) = read(good).unwrap();
    assert_eq!(
        settings.data_dir,
        Path::new("/etc/app/var"),
        "relative to the folder of the file"
    );
    assert_eq!(settings.listen.to_string(), "[::1]:9000");
    assert_eq!(settings.ttl, minutes(90));
    assert_eq!(settings.roles, [("admin".to_owned(), vec!["root".to_owned()])]);
    assert_eq!(
        settings.attestors,
        [("z_first".to_owned(), 3), ("a_second".to_owned(), 5)]
    );
    let listing: Vec<_> = effective
        .iter()
        .map(|(key, value)| format!("{key} = {value}"))
        .collect();
    assert!(listing.contains(&"ca.ttl = \"1h30m\"".to_owned()), "{listing:?}");
    assert!(
        listing.contains(&"ca.authority_ttl = 1d".to_owned()),
        "defaults as well: {listing:?}"
    );
    assert!(listing.contains(&"role[0].name = \"admin\"".to_owned()), "{listing:?}");
}

#[test]
fn settings_that_do_not_fit_each_other_are_reported_at_the_line_of_the_key() {
    let problems = read("data_dir = '/d'\n[ca]\nttl = '3h'\nauthority_ttl = '2h'\n").unwrap_err();
    let expected = "/etc/app/server.toml:3: ca.ttl = \"3h\": outlives the authority that signs it\n  \
                    hint: lower it, or raise ca.authority_ttl";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn a_syntax_error_has_its_line_and_does_not_show_the_text_of_it() {
    let problems = read("data_dir = '/d'\n\ntoken = s3cret hunter2\n").unwrap_err();
    let text = problems.to_string();
    assert!(text.starts_with("/etc/app/server.toml:3: "), "{text}");
    assert!(!text.contains("s3cret") && !text.contains("hunter2"), "{text}");
    let text = read("data_dir = '/d'\ndata_dir = '/e'\n").unwrap_err().to_string();
    assert!(text.starts_with("/etc/app/server.toml:2: "), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_named_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let text = Reader::load(&dir.path().join("none.toml")).unwrap_err().to_string();
    assert!(text.contains("none.toml") && text.contains("hint: create it"), "{text}");
}

#[test]
fn a_section_in_the_place_of_a_value_and_the_reverse_are_reported_once() {
    let text = read("data_dir = '/d'\nca = 5\nrole = 'x'\n[listen]\nport = 1\n")
        .unwrap_err()
        .to_string();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("  hint")).collect();
    assert_eq!(
        lines,
        [
            "/etc/app/server.toml:2: ca = 5: is an integer, not a section",
            "/etc/app/server.toml:3: role = \"x\": is a string, not a list of sections, each written [[…]]",
            "/etc/app/server.toml:4: listen: is a section, not a string",
        ]
    );
}

#[test]
fn a_key_in_the_wrong_section_is_told_where_it_belongs() {
    let text = read("data_dir = '/d'\n[ca]\nsocket_mode = '600'\n")
        .unwrap_err()
        .to_string();
    assert!(
        text.ends_with("hint: `socket_mode` belongs to the top of the file"),
        "{text}"
    );
}

#[test]
fn numbers_that_do_not_fit_are_problems_and_never_wrap() {
    for number in ["-1", "65536", "9223372036854775808", "0x1_0000"] {
        let text = read(&format!("data_dir = '/d'\nworkers = {number}\n"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("is out of range"), "{number}: {text}");
    }
}

#[test]
fn a_list_of_numbers_may_stand_in_quotes_and_each_has_to_fit() {
    let read = |text: &str| -> Result<Vec<u32>, Problems> {
        let reader = Reader::parse(Path::new("x.toml"), text)?;
        let numbers = reader.root().integer_list::<u32>("uids").or(vec![]);
        reader.finish(|| Some(numbers))
    };
    assert_eq!(read("uids = [1000, \"1001\"]").unwrap(), [1000, 1001]);
    assert_eq!(read("").unwrap(), Vec::<u32>::new());
    for (text, says) in [
        ("uids = 1000", "write [1000]"),
        ("uids = [-1]", "out of range"),
        ("uids = [4294967296]", "out of range"),
        ("uids = [\"root\"]", "a list of whole numbers"),
        ("uids = [true]", "a list of whole numbers"),
    ] {
        let problems = read(text).unwrap_err().to_string();
        assert!(problems.contains(says), "{text}: {problems}");
    }
}
