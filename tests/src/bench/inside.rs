//! A part of a measurement that runs inside a namespace: this program again, under a hidden command, asked by lines.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::world::netns::Netns;

/// Everything that is timed runs on this CPU, balancer and generator together.
pub const CPU: &str = "0";

/// `taskset -c CPU PROGRAM ARGS` in the namespace.
///
/// # Errors
/// When this program's own path is not known.
pub fn command(netns: &Netns, args: &[&str]) -> Result<Command> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = netns.command("taskset");
    command.args(["-c", CPU]).arg(program).args(args);
    Ok(command)
}

/// The part; it ends when this is dropped.
pub struct Inside {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Inside {
    /// Starts it and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it does not start or ends at once.
    pub fn start(netns: &Netns, args: &[&str]) -> Result<Self> {
        let mut child = command(netns, args)?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut inside = Inside { child, stdin, stdout };
        inside.answer().with_context(|| args.join(" "))?;
        Ok(inside)
    }

    /// Sends a line and gives the answer.
    ///
    /// # Errors
    /// When the part has ended.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let stdin = self.stdin.as_mut().context("already ended")?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a part of the bench ended early");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It ends by itself when its stdin does; what it attached goes with it.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// The part's own side: says `ready`, then answers each line until there are no more.
///
/// # Errors
/// What `answer` fails with.
pub fn serve(mut answer: impl FnMut(&str) -> Result<String>) -> Result<()> {
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        println!("{}", answer(line?.trim())?);
    }
    Ok(())
}
