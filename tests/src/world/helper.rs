//! A process inside a namespace that takes lines on stdin and answers lines of JSON on stdout.
//!
//! It ends when its stdin ends, so it never outlives whoever started it, unless told to.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::helper_program;
use super::netns::Netns;

/// Longest wait for an answer; a client that opens a thousand connections over a lossy path is the slowest.
const ANSWER: Duration = Duration::from_secs(60);

/// The process; killed when dropped.
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    /// What it said when it was ready.
    pub first: Value,
}

impl Helper {
    /// Starts `meltemi-demo ARGS` inside and waits for its first line.
    ///
    /// # Errors
    /// When it does not start or does not become ready.
    pub fn start(netns: &Netns, args: &[&str]) -> Result<Helper> {
        let mut command = netns.command(helper_program()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start nsenter (Debian package util-linux)")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, answers) = mpsc::channel();
        // A thread, because a read from a pipe has no limit in time.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut helper = Helper { child, stdin, answers, first: Value::Null };
        helper.first = helper.answer().with_context(|| format!("`{}` in {}", args.join(" "), netns.name()))?;
        Ok(helper)
    }

    /// Sends a line and gives the answer.
    ///
    /// # Errors
    /// When the process has ended or does not answer in time.
    pub fn ask(&mut self, line: &str) -> Result<Value> {
        self.tell(line)?;
        self.answer()
    }

    /// Says `stop` and gives the last report.
    ///
    /// # Errors
    /// When the process has ended or does not answer in time.
    pub fn stop(mut self) -> Result<Value> {
        let last = self.ask("stop")?;
        drop(self.stdin.take());
        self.child.wait()?;
        Ok(last)
    }

    /// Ends the process at once, as a crash would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says the line that makes it outlive us, and lets go of it.
    pub(super) fn leave_running(mut self, line: &str) -> Result<()> {
        self.tell(line)?;
        // The pipe is closed without Drop's kill: the child is no longer ours.
        drop(self.stdin.take());
        std::mem::forget(self);
        Ok(())
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("already stopped")?;
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).context("the process has ended")
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.answers.recv_timeout(ANSWER).context("no answer")?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Already ended processes give errors here, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
