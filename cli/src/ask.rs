//! Questions to whoever sits at the terminal.
//!
//! A script is never asked: it says on the command line what a person would answer.

use std::io::{self, BufRead, IsTerminal};

use crate::Context;
use crate::errors::CliError;

/// Who answers questions.
#[derive(Debug)]
pub(crate) enum Asker {
    /// Whoever types into stdin.
    Terminal,
    /// There is nobody.
    Nobody,
    /// A test.
    #[cfg(test)]
    Test(&'static str),
}

/// The longest answer that is read, in bytes.
const ANSWER_MAX: u64 = 1024;

impl Asker {
    /// The terminal of this process: where both the question is seen and an answer can be typed.
    pub(crate) fn of_process() -> Self {
        if io::stdin().is_terminal() && io::stderr().is_terminal() {
            Self::Terminal
        } else {
            Self::Nobody
        }
    }

    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self::Nobody
    }

    #[cfg(test)]
    pub(crate) fn of_test(answer: &'static str) -> Self {
        Self::Test(answer)
    }

    /// Whether a question in a command with results of this form would be answered.
    pub(crate) fn is_there(&self, json: bool) -> bool {
        !json && !matches!(self, Self::Nobody)
    }
}

impl Context {
    /// Goes on only if whoever sits there types `word`.
    ///
    /// # Errors
    /// Something else was typed; or there is nobody to ask, and `otherwise` says how to do without.
    pub(crate) async fn confirm(&mut self, question: &str, word: &str, otherwise: &str) -> Result<(), CliError> {
        if !self.asker.is_there(self.out.is_json()) {
            let why = if self.out.is_json() {
                "with --output json nobody is asked"
            } else {
                "nobody can be asked: this is no terminal"
            };
            return Err(CliError::input(format!("{why}, and this wants an answer"), otherwise));
        }
        self.out.question(&format!(
            "{question} Type `{word}` to go on, anything else to leave it:"
        ));
        let typed = match &self.asker {
            Asker::Terminal => typed().await,
            Asker::Nobody => String::new(),
            #[cfg(test)]
            Asker::Test(answer) => (*answer).to_owned(),
        };
        if typed.trim() == word {
            Ok(())
        } else {
            Err(CliError::Failed {
                what: "left as it is: nothing was changed".into(),
                hints: vec![],
            })
        }
    }
}

/// A line of stdin. Read on a thread of its own, so that the connection to the server stays alive however long it takes.
async fn typed() -> String {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        // What cannot be read is no consent.
        let _ = io::Read::take(io::stdin().lock(), ANSWER_MAX).read_line(&mut line);
        line
    });
    read.await.unwrap_or_default()
}
