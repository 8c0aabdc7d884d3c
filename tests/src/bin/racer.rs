//! Races for a process ID against an agent: does anybody get the identity of the process that has its number now?
//!
//! ```text
//! racer run <socket> <agent's pid> <races> <visitor's uid> <heir's uid>   prints one line of JSON
//! racer visit <socket>    connects, gives the connection away over standard input, and ends
//! racer stay              lives until its standard input ends
//! ```
//!
//! A race: a *visitor* connects to the Workload API and ends; the next process, the *heir*, gets its number by
//! `/proc/sys/kernel/ns_last_pid`, as another user, of the same program; then the visitor's connection, which the referee
//! has kept, asks for an SVID, or has asked a moment before. A program of its own, so that what is forked is small.

use std::error::Error;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mayfly_tests::frames::{
    self, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, PREFACE, authority, call, field, frame,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

const LAST: &str = "/proc/sys/kernel/ns_last_pid";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What the agent is doing when the number changes hands.
#[derive(Clone, Copy)]
enum Moment {
    /// It is stopped, and accepts the connection when the number has a new owner.
    BeforeAccept,
    /// It has been asked, and is looking at the visitor, or not yet.
    WhileAttesting,
    /// It has accepted the connection, and is asked when the number has a new owner.
    AfterAccept,
}

/// How the races ended.
#[derive(Default)]
struct Tally {
    races: u64,
    reused: u64,
    refused: u64,
    own: u64,
    silent: u64,
    wrong: u64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["run", socket, agent, races, visitor, heir] => {
            let referee = Referee {
                program: std::env::current_exe()?,
                socket: socket.into(),
                agent: Pid::from_raw(agent.parse()?),
                visitor: visitor.parse()?,
                heir: heir.parse()?,
            };
            referee.hold(races.parse()?)
        }
        ["visit", socket] => visit(Path::new(socket)),
        ["stay"] => {
            let _ended = io::stdin().read(&mut [0])?;
            Ok(())
        }
        _ => Err("see the head of racer.rs".into()),
    }
}

struct Referee {
    program: PathBuf,
    socket: PathBuf,
    agent: Pid,
    visitor: u32,
    heir: u32,
}

impl Referee {
    /// Holds races until `wanted` of them had the number reused.
    fn hold(&self, wanted: u64) -> Result<()> {
        let (mut tally, begun) = (Tally::default(), Instant::now());
        while tally.reused < wanted {
            if tally.races > 2 * wanted + 100 {
                return Err(format!("only {} of {} races got the number", tally.reused, tally.races).into());
            }
            let moment = [Moment::BeforeAccept, Moment::WhileAttesting, Moment::AfterAccept][tally.races as usize % 3];
            self.race(moment, &mut tally)?;
        }
        let Tally {
            races,
            reused,
            refused,
            own,
            silent,
            wrong,
        } = tally;
        println!(
            "{{\"event\":\"races\",\"races\":{races},\"reused\":{reused},\"refused\":{refused},\"own\":{own},\
             \"silent\":{silent},\"wrong\":{wrong},\"seconds\":{:.1}}}",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn race(&self, moment: Moment, tally: &mut Tally) -> Result<()> {
        let stopped = matches!(moment, Moment::BeforeAccept);
        if stopped {
            kill(self.agent, Signal::SIGSTOP)?;
        }
        let (ours, theirs) = UnixStream::pair()?;
        let mut visitor = self.child(&["visit", &self.socket.display().to_string()], self.visitor, theirs)?;
        let connection = take(&ours)?;
        connection.set_read_timeout(Some(Duration::from_secs(20)))?;
        connection.set_write_timeout(Some(Duration::from_secs(20)))?;
        let mut connection = Connection::over(connection);
        if matches!(moment, Moment::WhileAttesting) {
            connection.send(&question());
        }
        let number = visitor.id();
        visitor.wait()?;

        std::fs::write(LAST, (number - 1).to_string())?;
        let (stay, input) = UnixStream::pair()?;
        let mut heir = self.child(&["stay"], self.heir, input)?;
        let reused = heir.id() == number;
        if stopped {
            kill(self.agent, Signal::SIGCONT)?;
        }
        if !matches!(moment, Moment::WhileAttesting) {
            connection.send(&question());
        }
        let outcome = connection.outcome(1);
        drop(stay);
        heir.wait()?;

        tally.races += 1;
        tally.reused += u64::from(reused);
        match outcome {
            Outcome::Message(octets) if contains(&octets, b"/heir") => tally.wrong += 1,
            // Told while it lived.
            Outcome::Message(octets) if contains(&octets, b"/visitor") => match moment {
                Moment::WhileAttesting => tally.own += 1,
                Moment::BeforeAccept | Moment::AfterAccept => tally.wrong += 1,
            },
            Outcome::Message(octets) => return Err(format!("a message of nobody: {octets:?}").into()),
            Outcome::Silence => tally.silent += 1,
            Outcome::Status(0, _) => return Err("the stream ended well".into()),
            _ => tally.refused += 1,
        }
        Ok(())
    }

    fn child(&self, arguments: &[&str], uid: u32, input: UnixStream) -> io::Result<Child> {
        Command::new(&self.program)
            .args(arguments)
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::from(OwnedFd::from(input)))
            .spawn()
    }
}

/// One `FetchX509SVID`.
fn question() -> Vec<u8> {
    let block = call(
        "/SpiffeWorkloadAPI/FetchX509SVID",
        Some(&authority(b"localhost")),
        &field("workload.spiffe.io", b"true"),
    );
    [
        PREFACE.to_vec(),
        frame(HEADERS, END_HEADERS, 1, &block),
        frame(DATA, END_STREAM, 1, &frames::EMPTY_MESSAGE),
    ]
    .concat()
}

fn contains(octets: &[u8], wanted: &[u8]) -> bool {
    octets.windows(wanted.len()).any(|window| window == wanted)
}

fn visit(socket: &Path) -> Result<()> {
    let connection = UnixStream::connect(socket)?;
    let fds = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(io::stdin(), &[IoSlice::new(b"ok")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn take(from: &UnixStream) -> Result<UnixStream> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 2];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let given = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(UnixStream::from(given.ok_or("the visitor gave no connection")?))
}
