//! `private.jsonl`: values that the log only commits to, one a line, each of which shows by itself that it is the one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use mayfly_audit::Details;
use mayfly_audit::canonical::canonical;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::errors::CliError;

/// The name of the file.
pub(super) const PRIVATE: &str = "private.jsonl";
/// Longer than any line that a server writes: values are kept beside the log when entries are too long.
const LINE_MAX: u64 = 32 << 20;

/// A line that is not what it has to be.
#[derive(Debug)]
pub(super) struct Fault {
    /// Counted from one.
    pub(super) line: u64,
    /// The byte where it begins.
    pub(super) offset: u64,
    pub(super) problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    commitment: String,
    salt: String,
    value: Value,
}

/// Reads the file; what is wrong is left out and named.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(path: &Path) -> Result<(Details, Vec<Fault>), CliError> {
    let failed = |source: io::Error| CliError::System {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut details, mut faults) = (Details::default(), vec![]);
    let (mut offset, mut number) = (0, 0);
    loop {
        let mut line = vec![];
        let read = reader
            .by_ref()
            .take(LINE_MAX)
            .read_until(b'\n', &mut line)
            .map_err(failed)?;
        if read == 0 {
            return Ok((details, faults));
        }
        number += 1;
        if let Err(problem) = take(&mut details, &line) {
            faults.push(Fault {
                line: number,
                offset,
                problem,
            });
        }
        offset += read as u64;
    }
}

fn take(details: &mut Details, bytes: &[u8]) -> Result<(), String> {
    let text = bytes.strip_suffix(b"\n").ok_or("the line does not end")?;
    let Line {
        commitment,
        salt,
        value,
    } = serde_json::from_slice(text).map_err(|error| format!("no such line is written: {error}"))?;
    let bytes = hex::decode(&salt).map_err(|_| "the salt is not hexadecimal".to_owned())?;
    // One spelling: a bit that is read as if nothing was would be one that nobody sees.
    let spelled = canonical(&json!({ "commitment": commitment, "salt": hex::encode(&bytes), "value": value }));
    if spelled.as_deref() != Some(text) {
        return Err("it is not in the one spelling that such lines have".into());
    }
    details
        .add(&commitment, &bytes, value)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found_and_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PRIVATE);
        let line = |value: &Value| {
            let salt = [7u8; 16];
            let text = canonical(value).unwrap();
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[&salt[..], &text].concat());
            let line = json!({ "commitment": hex::encode(digest), "salt": hex::encode(salt), "value": value });
            [canonical(&line).unwrap(), b"\n".to_vec()].concat()
        };
        let whole = [
            line(&json!("joe")),
            line(&json!(["unix:uid:0", "é"])),
            line(&json!({ "a": null })),
        ]
        .concat();
        std::fs::write(&path, &whole).unwrap();
        let (details, faults) = read(&path).unwrap();
        assert_eq!((details.len(), faults.len()), (3, 0));
        for place in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[place / 8] ^= 1 << (place % 8);
            std::fs::write(&path, &bytes).unwrap();
            let (_, faults) = read(&path).unwrap();
            let lines_before = whole[..place / 8].iter().filter(|byte| **byte == b'\n').count() as u64;
            // A line whose end is lost takes the next one with it; one that is parted has two faults.
            assert_eq!(
                faults.first().map(|fault| fault.line),
                Some(lines_before + 1),
                "bit {place}"
            );
        }
    }
}
