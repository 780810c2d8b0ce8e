//! `unsafe` lives in three files, and every use of it says why it is sound.

use super::Finding;
use super::code::{Source, line_of, words};

const ALLOWED: [&str; 3] = ["lb-ebpf/src/maps.rs", "lb-ebpf/src/ctx.rs", "lb-userspace/src/dataplane/kernel.rs"];

/// How far above an `unsafe` its reason may begin, lines of comment.
const REACH: usize = 12;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in words(&source.code, "unsafe") {
        let line = line_of(&source.code, at);
        let attribute = source.code[at..].starts_with("unsafe(");
        // Attributes like #[unsafe(no_mangle)] only name symbols and sections; kernel programs cannot do without.
        if attribute && source.name.starts_with("lb-ebpf/") {
            continue;
        }
        if !ALLOWED.contains(&source.name.as_str()) {
            findings.push(Finding::error(&source.name, line, format!("unsafe outside {}", ALLOWED.join(", "))));
        } else if !has_reason(&source.text, line) {
            findings.push(Finding::error(&source.name, line, "unsafe without a SAFETY comment"));
        }
    }
    findings
}

/// Whether the line itself, or the comment and attribute lines above it, say SAFETY (or `# Safety` for a function).
fn has_reason(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let says = |line: &&str| line.contains("SAFETY") || line.contains("# Safety");
    let above = lines.iter().rev().skip(1).take(REACH);
    let mut comments = above.take_while(|line| {
        let line = line.trim_start();
        line.starts_with("//") || line.starts_with("#[") || line.ends_with('=')
    });
    lines.last().is_some_and(says) || comments.any(says)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        check(&Source::new(name, text.to_owned())).len()
    }

    #[test]
    fn unsafe_only_where_allowed_and_with_a_reason() {
        let with_reason =
            "fn f() {\n    // SAFETY: the pointer was checked\n    // against the end.\n    unsafe { g() }\n}\n";
        assert_eq!(found("lb-ebpf/src/ctx.rs", with_reason), 0);
        assert_eq!(found("lb-ebpf/src/main.rs", with_reason), 1);
        assert_eq!(found("lb-ebpf/src/ctx.rs", "// SAFETY: another\n\nfn f() {\n    unsafe { g() }\n}\n"), 1);
        assert_eq!(found("lb-ebpf/src/main.rs", "#[unsafe(no_mangle)]\nstatic A: u8 = 0;\n"), 0);
        assert_eq!(found("lb-common/src/lib.rs", "#![forbid(unsafe_code)] // unsafe\n"), 0);
    }
}
