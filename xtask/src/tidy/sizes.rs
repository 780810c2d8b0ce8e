//! Long files and long functions: split by idea.

use super::Finding;
use super::code::{Source, line_of, words};

const LONGEST_FILE: usize = 600;
const LONGEST_FUNCTION: usize = 80;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines > LONGEST_FILE {
        let text = format!("{lines} lines, more than {LONGEST_FILE}");
        findings.push(Finding::error(&source.name, lines, text));
    }
    for at in words(&source.code, "fn") {
        let Some((name, length)) = function(&source.code[at..]) else {
            continue;
        };
        if length > LONGEST_FUNCTION {
            let text = format!("function {name} has {length} lines, more than {LONGEST_FUNCTION}");
            findings.push(Finding::warning(&source.name, line_of(&source.code, at), text));
        }
    }
    findings
}

/// Name and number of lines of the function that begins here; `None` for types and declarations without a body.
fn function(code: &str) -> Option<(&str, usize)> {
    let after = code[2..].trim_start();
    let name = &after[..after.find(|c: char| !c.is_alphanumeric() && c != '_')?];
    let open = code.find('{')?;
    if name.is_empty() || code.find(';').is_some_and(|end| end < open && !code[..end].contains('[')) {
        return None;
    }
    let mut depth = 0_u32;
    let close = code[open..].char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(open + at)
    })?;
    Some((name, line_of(code, close)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(lines: usize) -> Source {
        let body = "    call();\n".repeat(lines);
        Source::new("a.rs", format!("type F = fn(u8);\ntrait T {{ fn declared(); }}\nfn long() {{\n{body}}}\n"))
    }

    #[test]
    fn long_functions_and_files_are_found() {
        assert_eq!(check(&source(78)), []);
        let findings = check(&source(79));
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].line, findings[0].text.contains("long has 81 lines")), (3, true));
        assert_eq!(check(&source(600)).len(), 2);
    }
}
