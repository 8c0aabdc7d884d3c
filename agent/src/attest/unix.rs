//! The attestor for what every Unix process has: user, groups, program.
//!
//! Selectors as SPIRE names them: `uid`, `user`, `gid`, `group`, `supplementary_gid`, `supplementary_group`, `path`,
//! `sha256`. User and group are the effective ones of `/proc/<pid>/status`, as with SPIRE; [`PeerProcess`] has made
//! sure that they are also those of the connection. `docs/attestor-unix.md` says what each proves.
//!
//! Where we are stricter, so that a selector proves more:
//! - `path` is stated only if the file at that path, as the agent sees it, is the one that runs. So not for a program
//!   that was deleted or replaced, and not for one in a container's own file system, where whoever made the image
//!   chooses the paths.
//! - Programs are looked at by default. If the agent may not, or the file is above the limit, `path` and `sha256` are
//!   absent and the other selectors stand; SPIRE has it off by default because there the whole attestation fails.
//! - A program of more than 512 MiB is not hashed unless the limit is raised: a sparse file costs its owner nothing and
//!   us minutes.

mod digest;
mod names;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fs::File, os::fd::AsFd};

use async_trait::async_trait;
use mayfly_model::Selector;
use mayfly_runtime::{Chain, config::Section};
use rustix::fs::{AtFlags, CWD, fstat, statat};
use tracing::debug;

use self::digest::{DigestError, Digests};
use self::names::Names;
use super::peer::Proc;
use super::{AttestError, PeerError, PeerProcess, WorkloadAttestor, proc_text::Status};

/// Selector type and section name.
pub const NAME: &str = "unix";

/// More supplementary groups than this are not looked at: each costs a look-up of its name, and in a user namespace
/// anyone may have 65,536.
const MAX_GROUPS: usize = 1024;
const DEFAULT_SIZE_LIMIT: i64 = 512 << 20;

/// What is written in the section, by SPIRE's names.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `discover_workload_path`: whether the program is looked at. Default true.
    pub discover_workload_path: bool,
    /// `workload_size_limit`: the largest program that is hashed, in bytes. 0: any size; negative: none is hashed.
    pub workload_size_limit: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            discover_workload_path: true,
            workload_size_limit: DEFAULT_SIZE_LIMIT,
        }
    }
}

/// Makes the attestor from its section.
#[must_use]
pub fn build(section: &Section<'_>) -> Box<dyn WorkloadAttestor> {
    let default = Settings::default();
    Box::new(UnixAttestor::new(Settings {
        discover_workload_path: section
            .bool("discover_workload_path")
            .or(default.discover_workload_path),
        workload_size_limit: section.integer("workload_size_limit").or(default.workload_size_limit),
    }))
}

/// The `unix` attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    settings: Settings,
    names: Names,
    digests: Digests,
}

/// The running program, as far as it could be looked at.
struct Program {
    file: File,
    /// Where it lies, if that is certain.
    path: Option<String>,
}

impl UnixAttestor {
    /// With these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            names: Names::default(),
            digests: Digests::default(),
        }
    }

    /// The SHA-256 of the program in hex. `None` if it is not to be hashed or could not be.
    ///
    /// # Errors
    /// There was no time. To leave the selector out would take identities away because the machine is busy.
    async fn digest(&self, peer: &PeerProcess, program: File) -> Result<Option<String>, AttestError> {
        let limit = match u64::try_from(self.settings.workload_size_limit) {
            Ok(0) => u64::MAX,
            Ok(limit) => limit,
            Err(_) => return Ok(None),
        };
        match self.digests.of(program, limit).await {
            Ok(digest) => Ok(Some(hex::encode(digest))),
            Err(DigestError::TooSlow) => Err(AttestError::TooSlow {
                limit: digest::TIME_LIMIT,
            }),
            Err(error) => {
                debug!(peer_pid = peer.pid(), error = %Chain(&error), "program not hashed");
                Ok(None)
            }
        }
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PeerProcess) -> Result<BTreeSet<Selector>, AttestError> {
        let (status, program) = peer.inspect(|proc, status| {
            let program = if self.settings.discover_workload_path {
                look_at_program(peer, proc)?
            } else {
                None
            };
            Ok::<_, PeerError>((status, program))
        })?;
        if status.groups.len() > MAX_GROUPS {
            return Err(AttestError::TooManyGroups {
                count: status.groups.len(),
                limit: MAX_GROUPS,
            });
        }

        let mut selectors = BTreeSet::new();
        let mut add = |name: &str, value: &str| {
            selectors.insert(Selector::new(NAME, &format!("{name}:{value}"))?);
            Ok::<_, AttestError>(())
        };
        self.add_users_and_groups(&status, &mut add).await?;
        if let Some(Program { file, path }) = program {
            if let Some(path) = path {
                add("path", &path)?;
            }
            if let Some(digest) = self.digest(peer, file).await? {
                add("sha256", &digest)?;
            }
        }
        Ok(selectors)
    }
}

impl UnixAttestor {
    async fn add_users_and_groups(
        &self,
        status: &Status,
        add: &mut (impl FnMut(&str, &str) -> Result<(), AttestError> + Send),
    ) -> Result<(), AttestError> {
        let (uid, gid) = (status.euid(), status.egid());
        let groups = std::iter::once(gid).chain(status.groups.iter().copied());
        let names = self.names.of(uid, groups.collect()).await?;

        add("uid", &uid.to_string())?;
        if let Some(user) = &names.user {
            add("user", user)?;
        }
        add("gid", &gid.to_string())?;
        if let Some(group) = names.groups.get(&gid) {
            add("group", group)?;
        }
        for gid in &status.groups {
            add("supplementary_gid", &gid.to_string())?;
            if let Some(group) = names.groups.get(gid) {
                add("supplementary_group", group)?;
            }
        }
        Ok(())
    }
}

/// Opens the running program. `None` if the agent may not: its selectors are then absent.
///
/// # Errors
/// It is not the one that ran when the peer was accepted.
fn look_at_program(peer: &PeerProcess, proc: &Proc<'_>) -> Result<Option<Program>, PeerError> {
    let file = match proc.open("exe") {
        Ok(file) => file,
        Err(error) => {
            debug!(peer_pid = peer.pid(), error = %Chain(&error), "program not looked at");
            return Ok(None);
        }
    };
    peer.ensure_runs(&file)?;
    let file = File::from(file);
    let path = proc.read_link("exe").ok().and_then(|path| String::from_utf8(path).ok());
    let path = path.filter(|path| path.starts_with('/') && lies_at(&file, path));
    Ok(Some(Program { file, path }))
}

/// Whether `path`, as the agent sees it, is `file`. It is not for a file that was deleted (the kernel then adds
/// ` (deleted)`), replaced, or that is of another mount namespace.
fn lies_at(file: &File, path: &str) -> bool {
    match (fstat(file.as_fd()), statat(CWD, path, AtFlags::empty())) {
        (Ok(running), Ok(there)) => (running.st_dev, running.st_ino) == (there.st_dev, there.st_ino),
        _ => false,
    }
}
