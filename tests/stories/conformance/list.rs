//! The table of `docs/conformance.md`: which rule there is, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A rule: section and number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) section: String,
    pub(super) number: u32,
}

/// How strongly the standard puts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Must,
    Should,
    May,
}

/// What became of it here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Tested,
    Met,
    NotMet,
    NotUsed,
    NotOursYet,
}

/// The page, read.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) rows: BTreeMap<Row, (Level, State)>,
    /// Rows by state, as the page counts them: all, tested or met, not met, not used, not ours yet.
    pub(super) counted: BTreeMap<String, [usize; 5]>,
    /// Sections whose rows are not on the page.
    pub(super) other_sections: BTreeSet<String>,
}

const OTHER_SECTIONS: &str = "Sections whose rows are not here yet: ";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:02}", self.section, self.number)
    }
}

impl Row {
    /// `XSVID-07`: two to five capitals, a dash, two digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (section, number) = text.split_once('-')?;
        let fits = (2..=5).contains(&section.len())
            && section.bytes().all(|byte| byte.is_ascii_uppercase())
            && number.len() == 2
            && number.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| Self {
            section: section.into(),
            number: number.parse().expect("two digits"),
        })
    }
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text.trim_end_matches(['†', '‡']) {
            "MUST" | "MUST NOT" => Some(Self::Must),
            "SHOULD" | "SHOULD NOT" => Some(Self::Should),
            "MAY" => Some(Self::May),
            _ => None,
        }
    }
}

impl State {
    /// What the column says; a state that is none of the good ones needs a reason.
    fn parse(text: &str) -> Option<Self> {
        let (word, reason) = text
            .split_once(": ")
            .map_or((text, None), |(word, reason)| (word, Some(reason)));
        let state = match word {
            "tested" => Self::Tested,
            "met" => Self::Met,
            "not met" => Self::NotMet,
            "not used" => Self::NotUsed,
            "not ours yet" => Self::NotOursYet,
            _ => return None,
        };
        let wants_reason = !matches!(state, Self::Tested | Self::Met);
        (wants_reason == reason.is_some_and(|reason| !reason.trim().is_empty())).then_some(state)
    }

    fn fits(self, level: Level) -> bool {
        match self {
            Self::Tested => level != Level::Should,
            Self::Met | Self::NotMet => level == Level::Should,
            Self::NotUsed => level == Level::May,
            Self::NotOursYet => true,
        }
    }
}

/// Reads the page; gives what is wrong with it as well.
pub(super) fn read(page: &str) -> (List, Vec<String>) {
    let mut list = List::default();
    let mut wrong = Vec::new();
    for line in page.lines() {
        if let Some(others) = line.strip_prefix(OTHER_SECTIONS) {
            let names = others.trim_end_matches('.').split(", ");
            list.other_sections = names.map(ToOwned::to_owned).collect();
            continue;
        }
        let Some(cells) = cells(line) else { continue };
        if let Some(row) = Row::parse(cells[0]) {
            if let Err(why) = list.add(row, &cells) {
                wrong.push(format!("{why}: {line}"));
            }
        } else if cells.len() == 7 && cells[2].parse::<usize>().is_ok() {
            let numbers: Vec<usize> = cells[2..].iter().filter_map(|cell| cell.parse().ok()).collect();
            match numbers.try_into() {
                Ok(numbers) => drop(list.counted.insert(cells[0].into(), numbers)),
                Err(_) => wrong.push(format!("a count is no number: {line}")),
            }
        }
    }
    wrong.extend(list.gaps());
    wrong.extend(list.miscounts());
    (list, wrong)
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
    Some(inner.split(" | ").map(str::trim).collect())
}

impl List {
    fn add(&mut self, row: Row, cells: &[&str]) -> Result<(), &'static str> {
        let &[_, level, asks, state] = cells else {
            return Err("a row has four columns");
        };
        let level = Level::parse(level).ok_or("no such level")?;
        let state = State::parse(state).ok_or("no such state, or a reason too many or too few")?;
        if asks.is_empty() {
            return Err("what it asks is not said");
        }
        if !state.fits(level) {
            return Err("that state is not for that level");
        }
        match self.rows.insert(row, (level, state)) {
            None => Ok(()),
            Some(_) => Err("the row stands twice"),
        }
    }

    fn gaps(&self) -> Vec<String> {
        let mut next: BTreeMap<&str, u32> = BTreeMap::new();
        let mut wrong = Vec::new();
        for row in self.rows.keys() {
            let expected = next.entry(&row.section).or_insert(1);
            while *expected < row.number {
                wrong.push(format!("{}-{expected:02} is missing", row.section));
                *expected += 1;
            }
            *expected += 1;
        }
        wrong
    }

    fn miscounts(&self) -> Vec<String> {
        let mut counts: BTreeMap<String, [usize; 5]> = BTreeMap::new();
        for (row, (_, state)) in &self.rows {
            let column = match state {
                State::Tested | State::Met => 1,
                State::NotMet => 2,
                State::NotUsed => 3,
                State::NotOursYet => 4,
            };
            for name in [row.section.as_str(), "All"] {
                let count = counts.entry(name.into()).or_default();
                count[0] += 1;
                count[column] += 1;
            }
        }
        let sections: BTreeSet<&String> = counts.keys().chain(self.counted.keys()).collect();
        let differs = |section: &&String| counts.get(*section) != self.counted.get(*section);
        sections
            .into_iter()
            .filter(differs)
            .map(|section| {
                let count = counts.get(section).copied().unwrap_or_default();
                format!(
                    "the count of {section} should be {}",
                    count.map(|n| n.to_string()).join(" | ")
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
| Section | Subject | Rows | Tested or met | Not met | Not used | Not ours yet |
|---|---|---|---|---|---|---|
| AA | letters | 3 | 2 | 1 | 0 | 0 |
| BB | more | 2 | 0 | 0 | 1 | 1 |
| All | together | 5 | 2 | 1 | 1 | 1 |

Sections whose rows are not here yet: CC, DDD.

| AA-01 | MUST NOT† | a thing | tested |
| AA-02 | SHOULD‡ | a thing | met |
| AA-03 | SHOULD NOT | a thing | not met: nobody did |
| BB-01 | MAY | a thing | not used: no need |
| BB-02 | MUST | a thing | not ours yet: comes later |
";

    fn wrong(from: &str, to: &str) -> Vec<String> {
        assert!(GOOD.contains(from), "{from}");
        read(&GOOD.replacen(from, to, 1)).1
    }

    #[test]
    fn a_good_page_is_read() {
        let (list, wrong) = read(GOOD);
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(list.rows.len(), 5);
        let third = list.rows[&Row::parse("AA-03").unwrap()];
        assert_eq!(third, (Level::Should, State::NotMet));
        assert!(list.other_sections.contains("CC") && list.other_sections.contains("DDD"));
    }

    #[test]
    fn a_number_that_is_left_out_is_named_also_the_last_one_of_a_section() {
        let found = wrong("| AA-02 | SHOULD‡ | a thing | met |\n", "");
        assert!(found.contains(&"AA-02 is missing".into()), "{found:?}");
        let found = wrong("| BB-01 | MAY | a thing | not used: no need |\n", "");
        assert!(found.contains(&"BB-01 is missing".into()), "{found:?}");
        let found = wrong("| BB-02 | MUST | a thing | not ours yet: comes later |\n", "");
        assert_eq!(
            found,
            [
                "the count of All should be 4 | 2 | 1 | 1 | 0",
                "the count of BB should be 1 | 0 | 0 | 1 | 0"
            ]
        );
        let found = wrong("| BB | more | 2 | 0 | 0 | 1 | 1 |\n", "");
        assert_eq!(found, ["the count of BB should be 2 | 0 | 0 | 1 | 1"]);
    }

    #[test]
    fn states_are_for_their_levels_and_all_but_the_good_ones_have_a_reason() {
        for (from, to) in [
            ("| met |", "| tested |"),
            ("| met |", "|  |"),
            ("| met |", "| not used: why not |"),
            ("| tested |", "| met |"),
            ("| tested |", "| not met: lazy |"),
            ("| tested |", "| tested: well |"),
            ("| not met: nobody did |", "| not met |"),
            ("| not met: nobody did |", "| not met:  |"),
            ("| not used: no need |", "| met |"),
            ("| not ours yet: comes later |", "| later |"),
            ("MUST NOT†", "OUGHT"),
            ("AA-02", "AA-01"),
            ("| a thing | met |", "| met |"),
        ] {
            assert!(!wrong(from, to).is_empty(), "{from} → {to}");
        }
    }

    #[test]
    fn only_capitals_with_two_digits_are_rows() {
        assert_eq!(Row::parse("XSVID-07").unwrap().to_string(), "XSVID-07");
        for text in [
            "XSVID-7",
            "XSVID-007",
            "xsvid-07",
            "XSVID07",
            "A-07",
            "ABCDEF-07",
            "SHA-256",
            "P-25",
            "",
        ] {
            assert_eq!(Row::parse(text), None, "{text}");
        }
    }
}
