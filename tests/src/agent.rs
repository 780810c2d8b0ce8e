//! The agent as a process on the balancer host of a world: start, wait for revisions, ask, signal, start again.
//!
//! Knows only the commands' contract (flags, the `ready` and `applied` lines, JSON); nothing of the agent's inside.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde_json::Value;

use crate::poll;
use crate::world::netns::Netns;
use crate::world::{BACK_SIDE, CLIENT_SIDE, World};

/// Where the agent of a world answers, inside its namespace.
pub const ADMIN: &str = "127.0.0.1:15014";

/// Longest time from the start to the first revision in force.
const READY: Duration = Duration::from_secs(30);
/// Longest time from a change of a file to the revision in force.
const APPLIED: Duration = Duration::from_secs(10);
/// Longest time from SIGTERM to the end.
const EXIT: Duration = Duration::from_secs(10);

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Auto,
    Xdp,
    XdpGeneric,
    Tc,
}

impl Mode {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Xdp => "xdp",
            Mode::XdpGeneric => "xdp-generic",
            Mode::Tc => "tc",
        }
    }
}

/// `--forwarding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Forwarding {
    Auto,
    Snat,
    Dnat,
}

impl Forwarding {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Forwarding::Auto => "auto",
            Forwarding::Snat => "snat",
            Forwarding::Dnat => "dnat",
        }
    }
}

/// How the agent is started.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    pub mode: Mode,
    pub forwarding: Forwarding,
    /// `--pin`; `None`: the world's own directory.
    pub pin: Option<PathBuf>,
    /// `--admin`.
    pub admin: String,
    /// `--interface`, each.
    pub interfaces: Vec<String>,
    /// A program with arguments that starts the agent, for instance `setpriv ...`.
    pub through: Vec<String>,
    /// More arguments of `meltemi run`.
    pub more: Vec<String>,
}

impl Options {
    /// With `--mode auto --forwarding auto`.
    #[must_use]
    pub fn new(config: impl Into<PathBuf>) -> Self {
        Options {
            config: config.into(),
            mode: Mode::Auto,
            forwarding: Forwarding::Auto,
            pin: None,
            admin: ADMIN.into(),
            interfaces: vec![CLIENT_SIDE.into(), BACK_SIDE.into()],
            through: Vec::new(),
            more: Vec::new(),
        }
    }
}

/// Signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
    Kill,
}

/// A running or ended agent; killed when dropped, while its pins live as long as the world.
pub struct Agent {
    netns: Netns,
    pin: PathBuf,
    log: PathBuf,
    child: Child,
}

/// The agent's binary: `MELTEMI_BIN`, or the one beside this program.
///
/// # Errors
/// When it is not built.
pub fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("MELTEMI_BIN") {
        return Ok(PathBuf::from(named));
    }
    let beside = crate::world::helper_program()?.with_file_name("meltemi");
    ensure!(beside.is_file(), "{} is not built: run `cargo xtask build`", beside.display());
    Ok(beside)
}

impl Agent {
    /// Starts an agent on both interfaces of the balancer host. Returns at once; see [`Agent::wait_ready`].
    ///
    /// # Errors
    /// When the binary is missing or cannot be started.
    pub fn start(world: &World, options: &Options) -> Result<Agent> {
        Agent::start_program(world, options, &program()?)
    }

    /// As [`Agent::start`] with another binary, for instance an upgraded one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(world: &World, options: &Options, program: &Path) -> Result<Agent> {
        mount_bpffs()?;
        let log = fresh_log(&world.dir())?;
        let pin = options.pin.clone().unwrap_or_else(|| world.pin_dir());
        let mut command = match options.through.split_first() {
            Some((first, rest)) => {
                let mut command = world.lb.command(first);
                command.args(rest).arg(program);
                command
            }
            None => world.lb.command(program),
        };
        command.arg("run").arg("--config").arg(&options.config).args(["--admin", &options.admin]);
        command.args(options.interfaces.iter().flat_map(|name| ["--interface", name.as_str()]));
        command.arg("--pin").arg(&pin);
        command.args(["--mode", options.mode.name(), "--forwarding", options.forwarding.name()]).args(&options.more);
        // A file, not a pipe: it can be read at any time, and the agent may outlive us.
        command.stdin(Stdio::null()).stdout(File::create(log.with_extension("out"))?).stderr(File::create(&log)?);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Agent { netns: world.lb.clone(), pin, log, child })
    }

    /// Waits for `ready revision=N` and gives N.
    ///
    /// # Errors
    /// When the agent ends, or is not ready in time; with its log.
    pub fn wait_ready(&mut self) -> Result<u64> {
        self.wait_line(READY, "ready revision=", |_| true)
    }

    /// Waits for `applied revision=N` with N at least `revision`, and gives N.
    ///
    /// # Errors
    /// When the agent ends, or does not get there in time; with its log.
    pub fn wait_applied(&mut self, revision: u64) -> Result<u64> {
        self.wait_line(APPLIED, "applied revision=", |found| found >= revision)
    }

    /// Waits until the log contains the text.
    ///
    /// # Errors
    /// When the agent ends or the limit passes; with its log.
    pub fn wait_log(&mut self, limit: Duration, text: &str) -> Result<()> {
        self.wait_for(limit, text, |log| log.contains(text).then_some(()))
    }

    /// Everything it has written to stderr.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Everything on stdout: the proxy's access log.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "the agent has ended already\n{}", self.log());
        let name = match signal {
            Signal::Terminate => "-TERM",
            Signal::Interrupt => "-INT",
            Signal::Kill => "-KILL",
        };
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill \"$1\" \"$2\"", "sh", name, &pid]).status()?;
        ensure!(status.success(), "cannot signal {pid}");
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; with its log.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let ended = poll::until(EXIT, "the agent's end", || Ok(self.child.try_wait()?));
        ended.map_err(|error| self.with_log(&error))
    }

    /// `meltemi status -o json`.
    ///
    /// # Errors
    /// When the command fails or the answer is not JSON.
    pub fn status(&self) -> Result<Value> {
        let text = self.command(&["status", "-o", "json", "--admin", ADMIN])?;
        serde_json::from_str(&text).with_context(|| format!("status said: {text}"))
    }

    /// A counter of `meltemi status`; 0 where it is not listed.
    ///
    /// # Errors
    /// When status fails.
    pub fn counter(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["counters"][reason].as_u64().unwrap_or(0))
    }

    /// `meltemi detach` for this world's pins.
    ///
    /// # Errors
    /// When the command fails.
    pub fn detach(&self) -> Result<String> {
        let pin = self.pin.display().to_string();
        self.command(&["detach", "--pin", &pin])
    }

    /// Runs another `meltemi` command on the balancer host and gives its stdout.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        let output = self.netns.command(program()?).args(args).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("meltemi {}: {}: {}", args.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Lets go of the process: it runs on when this value is dropped.
    pub fn leave_running(self) {
        std::mem::forget(self);
    }

    fn wait_line(&mut self, limit: Duration, mark: &str, wanted: impl Fn(u64) -> bool) -> Result<u64> {
        self.wait_for(limit, mark, |log| {
            log.lines().filter_map(|line| number_after(line, mark)).find(|found| wanted(*found))
        })
    }

    fn wait_for<T>(&mut self, limit: Duration, what: &str, look: impl Fn(&str) -> Option<T>) -> Result<T> {
        let found = poll::until(limit, &format!("`{what}` of the agent"), || {
            // Whether it lives is asked before the log is read: a line written just before the end still counts.
            let ended = self.child.try_wait()?;
            match (look(&self.log()), ended) {
                (Some(found), _) => Ok(Some(found)),
                (None, Some(status)) => bail!("the agent ended: {status}"),
                (None, None) => Ok(None),
            }
        });
        found.map_err(|error| self.with_log(&error))
    }

    fn with_log(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.log_for_people())
    }

    fn log_for_people(&self) -> String {
        format!("the agent's log:\n{}", self.log().lines().map(|line| format!("  | {line}\n")).collect::<String>())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // An ended process gives an error here, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log_for_people());
        }
    }
}

/// `ready revision=12 ...` gives 12; also where the words stand inside a line of a structured log.
fn number_after(line: &str, mark: &str) -> Option<u64> {
    let rest = &line[line.find(mark)? + mark.len()..];
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// agent-1.log, agent-2.log, ...: one a start.
fn fresh_log(dir: &Path) -> Result<PathBuf> {
    let mut names = (1..).map(|number: u32| dir.join(format!("agent-{number}.log")));
    names.find(|path| !path.exists()).context("no name for a log")
}

/// Mounts the bpf file system where it is not there; a fresh machine has none.
///
/// # Errors
/// When it cannot be mounted.
pub fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    if mounts.lines().any(|line| line.contains(" /sys/fs/bpf bpf ")) {
        return Ok(());
    }
    let status = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status()?;
    ensure!(status.success(), "cannot mount the bpf file system at /sys/fs/bpf");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::number_after;

    #[test]
    fn revisions_are_read_from_plain_and_structured_lines() {
        assert_eq!(number_after("ready revision=1", "ready revision="), Some(1));
        assert_eq!(number_after("applied revision=12 changed=3 in=2ms", "applied revision="), Some(12));
        assert_eq!(number_after(r#"{"message":"ready revision=7"}"#, "ready revision="), Some(7));
        assert_eq!(number_after("ready revision=", "ready revision="), None);
        assert_eq!(number_after("nothing", "ready revision="), None);
    }
}
