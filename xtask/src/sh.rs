//! Starting other programs: one way to run, to capture, to wait with a limit, and to find things on PATH.
//!
//! Not a shell: no string is ever split or expanded.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The workspace's root directory.
pub fn root() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// Where xtask keeps its own files: `target/xtask`.
pub fn state_dir() -> PathBuf {
    root().join("target/xtask")
}

/// One line of progress, on stderr so that stdout stays free for data.
pub fn say(line: impl AsRef<str>) {
    eprintln!("xtask: {}", line.as_ref());
}

/// A command without what `cargo run` put into our environment: a library path or a toolchain name meant for this
/// process would otherwise reach another compiler.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let ours = name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "LD_LIBRARY_PATH";
        if ours {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// The cargo that runs us, for everything that is built for this host.
pub fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| {
            let word = word.to_string_lossy();
            if word.contains(' ') { format!("'{word}'") } else { word.into_owned() }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The same command once more: program, arguments, environment, directory.
pub fn again(command: &Command) -> Command {
    let mut copy = self::command(command.get_program());
    copy.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(key, value),
            None => copy.env_remove(key),
        };
    }
    copy
}

/// Shows the command, runs it with its output visible, and fails where it fails.
pub fn run(command: &mut Command) -> Result<()> {
    say(format!("$ {}", shown(command)));
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs quietly and gives standard output; standard error becomes part of the error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", shown(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs with output visible, and kills the process where it has not ended within `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    say(format!("$ {}", shown(command)));
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("`{}` failed: {status}", shown(command));
            }
            return Ok(());
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("`{}` did not end within {} s", shown(command), limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Becomes the other program; returns only where that is impossible.
pub fn exec(mut command: Command) -> anyhow::Error {
    say(format!("$ {}", shown(&command)));
    let line = shown(&command);
    anyhow::Error::new(command.exec()).context(format!("cannot start {line}"))
}

/// The first executable file `name` in the directories of `path` (written as PATH is).
pub fn find_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

/// As [`find_in`] with this process's PATH and the directories an ordinary user's PATH leaves out.
pub fn find(name: &str) -> Option<PathBuf> {
    let mut dirs: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    dirs.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    find_in(&env::join_paths(dirs).unwrap_or_default(), name)
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended() {
        let error = run_within(command("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn a_failing_command_tells_its_stderr() {
        let error = capture(command("ls").arg("/no/such/file")).unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
