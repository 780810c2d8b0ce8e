//! `meltemi check PATH...`: everything that is wrong with the configuration, without root or network.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use crate::{
    finding::{self, Finding, Severity},
    model::{self, Identity},
    source::file,
    spec::Store,
};

/// Says what is wrong with the configuration: parses and resolves it, needs no root and no network.
///
/// Exit status: 0 nothing is wrong, 1 there are errors (see --fail-on), 2 a path cannot be read.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Files, or directories whose *.yaml, *.yml and *.json files are read.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print the findings.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The least severity that makes the exit status 1.
    #[arg(long, value_enum, default_value_t = FailOn::Error, value_name = "SEVERITY")]
    fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
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
        findings.extend(model::parse(&store.specs(), identity).1);
        finding::sort(&mut findings);
        let mut objects = BTreeMap::new();
        for (kind, count) in loaded.files.iter().flat_map(|file| &file.kinds) {
            *objects.entry(kind.clone()).or_default() += count;
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Report { objects, errors: count(Severity::Error), warnings: count(Severity::Warning), findings }
    }

    fn print(&self, output: Output, to: &mut impl Write) -> io::Result<()> {
        if output == Output::Json {
            serde_json::to_writer(&mut *to, self)?;
            return writeln!(to);
        }
        for finding in &self.findings {
            writeln!(to, "{finding}")?;
        }
        let objects: usize = self.objects.values().sum();
        writeln!(to, "{objects} objects, {} errors, {} warnings", self.errors, self.warnings)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let loaded = file::load(&args.paths);
    if !loaded.unreadable.is_empty() {
        for unreadable in &loaded.unreadable {
            eprintln!("meltemi: {unreadable}");
        }
        return ExitCode::from(2);
    }
    let report = Report::new(&loaded, &Identity::default());
    if let Err(error) = report.print(args.output, &mut io::stdout().lock()) {
        eprintln!("meltemi: cannot print the findings: {error}");
        return ExitCode::from(2);
    }
    let worst = report.findings.iter().map(|finding| finding.severity).max();
    ExitCode::from(u8::from(worst >= Some(args.fail_on.severity())))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spec::read;

    fn report() -> Report {
        let file = read(&Arc::from("findings.yaml"), include_str!("../../../tests/golden/check/findings.yaml"));
        let loaded = file::Loaded { files: vec![file], unreadable: vec![] };
        Report::new(&loaded, &Identity::default())
    }

    #[test]
    fn text_is_as_the_golden_file_says() {
        let mut text = Vec::new();
        report().print(Output::Text, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), include_str!("../../../tests/golden/check/findings.txt"));
    }

    #[test]
    fn json_has_the_contract_keys() {
        let mut text = Vec::new();
        report().print(Output::Json, &mut text).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["findings", "objects", "errors", "warnings"]);
        assert_eq!(json["objects"]["Service"], 2);
        assert_eq!(
            json["errors"],
            json["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == "error").count()
        );
    }
}
