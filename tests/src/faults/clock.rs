//! The wall clock of one daemon, set while it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::run;
use crate::daemon::{Daemon, story_dir};

/// A clock that differs from the machine's by as many seconds as it was told.
#[derive(Debug)]
pub struct SteppedClock {
    dir: TempDir,
    step: File,
}

impl SteppedClock {
    /// One that is right so far.
    ///
    /// # Panics
    /// There is no C compiler.
    pub fn new() -> Self {
        let dir = story_dir();
        let source = dir.path().join("clock.c");
        std::fs::write(&source, include_str!("clock.c")).expect("the story's folder is writable");
        let library = dir.path().join("clock.so");
        let (source, library) = (source.display().to_string(), library.display().to_string());
        run(
            "cc",
            &["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", &library, &source],
        );
        let step = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(dir.path().join("step"))
            .expect("the story's folder is writable");
        let clock = Self { dir, step };
        clock.set(0);
        clock
    }

    /// Gives this clock to a daemon that is not started yet.
    pub fn give_to(&self, daemon: &mut Daemon) {
        daemon.env("LD_PRELOAD", &self.path("clock.so"));
        daemon.env("MAYFLY_CLOCK", &self.path("step"));
    }

    /// Sets it to `seconds` after the machine's, or before it.
    pub fn set(&self, seconds: i64) {
        self.step.write_all_at(&seconds.to_ne_bytes(), 0).expect("an open file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Default for SteppedClock {
    fn default() -> Self {
        Self::new()
    }
}
