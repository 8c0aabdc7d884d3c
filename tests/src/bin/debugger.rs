//! A debugger that only holds on: `debugger PID` attaches to a process without stopping it, says `attached`, and lets go
//! when its standard input ends. `debugger -- PROGRAM ARG…` does so with a program that it starts, until that ends.

use std::io::{Read, Write};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::ptrace::{Options, seize};
use nix::unistd::Pid;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let target = args
        .next()
        .context("usage: debugger PID, or debugger -- PROGRAM ARG…")?;
    if target != "--" {
        attach(target.parse()?)?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let mut child = Command::new(args.next().context("program")?).args(args).spawn()?;
    attach(child.id().try_into()?)?;
    child.wait()?;
    Ok(())
}

fn attach(pid: i32) -> Result<()> {
    seize(Pid::from_raw(pid), Options::empty()).with_context(|| format!("cannot attach to process {pid}"))?;
    let mut output = std::io::stdout();
    output.write_all(b"attached\n")?;
    output.flush()?;
    Ok(())
}
