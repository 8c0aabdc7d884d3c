//! A process that connects to a socket, gives the connection to the test, and then does what it is told.
//!
//! An agent knows its caller by the process that called `connect`. So the test speaks gRPC over the connection, while
//! the caller is this process, which can drop privileges, execute another program, or die. Standard input is one end of
//! a socket pair: commands in lines, answers in lines, connections as `SCM_RIGHTS`.
//!
//! ```text
//! connect <path>   answers `ok` with the connection attached
//! setuid <n>       becomes the user n, without supplementary groups
//! exec <path>      becomes another program, which must understand `--held`
//! exit             ends
//! ```

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fn main() -> ExitCode {
    // After `exec` the new program says so, and goes on with the same commands.
    if std::env::args().nth(1).as_deref() == Some("--held") && answer("ok").is_err() {
        return ExitCode::FAILURE;
    }
    match obey() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The test shows this beside its own failure.
            let _ = answer(&format!("error {error}"));
            ExitCode::FAILURE
        }
    }
}

fn obey() -> io::Result<()> {
    while let Some(line) = command()? {
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "connect" => {
                let connection = UnixStream::connect(argument)?;
                give(&connection)?;
            }
            "setuid" => {
                mayfly_tests::become_user(argument.parse().map_err(io::Error::other)?)?;
                answer("ok")?;
            }
            // Returns only if it failed.
            "exec" => return Err(Command::new(argument).arg("--held").exec()),
            "exit" => return Ok(()),
            other => return Err(io::Error::other(format!("unknown command `{other}`"))),
        }
    }
    Ok(())
}

/// One line; none once the test is gone. Read octet by octet, so that nothing is lost in a buffer by `exec`.
fn command() -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut octet = [0];
    loop {
        if rustix::io::read(io::stdin().as_fd(), &mut octet)? == 0 {
            return Ok(None);
        }
        if octet[0] == b'\n' {
            return String::from_utf8(line).map(Some).map_err(io::Error::other);
        }
        line.push(octet[0]);
    }
}

fn answer(text: &str) -> io::Result<()> {
    rustix::io::write(io::stdin().as_fd(), format!("{text}\n").as_bytes())?;
    Ok(())
}

fn give(connection: &UnixStream) -> io::Result<()> {
    let fds = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        io::stdin().as_fd(),
        &[IoSlice::new(b"ok\n")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}
