//! The identity as files, as environment, and that nothing of it stays.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mayfly_proto::mayfly::workload::Stage;
use nix::sys::signal::Signal;

use crate::agent::{Agent, TASK_ID};
use crate::{start, start_command, until, written};

const SHOW: &str = "for f in CERT KEY BUNDLE IDENTITY; do eval echo \\$MAYFLY_${f}_FILE; done >$D/paths
    echo up >$D/up; while ! test -e $D/go; do sleep 0.05; done";

/// The files that the command wrote down: certificate, key, bundle, both.
async fn paths(agent: &Agent) -> Vec<PathBuf> {
    written(agent, "up").await;
    let paths: Vec<PathBuf> = written(agent, "paths").await.lines().map(PathBuf::from).collect();
    assert_eq!(paths.len(), 4);
    paths
}

fn openssl(args: &[&str]) -> String {
    let ran = std::process::Command::new("openssl").args(args).output().unwrap();
    assert!(
        ran.status.success(),
        "openssl {args:?}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8(ran.stdout).unwrap()
}

/// Certificate and key belong together, and the bundle verifies them: as a program that knows no SPIFFE sees it.
fn check_with_openssl(paths: &[PathBuf]) -> String {
    let [cert, key, bundle, both] = paths else {
        panic!("four paths")
    };
    let (cert, key, bundle, both) = (text(cert), text(key), text(bundle), text(both));
    openssl(&["verify", "-CAfile", &bundle, &cert]);
    let public = openssl(&["x509", "-in", &cert, "-pubkey", "-noout"]);
    assert_eq!(public, openssl(&["pkey", "-in", &key, "-pubout"]));
    assert_eq!(public, openssl(&["x509", "-in", &both, "-pubkey", "-noout"]));
    assert_eq!(public, openssl(&["pkey", "-in", &both, "-pubout"]));
    assert!(openssl(&["x509", "-in", &cert, "-noout", "-ext", "subjectAltName"]).contains(TASK_ID));
    assert!(
        fs::read_to_string(key)
            .unwrap()
            .starts_with("-----BEGIN PRIVATE KEY-----")
    );
    openssl(&["x509", "-in", &cert, "-noout", "-serial"])
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_files_are_in_memory_for_their_owner_only_and_gone_afterwards() {
    // (signal, exit code): however it ends.
    for (signal, code) in [
        (None, 0),
        (Some(Signal::SIGTERM), 143),
        (Some(Signal::SIGINT), 130),
        (Some(Signal::SIGHUP), 129),
    ] {
        let agent = Agent::start(Stage::Armed).await;
        // sh ignores SIGINT while it waits for a child, so the loop is in the words of another program.
        let run = start(&agent, &[], SHOW);
        let paths = paths(&agent).await;
        let dir = paths[0].parent().unwrap();
        let kind = rustix::fs::statfs(dir).unwrap().f_type;
        assert_eq!(kind, 0x0102_1994, "not tmpfs: {}", dir.display());
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700);
        for path in &paths {
            let meta = fs::metadata(path).unwrap();
            assert_eq!(meta.mode() & 0o7777, 0o600, "{}", path.display());
            assert_eq!(meta.uid(), nix::unistd::Uid::effective().as_raw());
        }
        check_with_openssl(&paths);
        match signal {
            Some(signal) => run.signal(signal),
            None => fs::write(agent.dir().join("go"), "").unwrap(),
        }
        let ran = run.end().await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(!dir.exists(), "{} is still there", dir.display());
    }
}

#[tokio::test]
async fn the_environment_names_files_and_never_holds_what_is_in_them() {
    let agent = Agent::start(Stage::Armed).await;
    let ran = start(&agent, &[], "env; cat $MAYFLY_KEY_FILE >&2").end().await;
    let value = |name: &str| {
        let line = ran.out.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("{name} is missing: {}", ran.out))
            .to_owned()
    };
    assert_eq!(
        value("SPIFFE_ENDPOINT_SOCKET"),
        format!("unix://{}", agent.socket().display())
    );
    assert_eq!(value("MAYFLY_TASK"), "pay/db-migrate");
    assert_eq!(value("MAYFLY_WINDOW_ID"), "w-1");
    assert_eq!(value("MAYFLY_SPIFFE_ID"), TASK_ID);
    for (ours, libpq) in [("CERT", "SSLCERT"), ("KEY", "SSLKEY"), ("BUNDLE", "SSLROOTCERT")] {
        assert_eq!(value(&format!("MAYFLY_{ours}_FILE")), value(&format!("PG{libpq}")));
    }
    assert!(ran.err.contains("PRIVATE KEY"));
    assert!(!ran.out.contains("PRIVATE KEY") && !ran.out.contains("BEGIN"));
}

#[tokio::test]
async fn by_the_socket_only_there_are_no_files_and_none_of_a_run_around_it() {
    let agent = Agent::start(Stage::Armed).await;
    let outer = [("MAYFLY_KEY_FILE", Path::new("/outer/key.pem"))];
    let ran = start_command(&agent, &["--no-files"], &["env"], &outer).end().await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        !ran.out.contains("KEY_FILE=") && ran.out.contains("MAYFLY_WINDOW_ID=w-1"),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn a_renewed_identity_replaces_the_files_as_a_whole_and_is_signalled() {
    let agent = Agent::start(Stage::Armed).await;
    let script = format!("trap 'echo $(cat $D/count 2>/dev/null)x >$D/count' HUP; {SHOW}");
    let run = start(&agent, &["--rotate-signal", "hup"], &script);
    let paths = paths(&agent).await;
    let mut serials = vec![check_with_openssl(&paths)];
    for count in ["x", "xx", "xxx"] {
        agent.rotate();
        until("the signal", || {
            fs::read_to_string(agent.dir().join("count")).is_ok_and(|text| text.trim() == count)
        })
        .await;
        // Written before it was signalled.
        serials.push(check_with_openssl(&paths));
    }
    serials.dedup();
    assert_eq!(serials.len(), 4);
    let dir = paths[0].parent().unwrap();
    let all = walk(dir)
        .iter()
        .filter(|path| path.is_file() && !path.is_symlink())
        .count();
    assert_eq!(all, 4, "an old key is still there: {:?}", walk(dir));
    fs::write(agent.dir().join("go"), "").unwrap();
    assert_eq!(run.end().await.code, 0);
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(walk(&entry.path()));
        }
        all.push(entry.path());
    }
    all
}

#[tokio::test]
async fn a_suspended_window_has_no_files_until_it_is_resumed() {
    let agent = Agent::start(Stage::Armed).await;
    let run = start(&agent, &[], SHOW);
    let paths = paths(&agent).await;
    let before = check_with_openssl(&paths);
    agent.set(Stage::Suspended, &["tripwire"]);
    run.said("pay/db-migrate is suspended: tripwire").await;
    until("no key", || !paths[1].exists()).await;
    agent.set(Stage::Open, &[]);
    run.said("pay/db-migrate is resumed").await;
    until("a key", || paths[1].exists()).await;
    assert_ne!(before, check_with_openssl(&paths), "a fresh one");
    fs::write(agent.dir().join("go"), "").unwrap();
    assert_eq!(run.end().await.code, 0);
}

#[tokio::test]
async fn what_a_killed_run_leaves_is_swept_by_the_next_one() {
    let agent = Agent::start(Stage::Armed).await;
    let run = start(&agent, &[], SHOW);
    let paths = paths(&agent).await;
    let other = Agent::start(Stage::Armed).await;
    let lives = start(&other, &[], SHOW);
    let of_other = self::paths(&other).await;
    run.signal(Signal::SIGKILL);
    run.end().await;
    assert!(paths[1].exists(), "nobody could take it away yet");
    let next = Agent::start(Stage::Armed).await;
    // By a run that has no files itself, too.
    assert_eq!(start(&next, &["--no-files"], "true").end().await.code, 0);
    assert!(!paths[0].parent().unwrap().exists());
    check_with_openssl(&of_other);
    fs::write(other.dir().join("go"), "").unwrap();
    assert_eq!(lives.end().await.code, 0);
}
