//! Who may use the machine at the same time.
//!
//! Most stories run side by side. One that measures milliseconds takes the machine for itself, so that its figures are
//! those of the product and not of its neighbours. A lock on a file, so that it holds between processes too.

use std::fs::File;

use crate::binaries::target_dir;

/// A place on the machine, given back when dropped.
#[derive(Debug)]
pub struct Lane(#[expect(dead_code, reason = "held for its lock")] File);

impl Lane {
    /// Beside others. Waits while a story has the machine for itself.
    #[must_use]
    pub fn shared() -> Self {
        let file = Self::file();
        file.lock_shared().expect("the lane's file can be locked");
        Self(file)
    }

    /// Alone. Waits until all others are done.
    #[must_use]
    pub fn alone() -> Self {
        let file = Self::file();
        file.lock().expect("the lane's file can be locked");
        Self(file)
    }

    fn file() -> File {
        let path = target_dir().join("stories.lane");
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .expect("the target folder is writable")
    }
}
