//! P7: from a process's request to its task SVID.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::figure::{Figure, Gate};
use crate::jobs::{Job, World};
use crate::load::{histogram, open_loop, quantile_ms, record};
use crate::process::Process;
use crate::run::Context;

/// Per second: more than a hundred thousand windows a day.
const RATE: f64 = 20.0;
/// Processes that take turns.
const JOBS: usize = 8;

/// Where the time goes, as the process sees it.
struct Stages {
    request: Histogram<u64>,
    open: Histogram<u64>,
    push: Histogram<u64>,
    whole: Histogram<u64>,
}

/// Measures it: windows are asked for at a rate, opened, and given back.
///
/// # Errors
/// One was refused.
pub async fn run(ctx: &mut Context) -> Result<()> {
    let world = World::start(false, None, false).await?;
    let mut jobs = Vec::new();
    for _ in 0..JOBS {
        jobs.push(Rc::new(Job::start(&world.agent).await?));
    }
    let stages = Rc::new(RefCell::new(Stages {
        request: histogram(),
        open: histogram(),
        push: histogram(),
        whole: histogram(),
    }));
    let agent = Process::new(world.agent.daemon.pid());
    let agent_cpu = agent.cpu()?;
    let call = |number: u64| {
        let job = Rc::clone(&jobs[usize::try_from(number).unwrap_or_default() % JOBS]);
        let stages = Rc::clone(&stages);
        async move {
            let asked = Instant::now();
            let inside = job.enter(number).await?;
            {
                let mut stages = stages.borrow_mut();
                record(&mut stages.request, inside.granted.duration_since(asked));
                record(&mut stages.open, inside.opened.duration_since(inside.granted));
                record(
                    &mut stages.push,
                    inside.arrived.saturating_duration_since(inside.opened),
                );
                record(&mut stages.whole, inside.arrived.duration_since(asked));
            }
            job.complete(&inside).await
        }
    };
    // What is there only once, such as the first connection, is not what a request costs.
    open_loop(world.target.process, RATE, ctx.time(1), |number| {
        call(u64::MAX - number)
    })
    .await?;
    stages.borrow_mut().clear();
    let load = open_loop(world.target.process, RATE, ctx.time(30), &call).await?;
    let agent_cpu = agent.cpu()? - agent_cpu;
    let stages = stages.borrow();
    #[allow(clippy::cast_precision_loss, reason = "a figure")]
    let agent_each = agent_cpu.as_secs_f64() * 1e6 / load.done as f64;
    for (share, name) in [(0.5, "p50"), (0.9, "p90"), (0.99, "p99")] {
        let at = |histogram| quantile_ms(histogram, share);
        let figure = Figure::new(
            "P7",
            format!("request → usable task SVID, {name}"),
            at(&stages.whole),
            "ms",
        );
        let figure = if share > 0.9 {
            figure.gate(Gate::AtMost(20.0))
        } else {
            figure
        };
        ctx.add(
            figure
                .with("request_ms", at(&stages.request))
                .with("open_ms", at(&stages.open))
                .with("push_ms", at(&stages.push))
                .with("max_ms", at_most(&stages.whole))
                .with("server_cpu_us", load.cpu_micros(1))
                .with("agent_cpu_us", agent_each),
        );
    }
    Ok(())
}

fn at_most(histogram: &Histogram<u64>) -> f64 {
    quantile_ms(histogram, 1.0)
}

impl Stages {
    fn clear(&mut self) {
        for histogram in [&mut self.request, &mut self.open, &mut self.push, &mut self.whole] {
            histogram.reset();
        }
    }
}
