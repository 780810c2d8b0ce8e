//! Words that must not be committed: unfinished work, and what belongs to one machine.

use super::Finding;
use super::code::{Source, line_of, words};

/// In pieces, so that this file passes its own check. Directories of one machine, and hosts of package registries.
const NOWHERE: [[&str; 2]; 8] = [
    ["/wo", "rk/"],
    ["/tmp/", "wt"],
    ["/ro", "ot/"],
    ["/ho", "me/"],
    ["index.", "crates.io"],
    ["static.", "crates.io"],
    ["deb.", "debian.org"],
    ["files.", "pythonhosted.org"],
];

/// Marks of work that was left for later, in comments as well.
const LATER: [[&str; 2]; 2] = [["TO", "DO"], ["FIX", "ME"]];

/// Macros that stand for missing code.
const MISSING: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Any kind of text file.
pub(super) fn check(name: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for pieces in NOWHERE {
            let word = pieces.concat();
            if line.contains(&word) {
                let text = format!("`{word}` belongs to one machine or registry");
                findings.push(Finding::error(name, number + 1, text));
            }
        }
        for pieces in LATER {
            let word = pieces.concat();
            if words(line, &word).next().is_some() {
                findings.push(Finding::error(name, number + 1, format!("`{word}`: finish it, or open an issue")));
            }
        }
    }
    findings
}

/// Rust only: macros.
pub(super) fn check_code(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in MISSING {
        for at in words(&source.code, name).filter(|at| source.code[at + name.len()..].starts_with('!')) {
            findings.push(Finding::error(
                &source.name,
                line_of(&source.code, at),
                format!("{name}! in committed code"),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_one_machine_and_marks_are_found() {
        let later = LATER[0].concat();
        let text = format!("see {}x\nfine\n// {later}: more\n{later}S are words\n", NOWHERE[0].concat());
        let lines: Vec<usize> = check("a.md", &text).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [1, 3]);
    }

    #[test]
    fn macros_of_missing_code_are_found_but_not_their_names() {
        let source = Source::new("a.rs", "fn todo() {}\nfn f() { todo!() }\n// todo!()\n".to_owned());
        let lines: Vec<usize> = check_code(&source).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2]);
    }
}
