//! Definitions as files: read and checked here, with the line of every fault, before anything is sent.

use std::ops::Range;

use mayfly_model::task::{DEFINITION_MAX, Definition, DefinitionProblem};
use toml::de::{DeTable, DeValue};

use crate::errors::CliError;
use crate::files::{self, shown};
use crate::values;

/// A definition of a file.
#[derive(Debug)]
pub(super) struct Local {
    /// The file, as messages name it.
    pub(super) name: String,
    /// As it was written.
    pub(super) text: String,
    /// What it means.
    pub(super) definition: Definition,
}

/// Reads and checks all of `names`; `-` is stdin.
///
/// # Errors
/// Every fault of every file, each with file, line and key.
pub(super) fn read_all(names: &[String]) -> Result<Vec<Local>, CliError> {
    let mut read = Vec::new();
    let mut faults = Vec::new();
    for name in names {
        let bytes = files::read(name, DEFINITION_MAX as u64)?;
        let name = shown(name);
        match String::from_utf8(bytes) {
            Err(_) => faults.push(format!("{name}: this is not text in UTF-8")),
            Ok(text) => match check(&text) {
                Err(problems) => faults.extend(problems.into_iter().map(|problem| format!("{name}{problem}"))),
                Ok(definition) => read.push(Local { name, text, definition }),
            },
        }
    }
    let mut seen: Vec<&Local> = Vec::new();
    for local in &read {
        match seen.iter().find(|other| other.definition.name == local.definition.name) {
            Some(other) => faults.push(format!(
                "{}: {} is defined in {} too",
                local.name, local.definition.name, other.name
            )),
            None => seen.push(local),
        }
    }
    if faults.is_empty() {
        return Ok(read);
    }
    let what = match faults.as_slice() {
        [only] => only.clone(),
        several => format!("{} faults, nothing was sent\n  {}", several.len(), several.join("\n  ")),
    };
    Err(CliError::input(what, "docs/cli.md has an example of a definition"))
}

/// What a text means, or everything that is wrong with it: `:7: limits.max_window: …`.
fn check(text: &str) -> Result<Definition, Vec<String>> {
    let definition: Definition = toml::from_str(text).map_err(|error| {
        let place = error
            .span()
            .map_or_else(String::new, |span| format!(":{}", line(text, &span)));
        vec![format!("{place}: {}", words(error.message()))]
    })?;
    let problems = definition.check();
    if problems.is_empty() {
        return Ok(definition);
    }
    let table = DeTable::parse(text).ok();
    let told = |DefinitionProblem { field, problem }: DefinitionProblem| {
        let place = table
            .as_ref()
            .and_then(|table| place(table.get_ref(), field))
            .map_or_else(String::new, |span| format!(":{}", line(text, &span)));
        format!("{place}: {field}: {problem}")
    };
    Err(problems.into_iter().map(told).collect())
}

/// Where `limits.max_window` is said; where it is not, its table.
fn place(table: &DeTable<'_>, field: &str) -> Option<Range<usize>> {
    let (first, rest) = match field.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (field, None),
    };
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == first)?;
    let here = key.span();
    match (rest, value.get_ref()) {
        (Some(rest), DeValue::Table(below)) => place(below, rest).or(Some(here)),
        _ => Some(here),
    }
}

/// Line numbers start at 1.
fn line(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes()[..span.start.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

/// What serde says, on one line. Of a misspelt key it names all that there are, where one is of use.
fn words(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let given = quoted.next().filter(|_| message.starts_with("unknown field"));
    match given.and_then(|given| values::nearest(given, quoted)) {
        Some(key) => format!("unknown field `{}`; did you mean `{key}`?", given.unwrap_or_default()),
        None => message.replace('\n', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"pay/x\"\nowner = \"alice\"\n\n[allowed]\nworkloads = [\"/ns/pay/x\"]\n";

    fn faults(text: &str) -> Vec<String> {
        check(text).unwrap_err()
    }

    #[test]
    fn every_fault_has_its_line() {
        assert_eq!(check(GOOD).unwrap().name.as_str(), "pay/x");
        let text = format!("sensitivity = 3\n{GOOD}\n[limits]\n# long\nmax_window = \"9h\"\nmax_uses = 0\n");
        let faults = faults(&text);
        let of = |field: &str| faults.iter().find(|fault| fault.contains(field)).unwrap().clone();
        assert!(of("limits.max_window").starts_with(":10: "), "{faults:?}");
        assert!(of("limits.max_uses").starts_with(":11: "), "{faults:?}");
        // What is not there at all has no line.
        assert!(of("approval.count").starts_with(": approval.count: "), "{faults:?}");
        let missing = GOOD.to_owned() + "[approval]\ngroups = [\"pay/leads\"]\n";
        assert!(check(&missing).unwrap_err()[0].starts_with(":6: approval.count: "));
    }

    #[test]
    fn what_cannot_be_read_has_its_line_and_the_word_that_was_meant() {
        let text = GOOD.replace("owner", "ownr");
        assert_eq!(faults(&text), [":2: unknown field `ownr`; did you mean `owner`?"]);
        let text = GOOD.replace("pay/x\"", "Pay\"");
        assert!(
            faults(&text)[0].starts_with(":1: `Pay` is not the name of a task"),
            "{:?}",
            faults(&text)
        );
        assert!(faults("name = [")[0].starts_with(":1: "));
    }
}
