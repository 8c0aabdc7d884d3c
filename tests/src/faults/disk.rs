//! A small disk of its own: ext4 in a file, so that what a full or failing disk says is what the kernel says.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{run, try_run};
use crate::daemon::story_dir;
use crate::needs_root;

/// A mounted disk. Declare it before the daemons that use it: they have to be gone when it is unmounted.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
    image: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// A new, empty one.
    ///
    /// # Panics
    /// This machine has no loop devices, or no ext4.
    pub fn new(megabytes: u64) -> Self {
        needs_root();
        let dir = story_dir();
        let image = dir.path().join("disk.img");
        let file = File::create(&image).expect("the story's folder is writable");
        file.set_len(megabytes << 20).expect("a sparse file");
        // No blocks set aside for root, as the daemons are root here.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)]);
        std::fs::create_dir(dir.path().join("m")).expect("the story's folder is writable");
        let mut disk = Self {
            dir,
            image,
            is_mounted: false,
        };
        disk.mount("rw");
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("m")
    }

    /// Has the daemon whose folder is `dir` keep its `name` (a data folder) on this disk.
    pub fn hold(&self, dir: &Path, name: &str) {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).expect("there is space");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).expect("it is ours");
        symlink(&folder, dir.join(name)).expect("nothing is there yet");
    }

    /// Takes all space that is left.
    pub fn fill(&self) {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("a full disk still opens a file that is there, and this one is made while there is space");
        for size in [1 << 20, 4096, 1] {
            let block = vec![0xff; size];
            loop {
                match ballast.write_all(&block) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("filling the disk: {error}"),
                }
            }
        }
        // Blocks are given out when data is written back.
        let synced = ballast.sync_all();
        assert!(synced.is_ok(), "{synced:?}");
    }

    /// Gives the space back.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("it was filled");
    }

    /// The kernel finds the file system in disorder and goes read-only, with files open for writing.
    ///
    /// # Panics
    /// The kernel has no such switch.
    pub fn fail(&self) {
        let device = self.device();
        let switch = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(&switch, "1").unwrap_or_else(|error| panic!("{switch}: {error}"));
    }

    /// Takes the disk off, checks it, and mounts it again: what an operator does after [`Disk::fail`]. No daemon may
    /// use it.
    pub fn repair(&mut self) {
        self.unmount(&[]);
        // 1: it had errors and they are corrected.
        let checked = try_run("e2fsck", &["-p", "-f", &text(&self.image)]);
        if let Err(reason) = checked {
            assert!(reason.contains("exit status: 1"), "{reason}");
        }
        self.mount("rw");
    }

    /// Mounts it read-only. No daemon may use it.
    pub fn make_read_only(&mut self) {
        self.unmount(&[]);
        self.mount("ro");
    }

    /// Mounts it for writing. No daemon may use it.
    pub fn make_writable(&mut self) {
        self.unmount(&[]);
        self.mount("rw");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    fn mount(&mut self, mode: &str) {
        let options = format!("loop,errors=remount-ro,{mode}");
        run(
            "mount",
            &["-t", "ext4", "-o", &options, &text(&self.image), &text(&self.path())],
        );
        self.is_mounted = true;
    }

    fn unmount(&mut self, options: &[&str]) {
        let path = text(&self.path());
        run("umount", &[options, &[path.as_str()]].concat());
        self.is_mounted = false;
    }

    fn device(&self) -> String {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("procfs");
        let path = text(&self.path());
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(&path))
            .expect("it is mounted");
        let device = line.split(' ').next().expect("a line of /proc/mounts");
        device.trim_start_matches("/dev/").to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily, as a story that fails may leave somebody on it for a moment. Nothing more can be done about it.
            let _ = try_run("umount", &["-l", &text(&self.path())]);
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
