//! How worlds are visited: all of them near the beginning, and long ways at random.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use mayfly_model::task::{CloseCause, Stage};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::faults::Fault;
use crate::invariants::Broken;
use crate::scenario::Scenario;
use crate::world::World;

/// Steps of a way at random.
const STEPS: usize = 60;

/// What was seen, so that it is known what was shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) worlds: usize,
    pub(crate) with_svid: usize,
    pub(crate) heartbeat_lost: usize,
    pub(crate) incomplete: usize,
    pub(crate) settled: usize,
    pub(crate) risk_accepted: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} worlds: {} with an SVID, {} ended as no sign of life came, {} given up, {} settled, {} of them by \
             people",
            self.worlds, self.with_svid, self.heartbeat_lost, self.incomplete, self.settled, self.risk_accepted
        )
    }
}

impl Seen {
    fn note(&mut self, world: &World) {
        let windows = &world.store.task.windows;
        let any = |holds: &dyn Fn(Stage) -> bool| usize::from(windows.iter().any(|window| holds(window.stage)));
        self.worlds += 1;
        self.with_svid += usize::from(!world.svids.is_empty());
        let is_lost = windows
            .iter()
            .any(|window| window.cause == Some(CloseCause::HeartbeatLost));
        self.heartbeat_lost += usize::from(is_lost);
        self.incomplete += any(&|stage| stage == Stage::RevocationIncomplete);
        self.settled += any(&|stage| stage == Stage::Settled);
        let by_people =
            |window: &mayfly_model::task::Window| window.stage == Stage::Settled && window.residual.is_none();
        self.risk_accepted += usize::from(windows.iter().any(by_people));
    }
}

/// The world with which a scenario begins. Each of its events has an effect.
fn beginning(scenario: &'static Scenario, fault: Option<Fault>) -> Result<World, Broken> {
    let mut world = World::new(scenario, fault);
    for event in scenario.begin {
        let next = world.after(*event);
        assert_ne!(
            next.fingerprint(),
            world.fingerprint(),
            "{}: {event:?} had no effect",
            scenario.name
        );
        next.check(&world, *event)?;
        world = next;
    }
    Ok(world)
}

/// Everything that can happen, breadth first, up to `most` worlds.
pub(crate) fn explore(
    scenario: &'static Scenario,
    fault: Option<Fault>,
    most: usize,
    seen: &mut Seen,
) -> Result<(), Broken> {
    let start = beginning(scenario, fault)?;
    let mut known = HashSet::from([start.fingerprint()]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        seen.note(&world);
        for event in world.events() {
            let next = world.after(event);
            next.check(&world, event)?;
            if known.len() < most && known.insert(next.fingerprint()) {
                queue.push_back(next);
            }
        }
    }
    Ok(())
}

/// One way at random.
pub(crate) fn wander(
    scenario: &'static Scenario,
    fault: Option<Fault>,
    seed: u64,
    seen: &mut Seen,
) -> Result<(), Broken> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = beginning(scenario, fault)?;
    for _ in 0..STEPS {
        let events = world.events();
        let Some(event) = events.choose(&mut random) else { break };
        let next = world.after(*event);
        next.check(&world, *event).map_err(|broken| Broken {
            detail: format!("{} (seed {seed})", broken.detail),
            ..broken
        })?;
        world = next;
        seen.note(&world);
    }
    Ok(())
}
