//! The one task that owns all windows.

mod answers;
mod asked;
mod changes;
mod endings;
mod tripwire;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll, select_all};
use futures_util::{FutureExt, StreamExt};
use mayfly_model::{Entry, EntryId, ErrorKind};
use mayfly_proto::mayfly::agent::{Instance, IssuedTaskResponse};
use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_runtime::{CancellationToken, Chain, Clock};
use mayfly_svid::{Bundle, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::error;

use self::tripwire::Tripwire;
use super::closes::Closes;
use super::process::Processes;
use super::window::{Plan, Window};
use super::{
    Applicant, Board, Command, HolderError, HolderEvent, ProcessKey, Reply, SelectorSet, Shown, TaskError, TaskMetrics,
    TaskParts, TaskServer, TaskSettings, Tracer,
};
use crate::news::{Cursor, DenySet, Moment, News, Word};
use crate::svids::check::{Authorities, NewKey};
use crate::view::View;

/// Owns all windows of the agent; see the module's page.
pub struct Keeper {
    settings: TaskSettings,
    server: Arc<dyn TaskServer>,
    news: Arc<News>,
    views: watch::Receiver<Arc<View>>,
    denied: watch::Receiver<Arc<DenySet>>,
    word: watch::Receiver<Option<Word>>,
    /// Why the server's log is refused, if it is.
    distrust: watch::Receiver<Option<Arc<str>>>,
    clock: Arc<dyn Clock>,
    boot_id: String,
    metrics: TaskMetrics,
    inbox: mpsc::Receiver<Command>,
    board: watch::Sender<Arc<Board>>,
    own: Arc<Bundle>,
    authorities: Authorities,
    /// What of the deny set was acted on.
    read: Cursor,
    processes: Processes,
    windows: HashMap<Arc<str>, Window>,
    next_order: u64,
    closes: Closes,
    events: SelectAll<BoxStream<'static, (ProcessKey, HolderEvent)>>,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    /// Calls under way that users caused.
    calls_of: HashMap<u32, usize>,
    /// Answers that wait until the board shows what they speak of.
    outbox: Vec<(Reply, Result<TaskState, TaskError>)>,
    /// Windows came or went since the board was last written.
    dirty: bool,
    /// The server could be reached when it was last looked.
    was_fresh: bool,
    /// When holders are looked at next.
    tripwire: Tripwire,
}

/// A call that came back.
enum Landed {
    Requested {
        applicant: Applicant,
        entry: Arc<Entry>,
        result: Result<TaskState, TaskError>,
        reply: Reply,
    },
    Opened {
        process: ProcessKey,
        uid: u32,
        request_id: String,
        entry: Arc<Entry>,
        include_descendants: bool,
        issued: Result<(NewKey, IssuedTaskResponse), TaskError>,
    },
    Renewed {
        window: Arc<str>,
        issued: Result<(NewKey, IssuedTaskResponse), RenewError>,
    },
    Extended {
        uid: u32,
        result: Result<TaskState, TaskError>,
        reply: Reply,
    },
    Beaten {
        window: Arc<str>,
        uid: u32,
        result: Result<TaskState, TaskError>,
        reply: Reply,
    },
    Closed {
        window_id: String,
        result: Result<TaskState, TaskError>,
    },
    /// A look at the holders of windows.
    Looked {
        tracers: Vec<(Arc<str>, Tracer)>,
        took: Duration,
    },
}

/// Why there is no further SVID.
enum RenewError {
    Server(TaskError),
    Holder(HolderError),
    /// The entry asks for what does not hold of the process any more.
    Selectors(SelectorSet),
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(
        settings: TaskSettings,
        parts: TaskParts,
        inbox: mpsc::Receiver<Command>,
        board: watch::Sender<Arc<Board>>,
    ) -> Self {
        let own = Arc::clone(parts.views.borrow().own());
        // Polled for ever, also while there is no process.
        let events: SelectAll<BoxStream<'static, _>> = select_all([futures_util::stream::pending().boxed()]);
        Self {
            denied: parts.news.denied(),
            word: parts.news.word(),
            distrust: parts.news.distrust().subscribe(),
            authorities: Authorities::of(&own),
            closes: Closes::new(settings.closes, settings.backoff),
            settings,
            server: parts.server,
            news: parts.news,
            views: parts.views,
            clock: parts.clock,
            boot_id: parts.boot_id,
            metrics: parts.metrics,
            inbox,
            board,
            own,
            read: Cursor::default(),
            processes: Processes::default(),
            windows: HashMap::new(),
            next_order: 0,
            events,
            calls: FuturesUnordered::new(),
            calls_of: HashMap::new(),
            outbox: vec![],
            dirty: false,
            was_fresh: false,
            tripwire: Tripwire::default(),
        }
    }

    /// Works until `stop`. All keys are wiped at the end; the server closes the windows when this agent says hello without
    /// them.
    ///
    /// # Errors
    /// None; the type is the supervisor's.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let news = Arc::clone(&self.news);
        loop {
            let timer = self.step();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((process, event)) = self.events.next() => self.holder_event(process, event),
                changed = self.denied.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.denied_changed();
                }
                states = news.tasks().take() => self.told(states),
                changed = self.views.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.view_changed();
                }
                changed = self.word.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                changed = self.distrust.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(landed) = self.calls.next(), if !self.calls.is_empty() => self.landed(landed),
                () = sleep_until(timer) => {}
                // Last: callers that come without end must not keep the rest from being done.
                command = self.inbox.recv() => {
                    let Some(command) = command else { break };
                    self.asked(command);
                }
            }
        }
        self.windows.clear();
        self.board.send_replace(Arc::default());
        Ok(())
    }

    /// Brings everything up to the present moment, publishes it, and sends what is due; says when to look again.
    fn step(&mut self) -> Instant {
        let now = Instant::now();
        let fresh_until = self.word.borrow_and_update().map(|word| word.end().timer());
        let fresh = fresh_until.is_some_and(|until| now < until);
        if fresh && !self.was_fresh {
            self.closes.server_is_back();
            self.windows.values_mut().for_each(Window::server_is_back);
        }
        self.was_fresh = fresh;
        let mut next = now + Duration::from_secs(60);
        let (mut over, mut renewals, mut unheard) = (vec![], vec![], vec![]);
        for (id, window) in &mut self.windows {
            match window.settle(now, fresh_until) {
                Plan::End(cause, detail) => over.push((Arc::clone(id), cause, detail)),
                Plan::Keep {
                    renew,
                    timer,
                    lease_lost,
                } => {
                    if lease_lost {
                        unheard.push(Arc::clone(id));
                    }
                    if renew {
                        renewals.push(Arc::clone(id));
                    }
                    next = next.min(timer);
                }
            }
        }
        for (id, cause, detail) in over {
            self.end(&id, cause, detail, None);
        }
        self.end_distrusted();
        for id in unheard {
            self.lease_lost(&id);
        }
        self.publish();
        for id in renewals {
            self.send_renewal(&id);
        }
        while let Some(request) = self.closes.depart(now) {
            let window_id = request.window_id.clone();
            let server = Arc::clone(&self.server);
            self.call(async move { server.close(request).await }, move |result| {
                Landed::Closed { window_id, result }
            });
        }
        for (reply, mut state) in self.closes.overdue(now) {
            state.message = "ended here; the server was not reached yet and is told as soon as it is".into();
            self.outbox.push((reply, Ok(state)));
        }
        for (reply, result) in self.outbox.drain(..) {
            // Whoever does not wait any more needs no answer.
            let _ = reply.send(result);
        }
        self.metrics.closes_pending.set(self.closes.len() as i64);
        let look = self.look_at_holders(now);
        let timers = self.closes.next_timer().into_iter().chain(look);
        timers.chain([next]).min().unwrap_or(next)
    }

    /// Shows who gets what, and what a hello would name.
    fn publish(&mut self) {
        let mut changed = std::mem::take(&mut self.dirty) | self.closes.take_changed();
        for window in self.windows.values_mut() {
            changed |= std::mem::take(&mut window.changed);
        }
        if !changed {
            return;
        }
        let mut by_process: HashMap<ProcessKey, Vec<Shown>> = HashMap::new();
        let before = Arc::clone(&self.board.borrow());
        for window in self.windows.values() {
            let shown = by_process.entry(window.process).or_default();
            let (Some(svid), Some(process)) = (window.svid(), self.processes.get(window.process)) else {
                continue;
            };
            shown.push(Shown {
                window_id: Arc::clone(&window.id),
                holder: Arc::clone(&process.holder),
                entry_id: window.entry.id.clone(),
                include_descendants: window.include_descendants,
                hint: Arc::clone(&window.hint),
                promote_default: window.promote_default,
                svid: Arc::clone(svid),
                order: window.order,
            });
        }
        let mut next = Board::clone(&before);
        let mut changed = false;
        for process in before.processes() {
            by_process.entry(process).or_default();
        }
        for (process, mut shown) in by_process {
            shown.sort_by_key(|shown| shown.order);
            changed |= next.set(process, shown);
        }
        self.metrics.windows.set(self.windows.len() as i64);
        let held = self.windows.keys().map(|id| id.to_string());
        let closing = self.closes.windows().map(str::to_owned);
        self.news.set_held_windows(held.chain(closing).collect());
        if changed {
            self.board.send_replace(Arc::new(next));
        }
    }

    /// Calls the server, at most as long as a call may take.
    fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, TaskError>> + Send + 'static,
        landed: impl FnOnce(Result<T, TaskError>) -> Landed + Send + 'static,
    ) {
        let limit = self.settings.call_timeout;
        self.calls.push(Box::pin(async move {
            // A panic in the call must not take the keys of everybody with it.
            let call = AssertUnwindSafe(call).catch_unwind();
            let result = match timeout(limit, call).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(TaskError::new(ErrorKind::Internal, "the call broke down")),
                Err(_) => Err(TaskError::new(
                    ErrorKind::DeadlineExceeded,
                    "the server took too long; try again",
                )),
            };
            landed(result)
        }));
    }

    /// Counts one more call of a user.
    fn count_call(&mut self, uid: u32) -> Result<(), TaskError> {
        let count = self.calls_of.entry(uid).or_default();
        if *count >= self.settings.calls_per_uid {
            let what = format!("user {uid} has {count} calls under way, which is the most; try again");
            return Err(TaskError::new(ErrorKind::ResourceExhausted, what));
        }
        *count += 1;
        Ok(())
    }

    fn call_done(&mut self, uid: u32) {
        if let Some(count) = self.calls_of.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.calls_of.remove(&uid);
            }
        }
    }

    /// Attests the holder anew and asks for another SVID.
    fn send_renewal(&mut self, id: &Arc<str>) {
        let Some(window) = self.windows.get_mut(id) else { return };
        let Some(process) = self.processes.get(window.process) else {
            return;
        };
        window.renewing = true;
        let (holder, entry) = (Arc::clone(&process.holder), Arc::clone(&window.entry));
        let (server, boot_id, window) = (Arc::clone(&self.server), self.boot_id.clone(), Arc::clone(id));
        let limit = self.settings.call_timeout;
        let renewal = async move {
            let selectors = holder.attest(Duration::ZERO).await.map_err(RenewError::Holder)?;
            if !entry.spec.selectors.iter().all(|selector| selectors.contains(selector)) {
                return Err(RenewError::Selectors(selectors));
            }
            let (key, csr) = new_key().map_err(RenewError::Server)?;
            let applicant = Applicant {
                holder,
                selectors,
                attested_at: Instant::now(),
            };
            let request = mayfly_proto::mayfly::agent::RenewTaskRequest {
                instance: Some(instance(&applicant, &entry.id, &boot_id)),
                window_id: window.to_string(),
                csr,
            };
            let answer = server.renew(request).await.map_err(RenewError::Server)?;
            Ok((key, answer))
        };
        let window = Arc::clone(id);
        self.calls.push(Box::pin(async move {
            let issued = match timeout(limit, AssertUnwindSafe(renewal).catch_unwind()).await {
                Ok(Ok(issued)) => issued,
                _ => Err(RenewError::Server(TaskError::new(
                    ErrorKind::DeadlineExceeded,
                    "the renewal took too long",
                ))),
            };
            Landed::Renewed { window, issued }
        }));
    }

    /// The server's clock, as far as it is known.
    fn server_now(&self) -> Timestamp {
        let known = self.word.borrow().and_then(|word| word.server_now(Moment::now()));
        known.unwrap_or_else(|| Timestamp::from(self.clock.now()))
    }
}

fn new_key() -> Result<(NewKey, Vec<u8>), TaskError> {
    NewKey::generate().map_err(|error| {
        error!(error = %Chain(&error), "cannot make a key");
        TaskError::new(ErrorKind::Internal, "internal error")
    })
}

/// The process as the server is told of it.
fn instance(applicant: &Applicant, entry_id: &EntryId, boot_id: &str) -> Instance {
    let Applicant {
        holder,
        selectors,
        attested_at,
    } = applicant;
    Instance {
        entry_id: entry_id.to_string(),
        selectors: selectors.iter().map(ToString::to_string).collect(),
        pid: holder.key().pid,
        uid: holder.uid(),
        start_ticks: holder.key().start_ticks,
        boot_id: boot_id.to_owned(),
        attested_ms_ago: u32::try_from(attested_at.elapsed().as_millis()).unwrap_or(u32::MAX),
    }
}

/// Whether a window is in force by its state.
fn is_live(state: &TaskState) -> bool {
    [Stage::Open, Stage::Suspended]
        .map(|stage| stage as i32)
        .contains(&state.stage)
}
