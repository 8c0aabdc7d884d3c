//! Whose turn it is at the terminal.
//!
//! The command is a process group of its own, so a shell with job control sees two where it expects one. If both stdin
//! and stdout are the terminal, the command gets it at once; in a pipeline, where a pager may need it, only when the
//! kernel stops the command for wanting it. It comes back to us before we stop or end.

use std::fs::File;
use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal, killpg, raise};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The controlling terminal, if there is one.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: Option<File>,
    given: bool,
}

impl Terminal {
    /// Opens it. From now on the kernel does not stop this thread for giving it away.
    pub(super) fn open() -> Self {
        // Without it `tcsetpgrp` from the background would stop us.
        let _ = waiting_for_turn().thread_block();
        Self {
            tty: tty(),
            given: false,
        }
    }

    /// Whether the command is to have it from the start.
    pub(super) fn is_for_command(&self) -> bool {
        self.is_ours() && io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// The process group has it from now on; it took it itself, or takes it now.
    pub(super) fn give(&mut self, group: Pid) {
        if let Some(tty) = &self.tty {
            self.given = tcsetpgrp(tty, group).is_ok();
        }
    }

    /// We have it again, if we gave it away.
    pub(super) fn take_back(&mut self) {
        if std::mem::take(&mut self.given)
            && let Some(tty) = &self.tty
        {
            // If it is gone, nobody has it.
            let _ = tcsetpgrp(tty, getpgrp());
        }
    }

    /// The command was stopped by `signal`: it gets its turn, or we stop as well and wait to be told to go on.
    pub(super) fn stopped(&mut self, group: Pid, signal: i32) {
        if self.tty.is_none() {
            return; // whoever stopped it knows how to go on
        }
        let wants_turn = [Signal::SIGTTIN as i32, Signal::SIGTTOU as i32].contains(&signal);
        if wants_turn && self.is_ours() {
            self.give(group);
        } else {
            let had_it = self.given;
            self.take_back();
            // Until the shell says SIGCONT.
            let _ = raise(Signal::SIGSTOP);
            if had_it && self.is_ours() {
                self.give(group);
            }
        }
        let _ = killpg(group, Signal::SIGCONT);
    }

    fn is_ours(&self) -> bool {
        self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty) == Ok(getpgrp()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// For the process that becomes the command: takes the terminal if told to, and is stopped by the kernel as any other.
pub(super) fn enter(take: bool) {
    let waiting = waiting_for_turn();
    let _ = waiting.thread_block();
    if take && let Some(tty) = tty() {
        let _ = tcsetpgrp(tty, getpgrp());
    }
    let _ = waiting.thread_unblock();
}

fn tty() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok()
}

fn waiting_for_turn() -> SigSet {
    SigSet::from_iter([Signal::SIGTTOU])
}
