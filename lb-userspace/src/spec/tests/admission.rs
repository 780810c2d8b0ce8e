//! The tables of `admission/`: for each kind, what is accepted, accepted with findings, or refused, where, and why.
//!
//! A case is a line `verdict CODE path | spec | reason`. `ok` has neither code nor path; `warn` and `no` have both, and may list
//! several as `CODE path, CODE path`. Every finding must be listed. `spec` is YAML in flow style; where it starts with `!`, the
//! rest is the whole object but for apiVersion and kind. `$NAME` stands for the text that a line `$NAME = ...` gave.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{Outcome, read};
use crate::finding::Severity;

/// Fewest cases there must be, so that none gets lost.
const LEAST: usize = 400;

struct Case {
    file: String,
    line: usize,
    verdict: String,
    findings: Vec<String>,
    spec: String,
    reason: String,
}

fn cases(directory: &Path) -> Vec<(String, Case)> {
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut out = Vec::new();
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut head = String::new();
        for (line, content) in (1..).zip(text.lines()) {
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if let Some(given) = content.strip_prefix("== ") {
                let (version, kind) = given.split_once(' ').unwrap();
                head = format!("apiVersion: {version}\nkind: {kind}\n");
                continue;
            }
            if content.starts_with('$') {
                let (name, value) = content.split_once(" = ").unwrap();
                let value = expanded(value, &names);
                names.insert(name.to_owned(), value);
                continue;
            }
            let parts: Vec<&str> = content.splitn(3, " | ").collect();
            let [verdict, spec, reason] = parts[..] else { panic!("{file}:{line}: a case has three parts") };
            let verdict = expanded(verdict, &names);
            let (verdict, findings) = verdict.split_once(' ').unwrap_or((&verdict, ""));
            let findings =
                findings.split(", ").filter(|one| !one.is_empty()).map(|one| one.trim().to_owned()).collect();
            let spec = expanded(spec.trim(), &names);
            let case =
                Case { file: file.clone(), line, verdict: verdict.into(), findings, spec, reason: reason.into() };
            out.push((head.clone(), case));
        }
    }
    out
}

/// Longer names first, so that `$AB` is not read as `$A`. `@N@` is N times the letter a.
fn expanded(text: &str, names: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    for (name, value) in names.iter().rev() {
        text = text.replace(name, value);
    }
    while let Some((before, rest)) = text.split_once('@')
        && let Some((count, after)) = rest.split_once('@')
        && let Ok(count) = count.parse()
    {
        text = format!("{before}{}{after}", "a".repeat(count));
    }
    text
}

fn judge(head: &str, case: &Case) -> Result<(), String> {
    let text = match case.spec.strip_prefix('!') {
        Some(object) => format!("{head}{}\n", object.trim().replace("\\n", "\n")),
        None => format!("{head}metadata: {{name: x}}\nspec: {}\n", case.spec),
    };
    let file = read(&Arc::from("case.yaml"), &text);
    let [item] = file.items.as_slice() else {
        return Err(format!("no single object: {:?}", file.findings));
    };
    let refused = item.outcome == Outcome::Rejected;
    let worst = file.findings.iter().map(|finding| finding.severity).max();
    let verdict = match (refused, worst) {
        (true, _) => "no",
        (false, None) => "ok",
        (false, Some(Severity::Error)) => "an error that does not refuse",
        (false, Some(_)) => "warn",
    };
    let mut found: Vec<String> =
        file.findings.iter().map(|finding| format!("{} {}", finding.code, finding.path)).collect();
    let mut expected = case.findings.clone();
    found.sort();
    expected.sort();
    if verdict == case.verdict && found == expected {
        return Ok(());
    }
    let said: Vec<String> =
        file.findings.iter().map(|finding| format!("{}: {}", finding.path, finding.message)).collect();
    Err(format!("expected {} {expected:?}, found {verdict} {found:?}\n    {}", case.verdict, said.join("\n    ")))
}

#[test]
fn the_verdicts_are_those_of_istio_s_admission() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/tests/admission");
    let cases = cases(&directory);
    assert!(cases.len() >= LEAST, "{} cases are left of at least {LEAST}", cases.len());
    let mut failures = Vec::new();
    for (head, case) in &cases {
        if let Err(why) = judge(head, case) {
            failures.push(format!("{}:{}: {}\n    {}\n    {why}", case.file, case.line, case.reason, case.spec));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases fail\n{}", failures.len(), cases.len(), failures.join("\n"));
}
