//! One stream: what the caller is told, and when.
//!
//! A [`Feed`] is a generator: HTTP/2 asks it for the next message when the stream can take one. Nothing is queued; what
//! happened while a slow client did not read is seen as the state that it led to.
//!
//! The first answer is held for a moment while no entry matches or SVIDs are being made, because workloads often start
//! in the same instant as their registration. After that there is a message or a code (IOP-18).

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::select_all;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{FutureExt, StreamExt};
use mayfly_model::{Entry, EntryId};
use mayfly_runtime::listen::ConnInfo;
use mayfly_runtime::{CancellationToken, Clock};
use mayfly_svid::{Serial, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tracing::{debug, error};

use super::content::{Choice, Content, Fingerprint, Item, Nothing};
use crate::api::caller::{Caller, CallerError, SelectorSet, Standing, StreamSlot};
use crate::api::metrics::Refusal;
use crate::api::{ApiMetrics, ApiSettings};
use crate::svids::{Subscription, SvidState, Svids};
use crate::tasks::{Board, Holder, Shown};
use crate::view::View;

/// An attestation this old still counts for a message.
pub(in crate::api) const FRESH: Duration = Duration::from_millis(200);
/// A stream looks at the state this often even if nothing was said to change: entries end by the wall clock.
const LOOK: Duration = Duration::from_secs(30);

/// What all streams share.
pub(super) struct Sources {
    pub(super) settings: ApiSettings,
    pub(super) svids: Svids,
    pub(super) views: watch::Receiver<Arc<View>>,
    pub(super) board: watch::Receiver<Arc<Board>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: ApiMetrics,
}

/// One stream.
pub(super) struct Feed {
    sources: Arc<Sources>,
    caller: Arc<Caller>,
    connection: ConnInfo,
    closing: CancellationToken,
    views: watch::Receiver<Arc<View>>,
    board: watch::Receiver<Arc<Board>>,
    /// The task SVIDs that it was told of.
    told_tasks: Vec<Serial>,
    standing: watch::Receiver<Standing>,
    claims: BTreeMap<EntryId, Subscription>,
    told: Option<(Fingerprint, Instant)>,
    started: Instant,
    /// Since when there are entries and no SVID.
    bare_since: Option<Instant>,
    _slot: StreamSlot,
}

/// How a stream ends.
pub(super) struct End(Refusal);

/// What a look at the state led to.
enum Look<R> {
    Tell(R),
    /// Nothing new until something changes, or until then.
    Wait(Instant),
}

impl Feed {
    pub(super) fn new(sources: Arc<Sources>, caller: Arc<Caller>, connection: ConnInfo, slot: StreamSlot) -> Self {
        sources.metrics.streams_open.inc();
        Self {
            views: sources.views.clone(),
            board: sources.board.clone(),
            told_tasks: vec![],
            standing: caller.standing(),
            closing: connection.closing(),
            sources,
            caller,
            connection,
            claims: BTreeMap::new(),
            told: None,
            started: Instant::now(),
            bare_since: None,
            _slot: slot,
        }
    }

    /// The messages, ended by a status. Only the client ends a stream without one.
    pub(super) fn into_stream<C: Content>(self) -> BoxStream<'static, Result<C::Response, Status>> {
        let metrics = self.sources.metrics.clone();
        let messages = unfold(Some(self), async move |feed| {
            let mut feed = feed?;
            match feed.next::<C>().await {
                Ok(message) => Some((Ok(message), Some(feed))),
                Err(end) => Some((Err(feed.end(C::RPC, end)), None)),
            }
        });
        // A panic must not become a dropped stream: clients take that for good (IOP-16).
        let guarded = AssertUnwindSafe(messages).catch_unwind().map(move |item| {
            item.unwrap_or_else(|_| {
                error!(rpc = C::RPC, "a stream of the Workload API broke down");
                metrics.count_refusal(Refusal::Internal);
                Err(End(Refusal::Internal).status())
            })
        });
        guarded.boxed()
    }

    /// The next message, as soon as there is something to tell.
    async fn next<C: Content>(&mut self) -> Result<C::Response, End> {
        loop {
            let look_again = match self.look::<C>().await? {
                Look::Tell(message) => return Ok(message),
                Look::Wait(until) => until,
            };
            loop {
                let claims = async {
                    if self.claims.is_empty() {
                        return pending().await;
                    }
                    select_all(self.claims.values_mut().map(|claim| claim.changed().boxed()))
                        .await
                        .0
                };
                tokio::select! {
                    biased;
                    changed = self.standing.changed() => changed.map_err(|_| End(Refusal::Internal))?,
                    () = self.caller.exited() => return Err(End(Refusal::CallerOver)),
                    () = self.closing.cancelled() => return Err(End(Refusal::Draining)),
                    // Gone with their writers: the process is stopping.
                    changed = self.board.changed() => {
                        changed.map_err(|_| End(Refusal::Draining))?;
                        if !C::WITH_SVIDS || !self.is_concerned() {
                            continue;
                        }
                    }
                    changed = self.views.changed() => changed.map_err(|_| End(Refusal::Draining))?,
                    changed = claims => changed.map_err(|_| End(Refusal::Draining))?,
                    () = sleep_until(look_again) => {}
                }
                break;
            }
        }
    }

    /// Whether what changed on the board can be of this caller. Windows open and close all the time; most streams have
    /// nothing to do with it.
    fn is_concerned(&mut self) -> bool {
        let board = self.board.borrow_and_update();
        !self.told_tasks.is_empty() || board.has_shared() || !board.of(self.caller.key()).is_empty()
    }

    /// Task SVIDs that the caller has part in at this moment.
    fn tasks(&mut self, view: &View, entries: &[Arc<Entry>], now: Instant) -> Vec<Shown> {
        let board = Arc::clone(&self.board.borrow_and_update());
        let mut tasks = board.entitled(self.caller.as_ref());
        let own = self.caller.key();
        tasks.retain(|shown| {
            let authority = shown.svid.authority();
            // Never tell what the view no longer allows, as for base SVIDs.
            shown.svid.is_valid(now)
                && view.own().x509_authorities.iter().any(|a| a.cert_der == *authority)
                && (shown.holder.key() != own || entries.iter().any(|entry| entry.id == shown.entry_id))
        });
        tasks
    }

    async fn look<C: Content>(&mut self) -> Result<Look<C::Response>, End> {
        if self.closing.is_cancelled() {
            return Err(End(Refusal::Draining));
        }
        let standing = self.standing.borrow_and_update().clone();
        let mut selectors = match standing {
            Standing::Known(selectors) if self.told.is_some() => selectors,
            Standing::Over => return Err(End(Refusal::CallerOver)),
            _ => self.attest().await?,
        };
        loop {
            let view = Arc::clone(&self.views.borrow_and_update());
            let wall = Timestamp::from(self.sources.clock.now());
            let mut entries = view.matching(&selectors);
            entries.retain(|entry| !entry.is_expired(wall));
            if entries.is_empty() {
                self.claims.clear();
                return self.without_entry(&view, &selectors);
            }
            let items = if C::WITH_SVIDS {
                self.items(&view, &entries, wall).await?
            } else {
                vec![]
            };
            let now = Instant::now();
            let tasks = if C::WITH_SVIDS {
                self.tasks(&view, &entries, now)
            } else {
                vec![]
            };
            let choice = Choice {
                view: &view,
                entries: &entries,
                items: &items,
                tasks: &tasks,
            };
            let mut idle = self.next_end(&entries, now);
            if tasks.iter().any(|shown| shown.holder.key() != self.caller.key()) {
                // Nobody tells when a process becomes a daemon.
                idle = idle.min(now + self.sources.settings.sweep_interval);
            }
            let idle = Look::Wait(idle);
            let fingerprint = match C::fingerprint(&choice) {
                Ok(fingerprint) => fingerprint,
                Err(nothing) => return self.without_svid(nothing, now),
            };
            self.bare_since = None;
            match self.told {
                Some((told, _)) if told == fingerprint => return Ok(idle),
                // Not too fast: what comes in bursts is told as one (WAPI-14). What a task gives or loses does not wait.
                Some((_, at))
                    if now < at + self.sources.settings.update_gap && self.told_tasks == serials_of(&tasks) =>
                {
                    return Ok(Look::Wait(at + self.sources.settings.update_gap));
                }
                // All of them, if that takes but a moment (WAX-02).
                None if !choice.is_complete() && now < self.started + self.sources.settings.hold => {
                    return Ok(Look::Wait(self.started + self.sources.settings.hold));
                }
                _ => {}
            }
            // Entitled still, just before it is told (WAPI-29).
            let again = self.attest().await?;
            if again != selectors {
                selectors = again;
                continue;
            }
            self.caller.ensure_unchanged().map_err(End::from)?;
            if self.views.has_changed().unwrap_or(false)
                || C::WITH_SVIDS && self.board.has_changed().unwrap_or(false)
                || self.claims.values().any(Subscription::has_changed)
            {
                continue;
            }
            self.told_tasks = serials_of(&tasks);
            if self.told.is_none() {
                self.sources
                    .metrics
                    .first_message_seconds
                    .observe(self.started.elapsed().as_secs_f64());
            }
            self.told = Some((fingerprint, Instant::now()));
            self.sources.metrics.messages.inc();
            debug!(
                rpc = C::RPC,
                peer_pid = self.caller.pid(),
                entries = entries.len(),
                "told the caller"
            );
            return Ok(Look::Tell(C::write(&choice)));
        }
    }

    async fn attest(&self) -> Result<SelectorSet, End> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => Err(End(Refusal::Draining)),
            selectors = self.caller.attest(FRESH) => selectors.map_err(End::from),
        }
    }

    /// No entry matches. A caller that comes a moment before its entry waits for it.
    fn without_entry<R>(&self, view: &View, selectors: &SelectorSet) -> Result<Look<R>, End> {
        let hold_end = self.started + self.sources.settings.hold;
        if self.told.is_none() && Instant::now() < hold_end {
            return Ok(Look::Wait(hold_end));
        }
        if !view.synced() {
            return Err(End(Refusal::NotSynced));
        }
        self.caller.log_without_entry(selectors);
        Err(End(Refusal::NoIdentity))
    }

    /// Entries match, and there is nothing to tell. What is being made is waited for longer than what failed.
    fn without_svid<R>(&mut self, nothing: Nothing, now: Instant) -> Result<Look<R>, End> {
        let since = *self.bare_since.get_or_insert(now);
        let ApiSettings { hold, issue_hold, .. } = self.sources.settings;
        let until = since
            + if nothing == Nothing::Pending {
                issue_hold.max(hold)
            } else {
                hold
            };
        if now < until {
            return Ok(Look::Wait(until));
        }
        Err(End(if nothing == Nothing::Denied {
            Refusal::Denied
        } else {
            Refusal::NoSvid
        }))
    }

    /// Claims the SVIDs of these entries and of no others, and says how far each of them is.
    async fn items(&mut self, view: &View, entries: &[Arc<Entry>], wall: Timestamp) -> Result<Vec<Item>, End> {
        let wanted: BTreeSet<&EntryId> = entries.iter().map(|entry| &entry.id).collect();
        self.claims.retain(|id, _| wanted.contains(id));
        let _turn = if self.claims.len() < wanted.len() {
            self.caller.claiming().await
        } else {
            None
        };
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            if !self.claims.contains_key(&entry.id) {
                let claim = self.sources.svids.subscribe(entry.id.clone()).await;
                self.claims
                    .insert(entry.id.clone(), claim.map_err(|_| End(Refusal::Draining))?);
            }
            let state = self.claims.get_mut(&entry.id).map(Subscription::current);
            items.push(match state {
                // The worker may not have come to what this view says; never tell what the view no longer allows.
                Some(SvidState::Ready(material))
                    if material.svid().spiffe_id() == &entry.spec.spiffe_id
                        && material.is_valid(wall, Instant::now())
                        && view
                            .own()
                            .x509_authorities
                            .iter()
                            .any(|a| a.cert_der == *material.authority()) =>
                {
                    Item::Ready(material)
                }
                Some(SvidState::Failed(failure)) => Item::Failed(failure),
                _ => Item::Pending,
            });
        }
        Ok(items)
    }

    /// When an entry ends by the wall clock, or the next routine look.
    fn next_end(&self, entries: &[Arc<Entry>], now: Instant) -> Instant {
        let wall = self.sources.clock.now();
        let ends = entries.iter().filter_map(|entry| entry.spec.expires_at);
        let waits = ends.map(|end| SystemTime::from(end).duration_since(wall).unwrap_or_default());
        now + waits.chain([LOOK]).min().unwrap_or(LOOK)
    }

    fn end(&self, rpc: &'static str, end: End) -> Status {
        self.sources.metrics.count_refusal(end.0);
        debug!(rpc, peer_pid = self.caller.pid(), reason = ?end.0, "stream ended by the agent");
        if end.0 == Refusal::CallerOver {
            // Whoever is there now has to connect again to be seen as who it is.
            self.connection.close();
        }
        end.status()
    }
}

fn serials_of(tasks: &[Shown]) -> Vec<Serial> {
    tasks.iter().map(|shown| shown.svid.svid().serial().clone()).collect()
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.sources.metrics.streams_open.dec();
    }
}

impl From<CallerError> for End {
    fn from(error: CallerError) -> Self {
        Self(match error {
            CallerError::Over => Refusal::CallerOver,
            CallerError::Busy => Refusal::Overload,
            CallerError::Attest(_) => Refusal::Attestation,
        })
    }
}

impl End {
    /// The code decides what clients do: after `Unavailable` all of them come again and keep what is still valid; after
    /// `PermissionDenied` they drop what they have (WAPI-30).
    fn status(&self) -> Status {
        refusal_status(self.0)
    }
}

/// The status for each cause.
pub(in crate::api) fn refusal_status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Header => Status::invalid_argument("security header missing from request"),
        // The words are what clients look for (IOP-14).
        Refusal::NoIdentity | Refusal::Denied => Status::permission_denied("no identity issued"),
        Refusal::CallerOver => Status::permission_denied("the calling process changed; connect again"),
        Refusal::Attestation => Status::unavailable("the calling process could not be attested"),
        Refusal::Overload => Status::unavailable("too many calls at a time"),
        Refusal::NotSynced => Status::unavailable("the agent has not heard its server yet"),
        Refusal::NoSvid => Status::unavailable("no SVID is available at present"),
        Refusal::Draining => Status::unavailable("the agent is closing this connection; connect again"),
        Refusal::Internal => Status::unavailable("internal error"),
    }
}
