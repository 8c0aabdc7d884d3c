//! What another policy set would have said.

use serde::{Deserialize, Serialize};

use crate::{Decision, Facts, PolicySet};

/// A past decision that would differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Which of the facts.
    pub index: usize,
    /// By the set in force.
    pub before: Decision,
    /// By the other one.
    pub after: Decision,
}

impl PolicySet {
    /// Decides `facts` by this set and by `other`, and shows where verdict, what is missing, or what comes with it
    /// differ.
    pub fn replay(&self, facts: &[Facts], other: &Self) -> Vec<Difference> {
        let both = |(index, facts): (usize, &Facts)| {
            let (before, after) = (self.decide(facts), other.decide(facts));
            let differs = before.verdict != after.verdict
                || before.missing != after.missing
                || before.obligations != after.obligations;
            differs.then_some(Difference { index, before, after })
        };
        facts.iter().enumerate().filter_map(both).collect()
    }
}
