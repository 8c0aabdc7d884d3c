//! A network of its own for some daemons: a namespace in which TCP is lossy, slow or cut, in the kernel.
//!
//! Both ends are on its loopback device, so each packet of each direction passes once. Unix sockets go on as ever:
//! callers and operators are reached from outside.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{NEEDED, run, try_run};
use crate::binaries::binary;
use crate::daemon::Daemon;
use crate::needs_root;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace.
#[derive(Debug)]
pub struct Network {
    name: String,
    delayer: Option<Child>,
}

impl Network {
    /// A good one.
    ///
    /// # Panics
    /// `ip` is not installed, or network namespaces are not allowed here.
    pub fn new() -> Self {
        needs_root();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mayfly-{}-{count}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let network = Self { name, delayer: None };
        // Packets as large as on a cable, else a whole exchange would be one packet and hardly ever lost.
        run("ip", &["-n", &network.name, "link", "set", "lo", "mtu", "1500", "up"]);
        network
    }

    /// Puts a daemon that is not started yet into it.
    pub fn hold(&self, daemon: &mut Daemon) {
        daemon.within(&["nsenter", &self.entry(), "--"]);
    }

    /// Loses this share of all TCP packets, from 0 to 1.
    pub fn lose(&self, share: f64) {
        let share = share.to_string();
        let drop = [
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            &share,
            "-j",
            "DROP",
        ];
        self.rule(&["-I", "INPUT", "1"], &drop);
    }

    /// Has each TCP packet arrive `delay` later.
    ///
    /// # Panics
    /// The kernel has no NFQUEUE.
    pub fn delay(&mut self, delay: Duration) {
        let millis = delay.as_millis().to_string();
        let mut delayer = Command::new("nsenter")
            .args([&self.entry(), "--"])
            .arg(binary("delayer"))
            .arg(millis)
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter is part of Linux");
        // It says so when the queue is there; before that the kernel would drop what it is given.
        let mut ready = [0];
        let output = delayer.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(output, &mut ready)
            .unwrap_or_else(|_| panic!("the delayer ended, see above why\nhint: {NEEDED}"));
        self.delayer = Some(delayer);
        self.rule(&["-A", "INPUT"], &["-j", "NFQUEUE", "--queue-num", "0"]);
    }

    /// Lets nothing through any more, in silence.
    pub fn cut(&self) {
        self.rule(&["-I", "INPUT", "1"], &["-j", "DROP"]);
    }

    /// Undoes [`Network::cut`].
    pub fn mend(&self) {
        self.rule(&["-D", "INPUT"], &["-j", "DROP"]);
    }

    /// How many packets were dropped by [`Network::lose`] and [`Network::cut`], and how many there were.
    ///
    /// # Panics
    /// The kernel does not tell.
    pub fn dropped(&self) -> (u64, u64) {
        let output = Command::new("nsenter")
            .args([&self.entry(), "--", "iptables", "-L", "INPUT", "-v", "-x", "-n"])
            .output()
            .expect("iptables is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let packets = |line: &str| {
            line.split_whitespace()
                .next()
                .and_then(|count| count.parse::<u64>().ok())
        };
        let of = |target: &str| {
            text.lines()
                .filter(|line| line.contains(target))
                .filter_map(packets)
                .sum::<u64>()
        };
        let dropped = of("DROP");
        (dropped, dropped + of("NFQUEUE"))
    }

    fn rule(&self, place: &[&str], what: &[&str]) {
        let entry = self.entry();
        let args: Vec<&str> = [entry.as_str(), "--", "iptables", "-w"]
            .into_iter()
            .chain(place.iter().copied())
            .chain(["-p", "tcp"])
            .chain(what.iter().copied())
            .collect();
        run("nsenter", &args);
    }

    fn entry(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(mut delayer) = self.delayer.take() {
            // Gone already if it failed.
            let _ = delayer.kill();
            let _ = delayer.wait();
        }
        // The name goes now; the namespace when the last process in it has ended.
        let _ = try_run("ip", &["netns", "del", &self.name]);
    }
}
