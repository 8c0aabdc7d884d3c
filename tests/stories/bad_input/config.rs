//! Settings files.

use super::*;

// Promise 7
#[test]
fn config_files_are_refused_with_line_key_and_hint() {
    let dir = story_dir();
    let mut verdicts = Verdicts::default();
    let server = "trust_domain = \"example.org\"\ndata_dir = \"data\"\n";
    let agent = "trust_domain = \"example.org\"\nserver_address = \"127.0.0.1:1\"\ndata_dir = \"data\"\n";
    let token = "[attestor.join_token]\ntoken_file = \"t\"\n";
    let cases: Vec<(&str, &str, String, &[&str])> = vec![
        (
            "empty",
            "mayfly-server",
            String::new(),
            &["trust_domain", "data_dir", "missing"],
        ),
        (
            "not TOML",
            "mayfly-server",
            "trust_domain = example.org\n".into(),
            &["server.toml:1"],
        ),
        (
            "misspelt key",
            "mayfly-server",
            format!("{server}darin = \"1s\"\n"),
            &["server.toml:3", "did you mean `drain`"],
        ),
        (
            "misspelt section",
            "mayfly-server",
            format!("{server}[lisen]\n"),
            &["lisen", "listen"],
        ),
        (
            "wrong type",
            "mayfly-server",
            format!("{server}drain = 10\n"),
            &["server.toml:3", "drain", "hint"],
        ),
        (
            "bad duration",
            "mayfly-server",
            format!("{server}drain = \"10 parsecs\"\n"),
            &["drain", "10 parsecs"],
        ),
        (
            "bad address",
            "mayfly-server",
            format!("{server}[listen]\nbind_address = \":8081\"\n"),
            &["bind_address", "127.0.0.1:8081"],
        ),
        (
            "SVID outlives",
            "mayfly-server",
            format!("{server}[svid]\nx509_svid_ttl = \"20h\"\n"),
            &["x509_svid_ttl", "authority.ttl"],
        ),
        (
            "several at once",
            "mayfly-server",
            "trust_domain = \"Not A Domain\"\n[listen]\nbind_address = \"x\"\n[log]\nlevel = \"lound\"\n".into(),
            &["server.toml:1", "server.toml:3", "server.toml:5", "data_dir"],
        ),
        (
            "empty",
            "mayfly-agent",
            String::new(),
            &["trust_domain", "server_address", "attestor"],
        ),
        (
            "no attestor",
            "mayfly-agent",
            agent.into(),
            &["no node attestor", "[attestor.join_token]"],
        ),
        (
            "token as value",
            "mayfly-agent",
            format!("{agent}[attestor.join_token]\ntoken = \"squeamish\"\n"),
            &["token_file"],
        ),
        (
            "two trust sources",
            "mayfly-agent",
            format!("insecure_bootstrap = true\ntrust_bundle_path = \"b\"\n{agent}{token}"),
            &["at most one"],
        ),
        (
            "plain http",
            "mayfly-agent",
            format!("trust_bundle_url = \"http://x/\"\n{agent}{token}"),
            &["https://"],
        ),
        (
            "address without port",
            "mayfly-agent",
            agent.replace(":1", "") + token,
            &["server_address", "port"],
        ),
        (
            "misspelt key",
            "mayfly-agent",
            format!("{agent}{token}[workload_api]\nholdd = \"1s\"\n"),
            &["did you mean `hold`"],
        ),
    ];
    for (case, program, text, says) in cases {
        let name = if program == "mayfly-server" {
            "server.toml"
        } else {
            "agent.toml"
        };
        let path = dir.path().join(name);
        std::fs::write(&path, &text).unwrap();
        for verb in ["check-config", "run"] {
            let output = Command::new(binary(program))
                .args([verb, "--config"])
                .arg(&path)
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stderr);
            verdicts.text(
                &format!("{program} {verb}, {case}"),
                output.status.code(),
                &printed,
                2,
                says,
            );
            assert!(!printed.contains("squeamish"), "a secret is repeated");
        }
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.retain(|name| name != "server.toml" && name != "agent.toml");
        assert!(left.is_empty(), "{case}: it has made {left:?}");
    }
    let absent = Command::new(binary("mayfly-server"))
        .args(["run", "--config", "/nonexistent.toml"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&absent.stderr);
    verdicts.text(
        "no such file",
        absent.status.code(),
        &printed,
        2,
        &["/nonexistent.toml"],
    );
    verdicts.end();
}
