//! What the operator sees: tables that fit the terminal, `key value` blocks, or JSON with stable keys.
//!
//! Results go to stdout; notes, progress and errors go to stderr, so that a pipe carries results only.
//!
//! Text that others wrote (hints, versions, messages of a server) passes through here on its way to a terminal, so this is
//! where characters are spelt out that would steer the terminal instead of being seen ([`visible`]).

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use mayfly_svid::Timestamp;
use serde::Serialize;
use serde_json::json;
use time::UtcOffset;

use crate::errors::CliError;
use crate::values;

/// The form of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one document, or one line per event where events are followed.
    Json,
}

/// Where results and notes go, and in which form.
pub(crate) struct Output {
    format: Format,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Columns to fit tables into; `None` where stdout is no terminal, so that lines are never broken in a pipe.
    width: Option<u16>,
    /// Whether progress may be redrawn on stderr.
    lively: bool,
    offset: UtcOffset,
    progress_shown: bool,
}

/// A narrower terminal gets lines that it breaks itself.
const WIDTH_MIN: u16 = 40;

/// Label and value of one line of a block.
pub(crate) type Field = (&'static str, String);

// === impl Output ===

impl Output {
    /// The process's own stdout and stderr.
    pub(crate) fn of_process(format: Format, offset: UtcOffset) -> Self {
        Self {
            format,
            width: terminal_width(),
            // A terminal that steers by nothing, or is to be left alone, gets lines only.
            lively: anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never
                && io::stderr().is_terminal(),
            out: Box::new(anstream::AutoStream::auto(io::stdout())),
            err: Box::new(anstream::AutoStream::auto(io::stderr())),
            offset,
            progress_shown: false,
        }
    }

    /// Into two writers, as a terminal of `width` columns would see it, in UTC. For tests.
    #[cfg(test)]
    pub(crate) fn into_writers(
        format: Format,
        width: Option<u16>,
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
    ) -> Self {
        Self {
            format,
            out,
            err,
            width,
            lively: false,
            offset: UtcOffset::UTC,
            progress_shown: false,
        }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether tables are fitted into a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.width.is_some()
    }

    /// One line of text on stdout.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), CliError> {
        self.text(&format!("{}\n", text.as_ref()))
    }

    /// A document of our own making on stdout, as it is.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }

    /// One JSON document on stdout.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).expect("our own values have string keys only");
        self.line(json_visible(text))
    }

    /// One JSON document on one line of stdout.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).expect("our own values have string keys only");
        self.line(json_visible(text))
    }

    /// How many there are, on stdout.
    pub(crate) fn count(&mut self, count: i32) -> Result<(), CliError> {
        if self.is_json() {
            self.json(&json!({"count": count}))
        } else {
            self.line(count.to_string())
        }
    }

    /// A table on stdout; `empty` stands for one without rows.
    pub(crate) fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>, empty: &str) -> Result<(), CliError> {
        if rows.is_empty() {
            return self.line(empty);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        match self.width {
            Some(width) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table.set_header(header.iter().map(|name| name.to_uppercase()));
        // Before the widths are measured.
        table.add_rows(rows.iter().map(|row| row.iter().map(|cell| visible(cell))));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        self.text(&text)
    }

    /// Labels and values on stdout, aligned; a value of several lines is indented under its label.
    pub(crate) fn block(&mut self, fields: &[Field]) -> Result<(), CliError> {
        let width = fields.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 2;
        let mut text = String::new();
        for (label, value) in fields {
            let mut lines = value.lines();
            text.push_str(format!("{label:width$}{}", lines.next().unwrap_or("-")).trim_end());
            text.push('\n');
            for line in lines {
                text.push_str(&format!("{:width$}{line}\n", ""));
            }
        }
        self.text(&text)
    }

    /// A remark on stderr.
    pub(crate) fn note(&mut self, text: impl AsRef<str>) {
        self.end_progress();
        // Whoever closed stderr does not want to know.
        let _ = writeln!(self.err, "{}", visible(text.as_ref()));
    }

    /// A question on stderr; the answer is typed behind it.
    pub(crate) fn question(&mut self, text: &str) {
        self.end_progress();
        let _ = write!(self.err, "{} ", visible(text));
        let _ = self.err.flush();
    }

    /// Empties the terminal, to show something anew in its place; nothing where stdout is none.
    pub(crate) fn clear(&mut self) -> Result<(), CliError> {
        if self.is_terminal() {
            self.raw(b"\x1b[H\x1b[2J")?;
        }
        Ok(())
    }

    /// Progress of long work on stderr, redrawn in place; nothing where stderr is no terminal.
    pub(crate) fn progress(&mut self, done: usize, total: usize) {
        if self.lively {
            let _ = write!(self.err, "\r{done} of {total}");
            let _ = self.err.flush();
            self.progress_shown = true;
        }
    }

    /// One line on stderr that the next output replaces; nothing where stderr is no terminal.
    pub(crate) fn live(&mut self, text: &str) {
        if self.lively {
            // A line that wraps could not be taken back.
            let room = usize::from(self.width.unwrap_or(80)).saturating_sub(1);
            let line: String = visible_line(text).chars().take(room).collect();
            let _ = write!(self.err, "\r\x1b[K{line}");
            let _ = self.err.flush();
            self.progress_shown = true;
        }
    }

    /// A remark as one JSON document on one line of stderr.
    pub(crate) fn note_json(&mut self, value: &serde_json::Value) {
        self.end_progress();
        let _ = writeln!(self.err, "{}", json_visible(value.to_string()));
    }

    /// An error with its hints, on stderr.
    pub(crate) fn error(&mut self, error: &CliError) {
        self.end_progress();
        let text = if self.is_json() {
            format!("{}\n", json_visible(error.to_json().to_string()))
        } else {
            let hints: String = error.hints().iter().map(|hint| format!("  hint: {hint}\n")).collect();
            visible(&format!("error: {error}\n{hints}")).into_owned()
        };
        let _ = self.err.write_all(text.as_bytes());
    }

    /// What clap has to say: help and version, which are "errors" that go to stdout, or what is wrong with a command line.
    pub(crate) fn of_clap(&mut self, error: &clap::Error) {
        let text = error.render().ansi().to_string();
        let stream = if error.use_stderr() {
            &mut self.err
        } else {
            &mut self.out
        };
        // Nothing can be done if it cannot be printed.
        let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    }

    /// `2026-11-22T10:15:00+01:00 (in 52 min)`.
    pub(crate) fn time(&self, time: Timestamp, now: Timestamp) -> String {
        format!(
            "{} ({})",
            values::rfc3339(time, self.offset),
            values::relative(time, now)
        )
    }

    /// `2026-11-22T10:15:00+01:00`.
    pub(crate) fn moment(&self, time: Timestamp) -> String {
        values::rfc3339(time, self.offset)
    }

    fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.raw(visible(text).as_bytes())
    }

    fn end_progress(&mut self) {
        if std::mem::take(&mut self.progress_shown) {
            let _ = write!(self.err, "\r\x1b[K");
        }
    }
}

fn terminal_width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    // Some terminals have no size, or none that a table could use.
    Table::new().width().filter(|width| *width >= WIDTH_MIN)
}

/// `text` with every character spelt out that would not be seen as itself: what steers a terminal (C0, C1, DEL), and what
/// reorders or hides other characters. Line ends stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(|c| c != '\n' && is_unseen(c)) {
        return Cow::Borrowed(text);
    }
    let spell = |c: char| match c {
        '\n' => "\n".to_owned(),
        c if is_unseen(c) => c.escape_default().to_string(),
        c => c.to_string(),
    };
    Cow::Owned(text.chars().map(spell).collect())
}

/// As [`visible`], and on one line: nobody can make a line of ours out of a part of theirs.
pub(crate) fn visible_line(text: &str) -> String {
    visible(text).replace('\n', "\\n")
}

/// JSON whose strings are as [`visible`] makes them, by JSON's own escapes: its value is the same. serde_json escapes C0.
fn json_visible(json: String) -> String {
    if !json.contains(|c| c != '\n' && is_unseen(c)) {
        return json;
    }
    let spell = |c: char| match c {
        c if c != '\n' && is_unseen(c) => c
            .encode_utf16(&mut [0; 2])
            .iter()
            .map(|u| format!("\\u{u:04x}"))
            .collect(),
        c => c.to_string(),
    };
    json.chars().map(spell).collect()
}

fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Captured;

    #[test]
    fn a_table_keeps_to_the_width_of_the_terminal_and_a_pipe_keeps_its_lines() {
        let long = "spiffe://example.org/".to_owned() + &"a".repeat(100);
        for (width, most) in [(Some(60), 60), (None, 200)] {
            let captured = Captured::default();
            let mut output = Output::into_writers(Format::Text, width, captured.out(), captured.err());
            output
                .table(&["id", "name"], vec![vec!["1".into(), long.clone()]], "none")
                .unwrap();
            let text = captured.stdout();
            assert!(text.lines().all(|line| line.len() <= most), "{text}");
            assert_eq!(text.contains(&long), width.is_none());
        }
    }

    #[test]
    fn what_would_steer_the_terminal_is_spelt_out() {
        let evil = "a\x1b]0;title\x07\u{9b}2J\r\u{202e}z\nü";
        let captured = Captured::default();
        let mut output = Output::into_writers(Format::Text, Some(80), captured.out(), captured.err());
        output.line(evil).unwrap();
        output.block(&[("Hint", evil.into())]).unwrap();
        output.table(&["hint"], vec![vec![evil.into()]], "none").unwrap();
        output.json(&evil).unwrap();
        output.note(evil);
        output.error(&CliError::failed(evil, evil));
        let text = captured.stdout() + &captured.stderr();
        assert!(!text.contains(|c| c != '\n' && is_unseen(c)), "{text:?}");
        assert!(
            text.contains("a\\u{1b}]0;title\\u{7}\\u{9b}2J\\r\\u{202e}z\nü"),
            "{text}"
        );
        let json = captured
            .stdout()
            .lines()
            .find(|line| line.starts_with('"'))
            .unwrap()
            .to_owned();
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), evil);
        assert_eq!(visible_line("x\nok"), "x\\nok");
    }

    #[test]
    fn values_of_several_lines_stay_under_their_label() {
        let captured = Captured::default();
        let mut output = Output::into_writers(Format::Text, None, captured.out(), captured.err());
        output
            .block(&[
                ("Name", "a".into()),
                ("Selectors", "x\ny".into()),
                ("Hint", String::new()),
            ])
            .unwrap();
        assert_eq!(
            captured.stdout(),
            "Name       a\nSelectors  x\n           y\nHint       -\n"
        );
    }
}
