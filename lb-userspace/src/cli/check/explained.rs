//! What docs/findings.md says of a code. The page is part of the binary, so that the two are of one version.

/// Every code with its meaning and remedy.
const PAGE: &str = include_str!("../../../../docs/findings.md");

/// The section of a code, without its heading's marks; `None` where no finding has that code.
pub fn section(code: &str) -> Option<String> {
    let code = code.to_ascii_uppercase();
    let mut lines = PAGE.lines().skip_while(|line| heading(line) != Some(&code));
    let title = lines.next()?.trim_start_matches(['#', ' ']);
    let body: Vec<&str> = lines.take_while(|line| !line.starts_with('#')).collect();
    Some(format!("{title}\n{}\n", body.join("\n").trim_end()))
}

/// The code that a heading is of.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("### ")?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::{PAGE, heading, section};
    use crate::finding::code;

    #[test]
    fn every_code_is_explained_and_nothing_else() {
        let explained: Vec<_> = PAGE.lines().filter_map(heading).collect();
        let known: Vec<_> = code::ALL.iter().map(|code| code.id).collect();
        let missing: Vec<_> = known.iter().filter(|code| !explained.contains(code)).collect();
        let strange: Vec<_> = explained.iter().filter(|code| !known.contains(code)).collect();
        assert_eq!((missing, strange), (vec![], vec![]), "docs/findings.md and finding.rs differ");
        for code in code::ALL {
            let text = section(code.id).unwrap();
            assert!(text.starts_with(&format!("{} {}\n", code.id, code.name)), "{text}");
            assert!(text.contains("Remedy: "), "{} has no remedy", code.id);
        }
        assert_eq!(section("IST9999"), None);
    }
}
