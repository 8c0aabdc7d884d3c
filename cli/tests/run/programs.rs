//! Programs that know nothing of us: the examples of `docs/run.md`, taken from there and run.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use mayfly_proto::mayfly::workload::Stage;

use crate::agent::Agent;
use crate::{Ran, start, start_command, until};

/// A server of the test. Killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The code block of the page that has `text` in it.
fn example(text: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/run.md");
    let page = fs::read_to_string(page).unwrap();
    let block = page.split("```").skip(1).step_by(2).find(|block| block.contains(text));
    let block = block.unwrap_or_else(|| panic!("no example with {text}"));
    block.split_once('\n').unwrap().1.to_owned()
}

/// Runs an example of the shell, whose `$RUN` is `mayfly run` of this test.
async fn run_example(agent: &Agent, text: &str, env: &[(&str, &Path)]) -> Ran {
    let example = example(text);
    let command = example.strip_prefix("$RUN ").expect("an example of one command");
    // What the outer shell would make of it: words. The inner ones see the variables.
    start_command(agent, &[], &["sh", "-c", command], env).end().await
}

/// Certificate, key and bundle of somebody in the trust domain, for a server.
async fn server_files(agent: &Agent) -> PathBuf {
    let ran = start(
        agent,
        &[],
        "mkdir $D/server && cp $(dirname $MAYFLY_CERT_FILE)/*.pem $D/server",
    )
    .end()
    .await;
    assert_eq!(ran.code, 0, "{ran:?}");
    agent.dir().join("server")
}

/// An HTTPS server that insists on a certificate of the trust domain, and its port.
async fn https(agent: &Agent, files: &Path) -> (Server, String) {
    let log = agent.dir().join("s_server");
    let out = fs::File::create(&log).unwrap();
    let child = Command::new("openssl")
        .args([
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-Verify",
            "1",
            "-verify_return_error",
            "-www",
        ])
        .arg("-cert")
        .arg(files.join("cert.pem"))
        .arg("-key")
        .arg(files.join("key.pem"))
        .arg("-CAfile")
        .arg(files.join("bundle.pem"))
        .stdin(Stdio::null())
        .stderr(out.try_clone().unwrap())
        .stdout(out)
        .spawn()
        .unwrap();
    let server = Server(child);
    let port = || {
        let text = fs::read_to_string(&log).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("ACCEPT "));
        line.filter(|_| text.ends_with('\n'))
            .map(|line| line.rsplit(':').next().unwrap().to_owned())
    };
    until("the server listens", || port().is_some()).await;
    let port = port().unwrap();
    (server, port)
}

#[tokio::test]
async fn curl_openssl_and_java_work_as_the_page_says() {
    let agent = Agent::start(Stage::Armed).await;
    let files = server_files(&agent).await;
    let (_server, port) = https(&agent, &files).await;
    let (url, address) = (format!("https://localhost:{port}/"), format!("127.0.0.1:{port}"));
    let without = Command::new("curl").args(["-sk", &url]).output().unwrap();
    assert!(!without.status.success(), "this server wants no certificate");

    let ran = run_example(&agent, "curl --cert", &[("URL", url.as_ref())]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("s_server"), "{}", ran.out);

    let ran = run_example(&agent, "openssl s_client", &[("ADDRESS", address.as_ref())]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("s_server"), "{}", ran.out);

    let source = agent.dir().join("Get.java");
    fs::write(&source, example("class Get")).unwrap();
    let ran = start_command(&agent, &[], &["java", source.to_str().unwrap(), &url], &[])
        .end()
        .await;
    assert_eq!((ran.code, ran.out.trim()), (0, "200"), "{ran:?}");
}

#[tokio::test]
async fn psql_works_as_the_page_says() {
    let agent = Agent::start(Stage::Armed).await;
    let files = server_files(&agent).await;
    let installed = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let mut versions: Vec<PathBuf> = installed.flatten().map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    let bin = versions
        .into_iter()
        .rfind(|bin| bin.join("initdb").is_file())
        .expect("an installed initdb");
    // PostgreSQL refuses to be root.
    let uid = if nix::unistd::Uid::effective().is_root() {
        65_534
    } else {
        nix::unistd::getuid().as_raw()
    };
    let home = tempfile::tempdir().unwrap();
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    own(home.path());
    for name in ["cert.pem", "key.pem", "bundle.pem"] {
        fs::copy(files.join(name), home.path().join(name)).unwrap();
        own(&home.path().join(name));
    }
    let data = home.path().join("data");
    let made = Command::new(bin.join("initdb"))
        .args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"])
        .arg(&data)
        .current_dir(home.path())
        .uid(uid)
        .gid(uid)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(
        data.join("pg_hba.conf"),
        "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n",
    )
    .unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string();
    let file = |name: &str| home.path().join(name).display().to_string();
    let settings = [
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        "unix_socket_directories=".to_owned(),
        "fsync=off".to_owned(),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", file("cert.pem")),
        format!("ssl_key_file={}", file("key.pem")),
        format!("ssl_ca_file={}", file("bundle.pem")),
    ];
    let log = fs::File::create(agent.dir().join("postgres")).unwrap();
    let server = Command::new(bin.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .current_dir(home.path())
        .uid(uid)
        .gid(uid)
        .stderr(log)
        .spawn()
        .unwrap();
    let _server = Server(server);
    until("PostgreSQL answers", || {
        TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_ok()
    })
    .await;
    let psql = example("psql \"host").replace("$RUN ", "");
    let without = Command::new("sh")
        .args(["-c", &psql])
        .env("PORT", &port)
        .env("HOME", "/nowhere")
        .output()
        .unwrap();
    assert!(!without.status.success(), "it lets in whoever has no certificate");
    let ran = run_example(&agent, "psql \"host", &[("PORT", port.as_ref())]).await;
    assert_eq!((ran.code, ran.out.trim()), (0, "42"), "{ran:?}");
}
