//! Readers for the text of `/proc/<pid>/status` and `/proc/<pid>/stat`.
//!
//! Pure functions over bytes. A process chooses its own name, which stands in both files, so whatever it may hold must
//! not move another field: `status` has the kernel's escape for it and a field may occur only once, `stat` is read from
//! its last parenthesis on.

/// Why the text was not understood. Field names only, nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcTextError {
    /// A field is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field is there more than once.
    #[error("`{0}` is there twice")]
    Repeated(&'static str),
    /// A field does not hold what it should.
    #[error("`{0}` is malformed")]
    Malformed(&'static str),
}

/// Real, effective, saved and file-system ID, in the order of the kernel.
pub type Ids = [u32; 4];

/// Who a process is, from `/proc/<pid>/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// User IDs.
    pub uids: Ids,
    /// Group IDs.
    pub gids: Ids,
    /// Supplementary group IDs, in the kernel's order.
    pub groups: Vec<u32>,
}

impl Status {
    /// The effective user ID.
    #[must_use]
    pub fn euid(&self) -> u32 {
        self.uids[1]
    }

    /// The effective group ID.
    #[must_use]
    pub fn egid(&self) -> u32 {
        self.gids[1]
    }
}

/// Reads `/proc/<pid>/status`.
///
/// # Errors
/// `Uid`, `Gid` or `Groups` is missing, repeated or malformed.
pub fn status(text: &[u8]) -> Result<Status, ProcTextError> {
    let (mut uids, mut gids, mut groups) = (None, None, None);
    for line in text.split(|octet| *octet == b'\n') {
        if let Some(value) = line.strip_prefix(b"Uid:") {
            once("Uid", &mut uids, ids("Uid", value)?)?;
        } else if let Some(value) = line.strip_prefix(b"Gid:") {
            once("Gid", &mut gids, ids("Gid", value)?)?;
        } else if let Some(value) = line.strip_prefix(b"Groups:") {
            once(
                "Groups",
                &mut groups,
                numbers("Groups", value).collect::<Result<_, _>>()?,
            )?;
        }
    }
    Ok(Status {
        uids: uids.ok_or(ProcTextError::Missing("Uid"))?,
        gids: gids.ok_or(ProcTextError::Missing("Gid"))?,
        groups: groups.ok_or(ProcTextError::Missing("Groups"))?,
    })
}

/// Reads in `/proc/<pid>/task/<tid>/status` which process traces the thread; 0 for none.
///
/// # Errors
/// `TracerPid` is missing, repeated or malformed.
pub fn tracer(text: &[u8]) -> Result<u32, ProcTextError> {
    only_number(text, "TracerPid")
}

/// Reads in `/proc/<tid>/status` which process the thread is one of.
///
/// # Errors
/// `Tgid` is missing, repeated or malformed.
pub fn thread_group(text: &[u8]) -> Result<u32, ProcTextError> {
    only_number(text, "Tgid")
}

/// The only number of a field that is there once.
fn only_number(text: &[u8], field: &'static str) -> Result<u32, ProcTextError> {
    let mut found = None;
    for line in text.split(|octet| *octet == b'\n') {
        let value = line
            .strip_prefix(field.as_bytes())
            .and_then(|rest| rest.strip_prefix(b":"));
        if let Some(value) = value {
            let mut numbers = numbers(field, value);
            let (Some(first), None) = (numbers.next(), numbers.next()) else {
                return Err(ProcTextError::Malformed(field));
            };
            once(field, &mut found, first?)?;
        }
    }
    found.ok_or(ProcTextError::Missing(field))
}

/// What `/proc/<pid>/stat` says of a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The state letter, such as `R`, `S`, or `Z` for a process that has ended.
    pub state: u8,
    /// The number of its parent; 0 for none that we could see.
    pub parent: u32,
    /// Clock ticks between the start of the system and the start of the process.
    pub start_time: u64,
}

/// Reads `/proc/<pid>/stat`.
///
/// # Errors
/// A field is missing or malformed.
pub fn stat(text: &[u8]) -> Result<Stat, ProcTextError> {
    // Field 2 is the name in parentheses and may hold anything, parentheses and blanks too.
    let end = text
        .iter()
        .rposition(|octet| *octet == b')')
        .ok_or(ProcTextError::Missing("comm"))?;
    let mut fields = words(&text[end + 1..]);
    let state = match fields.next() {
        Some([state]) => *state,
        Some(_) => return Err(ProcTextError::Malformed("state")),
        None => return Err(ProcTextError::Missing("state")),
    };
    let parent = fields.next().ok_or(ProcTextError::Missing("ppid"))?;
    // `state` is field 3, `starttime` field 22.
    let start_time = fields.nth(22 - 5).ok_or(ProcTextError::Missing("starttime"))?;
    Ok(Stat {
        state,
        parent: number("ppid", parent)?,
        start_time: number("starttime", start_time)?,
    })
}

fn once<T>(field: &'static str, slot: &mut Option<T>, value: T) -> Result<(), ProcTextError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ProcTextError::Repeated(field)),
    }
}

fn ids(field: &'static str, text: &[u8]) -> Result<Ids, ProcTextError> {
    let mut ids = [0; 4];
    let mut given = numbers(field, text);
    for id in &mut ids {
        *id = given.next().ok_or(ProcTextError::Malformed(field))??;
    }
    if given.next().is_some() {
        return Err(ProcTextError::Malformed(field));
    }
    Ok(ids)
}

fn numbers(field: &'static str, text: &[u8]) -> impl Iterator<Item = Result<u32, ProcTextError>> {
    words(text).map(move |word| number(field, word))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A decimal number, digits only.
fn number<T: std::str::FromStr>(field: &'static str, word: &[u8]) -> Result<T, ProcTextError> {
    let malformed = ProcTextError::Malformed(field);
    if !word.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    std::str::from_utf8(word)
        .ok()
        .and_then(|word| word.parse().ok())
        .ok_or(malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATUS: &str = "Name:\tmy app\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nUid:\t1000\t1001\t1002\t1003\n\
                          Gid:\t10\t11\t12\t13\nFDSize:\t64\nGroups:\t4 24 4294967294 \nNStgid:\t42\n";

    #[test]
    fn ids_and_groups_are_read() {
        let status = status(STATUS.as_bytes()).unwrap();
        assert_eq!(status.uids, [1000, 1001, 1002, 1003]);
        assert_eq!((status.euid(), status.egid()), (1001, 11));
        assert_eq!(status.groups, [4, 24, 4_294_967_294]);
    }

    #[test]
    fn a_process_without_supplementary_groups_has_none() {
        assert_eq!(
            status(b"Uid:\t0 0 0 0\nGid:\t0 0 0 0\nGroups:\t \n").unwrap().groups,
            [0; 0]
        );
    }

    #[test]
    fn a_field_that_is_missing_repeated_or_odd_is_an_error() {
        use ProcTextError::{Malformed, Missing, Repeated};
        for (from, to, error) in [
            ("Uid:", "Uix:", Missing("Uid")),
            ("Groups:", "Group:", Missing("Groups")),
            ("FDSize:\t64", "Uid:\t0\t0\t0\t0", Repeated("Uid")),
            ("\t1003", "", Malformed("Uid")),
            ("\t1003", "\t1003\t1004", Malformed("Uid")),
            ("\t13\n", "\t-1\n", Malformed("Gid")),
            ("\t13\n", "\t+1\n", Malformed("Gid")),
            ("4294967294", "4294967296", Malformed("Groups")),
            ("24", "2x", Malformed("Groups")),
        ] {
            assert_eq!(status(STATUS.replace(from, to).as_bytes()), Err(error), "{from} → {to}");
        }
        assert_eq!(status(b""), Err(Missing("Uid")));
    }

    #[test]
    fn a_tracer_is_read_and_is_there_once() {
        use ProcTextError::{Malformed, Missing, Repeated};
        for (text, expected) in [
            ("Name:\tTracerPid:\nTracerPid:\t4711\nUid:\t0\n", Ok(4711)),
            ("TracerPid:\t0\n", Ok(0)),
            ("Uid:\t0\n", Err(Missing("TracerPid"))),
            ("TracerPid:\t0\nTracerPid:\t1\n", Err(Repeated("TracerPid"))),
            ("TracerPid:\t\n", Err(Malformed("TracerPid"))),
            ("TracerPid:\t1 2\n", Err(Malformed("TracerPid"))),
            ("TracerPid:\tx\n", Err(Malformed("TracerPid"))),
        ] {
            assert_eq!(tracer(text.as_bytes()), expected, "{text}");
        }
        assert!(tracer(&std::fs::read("/proc/self/status").unwrap()).is_ok());
        // The process of a thread stands under the thread's number.
        assert_eq!(thread_group(STATUS.as_bytes()), Ok(42));
        let of_this_thread = std::fs::read(format!("/proc/{}/status", nix::unistd::gettid())).unwrap();
        assert_eq!(thread_group(&of_this_thread), Ok(std::process::id()));
    }

    #[test]
    fn a_name_cannot_move_the_start_time() {
        let rest = "S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 987654321 1000 10";
        for name in [
            "sh",
            "a b",
            ") R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 (",
            "x\n)\n",
            "\u{fffd}",
            "",
        ] {
            let text = format!("42 ({name}) {rest}");
            assert_eq!(
                stat(text.as_bytes()),
                Ok(Stat {
                    state: b'S',
                    parent: 1,
                    start_time: 987_654_321
                }),
                "{name}"
            );
        }
    }

    #[test]
    fn a_stat_line_that_is_cut_off_is_an_error() {
        use ProcTextError::{Malformed, Missing};
        for (text, error) in [
            ("", Missing("comm")),
            ("42 (sh", Missing("comm")),
            ("42 (sh)", Missing("state")),
            ("42 (sh) SS 1", Malformed("state")),
            ("42 (sh) S", Missing("ppid")),
            ("42 (sh) S -1 2 3", Missing("starttime")),
            ("42 (sh) S 1 2 3", Missing("starttime")),
            (
                "42 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999999",
                Malformed("starttime"),
            ),
        ] {
            assert_eq!(stat(text.as_bytes()), Err(error), "{text}");
        }
    }

    #[test]
    fn our_own_files_are_read() {
        let own = status(&std::fs::read("/proc/self/status").unwrap()).unwrap();
        assert_eq!(own.euid(), nix::unistd::geteuid().as_raw());
        assert!(stat(&std::fs::read("/proc/self/stat").unwrap()).unwrap().start_time > 0);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..300), head in "(Uid:|Gid:|Groups:|1 \\()?") {
            let text = [head.as_bytes(), &text].concat();
            let _ = status(&text);
            let _ = stat(&text);
            let _ = (tracer(&text), thread_group(&text));
        }
    }
}
