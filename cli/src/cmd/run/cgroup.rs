//! A cgroup (version 2) of the command's own, where this process may make one.
//!
//! It is made beside ourselves, below the cgroup that we are in: that needs no more than that somebody delegated it to
//! us, or root. What is in it cannot leave it by daemonising.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::held::HeldDir;

/// Folders below ours that are looked into: the command may make some.
const DEPTH: usize = 16;

/// A cgroup for one command.
#[derive(Debug)]
pub(super) struct Cgroup {
    dir: HeldDir,
}

impl Cgroup {
    /// Makes one.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn make() -> Result<Self, String> {
        let parent = own_folder()?;
        let refused = |error: std::io::Error| format!("{}: {error}", parent.display());
        let dir = HeldDir::make(&parent).map_err(refused)?;
        Ok(Self { dir })
    }

    /// Ends what an earlier run left in its cgroup because it was killed itself; how many cgroups there were.
    pub(super) async fn sweep() -> usize {
        let Ok(parent) = own_folder() else {
            return 0;
        };
        let left = HeldDir::left_behind(&parent);
        let count = left.len();
        for dir in left {
            let cgroup = Self { dir };
            cgroup.kill();
            cgroup.remove().await;
        }
        count
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The processes in it and below.
    pub(super) fn members(&self) -> Vec<i32> {
        let mut all = Vec::new();
        members(self.path(), DEPTH, &mut all);
        all
    }

    /// Kills all that is in it at once. Kernels before 5.14 have no such file; there its members are killed one by one.
    pub(super) fn kill(&self) {
        let _ = fs::write(self.path().join("cgroup.kill"), "1");
    }

    /// Removes it; whether it is gone. The dead stay in it until the kernel is done with them.
    pub(super) async fn remove(self) -> bool {
        for _ in 0..100 {
            if remove(self.path(), DEPTH) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

/// Puts this process into the cgroup at `path`.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn enter(path: &Path) -> std::io::Result<()> {
    fs::write(path.join("cgroup.procs"), "0")
}

fn members(path: &Path, depth: usize, all: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(path.join("cgroup.procs")) {
        // A process of another PID namespace reads as 0.
        let pids = text.lines().filter_map(|line| line.parse::<i32>().ok());
        all.extend(pids.filter(|pid| *pid > 0));
    }
    if depth > 0 {
        below(path).iter().for_each(|dir| members(dir, depth - 1, all));
    }
}

fn remove(path: &Path, depth: usize) -> bool {
    if depth > 0 {
        for dir in below(path) {
            remove(&dir, depth - 1);
        }
    }
    fs::remove_dir(path).is_ok() || !path.exists()
}

fn below(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// The folder of the cgroup that this process is in.
fn own_folder() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    folder(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
}

fn folder(cgroups: &str, mounts: &str) -> Result<PathBuf, String> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or("this system has no cgroups of version 2")?;
    let seen = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // What is mounted may be a part of the hierarchy, as in containers.
        let rest = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(&unescaped(point)).join(rest))
    });
    let seen = seen.filter(|path| !path.components().any(|part| part == std::path::Component::ParentDir));
    seen.ok_or_else(|| "the cgroup of this process cannot be seen".to_owned())
}

/// `/proc/self/mountinfo` writes a space as `\040`.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_below_any_mount() {
        let whole = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let hybrid = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let part = "30 24 0:26 /docker/7 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        for (cgroups, mounts, path) in [
            ("0::/user.slice/a b\n", whole, "/sys/fs/cgroup/user.slice/a b"),
            ("9:cpu:/x\n0::/\n", hybrid, "/sys/fs/cgroup/unified"),
            ("0::/docker/7/job\n", part, "/sys/fs/cgroup/job"),
        ] {
            assert_eq!(folder(cgroups, mounts).unwrap(), Path::new(path));
        }
        for (cgroups, mounts) in [
            ("9:cpu:/x\n", hybrid),
            ("0::/x\n", "1 2 0:3 / / rw - ext4 /dev/a rw\n"),
            ("0::/../other\n", whole),
            ("0::/docker/8\n", part),
        ] {
            assert!(folder(cgroups, mounts).is_err(), "{cgroups}");
        }
    }
}
