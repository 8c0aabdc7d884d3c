//! What the log shows that must not be.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A rule that no policy and no administrator can switch off; `task-model` §4.12 of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Invariant {
    /// No task SVID without an open window that is bound to the process.
    I1,
    /// None outlives its window.
    I2,
    /// The log has it before it is signed.
    I3,
    /// Approvals that are needed are there: at least one, of different people, none of them who asks or owns.
    I4,
    /// A renewal moves no end.
    I5,
    /// What is derived is a part of what it is derived from.
    I6,
    /// Reserved paths come from windows only, signed by their own class of authority.
    I7,
    /// An error or a missing input is a refusal, and nothing happens without a decision that allows it.
    I8,
    /// A grant opens as often as it may, and no more.
    I9,
    /// No key belongs to two SVIDs of tasks.
    I10,
    /// What has ended stays so.
    I11,
    /// An end needs nobody's approval.
    I12,
    /// The base SVID stays on the stream while the process lives. Not in the log: it is about the stream of an agent.
    I13,
    /// The log and the state go together, without gaps.
    I14,
    /// Every entry can be read and has its place.
    Completeness,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// What it breaks.
    pub invariant: Invariant,
    /// The entry that shows it.
    pub index: u64,
    /// Its time.
    pub time: i64,
    /// How, without anything that is private.
    pub message: String,
}

impl Invariant {
    /// Each with what it says, for the report.
    pub const ALL: [(Self, &'static str); 15] = [
        (Self::I1, "no task SVID without an open window bound to the process"),
        (Self::I2, "no SVID outlives its window"),
        (Self::I3, "the log has an SVID before it is signed"),
        (
            Self::I4,
            "approvals that are needed are there, of different people, none of them who asks",
        ),
        (Self::I5, "a renewal moves no end"),
        (Self::I6, "what is derived is a part of what it is derived from"),
        (Self::I7, "reserved paths come from windows only"),
        (
            Self::I8,
            "nothing happens without a decision that allows it, and an error allows nothing",
        ),
        (Self::I9, "a grant opens as often as it may"),
        (Self::I10, "no key belongs to two task SVIDs"),
        (Self::I11, "what has ended stays so"),
        (Self::I12, "an end needs nobody's approval"),
        (Self::I13, "the base SVID stays on the stream while the process lives"),
        (Self::I14, "the log and the state go together"),
        (Self::Completeness, "every entry can be read and has its place"),
    ];
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at entry {}: {}", self.invariant, self.index, self.message)
    }
}
