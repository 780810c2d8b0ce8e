//! One network namespace: running programs inside it, its links, its counters.
//!
//! Programs are entered by `nsenter --net`, not by `ip netns exec`: the latter remounts /sys and so hides the bpf file
//! system from what it starts.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A namespace that exists under /run/netns; made and removed by the world.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace, with its loopback up.
    pub(super) fn create(name: String) -> Result<Netns> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Netns { name };
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// As in `ip netns list`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter` and `setns` take.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run inside; the process has the id of the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs lines of `ip` (without the word `ip`), in one go.
    ///
    /// # Errors
    /// The first line that fails, with what `ip` said.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        let text = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect::<String>();
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip (Debian package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("ip in {}: {}\nlines were:\n{text}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Runs a program inside to its end and gives its output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        run(self.command(program).args(args))
    }

    /// Sets kernel parameters of this namespace, for instance `("net.ipv4.ip_forward", "1")`.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        // /proc/sys/net shows the namespace of whoever opens it, so a process inside must write.
        let script = "set -e; while [ $# -gt 0 ]; do printf %s \"$2\" > \"$1\"; shift 2; done";
        let mut args = vec!["-c".to_owned(), script.into(), "sh".into()];
        for (key, value) in values {
            args.extend([format!("/proc/sys/{}", key.replace('.', "/")), (*value).to_owned()]);
        }
        run(self.command("sh").args(args)).map(|_| ())
    }

    /// `ethtool -K DEVICE FEATURE on|off`.
    pub(super) fn feature(&self, device: &str, feature: &str, value: &str) -> Result<()> {
        self.output("ethtool", &["-K", device, feature, value]).map(|_| ())
    }

    /// A counter of /proc/net/snmp, for instance ("Tcp", "InCsumErrors"). IPv6 counts TCP in the same place.
    ///
    /// # Errors
    /// When the kernel does not have it.
    pub fn counter(&self, protocol: &str, name: &str) -> Result<u64> {
        let text = self.output("cat", &["/proc/net/snmp", "/proc/net/netstat"])?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let at = names.split_whitespace().position(|word| word == name);
            if let Some(value) = at.and_then(|at| values.split_whitespace().nth(at)) {
                return Ok(value.parse()?);
            }
        }
        bail!("no counter {protocol} {name} in {}", self.name)
    }

    /// Why links or addresses cannot be used yet, or `None` where all can.
    pub(super) fn not_ready(&self) -> Result<Option<String>> {
        let links = run(Command::new("ip").args(["-n", &self.name, "-o", "link"]))?;
        let down = links.lines().find(|line| !line.contains("LOOPBACK") && !line.contains("state UP"));
        let addresses = run(Command::new("ip").args(["-n", &self.name, "-o", "-6", "address"]))?;
        let tentative = addresses.lines().find(|line| line.contains("tentative"));
        Ok(down.or(tentative).map(str::to_owned))
    }
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let args = command.get_args().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name} {args}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
