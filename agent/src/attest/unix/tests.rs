use std::{os::unix::fs::PermissionsExt, path::Path};

use super::*;
use crate::attest::testing::{Stage, is_root};

fn values(selectors: &BTreeSet<Selector>, name: &str) -> Vec<String> {
    let prefix = format!("unix:{name}:");
    selectors
        .iter()
        .filter_map(|selector| selector.as_str().strip_prefix(&prefix))
        .map(str::to_owned)
        .collect()
}

async fn attest(settings: Settings) -> BTreeSet<Selector> {
    let stage = Stage::new();
    let (_client, server) = stage.own().await;
    UnixAttestor::new(settings)
        .attest(&PeerProcess::of(&server).unwrap())
        .await
        .unwrap()
}

fn own_program() -> (String, String) {
    let path = std::env::current_exe().unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&path).unwrap());
    (path.to_str().unwrap().to_owned(), hex::encode(digest))
}

#[tokio::test]
async fn we_are_described_as_spire_would() {
    let selectors = attest(Settings::default()).await;
    let (path, digest) = own_program();
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).unwrap().unwrap();
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
    assert_eq!(values(&selectors, "uid"), [uid.to_string()]);
    assert_eq!(values(&selectors, "user"), [user.name]);
    assert_eq!(values(&selectors, "gid"), [group.gid.to_string()]);
    assert_eq!(values(&selectors, "group"), [group.name]);
    let mut groups: Vec<_> = nix::unistd::getgroups()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    groups.sort();
    groups.dedup();
    assert_eq!(values(&selectors, "supplementary_gid"), groups);
    assert_eq!(values(&selectors, "path"), [path]);
    assert_eq!(values(&selectors, "sha256"), [digest]);
}

#[tokio::test]
async fn the_settings_say_how_much_of_the_program_is_looked_at() {
    let size = std::fs::metadata(std::env::current_exe().unwrap()).unwrap().len() as i64;
    for (discover_workload_path, workload_size_limit, path, digest) in [
        (false, 0, 0, 0),
        (true, -1, 1, 0),
        (true, 0, 1, 1),
        (true, size - 1, 1, 0),
        (true, size, 1, 1),
    ] {
        let settings = Settings {
            discover_workload_path,
            workload_size_limit,
        };
        let selectors = attest(settings.clone()).await;
        let found = (values(&selectors, "path").len(), values(&selectors, "sha256").len());
        assert_eq!(found, (path, digest), "{settings:?}");
        assert_eq!(values(&selectors, "uid").len(), 1);
    }
}

/// A copy of the test program in `folder`.
fn copy(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn the_path_of_a_program_that_does_not_lie_there_any_more_is_not_stated() {
    let stage = Stage::new();
    let (_, digest) = own_program();
    for replaced in [false, true] {
        let program = copy(stage.folder(), "app");
        let _child = stage.child_of(&program, "nothing");
        let peer = PeerProcess::of(&stage.accept().await).unwrap();
        let attestor = UnixAttestor::new(Settings::default());
        assert_eq!(
            values(&attestor.attest(&peer).await.unwrap(), "path"),
            [program.to_str().unwrap()]
        );

        std::fs::remove_file(&program).unwrap();
        if replaced {
            // Both at the old path and at what the kernel prints now.
            std::fs::write(&program, "impostor").unwrap();
            std::fs::write(stage.folder().join("app (deleted)"), "impostor").unwrap();
        }
        let selectors = attestor.attest(&peer).await.unwrap();
        assert_eq!(values(&selectors, "path"), [""; 0]);
        // What runs is still what it was.
        assert_eq!(values(&selectors, "sha256"), [digest.as_str()]);
    }
}

// Attack 18
#[tokio::test]
async fn a_program_that_the_peer_runs_only_while_it_is_looked_at_is_not_its_program() {
    let stage = Stage::new();
    let mut child = stage.child("exec");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    let mut found = None;
    let _ = peer.inspect(|proc, _| {
        child.act();
        found = Some(look_at_program(&peer, proc));
        Ok::<_, PeerError>(())
    });
    assert!(matches!(found, Some(Err(PeerError::Changed { what: "program", .. }))));
}

#[tokio::test]
async fn another_user_with_other_groups_is_described_as_such() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let mut child = stage.child("other user connects");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    child.act();
    let selectors = UnixAttestor::new(Settings::default()).attest(&peer).await.unwrap();
    assert_eq!(values(&selectors, "uid"), ["4000000001"]);
    assert_eq!(values(&selectors, "user"), [""; 0]);
    assert_eq!(values(&selectors, "gid"), ["4000000002"]);
    assert_eq!(values(&selectors, "supplementary_gid"), ["0", "4321"]);
    assert_eq!(values(&selectors, "supplementary_group"), ["root"]);
}

#[tokio::test]
async fn a_process_that_has_ended_is_not_described() {
    let stage = Stage::new();
    let mut child = stage.child("nothing");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    child.child.kill().unwrap();
    peer.exited().await;
    let error = UnixAttestor::new(Settings::default()).attest(&peer).await.unwrap_err();
    assert!(
        matches!(
            error,
            AttestError::Peer {
                source: PeerError::Exited { .. }
            }
        ),
        "{error:?}"
    );
}
