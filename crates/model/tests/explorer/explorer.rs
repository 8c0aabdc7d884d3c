//! The whole exploration, and whether it can fail.

use crate::faults::Fault;
use crate::scenario::SCENARIOS;
use crate::search::{Seen, explore, wander};

/// Worlds of each scenario that are visited breadth first, and ways at random.
fn effort() -> (usize, u64) {
    if std::env::var_os("MAYFLY_FULL").is_some() {
        (200_000, 10_000)
    } else {
        (12_000, 400)
    }
}

// I1 I2 I3 I4 I5 I8 I9 I10 I11 I12
#[test]
fn no_order_of_events_gives_authority_that_was_not_granted() {
    let (most, ways) = effort();
    let (mut settled, mut by_people, mut lost) = (0, 0, 0);
    for scenario in &SCENARIOS {
        let mut seen = Seen::default();
        let all = explore(scenario, None, most, &mut seen);
        let far = (0..ways).try_for_each(|seed| wander(scenario, None, seed, &mut seen));
        println!("{}: {seen}", scenario.name);
        for result in [all, far] {
            result.unwrap_or_else(|broken| panic!("{}: {}: {}", scenario.name, broken.what, broken.detail));
        }
        assert!(seen.with_svid > 0, "nothing was ever issued, so nothing was shown");
        settled += seen.settled;
        by_people += seen.risk_accepted;
        lost += seen.heartbeat_lost;
    }
    assert!(
        settled > 0 && by_people > 0 && lost > 0,
        "no way led to some of the ends"
    );
}

#[test]
fn every_planted_fault_is_found() {
    let mut missed = vec![];
    for (fault, expected) in Fault::ALL {
        let found = SCENARIOS.iter().find_map(|scenario| {
            let mut seen = Seen::default();
            let all = explore(scenario, Some(fault), 2_000, &mut seen);
            let broken = all.and_then(|()| (0..50).try_for_each(|seed| wander(scenario, Some(fault), seed, &mut seen)));
            broken.err().map(|broken| (scenario.name, seen.worlds, broken))
        });
        match found {
            Some((name, worlds, broken)) => {
                println!(
                    "{fault:?}: {}: {} ({name}, {worlds} worlds)",
                    broken.what, broken.detail
                );
                if broken.what != expected {
                    missed.push((fault, Some(broken)));
                }
            }
            None => missed.push((fault, None)),
        }
    }
    assert!(missed.is_empty(), "not found, or taken for something else: {missed:?}");
}
