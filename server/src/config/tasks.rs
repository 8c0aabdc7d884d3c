//! `[tasks]` and `[tickets]`.

use std::path::Path;
use std::time::Duration;

use mayfly_runtime::config::Section;

use super::{DAY, SECOND};
use crate::app::tickets::{TicketSettings, TicketSource, TicketUrl};

/// The section `[tasks]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskConfig {
    /// Definitions and policies come into force when somebody else than their author agrees.
    pub two_person: bool,
    /// Entries with `admin` or `downstream` get nothing without an exception of the register.
    pub require_exceptions: bool,
    /// An agent that was not heard for so long has lost its windows of definitions that are strict.
    pub lease: Duration,
    /// A window whose checkpoints have not acknowledged by then is `RevocationIncomplete`.
    pub settle_within: Duration,
    /// What is over is forgotten after so long; the log keeps it.
    pub retention: Duration,
}

pub(super) fn tasks(section: &Section<'_>) -> TaskConfig {
    TaskConfig {
        two_person: section.bool("two_person").or(false),
        require_exceptions: section.bool("require_exceptions").or(false),
        lease: section.duration("lease").range(SECOND..=60 * SECOND).or(10 * SECOND),
        settle_within: section
            .duration("settle_within")
            .range(SECOND..=3_600 * SECOND)
            .or(30 * SECOND),
        retention: section.duration("retention").range(DAY..=3_660 * DAY).or(7 * DAY),
    }
}

pub(super) fn tickets(section: &Section<'_>) -> TicketSettings {
    let command = section.string_list("command").optional();
    let url = section
        .string("url")
        .parse_with_hint(
            |text| text.parse::<TicketUrl>(),
            "write it as https://tracker.example.org/api/tickets/{ticket}",
        )
        .optional();
    let token_file = section.path("token_file").optional();
    let ca_file = section.path("ca_file").optional();
    if let Some(argv) = &command {
        if url.is_some() {
            section.problem(
                "command",
                "stands beside url",
                "ask by a command or by HTTP, not by both",
            );
        }
        let is_whole = argv.first().is_some_and(|program| Path::new(program).is_absolute());
        if !is_whole {
            section.problem(
                "command",
                "does not begin with the whole path of a program",
                "no shell and no search path are asked: [\"/usr/local/bin/ticket-state\"]",
            );
        }
        if argv.iter().any(|word| word.contains('\0')) {
            section.problem("command", "has a character that no argument has", "");
        }
    }
    for (key, file) in [("token_file", &token_file), ("ca_file", &ca_file)] {
        if file.is_some() && url.is_none() {
            section.problem(key, "is for url, which is not there", "add url, or leave it out");
        }
    }
    let source = match (command, url) {
        (Some(argv), _) => Some(TicketSource::Command(argv)),
        (None, Some(url)) => Some(TicketSource::Http {
            url,
            token_file,
            ca_file,
        }),
        (None, None) => None,
    };
    TicketSettings {
        source,
        timeout: section
            .duration("timeout")
            .range(Duration::from_millis(100)..=30 * SECOND)
            .or(3 * SECOND),
        cache: section
            .duration("cache")
            .range(Duration::ZERO..=60 * SECOND)
            .or(5 * SECOND),
    }
}
