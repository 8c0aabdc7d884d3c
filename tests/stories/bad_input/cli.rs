//! Command lines.

use super::*;

// Promise 7: errors with hints; a misspelt selector type or an unknown parent is told at creation.
#[tokio::test(flavor = "multi_thread")]
async fn the_cli_refuses_with_hints_and_changes_nothing() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin: Admin = server.admin();
    admin
        .create(&EntrySpec::new(
            "/node/a",
            "spiffe://example.org/spire/server",
            &["x509pop:subject:cn:a"],
        ))
        .await;
    let before = fingerprint(&server).await;
    let cli = Cli::new(&server.socket());
    let mut verdicts = Verdicts::default();
    let web = ["--spiffe-id", "spiffe://example.org/web", "--parent-id", NODE];
    let create = |rest: &[&'static str]| [&["entry", "create"], &web[..], rest].concat();
    let cases: Vec<(&str, Vec<&str>, i32, &[&str])> = vec![
        (
            "nothing given",
            vec!["entry", "create"],
            2,
            &["--spiffe-id", "--parent-id", "--selector", "hint"],
        ),
        ("no such command", vec!["entri", "list"], 2, &["entry"]),
        (
            "no such option",
            create(&["--selektor", "unix:uid:1"]),
            2,
            &["--selector"],
        ),
        (
            "selector without colon",
            create(&["--selector", "unix"]),
            2,
            &["unix:uid:1000"],
        ),
        (
            "misspelt selector type",
            create(&["--selector", "unixx:uid:1000"]),
            2,
            &["unixx", "unix"],
        ),
        (
            "misspelt selector name",
            create(&["--selector", "unix:uuid:1000"]),
            2,
            &["uuid", "uid"],
        ),
        (
            "unknown parent",
            vec![
                "entry",
                "create",
                "--spiffe-id",
                "spiffe://example.org/web",
                "--parent-id",
                "spiffe://example.org/node/b",
                "--selector",
                "unix:uid:1",
            ],
            1,
            &["node/b", "--allow-unknown-parent"],
        ),
        (
            "not a SPIFFE ID",
            vec!["entry", "create", "--spiffe-id", "example.org/web"],
            2,
            &["is not a SPIFFE ID", "scheme"],
        ),
        (
            "bad lifetime",
            create(&["--selector", "unix:uid:1", "--x509-svid-ttl", "soon"]),
            2,
            &["soon", "15m"],
        ),
        (
            "no such file",
            vec!["entry", "create", "--file", "/nonexistent.json"],
            2,
            &["/nonexistent.json"],
        ),
        (
            "no such entry",
            vec!["entry", "delete", "no-such-entry"],
            5,
            &["no-such-entry"],
        ),
        (
            "no such agent",
            vec!["agent", "ban", "spiffe://example.org/spire/agent/x"],
            5,
            &["spire/agent/x"],
        ),
        ("lifetime of a token", vec!["token", "create", "--ttl=-1"], 2, &["ttl"]),
    ];
    for (case, args, code, says) in cases {
        let outcome = cli.run(&args).await;
        verdicts.text(case, outcome.code, &outcome.stderr, code, says);
        assert_eq!(outcome.stdout, "", "{case}: errors go to stderr");
    }
    // Nobody listens there.
    let outcome = Cli::new(&server.dir().join("nobody.sock"))
        .run(&["entry", "list"])
        .await;
    verdicts.text(
        "no server",
        outcome.code,
        &outcome.stderr,
        3,
        &["nobody.sock", "mayfly-server run"],
    );
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
}
