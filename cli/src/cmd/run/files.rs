//! The identity as files in memory.
//!
//! ```text
//! <folder>/              0700, held (see `held`)
//!   cert.pem   -> .now/cert.pem       chain, leaf first
//!   key.pem    -> .now/key.pem        PKCS#8
//!   bundle.pem -> .now/bundle.pem     the X.509 authorities of the trust domain
//!   identity.pem -> .now/identity.pem chain and key in one
//!   .now       -> .7                  replaced in one step: certificate and key change together
//!   .7/                               the files, 0600
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use mayfly_runtime::env;
use rustix::fs::statfs;
use zeroize::Zeroizing;

use super::held::HeldDir;
use crate::certs::{chain_pem, pem};
use crate::errors::CliError;
use crate::files::write_private;
use crate::workload::Identity;

/// Names of the files, in the order of [`Files::write`].
const NAMES: [&str; 4] = ["cert.pem", "key.pem", "bundle.pem", "identity.pem"];
/// The link that all names lead through.
const NOW: &str = ".now";
/// `f_type` of file systems that live in memory, `statfs(2)`.
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// The folder with the files. Removed when dropped.
#[derive(Debug)]
pub(super) struct Files {
    dir: HeldDir,
    generation: u64,
}

/// Folders that may be used, the best first.
pub(super) fn places() -> Vec<PathBuf> {
    env::path("XDG_RUNTIME_DIR")
        .into_iter()
        .chain(["/dev/shm".into()])
        .collect()
}

/// Takes away what earlier runs of this user left because they were killed; how many folders there were.
pub(super) fn sweep(places: &[PathBuf]) -> usize {
    let left = places.iter().flat_map(|place| HeldDir::left_behind(place));
    left.filter(|dir| fs::remove_dir_all(dir.path()).is_ok()).count()
}

// === impl Files ===

impl Files {
    /// An empty folder in the first of `places` that lives in memory and can be written; with `on_disk` in the folder for
    /// temporary files if there is none.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn make(places: &[PathBuf], on_disk: Option<&Path>) -> Result<Self, CliError> {
        let mut refused = Vec::new();
        for place in places {
            match in_memory(place).and_then(|()| HeldDir::make(place).map_err(|error| error.to_string())) {
                Ok(dir) => return Self::linked(dir),
                Err(why) => refused.push(format!("`{}`: {why}", place.display())),
            }
        }
        let Some(disk) = on_disk else {
            return Err(CliError::failed(
                format!("there is no file system in memory for the key ({})", refused.join("; ")),
                "--no-files gives the identity by the socket only; --files-on-disk writes the key to a disk",
            ));
        };
        let dir = HeldDir::make(disk).map_err(|source| CliError::System {
            doing: "make a folder in",
            path: disk.to_owned(),
            source,
        })?;
        Self::linked(dir)
    }

    fn linked(dir: HeldDir) -> Result<Self, CliError> {
        let files = Self { dir, generation: 0 };
        for name in NAMES {
            let link = files.path(name);
            symlink(Path::new(NOW).join(name), &link).map_err(failed("make link", &link))?;
        }
        Ok(files)
    }

    /// Replaces all files at once.
    ///
    /// # Errors
    /// They cannot be written; the old ones are still there.
    pub(super) fn write(&mut self, identity: &Identity) -> Result<(), CliError> {
        let before = self.generation_dir();
        self.generation += 1;
        let dir = self.generation_dir();
        let chain = chain_pem(identity.svid.chain());
        let key = Zeroizing::new(pem("PRIVATE KEY", &identity.key));
        let both = Zeroizing::new(format!("{chain}{}", *key));
        let contents: [&str; 4] = [&chain, &key, &identity.bundle.x509_to_pem(), &both];
        let put = || -> Result<(), CliError> {
            DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .map_err(failed("make folder", &dir))?;
            for (name, text) in NAMES.iter().zip(contents) {
                write_private(&dir.join(name), text.as_bytes())?;
            }
            let next = self.path(".next");
            let _ = fs::remove_file(&next);
            symlink(format!(".{}", self.generation), &next).map_err(failed("make link", &next))?;
            fs::rename(&next, self.path(NOW)).map_err(failed("replace link", &next))
        };
        let done = put();
        let stale = if done.is_ok() { before } else { dir };
        // There is none before the first.
        let _ = fs::remove_dir_all(stale);
        done
    }

    /// Takes the files away; the folder stays for the next ones.
    pub(super) fn clear(&mut self) {
        // The keys first: a link that leads nowhere harms nobody.
        let _ = fs::remove_dir_all(self.generation_dir());
        let _ = fs::remove_file(self.path(NOW));
    }

    /// The chain, leaf first.
    pub(super) fn cert(&self) -> PathBuf {
        self.path("cert.pem")
    }

    /// The private key.
    pub(super) fn key(&self) -> PathBuf {
        self.path("key.pem")
    }

    /// The authorities that sign for the trust domain.
    pub(super) fn bundle(&self) -> PathBuf {
        self.path("bundle.pem")
    }

    /// Chain and key, for programs that read both from one file.
    pub(super) fn identity(&self) -> PathBuf {
        self.path("identity.pem")
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn generation_dir(&self) -> PathBuf {
        self.path(&format!(".{}", self.generation))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.clear();
        // With whatever the command put there.
        let _ = fs::remove_dir_all(self.dir.path());
    }
}

fn in_memory(path: &Path) -> Result<(), String> {
    let kind = statfs(path).map_err(|errno| io::Error::from(errno).to_string())?.f_type;
    // The width of the field differs between architectures; the numbers have 32 bits.
    if [TMPFS, RAMFS].contains(&(kind as u64 & 0xffff_ffff)) {
        Ok(())
    } else {
        Err("it is not in memory".to_owned())
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.to_owned();
    move |source| CliError::System { doing, path, source }
}
