//! Windows end when something is done to their holders that does not happen to a holder: a debugger is attached.
//!
//! The process is still who it was, so its attestation says nothing; but somebody reads its memory, with the key in it, or
//! acts as it. It is a tripwire and no wall: see `attest::tracer`.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::super::metrics::End;
use super::super::{Holder, Tracer};
use super::{Keeper, Landed};

/// A look that took long is followed by a pause of so many times that.
const PAUSE: u32 = 20;

/// When holders are looked at.
#[derive(Debug, Default)]
pub(super) enum Tripwire {
    /// As soon as there is a window.
    #[default]
    Due,
    At(Instant),
    /// It is being looked.
    Looking,
}

impl Keeper {
    /// Looks at the holders of all windows, if it is time; says when to come again.
    pub(super) fn look_at_holders(&mut self, now: Instant) -> Option<Instant> {
        self.settings.tripwires?;
        match self.tripwire {
            Tripwire::Looking => return None,
            _ if self.windows.is_empty() => {
                self.tripwire = Tripwire::Due;
                return None;
            }
            Tripwire::At(at) if at > now => return Some(at),
            Tripwire::Due | Tripwire::At(_) => {}
        }
        let held: Vec<(Arc<str>, Arc<dyn Holder>, bool)> = self
            .windows
            .values()
            .filter_map(|window| {
                let holder = Arc::clone(&self.processes.get(window.process)?.holder);
                Some((Arc::clone(&window.id), holder, window.include_descendants))
            })
            .collect();
        self.tripwire = Tripwire::Looking;
        self.calls.push(Box::pin(async move {
            let begun = Instant::now();
            // It reads a lot of small files when there are many windows.
            let look = spawn_blocking(move || {
                let traced = held.into_iter().filter_map(|(id, holder, descendants)| {
                    let tracer = holder.tracer(descendants)?;
                    Some((id, tracer))
                });
                traced.collect()
            });
            // If it broke down, the next one looks again.
            let tracers = look.await.unwrap_or_default();
            let took = begun.elapsed();
            Landed::Looked { tracers, took }
        }));
        None
    }

    pub(super) fn looked(&mut self, tracers: Vec<(Arc<str>, Tracer)>, took: Duration) {
        let pause = self.settings.tripwires.unwrap_or_default().max(took * PAUSE);
        self.tripwire = Tripwire::At(Instant::now() + pause);
        for (id, Tracer { pid, traced }) in tracers {
            self.end(
                &id,
                End::Deviated,
                &format!("process {pid} traces process {traced}"),
                None,
            );
        }
    }
}
