//! The grammar: help of every command under snapshot, completion, and clap's own checks.

use clap::Command;

use super::{COMMANDS, command};
use crate::testing::{Fake, mayfly};

/// Help of a command and of all below it, as in a terminal of 100 columns.
fn help(command: &mut Command, path: &str, all: &mut String) {
    let path = format!("{path} {}", command.get_name());
    all.push_str(&format!("$ {} --help\n{}\n", path.trim(), command.render_help()));
    for verb in command.get_subcommands_mut() {
        help(verb, &path, all);
    }
}

#[test]
fn the_grammar_is_sound() {
    command().debug_assert();
}

#[test]
fn help_of_the_whole() {
    insta::assert_snapshot!(command().term_width(100).render_help());
}

#[test]
fn examples_can_be_copied_from_a_terminal_of_80_columns() {
    fn check(command: &Command) {
        let texts = [command.get_after_help(), command.get_after_long_help()];
        for text in texts.into_iter().flatten() {
            for line in text.to_string().lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
        }
        command.get_subcommands().for_each(check);
    }
    check(&command());
}

#[test]
fn help_of_each_noun() {
    for noun in COMMANDS {
        // The common options are in the help of the whole; here they would hide what differs.
        let mut command = (noun.command)().term_width(100).disable_help_flag(true);
        let mut all = String::new();
        help(&mut command, "mayfly", &mut all);
        insta::assert_snapshot!(format!("help_{}", noun.name), all);
    }
}

#[tokio::test]
async fn completion_knows_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ran = mayfly(["completion".into(), shell.into()], Default::default(), dir.path()).await;
        assert_eq!(ran.code, 0);
        for noun in COMMANDS {
            assert!(ran.out.contains(noun.name), "{shell} does not know {}", noun.name);
        }
    }
}

/// Command line, exit code, what is said.
const WRONG: &[(&[&str], u8, &str)] = &[
    (&["entries"], 2, "a similar subcommand exists: 'entry'"),
    (
        &["entry", "create", "--sellector", "x"],
        2,
        "a similar argument exists: '--selector'",
    ),
    (&["entry", "create"], 2, "--spiffe-id, --parent-id, --selector missing"),
    (
        &["entry", "create", "--spiffe-id", "web"],
        2,
        "write it as spiffe://example.org/web",
    ),
    (
        &["entry", "create", "--spiffe-id", "/web"],
        2,
        "starts with its trust domain",
    ),
    (
        &["entry", "create", "--x509-svid-ttl=1y"],
        2,
        "write it as 90s, 15m, 1h30m, 7d",
    ),
    (&["entry", "create", "--x509-svid-ttl=99999d"], 2, "this is too long"),
    (&["entry", "create", "--expires", "tomorrow"], 2, "2030-01-31T12:00:00Z"),
    (
        &["entry", "create", "--admin=maybe"],
        2,
        "[possible values: true, false]",
    ),
    (
        &["entry", "create", "--federates-with", "a b"],
        2,
        "write it as example.org",
    ),
    (
        &["entry", "create", "--reason", " "],
        2,
        "say something, or leave the option out",
    ),
    (
        &["entry", "create", "--file", "/nowhere.json"],
        2,
        "cannot read `/nowhere.json`",
    ),
    (&["entry", "create", "--file", "/dev/null"], 2, "`/dev/null`: EOF"),
    (
        &["entry", "create", "--file", "/"],
        2,
        "cannot read `/`: Is a directory",
    ),
    (&["entry", "create", "--file", "x", "--admin"], 2, "beside --file"),
    (&["entry", "update"], 2, "no entry is named"),
    (&["entry", "update", "e1"], 2, "nothing is to change"),
    (&["entry", "update", "e1", "--selector", "unix"], 2, "has no `:`"),
    (&["entry", "update", "e1", "--node"], 2, "--node needs --spiffe-id"),
    (&["entry", "show", "e1", "--hint", "x"], 2, "by ID and by filter"),
    (
        &["entry", "list", "--match-selectors-on", "most"],
        2,
        "[possible values: exact, any, superset, subset]",
    ),
    (&["entry", "delete"], 2, "<ID>"),
    (&["agent", "ban"], 2, "<SPIFFE_ID>"),
    (&["agent", "evict", "rack-7"], 2, "is not a SPIFFE ID"),
    (&["agent", "purge", "--expired-for", "soon"], 2, "write it as 90s"),
    (&["token", "create", "--ttl", "1.5h"], 2, "write it as 90s"),
    (
        &["token", "create", "--token-file", "/dev/null"],
        2,
        "is a folder, a link or a device",
    ),
    (
        &["token", "create", "--token-file", "/nowhere/t"],
        2,
        "cannot write into `/nowhere`",
    ),
    (&["bundle", "set", "--path", "x"], 2, "--id <TRUST_DOMAIN>"),
    (
        &["bundle", "set", "--id", "td", "--path", "/dev/null"],
        2,
        "--format spiffe",
    ),
    (&["bundle", "delete", "--id", "t d"], 2, "is not a trust domain name"),
    (&["svid", "mint", "--spiffe-id", "spiffe://td/x"], 2, "--write <DIR>"),
    (
        &["svid", "mint", "--spiffe-id", "spiffe://td/x", "--write", "/dev/null"],
        2,
        "it is not a folder",
    ),
    (
        &[
            "svid",
            "mint",
            "--spiffe-id",
            "spiffe://td/x",
            "--write",
            "x",
            "--dns",
            "ü.de",
        ],
        2,
        "Punycode",
    ),
    (&["task", "define"], 2, "<FILE>..."),
    (&["task", "define", "/nowhere.toml"], 2, "cannot read `/nowhere.toml`"),
    (
        &["task", "define", "/dev/null"],
        2,
        "`/dev/null`:1: missing field `name`",
    ),
    (&["task", "show", "export"], 2, "write it as team/task"),
    (&["task", "show", "pay/export", "3af"], 2, "12 to 64 hex digits"),
    (&["task", "diff", "pay/export"], 2, "name a version by its hash"),
    (&["task", "diff", "nothing"], 2, "neither a file nor a task"),
    (
        &["task", "requests", "--state", "lost"],
        2,
        "[possible values: waiting, armed,",
    ),
    (&["task", "requests", "--limit", "0"], 2, "a number, 1 or more"),
    (&["task", "approve", "r1"], 2, "--reason <TEXT>"),
    (&["task", "approve", "r1", "--reason", " "], 2, "say something"),
    (&["task", "revoke", "--reason", "x"], 2, "--everything>"),
    (
        &["task", "revoke", "--everything", "--task", "a/b", "--reason", "x"],
        2,
        "cannot be used with",
    ),
    (
        &["task", "revoke", "--serial", "3af1", "--reason", "x"],
        2,
        "Write it as 0x3af1",
    ),
    (
        &["task", "revoke", "--node", "spiffe://td/web", "--reason", "x"],
        2,
        "a node is named by its agent",
    ),
    (&["task", "now", "--watch", "--every", "0"], 2, "1 s or longer"),
    (&["task", "crl", "--watch"], 2, "--out <DIR>"),
    (&["task", "crl", "--out", "/dev/null"], 2, "it is not a folder"),
    (&["policy", "set"], 2, "<PATH>..."),
    (
        &["policy", "check", "/nowhere.cedar"],
        2,
        "cannot read `/nowhere.cedar`",
    ),
    (&["what-if", "/proc/self/fd"], 2, "there is no file *.cedar"),
    (&["why"], 2, "<ID>"),
    (&["svid", "watch", "--updates", "0"], 2, "a number, 1 or more"),
    (&["svid", "fetch", "--timeout", "0"], 2, "1 s or longer"),
    (
        &["entry", "list", "--server", "ca"],
        2,
        "write it as ca.example.org:8081",
    ),
    (
        &["entry", "list", "--output", "yaml"],
        2,
        "[possible values: text, json]",
    ),
    (&["completion", "tcsh"], 2, "[possible values: bash, zsh, fish]"),
];

#[tokio::test]
async fn what_is_wrong_is_said_and_nothing_is_sent() {
    let fake = Fake::start().await;
    for (args, code, said) in WRONG {
        let ran = fake.mayfly(args).await;
        assert_eq!(ran.code, *code, "{args:?}: {ran:?}");
        assert!(ran.err.contains(said), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{args:?}: {}", ran.out);
    }
    assert!(fake.state().calls.is_empty());
}

#[tokio::test]
async fn an_error_in_json_is_one_line_on_stderr() {
    let fake = Fake::start().await;
    fake.state().refuse = Some(tonic::Status::internal("a\nb\u{1b}[2J"));
    for args in [
        &["entry", "list"][..],
        &["agent", "show", crate::testing::AGENT],
        &["token", "create"],
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let ran = fake.mayfly(&args).await;
        assert_eq!(
            (ran.out.as_str(), ran.err.lines().count()),
            ("", 1),
            "{args:?}: {ran:?}"
        );
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((error["error"]["code"].as_str(), ran.code), (Some("INTERNAL"), 1));
        assert!(
            error["error"]["message"]
                .as_str()
                .unwrap()
                .contains("(a\\nb\\u{1b}[2J)"),
            "{error}"
        );
    }
}
