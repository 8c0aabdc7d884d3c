//! The Java program among the foreign clients: built in the target folder, anew when its sources changed.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::binaries::{sources, target_dir};
use crate::installer::run;

const BUILD_HINT: &str = "on Debian and Ubuntu: apt-get install default-jdk-headless maven; packages come from Maven \
                          Central or the mirror of Maven's settings.xml: is it reachable?";

/// `clients/java` as user `uid`; role and further arguments are to be added.
///
/// A virtual machine cannot become another user once it runs, so it starts as that one.
///
/// # Panics
/// It cannot be built; says why and what to do.
pub fn command(uid: u32) -> tokio::process::Command {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    let program =
        READY.get_or_init(|| for_everybody(&prepare(&target_dir().join("stories-java")), &std::env::temp_dir()));
    let mut command = tokio::process::Command::new("setpriv");
    command
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}")])
        .args(["--clear-groups", "java"])
        // A quick start and little memory matter more here than speed later.
        .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m"])
        .arg("-XX:-UsePerfData")
        .arg("-classpath")
        .arg(format!("{0}/classes:{0}/lib/*", program.display()))
        .arg("client.Main")
        // It may be started in a folder that the user may not read.
        .current_dir("/");
    command
}

/// Builds into `folder`.
fn prepare(folder: &Path) -> PathBuf {
    let project = sources().join("clients/java");
    let wanted = contents(&project);
    let built = folder.join("built-from");
    std::fs::create_dir_all(folder).expect("the target folder is writable");
    // Stories of several processes may come here at the same time.
    let lock = File::create(folder.with_extension("lock")).expect("the target folder is writable");
    lock.lock().expect("the lock file can be locked");
    if std::fs::read(&built).is_ok_and(|present| present == wanted) {
        return folder.to_owned();
    }
    // What is half made is made again.
    std::fs::remove_dir_all(folder).expect("the target folder is writable");
    std::fs::create_dir_all(folder).expect("the target folder is writable");
    run(
        std::process::Command::new("mvn")
            .args(["--quiet", "--batch-mode", "--file"])
            .arg(project.join("pom.xml"))
            .arg(format!("-Dstories.directory={}", folder.display()))
            .arg("compile"),
        BUILD_HINT,
    );
    std::fs::write(built, wanted).expect("the target folder is writable");
    folder.to_owned()
}

/// All that the program is built from, one after the other.
fn contents(project: &Path) -> Vec<u8> {
    let sources = project.join("src/main/java/client");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&sources)
        .expect("the program is part of the sources")
        .map(|entry| entry.expect("a folder of ours").path())
        .collect();
    files.sort();
    files.push(project.join("pom.xml"));
    files
        .iter()
        .flat_map(|file| std::fs::read(file).expect("the program is part of the sources"))
        .collect()
}

/// `folder`, or where other users cannot reach it a copy that they can, in `public`.
fn for_everybody(folder: &Path, public: &Path) -> PathBuf {
    let reachable = folder.ancestors().all(|ancestor| {
        std::fs::metadata(ancestor).is_ok_and(|metadata| metadata.permissions().mode() & 0o005 == 0o005)
    });
    if reachable {
        return folder.to_owned();
    }
    let wanted = std::fs::read(folder.join("built-from")).expect("it is built");
    // Another build may be running from another copy.
    let mut hasher = DefaultHasher::new();
    wanted.hash(&mut hasher);
    let copy = public.join(format!("mayfly-stories-java-{:016x}", hasher.finish()));
    std::fs::create_dir_all(&copy).expect("the temporary folder is writable");
    let metadata = std::fs::symlink_metadata(&copy).expect("just made");
    assert!(
        metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0,
        "{} is not ours alone: remove it",
        copy.display()
    );
    let lock = File::create(copy.join("lock")).expect("it is ours");
    lock.lock().expect("the lock file can be locked");
    if !std::fs::read(copy.join("built-from")).is_ok_and(|present| present == wanted) {
        copy_all(folder, &copy);
    }
    copy
}

/// Copies files and folders, `built-from` after all others.
fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("the copy is ours");
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o755)).expect("the copy is ours");
    let mut entries: Vec<PathBuf> = std::fs::read_dir(from)
        .expect("the target folder is readable")
        .map(|entry| entry.expect("a folder of ours").path())
        .collect();
    entries.sort_by_key(|path| path.ends_with("built-from"));
    for path in entries {
        let target = to.join(path.file_name().expect("an entry of a folder has a name"));
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("the copy is ours");
            std::fs::set_permissions(&target, PermissionsExt::from_mode(0o644)).expect("the copy is ours");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_a_private_folder_is_copied_to_where_others_can_read_it() {
        let private = tempfile::tempdir().unwrap();
        std::fs::set_permissions(private.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let built = private.path().join("stories-java");
        std::fs::create_dir_all(built.join("lib")).unwrap();
        std::fs::write(built.join("lib/a.jar"), "a").unwrap();
        std::fs::set_permissions(built.join("lib/a.jar"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(built.join("built-from"), "sources").unwrap();
        let public = tempfile::tempdir().unwrap();

        let copy = for_everybody(&built, public.path());
        assert!(copy.starts_with(public.path()));
        assert_eq!(std::fs::read_to_string(copy.join("lib/a.jar")).unwrap(), "a");
        let mode = |path: &str| std::fs::metadata(copy.join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("lib"), mode("lib/a.jar")), (0o755, 0o644));

        // The same sources: the same copy, as it is. Others: another one.
        std::fs::write(copy.join("lib/a.jar"), "b").unwrap();
        assert_eq!(for_everybody(&built, public.path()), copy);
        assert_eq!(std::fs::read_to_string(copy.join("lib/a.jar")).unwrap(), "b");
        std::fs::write(built.join("built-from"), "other sources").unwrap();
        assert_ne!(for_everybody(&built, public.path()), copy);
    }
}
