//! Whether a log still grows where it should: one that is frozen has nothing to tell.

use std::time::Duration;

use mayfly_proto::mayfly::audit::SearchRequest;
use tokio::time::Instant;

use super::super::search::open;
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
    told: bool,
}

impl Growth {
    /// It has just grown.
    pub(super) fn new() -> Self {
        Self {
            grown: Instant::now(),
            uncovered: None,
            looked: None,
            told: false,
        }
    }

    /// Looks, now and then, whether entries wait for a checkpoint behind the first `size`: a server that shows an old one
    /// for ever hides what comes.
    pub(super) async fn look(&mut self, server: &Server, size: u64) -> Result<(), CliError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(());
        }
        let request = SearchRequest {
            from_index: size,
            limit: 1,
            ..SearchRequest::default()
        };
        let mut stream = open(server, request).await?;
        let found = stream.message().await;
        let found = found.map_err(|status| server.failed("follow the log", status))?;
        self.looked = Some(Instant::now());
        match found {
            Some(_) => _ = self.uncovered.get_or_insert_with(Instant::now),
            None => self.uncovered = None,
        }
        Ok(())
    }

    /// What is to be told of it, once.
    pub(super) fn problem(&mut self, quiet: Duration, now: Instant) -> Option<String> {
        if self.told {
            return None;
        }
        let uncovered = self.uncovered.map(|since| now.saturating_duration_since(since));
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
}
