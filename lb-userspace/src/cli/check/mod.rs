//! `meltemi check PATH...`: everything that is wrong with the configuration, without root or network.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use annotate_snippets::Renderer;
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use super::{CANNOT_ASK, run::IdentityArgs};
use crate::{
    finding::{self, Finding, Severity},
    model::{self, Identity, Proxy, Services},
    source::file,
    spec::Store,
};
use text::Texts;

mod explained;
mod sarif;
mod text;

/// Says what is wrong with the configuration: parses and resolves it, needs no root and no network.
///
/// Exit status: 0 nothing is wrong, 1 there are errors (see --fail-on), 2 a path cannot be read. docs/findings.md explains
/// every code; so does `--explain CODE`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Files, or directories whose *.yaml, *.yml and *.json files are read; `-` is standard input.
    #[arg(required_unless_present = "explain", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// text: for people, with the lines in question. json: see the README. sarif: SARIF 2.1.0, for code review.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The least severity that makes the exit status 1.
    #[arg(long, value_enum, default_value_t = FailOn::Error, value_name = "SEVERITY")]
    fail_on: FailOn,
    /// Say what a code means, with an example and the remedy, and do nothing else.
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
    #[command(flatten)]
    identity: IdentityArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Info,
    Warning,
    Error,
}

impl FailOn {
    fn severity(self) -> Severity {
        match self {
            FailOn::Info => Severity::Info,
            FailOn::Warning => Severity::Warning,
            FailOn::Error => Severity::Error,
        }
    }
}

/// What `check` found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// How many objects of each kind were read.
    pub objects: BTreeMap<String, usize>,
    pub errors: usize,
    pub warnings: usize,
}

impl Report {
    /// Checks one complete reading of the configuration.
    pub fn new(loaded: &file::Loaded, identity: &Identity) -> Report {
        let mut store = Store::default();
        let mut findings = store.merge(&loaded.files, &[]);
        let specs = store.specs();
        findings.extend(model::parse(&specs, identity).1);
        findings.extend(model::analyze(&specs, identity));
        model::excuse(&specs, &mut findings);
        finding::sort(&mut findings);
        let mut objects = BTreeMap::new();
        for (kind, count) in loaded.files.iter().flat_map(|file| &file.kinds) {
            *objects.entry(kind.clone()).or_default() += count;
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Report { objects, errors: count(Severity::Error), warnings: count(Severity::Warning), findings }
    }

    fn print(&self, output: Output, texts: &Texts, renderer: &Renderer, to: &mut impl Write) -> io::Result<()> {
        match output {
            Output::Json => serde_json::to_writer(&mut *to, self)?,
            Output::Sarif => serde_json::to_writer_pretty(&mut *to, &sarif::log(&self.findings))?,
            Output::Text => {
                for finding in &self.findings {
                    to.write_all(text::render(finding, texts, renderer).as_bytes())?;
                }
                let objects: usize = self.objects.values().sum();
                write!(to, "{objects} objects, {} errors, {} warnings", self.errors, self.warnings)?;
                if objects == 0 {
                    write!(to, "\n{NOTHING}")?;
                }
            }
        }
        writeln!(to)
    }
}

/// Nothing is wrong with nothing, but whoever checks a tree of directories should know.
const NOTHING: &str = "note: no object was read; of a directory its own .yaml, .yml and .json files are read, those of its \
    sub-directories are not: name these too";

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    if let Some(code) = &args.explain {
        return explain(code);
    }
    let (loaded, texts) = load(&args.paths);
    if !loaded.unreadable.is_empty() {
        for unreadable in &loaded.unreadable {
            eprintln!("meltemi: {unreadable}");
        }
        return ExitCode::from(CANNOT_ASK);
    }
    let report = Report::new(&loaded, &args.identity.identity(Services::OnlyRouted, Proxy::On));
    // Strips the colours where standard output is no terminal, or NO_COLOR asks for it.
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    match report.print(args.output, &texts, &Renderer::styled(), &mut out) {
        // Whoever reads may have seen enough: `meltemi check . | head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("meltemi: cannot print the findings: {error}");
            return ExitCode::from(CANNOT_ASK);
        }
        _ => {}
    }
    let worst = report.findings.iter().map(|finding| finding.severity).max();
    ExitCode::from(u8::from(worst >= Some(args.fail_on.severity())))
}

fn explain(code: &str) -> ExitCode {
    match explained::section(code) {
        Some(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("meltemi: no finding has the code `{code}`");
            ExitCode::from(CANNOT_ASK)
        }
    }
}

/// Every file and its text.
fn load(paths: &[PathBuf]) -> (file::Loaded, Texts) {
    let mut texts = Texts::default();
    let (streams, paths): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| *path == Path::new("-"));
    let mut loaded = file::load_keeping(&paths, |file, text| texts.add(file, text));
    if !streams.is_empty() {
        file::add_stream("<stdin>", io::stdin().lock(), &mut loaded, |file, text| texts.add(file, text));
    }
    (loaded, texts)
}

#[cfg(test)]
mod tests;
