//! Verifier keys as they are given on a command line: themselves, or files with one a line.

use mayfly_proto::mayfly::audit::GetCheckpointRequest;
use mayfly_proto::mayfly::audit::GetCheckpointResponse;
use mayfly_tlog::note::{Algorithm, VerifierKey};

use crate::connect::Server;
use crate::errors::CliError;
use crate::files;

/// More than a log or a file of witnesses ever has.
const FILE_MAX: u64 = 1 << 20;

/// What the keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// They sign checkpoints.
    Log,
    /// They cosign them.
    Witness,
}

/// Reads each of `given`, a key or a file.
///
/// # Errors
/// One is neither, or a key for something else.
pub(super) fn read(given: &[String], of: Of) -> Result<Vec<VerifierKey>, CliError> {
    let mut all = vec![];
    for text in given {
        match text.parse::<VerifierKey>() {
            Ok(key) => all.push(key),
            // No path looks like this.
            Err(error) if text.matches('+').count() >= 2 && !std::path::Path::new(text).exists() => {
                return Err(CliError::input(format!("`{text}`: {error}"), HINT));
            }
            Err(_) => all.extend(read_file(text)?),
        }
    }
    let algorithm = match of {
        Of::Log => Algorithm::Ed25519,
        Of::Witness => Algorithm::CosignatureV1,
    };
    match all.iter().find(|key| key.algorithm() != algorithm) {
        None => Ok(all),
        Some(other) => Err(CliError::input(
            format!("`{other}` is a key of another kind than is wanted here"),
            "keys of logs go to --key, keys of witnesses to --witness-key",
        )),
    }
}

const HINT: &str = "give the line that `mayfly audit keys` shows, or a file with such lines";

fn read_file(path: &str) -> Result<Vec<VerifierKey>, CliError> {
    let bytes = files::read(path, FILE_MAX)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(|(number, line)| {
        line.parse::<VerifierKey>()
            .map_err(|error| CliError::input(format!("{}, line {number}: {error}", files::shown(path)), HINT))
    });
    let keys: Vec<VerifierKey> = keys.collect::<Result<_, _>>()?;
    match keys.is_empty() {
        true => Err(CliError::input(format!("{} has no keys", files::shown(path)), HINT)),
        false => Ok(keys),
    }
}

/// The newest checkpoint of the server, and the keys that it says are its own.
///
/// # Errors
/// That of the call, or a key that is none.
pub(super) async fn checkpoint(server: &Server) -> Result<(Vec<u8>, Vec<VerifierKey>), CliError> {
    let answer = server
        .audit()
        .get_checkpoint(server.request(GetCheckpointRequest {}))
        .await;
    let answer = answer.map_err(|status| server.failed("ask for the checkpoint", status))?;
    let GetCheckpointResponse {
        checkpoint,
        verifier_keys,
    } = answer.into_inner();
    let keys = verifier_keys.iter().map(|key| key.parse::<VerifierKey>());
    let keys = keys.collect::<Result<_, _>>().map_err(|error| CliError::BadAnswer {
        who: "the server",
        what: error.to_string(),
    })?;
    Ok((checkpoint, keys))
}
