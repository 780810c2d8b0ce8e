//! How long somebody waits for `meltemi check` of one example: the whole process, from its start to its end.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::report::{Report, Target, median};
use crate::agent::program;
use crate::example;

/// Runs of each example; the middle one counts.
const RUNS: u32 = 15;

/// Checks every example.
///
/// # Errors
/// When the agent is not built.
pub fn run() -> Result<()> {
    let program = program()?;
    let mut examples: Vec<_> = fs::read_dir(example::root().join("manifests/examples"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    examples.sort();
    let mut report = Report::new(format!("meltemi check of one example, the whole process, median of {RUNS}"));
    for example in examples {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            let mut check = Command::new(&program);
            check.arg("check").arg(&example).stdout(Stdio::null());
            check.status().with_context(|| format!("cannot start {}", program.display()))?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let (time, name) = (median(&times), example.file_name().unwrap_or_default().to_string_lossy().into_owned());
        report.judged(name, format!("{time:.1} ms"), (time, "ms"), Some(Target::AtMost(30.0)));
    }
    report.print();
    Ok(())
}
