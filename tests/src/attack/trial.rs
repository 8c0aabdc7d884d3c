//! An attack beside honest clients, measured.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, setpriority_process};

use super::honest::{Honest, Waits};
use super::http2::{Assault, Calls};
use super::{Face, Memory, Stranger};
use crate::{Millis, effort};

/// Of the daemon and of honest clients.
const FIRST: i32 = -15;
/// Of attackers.
pub(super) const LAST: i32 = 19;
/// Goal L3.
const SLOWER: u32 = 3;
/// Below this, three times as long is what a busy machine does by itself. A debug build needs several times the processor
/// for whatever a peer sends, TLS handshakes above all, so that waits which are a few milliseconds in earnest are tens
/// there.
const FLOOR: Duration = Duration::from_millis(if cfg!(debug_assertions) { 150 } else { 20 });
/// Goal L3.
const GROWTH_KIB: u64 = 64 * 1024;

/// One attack on one daemon.
#[derive(Debug)]
pub struct Trial {
    name: String,
    honest: Honest,
    pid: u32,
    attackers: usize,
    turns: u32,
    calm: Duration,
    storm: Duration,
}

/// What was seen.
#[derive(Debug)]
pub struct Figures {
    name: String,
    before: Waits,
    during: Waits,
    growth_kib: u64,
    blows: u64,
}

/// Tries until the verdict on the waits is good, three times at most, and prints what is seen each time: what the machine
/// does besides may spoil one trial, what is wrong with the daemon spoils all of them. Memory is judged each time.
///
/// # Panics
/// The daemon grew by more than 64 MiB, or honest clients waited more than three times as long in all three.
pub async fn withstands(mut trial: impl AsyncFnMut() -> Figures) {
    let mut verdict = Ok(());
    for _ in 0..3 {
        let figures = trial().await;
        println!("{figures}");
        assert!(
            figures.growth_kib <= GROWTH_KIB,
            "{}: the daemon grew by {} KiB",
            figures.name,
            figures.growth_kib
        );
        verdict = figures.verdict();
        if verdict.is_ok() {
            return;
        }
    }
    panic!("{}, for the third time", verdict.expect_err("else it had returned"));
}

/// Threads that attack, until dropped.
struct Attackers {
    stop: Arc<AtomicBool>,
    blows: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// The daemon, this process and those of honest clients come before what else the machine does, until dropped.
struct First(Vec<u32>);

impl First {
    async fn of(daemon: u32, honest: &Honest) -> Self {
        let mut processes = honest.processes().await;
        processes.extend([daemon, std::process::id()]);
        Self::set(&processes, FIRST);
        Self(processes)
    }

    fn set(processes: &[u32], priority: i32) {
        for process in processes {
            set_priority(*process, priority);
        }
        // Between sessions the kernel shares by this number alone, where it does so at all (sched(7), autogroup).
        let _ = std::fs::write("/proc/self/autogroup", priority.to_string());
    }
}

impl Drop for First {
    fn drop(&mut self) {
        Self::set(&self.0, 0);
    }
}

/// Gives all threads that a process has a priority; those that they start inherit it. Only root can do without.
pub(super) fn set_priority(process: u32, priority: i32) {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    for thread in threads.flatten() {
        let number = thread.file_name().to_str().and_then(|name| name.parse().ok());
        // A thread may have ended meanwhile.
        let _ = setpriority_process(number.and_then(Pid::from_raw), priority);
    }
}

// === impl Trial ===

impl Trial {
    /// Of `attack` on the daemon with this process ID, which serves `honest`.
    pub fn new(attack: impl Into<String>, pid: u32, honest: &Honest) -> Self {
        let (calm, storm) = effort((450, 750), (3_000, 6_000));
        Self {
            name: attack.into(),
            honest: honest.clone(),
            pid,
            attackers: 2,
            turns: 3,
            calm: Duration::from_millis(calm),
            storm: Duration::from_millis(storm),
        }
    }

    /// So many attackers at the same time, each a thread.
    #[must_use]
    pub fn attackers(mut self, attackers: usize) -> Self {
        self.attackers = attackers;
        self
    }

    /// As long as all turns together, but in one: for attacks that need time to unfold.
    #[must_use]
    pub fn in_one_turn(mut self) -> Self {
        self.calm *= self.turns;
        self.storm *= self.turns;
        self.turns = 1;
        self
    }

    /// Attacks by frames: connects, strikes until the connection is over, and connects again.
    pub async fn by_frames(self, face: &Face, assault: Assault) -> Figures {
        let calls = Calls {
            plain: face.plain_call(),
            streaming: face.streaming_call(),
        };
        let face = face.clone();
        self.by(move || {
            let (mut stranger, calls) = (face.stranger(), calls.clone());
            move |running: &dyn Fn() -> bool| match stranger.dial() {
                Ok(mut connection) => assault(&mut connection, &calls, running),
                Err(_) => 0,
            }
        })
        .await
    }

    /// Attacks by connections: `strike` is called again and again by each attacker.
    pub async fn by_strangers(
        self,
        face: &Face,
        strike: impl Fn(&mut Stranger, &dyn Fn() -> bool) -> u64 + Clone + Send + 'static,
    ) -> Figures {
        let face = face.clone();
        self.by(move || {
            let (mut stranger, strike) = (face.stranger(), strike.clone());
            move |running: &dyn Fn() -> bool| strike(&mut stranger, running)
        })
        .await
    }

    /// Attacks by whatever `attacker` makes: one for each thread and turn, called until the turn is over. It gives how
    /// many blows it struck.
    pub async fn by<A>(self, attacker: impl Fn() -> A) -> Figures
    where
        A: FnMut(&dyn Fn() -> bool) -> u64 + Send + 'static,
    {
        // Attackers open connections in this process: honest clients must not wait for its own table of files to grow.
        mayfly_runtime::raise_open_files_limit();
        let _first = First::of(self.pid, &self.honest).await;
        let (mut before, mut during) = (Waits::default(), Waits::default());
        // What is made on first use is not the attack's.
        self.honest
            .ask_for(Duration::from_millis(100), &mut Waits::default())
            .await;
        let memory = Memory::watch(self.pid);
        let mut blows = 0;
        for _ in 0..self.turns {
            self.honest.ask_for(self.calm, &mut before).await;
            let attackers = Attackers::start((0..self.attackers).map(|_| attacker()).collect());
            self.honest.ask_for(self.storm, &mut during).await;
            blows += tokio::task::spawn_blocking(move || attackers.end())
                .await
                .expect("attackers end when they are told to");
        }
        Figures {
            name: self.name,
            before,
            during,
            growth_kib: memory.growth_kib(),
            blows,
        }
    }
}

// === impl Attackers ===

impl Attackers {
    fn start<A>(attackers: Vec<A>) -> Self
    where
        A: FnMut(&dyn Fn() -> bool) -> u64 + Send + 'static,
    {
        let (stop, blows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = attackers.into_iter().map(|mut attack| {
            let (stop, blows) = (Arc::clone(&stop), Arc::clone(&blows));
            std::thread::spawn(move || {
                // Without a process it is this thread alone.
                setpriority_process(None, LAST).expect("to give way is allowed to everybody");
                let running = || !stop.load(Ordering::Relaxed);
                while running() {
                    blows.fetch_add(attack(&running), Ordering::Relaxed);
                }
            })
        });
        let threads = threads.collect();
        Self { stop, blows, threads }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("an attacker does not break down");
        }
        self.blows.load(Ordering::Relaxed)
    }
}

// === impl Figures ===

impl Figures {
    /// Whether honest clients waited at most three times as long.
    fn verdict(&self) -> Result<(), String> {
        if self.blows == 0 {
            return Err(format!("{}: nothing was sent", self.name));
        }
        for (what, before, during) in [
            ("calls", &self.before.calls, &self.during.calls),
            ("connections", &self.before.connections, &self.during.connections),
        ] {
            let (calm, storm) = (before.quantile(0.99), during.quantile(0.99));
            if storm > (calm * SLOWER).max(FLOOR) {
                return Err(format!("{}: p99 of honest {what} {calm:?} → {storm:?}", self.name));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |millis: &Millis| {
            let ms = |share| millis.quantile(share).as_secs_f64() * 1e3;
            format!("{:.1}/{:.1}", ms(0.5), ms(0.99))
        };
        write!(
            f,
            "ATTACK {:<44} | calls p50/p99 {:>11} → {:>11} ms | connects {:>11} → {:>11} ms | RSS +{:.1} MiB | {} blows",
            self.name,
            pair(&self.before.calls),
            pair(&self.during.calls),
            pair(&self.before.connections),
            pair(&self.during.connections),
            f64::from(u32::try_from(self.growth_kib).unwrap_or(u32::MAX)) / 1024.0,
            self.blows,
        )
    }
}
