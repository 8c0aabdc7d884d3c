//! SHA-256 of program files, each computed once.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use mayfly_runtime::{Clock, SystemClock};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// How long hashing may take, not counting the wait for a thread: that is no fault of the program.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(5);
/// More digests are not kept.
const CAPACITY: usize = 1024;
/// Files hashed at a time. One that hangs (a dead network file system) keeps its thread, and no more than these.
const THREADS: usize = 4;
/// A digest is kept only of a file that has been left alone for longer than this: time stamps of files move in steps of some
/// milliseconds, and within one step a file could change and keep its time.
const SETTLED_SECONDS: i64 = 2;

pub(super) type Digest = [u8; 32];

/// Why a file was not hashed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DigestError {
    #[error("cannot read the program")]
    Read { source: io::Error },
    #[error("the program has {size} bytes, more than `workload_size_limit`")]
    TooLarge { size: u64 },
    #[error("the program is not a regular file")]
    NotAFile,
    #[error("the program changed while it was hashed")]
    Changed,
    #[error("hashing was given up")]
    GivenUp,
    #[error("hashing took longer than {TIME_LIMIT:?}")]
    TooSlow,
}

/// One content of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Content {
    dev: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Content {
    fn of(file: &File) -> Result<Self, DigestError> {
        let meta = file.metadata().map_err(|source| DigestError::Read { source })?;
        if !meta.is_file() {
            return Err(DigestError::NotAFile);
        }
        Ok(Self {
            dev: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether the file was last touched long enough ago, and not in the future.
    fn is_settled(&self) -> bool {
        SystemClock.unix_now() - self.ctime.0 > SETTLED_SECONDS
    }
}

/// What has been hashed, oldest first.
#[derive(Debug, Default)]
struct Kept {
    digests: HashMap<Content, Digest>,
    order: VecDeque<Content>,
}

/// Hashes files and keeps the digests.
#[derive(Debug)]
pub(super) struct Digests {
    kept: Mutex<Kept>,
    threads: Arc<Semaphore>,
}

impl Default for Digests {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            threads: Arc::new(Semaphore::new(THREADS)),
        }
    }
}

impl Digests {
    /// The SHA-256 of `file`, if it has at most `limit` bytes.
    ///
    /// # Cancel safety
    /// Cancel safe: when dropped, the thread that hashes stops soon.
    pub(super) async fn of(&self, file: File, limit: u64) -> Result<Digest, DigestError> {
        let content = Content::of(&file)?;
        if content.size > limit {
            return Err(DigestError::TooLarge { size: content.size });
        }
        if let Some(digest) = self.find(&content) {
            return Ok(digest);
        }
        let permit = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(|_| DigestError::GivenUp)?;
        // Another connection of the same program may have been first.
        if let Some(digest) = self.find(&content) {
            return Ok(digest);
        }
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        let hashing = spawn_blocking(move || {
            let _permit = permit;
            let digest = hash(&file, content.size, &stopped)?;
            if Content::of(&file)? != content {
                return Err(DigestError::Changed);
            }
            Ok(digest)
        });
        let hashed = timeout(TIME_LIMIT, hashing).await.map_err(|_| DigestError::TooSlow)?;
        let digest = hashed.map_err(|_| DigestError::GivenUp)??;
        if content.is_settled() {
            self.keep(content, digest);
        }
        Ok(digest)
    }

    fn find(&self, content: &Content) -> Option<Digest> {
        self.locked().digests.get(content).copied()
    }

    fn keep(&self, content: Content, digest: Digest) {
        let mut kept = self.locked();
        if kept.digests.insert(content, digest).is_none() {
            kept.order.push_back(content);
        }
        if kept.order.len() > CAPACITY
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.digests.remove(&oldest);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        // At worst a digest is computed again.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the thread when nobody waits any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hash(mut file: &File, size: u64, stopped: &AtomicBool) -> Result<Digest, DigestError> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 128 * 1024];
    let mut read = 0;
    loop {
        if stopped.load(Ordering::Relaxed) {
            return Err(DigestError::GivenUp);
        }
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(DigestError::Read { source }),
        };
        read += count as u64;
        if read > size {
            return Err(DigestError::Changed);
        }
        context.update(&buffer[..count]);
    }
    if read != size {
        return Err(DigestError::Changed);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn open(path: &std::path::Path, text: &[u8]) -> File {
        std::fs::write(path, text).unwrap();
        File::open(path).unwrap()
    }

    fn counts(digests: &Digests) -> (usize, usize) {
        let kept = digests.locked();
        (kept.digests.len(), kept.order.len())
    }

    #[tokio::test]
    async fn a_file_of_the_limit_is_hashed_and_a_larger_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::default();
        let empty = digests.of(open(&folder.path().join("empty"), b""), 0).await.unwrap();
        assert_eq!(hex::encode(empty), EMPTY);
        let path = folder.path().join("four");
        digests.of(open(&path, b"four"), 4).await.unwrap();
        let error = digests.of(open(&path, b"four"), 3).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the program has 4 bytes, more than `workload_size_limit`"
        );
        let error = digests.of(File::open(folder.path()).unwrap(), 3).await.unwrap_err();
        assert!(matches!(error, DigestError::NotAFile));
    }

    #[tokio::test]
    async fn only_the_digest_of_a_settled_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let digests = Digests::default();
        digests.of(open(&folder.path().join("new"), b"new"), 10).await.unwrap();
        assert_eq!(digests.locked().digests.len(), 0);
        for _ in 0..2 {
            digests.of(File::open("/bin/sh").unwrap(), u64::MAX).await.unwrap();
        }
        assert_eq!(counts(&digests), (1, 1));
    }

    #[test]
    fn so_many_digests_are_kept_and_no_more() {
        let digests = Digests::default();
        for inode in 0..CAPACITY as u64 + 10 {
            digests.keep(
                Content {
                    dev: 1,
                    inode,
                    size: 1,
                    mtime: (0, 0),
                    ctime: (0, 0),
                },
                [0; 32],
            );
        }
        assert_eq!(counts(&digests), (CAPACITY, CAPACITY));
        assert!(
            digests
                .find(&Content {
                    dev: 1,
                    inode: 9,
                    size: 1,
                    mtime: (0, 0),
                    ctime: (0, 0)
                })
                .is_none()
        );
    }

    #[test]
    fn hashing_stops_when_nobody_waits() {
        let stopped = AtomicBool::new(true);
        assert!(matches!(
            hash(&File::open("/dev/zero").unwrap(), u64::MAX, &stopped),
            Err(DigestError::GivenUp)
        ));
    }
}
