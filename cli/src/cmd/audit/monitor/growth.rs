//! Whether a log still grows where it should: one that is frozen has nothing to tell.

use std::time::Duration;

use mayfly_proto::mayfly::audit::SearchRequest;
use tokio::time::Instant;

use super::super::search::open;
use super::step;
use crate::connect::Server;
use crate::errors::CliError;
use crate::values;

/// Between two looks at whether entries wait for a checkpoint.
const LOOK: Duration = Duration::from_secs(5);
/// An entry that no checkpoint covers for so long is kept from who verifies.
const UNCOVERED_MAX: Duration = Duration::from_secs(30);

/// What was seen of it.
pub(super) struct Growth {
    /// When it had grown.
    grown: Instant,
    /// Since when an entry waits for a checkpoint.
    uncovered: Option<Instant>,
    /// When that was looked at.
    looked: Option<Instant>,
    /// Since then the server does not answer: nobody can say that an entry still waits.
    is_away: bool,
    told: bool,
}

impl Growth {
    /// It has just grown.
    pub(super) fn new() -> Self {
        Self {
            grown: Instant::now(),
            uncovered: None,
            looked: None,
            is_away: false,
            told: false,
        }
    }

    /// The server does not answer, or what it has shown is still to be read: that is no time in which an entry waits.
    pub(super) fn pause(&mut self) {
        self.is_away = true;
    }

    /// Looks, now and then, whether entries wait for a checkpoint behind the first `size`: a server that shows an old one
    /// for ever hides what comes.
    pub(super) async fn look(&mut self, server: &Server, size: u64) -> Result<(), CliError> {
        if !self.is_away && self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        let request = SearchRequest {
            from_index: size,
            limit: 1,
            ..SearchRequest::default()
        };
        let found = step(server, async {
            let found = open(server, request).await?.message().await;
            found.map_err(|status| server.failed("follow the log", status))
        });
        let found = found.await?;
        self.looked_at(found.is_some(), Instant::now());
        Ok(())
    }

    fn looked_at(&mut self, is_uncovered: bool, now: Instant) {
        let before = self.looked.replace(now);
        let was_away = std::mem::take(&mut self.is_away);
        let away = before.filter(|_| was_away);
        self.uncovered = match (self.uncovered, away) {
            _ if !is_uncovered => None,
            // What it had waited when the server went counts, and the time without it does not.
            (Some(since), Some(away)) => Some(since + now.saturating_duration_since(away)),
            (since, _) => Some(since.unwrap_or(now)),
        };
    }

    /// What is to be told of it, once.
    pub(super) fn problem(&mut self, quiet: Duration, now: Instant) -> Option<String> {
        if self.told {
            return None;
        }
        let uncovered = self.uncovered.filter(|_| !self.is_away);
        let uncovered = uncovered.map(|since| now.saturating_duration_since(since));
        let still = now.saturating_duration_since(self.grown);
        let problem = match uncovered.filter(|since| *since >= UNCOVERED_MAX) {
            Some(since) => Some(format!(
                "the log is FROZEN: it has entries that no checkpoint covers for {}",
                values::span(since)
            )),
            None => (still >= quiet).then(|| format!("the log has not grown for {}", values::span(still))),
        };
        self.told = problem.is_some();
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_stands_still_is_told_once() {
        let (mut growth, quiet) = (Growth::new(), Duration::from_secs(3_600));
        let (begun, later) = (growth.grown, growth.grown + quiet);
        assert_eq!(growth.problem(quiet, begun), None);
        assert!(
            growth
                .problem(quiet, later)
                .unwrap()
                .contains("has not grown for 60 min")
        );
        assert_eq!(growth.problem(quiet, later), None);
        growth = Growth {
            uncovered: Some(begun),
            ..Growth::new()
        };
        assert_eq!(growth.problem(quiet, begun), None);
        let problem = growth.problem(quiet, begun + UNCOVERED_MAX);
        assert!(problem.unwrap().contains("FROZEN"));
    }
    #[test]
    fn the_time_without_a_server_is_none_in_which_an_entry_waits() {
        let quiet = Duration::from_secs(3_600);
        let mut growth = Growth::new();
        let begun = growth.grown;
        let at = |seconds| begun + Duration::from_secs(seconds);
        growth.looked_at(true, at(0));
        growth.looked_at(true, at(20));
        growth.pause();
        assert_eq!(growth.problem(quiet, at(200)), None);
        growth.looked_at(true, at(200));
        assert_eq!(growth.problem(quiet, at(209)), None);
        growth.pause();
        growth.looked_at(true, at(300));
        // 20 s before, and these 10: a server that goes away every now and then does not hide it for ever.
        assert!(growth.problem(quiet, at(310)).unwrap().contains("FROZEN"));
        // The log stands still all the same.
        let mut growth = Growth::new();
        growth.pause();
        assert!(growth.problem(quiet, growth.grown + quiet).is_some());
    }
}
