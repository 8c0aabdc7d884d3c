//! The one task that owns all SVIDs.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mayfly_model::{Entry, EntryId, ErrorKind};
use mayfly_runtime::{CancellationToken, Chain, Clock};
use mayfly_svid::Bundle;
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use super::check::{Authorities, NewKey, Standing};
use super::queue::{Place, Queue};
use super::slot::{Now, Plan, Slot};
use super::{
    Claim, Failure, IssueAnswer, IssueError, IssueRefusal, IssueRequest, Issuer, Released, Subscription, SvidMetrics,
    SvidSettings, X509Material,
};
use crate::view::View;

/// How often the wall clock is compared with what ends by it.
const WALL_TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// SVIDs begin so long before they were signed, so that peers' clocks may differ; ours and those of SPIRE's server.
const BACKDATE: std::time::Duration = std::time::Duration::from_secs(10);

/// Owns all SVIDs of the agent; see the module's page.
pub struct Worker {
    settings: SvidSettings,
    server: Server,
    /// The last call brought nothing, although the server is there.
    calls_fail: bool,
    view: Arc<View>,
    own: Arc<Bundle>,
    authorities: Authorities,
    clock: Arc<dyn Clock>,
    metrics: SvidMetrics,
    claims: mpsc::Receiver<Claim>,
    released: Arc<Released>,
    slots: HashMap<EntryId, Slot>,
    queue: Queue,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    next_flight: u64,
}

/// The server, as the worker sees it.
pub(super) struct Server {
    pub(super) issuer: Arc<dyn Issuer>,
    /// When it was last heard; `None` while it is away.
    pub(super) heard: watch::Receiver<Option<Instant>>,
    /// What it allows.
    pub(super) views: watch::Receiver<Arc<View>>,
}

/// One certificate that was asked for.
struct Boarded {
    entry: Arc<Entry>,
    key: NewKey,
}

/// A call that came back.
struct Landed {
    flight: u64,
    boarded: Vec<Boarded>,
    result: Result<Vec<IssueAnswer>, IssueError>,
}

/// A call took longer than [`SvidSettings::call_timeout`], or broke down.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("the call took too long")]
    TimedOut,
    #[error("the call broke down")]
    Panicked,
    #[error("{asked} certificates were asked for and {got} answers came")]
    Count { asked: usize, got: usize },
}

impl Worker {
    pub(super) fn new(
        settings: SvidSettings,
        server: Server,
        clock: Arc<dyn Clock>,
        metrics: SvidMetrics,
        claims: mpsc::Receiver<Claim>,
    ) -> Self {
        let view = Arc::clone(&server.views.borrow());
        let own = Arc::clone(view.own());
        Self {
            authorities: Authorities::of(&own),
            settings,
            server,
            calls_fail: false,
            view,
            own,
            clock,
            metrics,
            claims,
            released: Arc::default(),
            slots: HashMap::new(),
            queue: Queue::default(),
            calls: FuturesUnordered::new(),
            next_flight: 0,
        }
    }

    /// Works until `stop`, or until nobody is left who could ask. All keys are wiped at the end.
    ///
    /// # Errors
    /// None; the type is the supervisor's.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(WALL_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.view_changed();
        let released = Arc::clone(&self.released);
        loop {
            self.depart();
            let timer = self.queue.next_timer();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(landed) = self.calls.next(), if !self.calls.is_empty() => self.landed(landed),
                () = released.wake.notified() => self.count_released(),
                changed = self.server.views.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.view_changed();
                }
                changed = self.server.heard.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.server_went_or_came();
                }
                () = async { sleep_until(timer.unwrap_or_else(Instant::now)).await }, if timer.is_some() => {
                    let now = self.now();
                    while let Some(id) = self.queue.due(now.mono) {
                        self.settle(&id, now);
                    }
                }
                _ = tick.tick() => {
                    let now = self.now();
                    for id in self.queue.wall_due(now.timestamp()) {
                        self.settle(&id, now);
                    }
                }
                // Last: callers that come without end must not keep the rest from being done.
                claim = self.claims.recv() => {
                    let Some(claim) = claim else { return Ok(()) };
                    self.take_claim(claim);
                    // All that came together goes into one call.
                    for _ in 0..super::INBOX {
                        let Ok(claim) = self.claims.try_recv() else { break };
                        self.take_claim(claim);
                    }
                }
            }
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant::now(),
            wall: self.clock.now(),
        }
    }

    fn take_claim(&mut self, claim: Claim) {
        let Claim { entry_id, reply } = claim;
        let now = self.now();
        let slot = slot_of(&mut self.slots, &entry_id, &self.view, &self.settings, now);
        slot.subscribers += 1;
        slot.count_wanted(now);
        let states = slot.states.subscribe();
        // First, so that the caller finds the present state and not that of a slot which was just made.
        self.settle(&entry_id, now);
        let subscription = Subscription {
            entry_id,
            states,
            released: Arc::clone(&self.released),
        };
        // If the caller is gone, the subscription comes back, is dropped here, and so gives itself back.
        drop(reply.send(subscription));
    }

    fn server_went_or_came(&mut self) {
        if self.server.heard.borrow_and_update().is_none() {
            return;
        }
        self.calls_fail = false;
        let now = self.now();
        for slot in self.slots.values_mut() {
            slot.server_is_back(now);
        }
        self.settle_all(now);
    }

    fn set_calls_fail(&mut self, calls_fail: bool) {
        if std::mem::replace(&mut self.calls_fail, calls_fail) && !calls_fail {
            self.settle_all(self.now());
        }
    }

    fn settle_all(&mut self, now: Now) {
        let ids: Vec<EntryId> = self.slots.keys().cloned().collect();
        for id in ids {
            self.settle(&id, now);
        }
    }

    fn count_released(&mut self) {
        let now = self.now();
        for id in self.released.take() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.subscribers = slot.subscribers.saturating_sub(1);
                slot.count_wanted(now);
                self.settle(&id, now);
            }
        }
    }

    fn view_changed(&mut self) {
        self.view = Arc::clone(&self.server.views.borrow_and_update());
        let now = self.now();
        let new_bundle = self.view.own() != &self.own;
        if new_bundle {
            self.own = Arc::clone(self.view.own());
            self.authorities = Authorities::of(&self.own);
        }
        let mut touched = vec![];
        for (id, slot) in &mut self.slots {
            let prefetch = self.view.is_prefetched(id);
            let changed = slot.set_entry(self.view.entry(id), now) || slot.prefetch != prefetch;
            slot.prefetch = prefetch;
            slot.count_wanted(now);
            if new_bundle {
                slot.judge(|material| self.authorities.standing(material.authority()));
            }
            if changed || new_bundle {
                touched.push(id.clone());
            }
        }
        for id in self.view.prefetch() {
            if !self.slots.contains_key(id) {
                let slot = slot_of(&mut self.slots, id, &self.view, &self.settings, now);
                slot.prefetch = true;
                slot.count_wanted(now);
                touched.push(id.clone());
            }
        }
        for id in touched {
            self.settle(&id, now);
        }
    }

    /// Does what the slot's rules say, and publishes.
    fn settle(&mut self, id: &EntryId, now: Now) {
        let Some(slot) = self.slots.get_mut(id) else {
            self.queue.place(id, Place::default());
            return;
        };
        let heard = self.server.heard.borrow().filter(|_| !self.calls_fail);
        let plan = slot.settle(now, self.settings.linger, heard);
        let holds = slot.holds() && plan != Plan::Drop;
        match (slot.counted, holds) {
            (false, true) => self.metrics.held.inc(),
            (true, false) => self.metrics.held.dec(),
            _ => 0,
        };
        let ended = std::mem::replace(&mut slot.counted, holds) && !holds && plan != Plan::Drop;
        if ended && slot.entry().is_some_and(|entry| !entry.is_expired(now.timestamp())) {
            self.metrics.ended_early.inc();
            warn!(entry_id = %id, "X509-SVID ended before a new one had come");
        }
        match plan {
            Plan::Drop => {
                self.slots.remove(id);
                self.queue.place(id, Place::default());
                debug!(entry_id = %id, "nobody wants the X509-SVID, wiped");
            }
            Plan::Keep(place) => self.queue.place(id, place),
        }
    }

    /// Sends calls for what is due, as long as there is room.
    fn depart(&mut self) {
        while self.calls.len() < self.settings.calls_in_flight.max(1) {
            let now = self.now();
            let flight = self.next_flight;
            let (mut boarded, mut requests) = (vec![], vec![]);
            while boarded.len() < self.settings.batch_size.max(1) {
                let Some(id) = self.queue.next_ready() else { break };
                let Some((slot, entry)) = self
                    .slots
                    .get_mut(&id)
                    .and_then(|slot| slot.entry().cloned().map(|entry| (slot, entry)))
                else {
                    self.queue.place(&id, Place::default());
                    continue;
                };
                match NewKey::generate() {
                    Ok((key, csr_der)) => {
                        slot.flight = Some(flight);
                        requests.push(IssueRequest {
                            entry_id: id.clone(),
                            csr_der,
                        });
                        boarded.push(Boarded { entry, key });
                    }
                    Err(error) => {
                        error!(error = %Chain(&error), "cannot make a key");
                        slot.fail(Failure::Faulty, now);
                    }
                }
                self.settle(&id, now);
            }
            if boarded.is_empty() {
                return;
            }
            self.next_flight += 1;
            self.metrics.in_flight.inc_by(boarded.len() as i64);
            debug!(count = boarded.len(), "asking for X509-SVIDs");
            let (issuer, limit) = (Arc::clone(&self.server.issuer), self.settings.call_timeout);
            self.calls.push(Box::pin(async move {
                // A panic in the call must not take the keys of everybody with it.
                let call = AssertUnwindSafe(async { issuer.issue(requests).await }).catch_unwind();
                let result = match timeout(limit, call).await {
                    Ok(Ok(Ok(answers))) if answers.len() != boarded.len() => {
                        Err(IssueError(Box::new(NoAnswer::Count {
                            asked: boarded.len(),
                            got: answers.len(),
                        })))
                    }
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err(IssueError(Box::new(NoAnswer::Panicked))),
                    Err(_) => Err(IssueError(Box::new(NoAnswer::TimedOut))),
                };
                Landed {
                    flight,
                    boarded,
                    result,
                }
            }));
        }
    }

    fn landed(&mut self, landed: Landed) {
        let Landed {
            flight,
            boarded,
            result,
        } = landed;
        let now = self.now();
        self.metrics.in_flight.dec_by(boarded.len() as i64);
        match result {
            Ok(answers) => {
                let told = |answer: &IssueAnswer| answer.as_ref().map_or_else(failure_of, |_| Failure::Denied);
                self.set_calls_fail(answers.iter().all(|answer| told(answer) == Failure::ServerAway));
                for (boarded, answer) in boarded.into_iter().zip(answers) {
                    let id = boarded.entry.id.clone();
                    if self.slots.get(&id).is_some_and(|slot| slot.flight == Some(flight)) {
                        self.take_answer(boarded, answer, now);
                        self.settle(&id, now);
                    }
                }
            }
            Err(error) => {
                self.set_calls_fail(true);
                let (mut waiting, mut soonest_end) = (0, None);
                for boarded in boarded {
                    let id = boarded.entry.id.clone();
                    if let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.flight == Some(flight)) {
                        slot.fail(Failure::ServerAway, now);
                        self.metrics.count_failure(Failure::ServerAway);
                        waiting += usize::from(!slot.holds());
                        soonest_end = slot.valid_until().into_iter().chain(soonest_end).min();
                        self.settle(&id, now);
                    }
                }
                let served_until = soonest_end.map(|end| end.to_string());
                warn!(error = %Chain(&error), waiting, served_until, "X509-SVIDs could not be got, trying again");
            }
        }
    }

    fn take_answer(&mut self, boarded: Boarded, answer: IssueAnswer, now: Now) {
        let Boarded { entry, key } = boarded;
        let Some(slot) = self.slots.get_mut(&entry.id) else {
            return;
        };
        let failure = match answer {
            Err(refusal) => (failure_of(&refusal), Chain(&refusal).to_string()),
            Ok(chain) => match check(&self.authorities, &chain, entry.clone(), key, now) {
                Ok(material) => {
                    let tainted = self.authorities.standing(material.authority()) == Standing::Tainted;
                    self.metrics.issued.inc();
                    let svid = material.svid();
                    info!(entry_id = %entry.id, spiffe_id = %svid.spiffe_id(), serial = %svid.serial(),
                        not_after = %svid.not_after(), renewal = slot.holds(), "X509-SVID received");
                    slot.accept(material, tainted, now);
                    return;
                }
                Err(error) => (Failure::Faulty, Chain(&error).to_string()),
            },
        };
        let (failure, error) = failure;
        self.metrics.count_failure(failure);
        let retry_ms = slot.fail(failure, now).as_millis();
        let served_until = slot.valid_until().map(|end| end.to_string());
        warn!(entry_id = %entry.id, spiffe_id = %entry.spec.spiffe_id, error, retry_ms, served_until,
            "no X509-SVID for the entry");
    }
}

/// What a refusal means: the server's decision, or that it was not able to make one.
fn failure_of(refusal: &IssueRefusal) -> Failure {
    match refusal.kind {
        ErrorKind::PermissionDenied
        | ErrorKind::NotFound
        | ErrorKind::InvalidArgument
        | ErrorKind::FailedPrecondition => Failure::Denied,
        _ => Failure::ServerAway,
    }
}

fn check(
    authorities: &Authorities,
    chain: &[CertificateDer<'static>],
    entry: Arc<Entry>,
    key: NewKey,
    now: Now,
) -> Result<X509Material, super::check::FaultySvid> {
    let (svid, authority) = authorities.check(chain, &entry.spec.spiffe_id, &key, now.timestamp())?;
    // `not_after` is the last valid second; an entry's end is the first invalid one.
    let after = svid.not_after().plus(std::time::Duration::from_secs(1));
    let valid_until = entry.spec.expires_at.into_iter().chain([after]).min().unwrap_or(after);
    // Where our clock is behind the server's, what is left by it is more than the server gave.
    let backdated = BACKDATE.min(svid.not_after().since(svid.not_before()) / 2);
    let given_at = svid.not_before().plus(backdated).max(now.timestamp());
    let deadline = now.mono + valid_until.since(given_at);
    Ok(X509Material {
        svid,
        key_der: key.private_key_der,
        entry,
        authority,
        valid_until,
        deadline,
    })
}

fn slot_of<'a>(
    slots: &'a mut HashMap<EntryId, Slot>,
    id: &EntryId,
    view: &View,
    settings: &SvidSettings,
    now: Now,
) -> &'a mut Slot {
    match slots.entry(id.clone()) {
        MapEntry::Occupied(slot) => slot.into_mut(),
        MapEntry::Vacant(place) => {
            let slot = place.insert(Slot::new(settings.backoff, now));
            slot.set_entry(view.entry(id), now);
            slot
        }
    }
}
