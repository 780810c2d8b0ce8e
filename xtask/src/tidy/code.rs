//! Rust source with comments and the insides of strings blanked out, line for line.

/// One source file.
pub(super) struct Source {
    /// Path from the workspace's root.
    pub name: String,
    pub text: String,
    /// As `text`, with every character of comments, strings and character literals replaced by a space.
    pub code: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: String) -> Source {
        let code = blank(&text);
        Source { name: name.into(), text, code }
    }

    /// The part before the unit tests, which stand last and may know more than the code.
    pub fn code_without_tests(&self) -> &str {
        if self.name.ends_with("/tests.rs") || self.name.ends_with("_tests.rs") {
            return "";
        }
        self.code.find("#[cfg(test)]").map_or(&self.code, |at| &self.code[..at])
    }
}

/// The number of the line (from 1) that holds the byte.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Byte positions of a whole word.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
    })
}

fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = hidden(rest).unwrap_or(0);
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            // The end of a word, so that the r of `for"` does not start a raw string.
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            if first.is_alphanumeric() || first == '_' {
                code.push_str(&rest[..word]);
                rest = &rest[word..];
            }
        } else {
            code.extend(rest[..length].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the comment or literal that begins here.
fn hidden(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        rest.strip_prefix(prefix).is_some_and(|tail| tail.starts_with('"') || (prefix.ends_with('r') && raw(tail)))
    });
    if let Some(prefix) = prefix {
        let tail = &rest[prefix.len()..];
        let hashes = tail.bytes().take_while(|byte| *byte == b'#').count();
        let end = if prefix.ends_with('r') {
            let close = format!("\"{}", "#".repeat(hashes));
            tail[hashes + 1..].find(&close).map(|at| hashes + 1 + at + close.len())
        } else {
            closing_quote(&tail[1..], '"').map(|at| at + 1)
        };
        return Some(prefix.len() + end.unwrap_or(tail.len()));
    }
    let tail = rest.strip_prefix('\'')?;
    // A character literal closes after one character or an escape; a lifetime does not close.
    let mut chars = tail.chars();
    let first = chars.next()?;
    match (first, chars.next()) {
        ('\\', _) => closing_quote(tail, '\'').map(|at| at + 1),
        (_, Some('\'')) => Some(first.len_utf8() + 2),
        _ => None,
    }
}

fn raw(tail: &str) -> bool {
    tail.starts_with('#') && tail.trim_start_matches('#').starts_with('"')
}

/// The length up to and with the closing quote that no backslash hides.
fn closing_quote(tail: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    tail.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at + c.len_utf8())
    })
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let text =
            "a /* x /* y */\n z */ b // c\nlet s = \"un\\\"safe\"; let c = '\"'; 'a: d r#\"e\"f\"# g\nfor\"h\" '\\'' i";
        let code = blank(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.lines().count(), text.lines().count());
        let kept: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(kept, ["a", "b", "let", "s", "=", ";", "let", "c", "=", ";", "'a:", "d", "g", "for", "i"]);
    }

    #[test]
    fn whole_words_only() {
        assert_eq!(words("unsafe unsafe_code (unsafe) notunsafe", "unsafe").collect::<Vec<_>>(), [0, 20]);
    }
}
