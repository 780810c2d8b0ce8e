//! Findings for people: what is wrong, the line of the file with the field marked, and the remedy under it.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::finding::{Finding, Severity, code};

/// The files' texts by name, ready to be asked for a line.
#[derive(Debug, Default)]
pub struct Texts(BTreeMap<Arc<str>, Text>);

#[derive(Debug)]
struct Text {
    text: String,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl Texts {
    pub fn add(&mut self, file: Arc<str>, text: String) {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.0.insert(file, Text { text, starts });
    }

    /// Line `number` (1-based) of a file, without its end.
    fn line(&self, file: &str, number: u32) -> Option<&str> {
        let Text { text, starts } = self.0.get(file)?;
        let rest = &text[*starts.get((number as usize).checked_sub(1)?)?..];
        rest.lines().next().map(str::trim_end)
    }

    /// Whether the line may hold a private key: then it is not shown.
    fn is_secret(&self, finding: &Finding) -> bool {
        let unreadable = finding.code == code::SYNTAX;
        let secrets = || self.0.get(&finding.file).is_some_and(|Text { text, .. }| text.contains("Secret"));
        finding.object.starts_with("Secret ") || (unreadable && secrets())
    }
}

/// One finding as a few lines, with a line feed at the end.
pub fn render(finding: &Finding, texts: &Texts, renderer: &Renderer) -> String {
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    };
    let title = level.primary_title(&finding.message).id(finding.code);
    let label = match (finding.object.as_str(), finding.path.as_str()) {
        (object, "") => object.to_owned(),
        (object, path) => format!("{path} of {object}"),
    };
    let source = texts.line(&finding.file, finding.line).filter(|_| !texts.is_secret(finding));
    let mut group = match source {
        Some(source) => title.element(
            Snippet::source(source)
                .path(&*finding.file)
                .line_start(finding.line as usize)
                .annotation(AnnotationKind::Primary.span(span(source, finding.column as usize)).label(&label)),
        ),
        None => {
            title.element(Origin::path(&*finding.file).line(finding.line as usize).char_column(finding.column as usize))
        }
    };
    if !finding.remedy.is_empty() {
        group = group.element(Level::HELP.message(&finding.remedy));
    }
    let groups: [Group<'_>; 1] = [group];
    format!("{}\n\n", renderer.render(&groups))
}

/// The bytes of the field that begins at a column (1-based, in characters): a key without its colon, a whole quoted text, or
/// a plain value. Never past the line.
fn span(line: &str, column: usize) -> Range<usize> {
    let start = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let rest = &line[start..];
    let length = match rest.chars().next() {
        None => 0,
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        Some(open @ ('{' | '[')) => open.len_utf8(),
        Some(first) => plain(rest).max(first.len_utf8()),
    };
    start..start + length
}

/// How long an unquoted word of YAML is: to the colon of a key, a comma or bracket, a comment, or the end.
fn plain(text: &str) -> usize {
    let ends = |(at, c): (usize, char)| {
        let next = text[at + c.len_utf8()..].chars().next();
        match c {
            ':' => next.is_none_or(char::is_whitespace),
            ',' | ']' | '}' => true,
            ' ' => next == Some('#'),
            _ => false,
        }
    };
    let end = text.char_indices().find(|at| ends(*at)).map_or(text.len(), |(at, _)| at);
    text[..end].trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_alone_is_marked() {
        let cases = [
            ("  gateways: [edge, egde]", 20, "egde"),
            ("  - host: a:b # x", 5, "host"),
            ("  - a:b # x", 5, "a:b"),
            ("hosts: [\"*\", x]", 9, "\"*\""),
            ("- {a: 1, b: 2}", 3, "{"),
            ("- {a: 1, b: 2}", 10, "b"),
            ("a: 'un\u{e9}nded", 4, "'un\u{e9}nded"),
            ("\u{e9}\u{e9}: x", 5, "x"),
            ("a", 9, ""),
            ("", 1, ""),
        ];
        for (line, column, marked) in cases {
            assert_eq!(&line[span(line, column)], marked, "{line} {column}");
        }
    }

    #[test]
    fn lines_of_secrets_are_not_shown() {
        let finding = |object: &str, code| Finding {
            severity: Severity::Error,
            code,
            file: "a".into(),
            line: 2,
            column: 1,
            object: object.into(),
            path: String::new(),
            message: "wrong".into(),
            remedy: String::new(),
        };
        let shown = |text: &str, finding: &Finding| {
            let mut texts = Texts::default();
            texts.add("a".into(), text.into());
            render(finding, &texts, &Renderer::plain()).contains("hush")
        };
        assert!(!shown("kind: Secret\nkey: hush\n", &finding("Secret default/s", code::INVALID)));
        assert!(!shown("kind: Secret\nkey: hush\n", &finding("", code::SYNTAX)));
        assert!(shown("kind: Service\nkey: hush\n", &finding("", code::SYNTAX)));
        assert!(shown("kind: Service\nkey: hush\n", &finding("Service default/s", code::INVALID)));
    }

    #[test]
    fn lines_count_from_one() {
        let mut texts = Texts::default();
        texts.add("a".into(), "a\r\nb\n".into());
        assert_eq!((texts.line("a", 1), texts.line("a", 2)), (Some("a"), Some("b")));
        assert_eq!((texts.line("a", 3), texts.line("a", 4)), (None, None));
        assert_eq!((texts.line("a", 0), texts.line("b", 1)), (None, None));
    }
}
