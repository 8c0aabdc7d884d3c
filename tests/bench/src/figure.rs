//! A figure: what was measured, what would be the best possible, what was promised.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::calibrate::Calibration;

/// One line of the page.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// As in the table of goals: `P1`.
    pub id: String,
    /// What it says.
    pub name: String,
    /// What was seen.
    pub value: f64,
    /// Of the value and the limit.
    pub unit: String,
    /// What the machine would do at best, calibrated in the same run.
    pub limit: Option<f64>,
    /// How much of that is reached: 1 is all of it.
    pub share: Option<f64>,
    /// What was promised.
    pub gate: Option<Gate>,
    /// Whether that holds.
    pub met: Option<bool>,
    /// What else was seen.
    pub more: BTreeMap<String, f64>,
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The value.
    AtMost(f64),
    /// The share of the limit.
    ShareAtLeast(f64),
    /// The value in units of the limit.
    TimesLimit(f64),
}

/// A run: all that a page is made from.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    /// Of this layout.
    pub format: u32,
    /// What was measured: `mayfly`, or as the caller of the program said.
    pub system: String,
    /// Commit of the sources, with `+` if they were changed.
    pub commit: String,
    /// When it began, RFC 3339.
    pub time: String,
    /// Whether the counts were too small to say anything.
    pub quick: bool,
    /// Whether it was built for speed.
    pub optimized: bool,
    /// Processors, kernel, memory, arrangement.
    pub machine: BTreeMap<String, String>,
    /// What the machine can do, before anything was measured.
    pub calibration: Calibration,
    /// Signature costs in microseconds before each part: how steady the machine was.
    pub steadiness: Vec<f64>,
    /// What was measured.
    pub figures: Vec<Figure>,
}

impl Figure {
    /// A value without limit and gate.
    pub fn new(id: &str, name: impl Into<String>, value: f64, unit: &str) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            value,
            unit: unit.into(),
            limit: None,
            share: None,
            gate: None,
            met: None,
            more: BTreeMap::new(),
        }
    }

    /// A cost whose least possible is `limit`.
    #[must_use]
    pub fn of_least(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        // A cost of less than a tick is seen as none.
        self.share = Some(limit / self.value.max(1e-3));
        self
    }

    /// With what was promised.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Self {
        self.met = Some(match gate {
            Gate::AtMost(bound) => self.value <= bound,
            Gate::ShareAtLeast(bound) => self.share.is_some_and(|share| share >= bound),
            Gate::TimesLimit(times) => self.limit.is_some_and(|limit| self.value <= limit * times),
        });
        self.gate = Some(gate);
        self
    }

    /// With something else that was seen.
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.more.insert(name.into(), value);
        self
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {}", number(*bound)),
            Self::ShareAtLeast(share) => write!(f, "≥ {:.0} % of the limit", share * 100.0),
            Self::TimesLimit(times) => write!(f, "≤ {times} × the limit"),
        }
    }
}

/// A number with as many digits as it deserves.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1000.0 {
        // Groups of three, as nobody counts digits.
        let digits = format!("{value:.0}");
        let mut text = String::new();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place) % 3 == 0 && !text.ends_with('-') {
                text.push(',');
            }
            text.push(digit);
        }
        text
    } else if size >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}
