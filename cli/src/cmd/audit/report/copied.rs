//! A copy of a log that was checked, and what its entries name.

use std::path::Path;

use mayfly_audit::{Details, LogFacts};
use mayfly_report::export;
use mayfly_tlog::files::{LogDir, LogKeys, VerifiedLog};
use mayfly_tlog::note::{Algorithm, VerifierKey};
use serde_json::Value;

use super::super::copy::{KEYS, named_key};
use super::super::keys::{self, Of};
use super::super::private::{self, PRIVATE};
use crate::errors::CliError;

/// A copy, every bit of which was checked.
pub(in super::super) struct Copied {
    pub(in super::super) log: VerifiedLog,
    /// The keys that the log names, the newest first.
    keys: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
}

impl Copied {
    /// Checks the copy in `dir`, by `given` keys or by those that it brings.
    ///
    /// # Errors
    /// It is no copy, or a damaged one.
    pub(in super::super) fn open(dir: &Path, given: &[VerifierKey]) -> Result<Self, CliError> {
        if !dir.is_dir() {
            return Err(CliError::input(
                format!("`{}` is not a folder", dir.display()),
                "name the folder of a copy, as `mayfly audit export` writes it",
            ));
        }
        let trusted = match given.is_empty() {
            true => keys::read(&[dir.join(KEYS).to_string_lossy().into_owned()], Of::Log)?,
            false => given.to_vec(),
        };
        let log = LogDir::open(dir).verify_all(&LogKeys::new(trusted).allow_unknown_signatures());
        let log = log.map_err(|damages| damaged(dir, &damages.to_string()))?;
        let (mut own, mut witnesses) = (vec![], vec![]);
        for entry in log.entries() {
            let (_, bytes) = entry.map_err(|damage| damaged(dir, &damage.to_string()))?;
            own.extend(named_key(&bytes).filter(|key| !own.contains(key)));
            witnesses.extend(named_witness(&bytes).filter(|key| !witnesses.contains(key)));
        }
        own.reverse();
        let keys = own;
        Ok(Self { log, keys, witnesses })
    }

    /// What a report says of the log.
    pub(super) fn facts(&self) -> LogFacts {
        let cosigned = self.log.checkpoint().cosigned_by(&self.witnesses).unwrap_or_default();
        let names = cosigned.iter().map(|cosigned| cosigned.key.name().to_owned());
        export::facts(self.log.checkpoint(), &self.keys, names.collect())
    }

    /// What is private and known.
    ///
    /// # Errors
    /// A value is not the one that the log commits to.
    pub(in super::super) fn details(&self, dir: &Path) -> Result<Details, CliError> {
        let path = dir.join(PRIVATE);
        if !path.exists() {
            return Ok(Details::default());
        }
        let (details, faults) = private::read(&path)?;
        match faults.first() {
            None => Ok(details),
            Some(fault) => Err(damaged(
                dir,
                &format!("{PRIVATE}, line {}: {}", fault.line, fault.problem),
            )),
        }
    }
}

fn named_witness(entry: &[u8]) -> Option<VerifierKey> {
    if !entry.windows(18).any(|window| window == b"witness.registered") {
        return None;
    }
    let entry: Value = serde_json::from_slice(entry).ok()?;
    let text = entry["body"]["vkey"]
        .as_str()
        .filter(|_| entry["kind"] == "witness.registered")?;
    let key = text.parse::<VerifierKey>().ok()?;
    (key.algorithm() == Algorithm::CosignatureV1).then_some(key)
}

fn damaged(dir: &Path, what: &str) -> CliError {
    CliError::failed(
        format!("the copy in `{}` is damaged: {what}", dir.display()),
        "`mayfly audit verify` names each place",
    )
}
