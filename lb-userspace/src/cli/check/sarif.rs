//! Findings for code review: SARIF 2.1.0 (OASIS), which GitHub, GitLab and editors show beside the changed lines.

use serde_json::{Value, json};

use crate::finding::{Finding, Severity, code};

/// The whole log: one run, with every rule that has a result.
pub fn log(findings: &[Finding]) -> Value {
    let rules: Vec<_> = code::ALL.iter().filter(|code| findings.iter().any(|found| found.code == code.id)).collect();
    let results = findings.iter().map(|finding| {
        let index = rules.iter().position(|rule| rule.id == finding.code);
        result(finding, index)
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "meltemi",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.iter().map(|code| json!({
                    "id": code.id,
                    "name": code.name,
                    "shortDescription": {"text": code.meaning},
                    "help": {"text": format!("meltemi check --explain {}", code.id)},
                })).collect::<Vec<_>>(),
            }},
            // Columns count characters, not UTF-16 units.
            "columnKind": "unicodeCodePoints",
            "results": results.collect::<Vec<_>>(),
        }],
    })
}

fn result(finding: &Finding, rule_index: Option<usize>) -> Value {
    let level = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    let text = match finding.remedy.as_str() {
        "" => finding.message.clone(),
        remedy => format!("{}. {remedy}", finding.message),
    };
    let mut location = json!({"physicalLocation": {
        "artifactLocation": {"uri": uri(&finding.file)},
        "region": {"startLine": finding.line, "startColumn": finding.column},
    }});
    if !finding.object.is_empty() {
        let name = [finding.object.as_str(), finding.path.as_str()].join(" ");
        location["logicalLocations"] = json!([{"fullyQualifiedName": name.trim_end(), "kind": "object"}]);
    }
    let mut result =
        json!({"ruleId": finding.code, "level": level, "message": {"text": text}, "locations": [location]});
    if let Some(index) = rule_index {
        result["ruleIndex"] = json!(index);
    }
    result
}

/// A path as a URI reference (RFC 3986): bytes outside the unreserved ones escaped, an absolute path with its scheme.
fn uri(path: &str) -> String {
    let mut out = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte.into()),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::uri;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("a/b c.yaml"), "a/b%20c.yaml");
        assert_eq!(uri("/etc/\u{e9}"), "file:///etc/%C3%A9");
    }
}
