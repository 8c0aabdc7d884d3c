//! Tells somebody: a line or a JSON document on the terminal, and a command.

use std::process::Stdio;
use std::time::Duration;

use mayfly_audit::commitment_of;
use mayfly_proto::mayfly::audit::SearchRequest;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::super::search::open;
use super::super::view::{EntryView, text};
use super::step;
use crate::Context;
use crate::connect::Server;
use crate::errors::CliError;
use crate::output::visible_line;

/// An alert's command may take so long.
const EXEC_MAX: Duration = Duration::from_secs(60);

pub(super) struct Teller<'a> {
    exec: Option<&'a str>,
    /// How many more, if that is limited.
    left: Option<u64>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(exec: Option<&'a str>, left: Option<u64>) -> Self {
        Self { exec, left }
    }

    /// Tells of an entry; `true` if that was the last alert that is wanted.
    pub(super) async fn tell(
        &mut self,
        alert: impl Serialize,
        view: &EntryView,
        context: &mut Context,
    ) -> Result<bool, CliError> {
        let json = json!({ "alert": alert, "entry": view.json() });
        let line = view.line(&context.out);
        self.say(&json, &line, context).await
    }

    /// Tells of the log itself; `true` if that was the last alert that is wanted.
    pub(super) async fn tell_of_the_log(
        &mut self,
        alert: &str,
        problem: &str,
        context: &mut Context,
    ) -> Result<bool, CliError> {
        let json = json!({ "alert": alert, "message": problem });
        self.say(&json, problem, context).await
    }

    async fn say(&mut self, json: &Value, line: &str, context: &mut Context) -> Result<bool, CliError> {
        if context.out.is_json() {
            context.out.json_line(json)?;
        } else {
            let line = format!("ALERT {}  {line}", text(&json["alert"]));
            context.out.line(visible_line(&line))?;
        }
        if let Some(command) = self.exec {
            execute(command, json, context).await;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left == Some(0))
    }
}

/// The entry with what is private in it, by the word of the server; `None` if that is another entry.
pub(super) async fn with_names(server: &Server, verified: &EntryView) -> Result<Option<EntryView>, CliError> {
    let request = SearchRequest {
        from_index: verified.index,
        limit: 1,
        reveal: true,
        ..SearchRequest::default()
    };
    let found = step(server, async {
        let found = open(server, request).await?.message().await;
        found.map_err(|status| server.failed("read the log", status))
    });
    let Some(found) = found.await?.filter(|found| found.index == verified.index) else {
        return Ok(None);
    };
    let named = EntryView::read(found.index, &found.entry)?;
    Ok(fits(&verified.json(), &named.json()).then_some(named))
}

/// Whether `named` is `sealed` but for what stands in the place of commitments.
fn fits(sealed: &Value, named: &Value) -> bool {
    match (sealed, named) {
        _ if commitment_of(sealed).is_some() => true,
        (Value::Object(sealed), Value::Object(named)) => {
            let is_there = |(name, value)| named.get(name).is_some_and(|named| fits(value, named));
            sealed.len() == named.len() && sealed.iter().all(is_there)
        }
        (Value::Array(sealed), Value::Array(named)) => {
            sealed.len() == named.len() && sealed.iter().zip(named).all(|(sealed, named)| fits(sealed, named))
        }
        _ => sealed == named,
    }
}

/// Runs the command; that it fails is told, and keeps nobody from the next alert.
async fn execute(command: &str, alert: &Value, context: &mut Context) {
    let run = async {
        let mut child = tokio::process::Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read is no failed one.
            let _ = stdin.write_all(format!("{alert}\n").as_bytes()).await;
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    };
    let problem = match tokio::time::timeout(EXEC_MAX, run).await {
        Ok(Ok(())) => return,
        Ok(Err(problem)) => problem,
        Err(_) => format!("it did not end within {} s", EXEC_MAX.as_secs()),
    };
    context.out.note(format!("the command of --exec has failed: {problem}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_where_commitments_do_and_nowhere_else() {
        let sealed = json!({ "who": { "commitment": "ab".repeat(32) }, "body": { "n": 1, "all": ["x", {}] } });
        let named = json!({ "who": "joe", "body": { "n": 1, "all": ["x", {}] } });
        assert!(fits(&sealed, &named) && fits(&sealed, &sealed));
        for (place, other) in [
            ("/body/n", json!(2)),
            ("/body/all/0", json!("y")),
            ("/body/all", json!(["x"])),
            ("/body", json!({ "n": 1, "all": ["x", {}], "more": 1 })),
            ("/body", json!({ "n": 1 })),
        ] {
            let mut wrong = named.clone();
            *wrong.pointer_mut(place).unwrap() = other;
            assert!(!fits(&sealed, &wrong), "{place}");
        }
    }
}
