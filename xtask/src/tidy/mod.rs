//! `cargo xtask tidy`: the project's own rules, which neither the compiler nor clippy knows.
//!
//! Works on text with comments and strings blanked out, not on a syntax tree: quick, without dependencies, and good
//! enough for code in this project's form.

mod arrows;
mod code;
mod sizes;
mod unsafety;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::sh;
use code::Source;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warning,
    Error,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    file: String,
    /// From 1.
    line: usize,
    text: String,
}

impl Finding {
    fn error(file: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { level: Level::Error, file: file.into(), line, text: text.into() }
    }

    fn warning(file: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, file: file.into(), line, text: text.into() }
    }
}

/// Checks every committed kind of file; prints `file:line: level: text`; fails where an error is among them.
pub fn tidy() -> Result<()> {
    let root = sh::root();
    let mut findings = Vec::new();
    let files = files(&root)?;
    for path in &files {
        let name = path.strip_prefix(&root).unwrap_or(path).to_string_lossy().into_owned();
        // What is not text is not ours to check.
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        findings.extend(words::check(&name, &text));
        if name.ends_with(".rs") {
            let source = Source::new(name, text);
            findings.extend(sizes::check(&source));
            findings.extend(unsafety::check(&source));
            findings.extend(arrows::check(&source));
            findings.extend(words::check_code(&source));
        }
    }
    for finding in &findings {
        let level = if finding.level == Level::Error { "error" } else { "warning" };
        println!("{}:{}: {level}: {}", finding.file, finding.line, finding.text);
    }
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    sh::say(format!("tidy: {} files, {errors} errors, {} warnings", files.len(), findings.len() - errors));
    if errors > 0 {
        bail!("{errors} rules broken");
    }
    Ok(())
}

/// Every file but build results and version control, sorted.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match (path.is_dir(), name.as_str()) {
                (_, "target" | ".git" | "Cargo.lock") => {}
                (true, _) => dirs.push(path),
                (false, _) => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}
