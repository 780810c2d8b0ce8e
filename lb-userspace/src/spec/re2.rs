//! RE2 syntax, which is Istio's, told apart from the syntax of Rust's `regex` crate and turned into it.
//!
//! Both match in linear time, and most patterns mean the same to both; this is about those that do not: what only one of them
//! takes, and classes that are ASCII in RE2. Meaning: RE2's syntax page; verdicts: Go's `regexp/syntax`, which admission uses.

use std::{collections::HashSet, fmt::Write, iter::Peekable, str::CharIndices};

use regex_syntax::ast::{ErrorKind, parse::ParserBuilder};

/// Deepest nesting of groups, and most repetitions of a part, that Go takes.
const MAX_DEPTH: u32 = 1000;
const MAX_REPEAT: u32 = 1000;
/// Deepest nesting here: the reader of the `regex` crate recurses.
const NEST_LIMIT: u32 = 250;

/// Names that may stand in `[[:name:]]`.
const ASCII_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// Why a pattern is not RE2's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRe2 {
    #[error("lookahead and lookbehind do not exist there")]
    Lookaround,
    #[error("backreferences do not exist there")]
    Backreference,
    #[error("`\\{0}` is no escape there")]
    Escape(char),
    #[error("a backslash at the end")]
    TrailingBackslash,
    #[error("`{0}` has nothing to repeat")]
    NothingToRepeat(char),
    #[error("`{0}` repeats a repetition; put the inner one in a group")]
    Repeated(char),
    #[error("a part is repeated more than 1000 times")]
    TooOften,
    #[error("`(?{0}` is no group there")]
    Group(char),
    #[error("a group's name is missing, malformed or used twice")]
    GroupName,
    #[error("a `(` is never closed")]
    UnclosedGroup,
    #[error("a `)` closes nothing")]
    UnopenedGroup,
    #[error("a `[` is never closed")]
    UnclosedClass,
    #[error("a character class that does not exist, or a range that ends before it starts")]
    Class,
    #[error("groups nest too deep")]
    TooDeep,
    #[error("it cannot be read")]
    Unreadable,
}

/// The same pattern in the syntax of the `regex` crate, Unicode mode on. It is not anchored: Istio matches the whole text.
pub fn to_rust(pattern: &str) -> Result<String, NotRe2> {
    let mut translation = Translation {
        pattern,
        input: pattern.char_indices().peekable(),
        out: String::with_capacity(pattern.len() + 16),
        names: HashSet::new(),
        levels: vec![Level::default()],
        last: Last::Nothing,
    };
    translation.run()?;
    let Translation { out, levels, .. } = translation;
    if levels.len() > 1 {
        return Err(NotRe2::UnclosedGroup);
    }
    ParserBuilder::new().nest_limit(NEST_LIMIT).build().parse(&out).map_err(|error| match error.kind() {
        ErrorKind::NestLimitExceeded(_) => NotRe2::TooDeep,
        _ => NotRe2::Unreadable,
    })?;
    Ok(out)
}

/// What stands before the place that is read, for `*` and its like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    /// Something that may repeat, and how often its most repeated part already does.
    Atom(u32),
    Repetition,
}

/// An open group.
#[derive(Clone, Copy, Default)]
struct Level {
    /// How often its most repeated part is repeated; 0 where nothing is.
    repeats: u32,
}

struct Translation<'p> {
    pattern: &'p str,
    input: Peekable<CharIndices<'p>>,
    out: String,
    names: HashSet<&'p str>,
    levels: Vec<Level>,
    last: Last,
}

impl<'p> Translation<'p> {
    fn next(&mut self) -> Option<char> {
        self.input.next().map(|(_, c)| c)
    }

    fn peek(&mut self) -> Option<char> {
        self.input.peek().map(|(_, c)| *c)
    }

    fn take(&mut self, wanted: char) -> bool {
        self.input.next_if(|(_, c)| *c == wanted).is_some()
    }

    fn rest(&mut self) -> &'p str {
        match self.input.peek() {
            Some((at, _)) => &self.pattern[*at..],
            None => "",
        }
    }

    fn skip(&mut self, bytes: usize) {
        let end = self.pattern.len() - self.rest().len() + bytes;
        while self.input.next_if(|(at, _)| *at < end).is_some() {}
    }

    fn run(&mut self) -> Result<(), NotRe2> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape()?,
                '(' => self.group()?,
                ')' => self.close()?,
                '|' => {
                    self.out.push('|');
                    self.last = Last::Nothing;
                }
                '*' | '+' | '?' => {
                    self.repeat(c, 1)?;
                    self.out.push(c);
                    self.lazy();
                }
                '{' => self.counted()?,
                '[' => {
                    self.class()?;
                    self.last = Last::Atom(1);
                }
                '^' | '$' | '.' => {
                    self.out.push(c);
                    self.last = Last::Atom(1);
                }
                c => self.literal(c),
            }
        }
        Ok(())
    }

    fn literal(&mut self, c: char) {
        push_literal(&mut self.out, c);
        self.last = Last::Atom(1);
    }

    fn lazy(&mut self) {
        if self.take('?') {
            self.out.push('?');
        }
    }

    /// Takes note of a repetition of what stands before it.
    fn repeat(&mut self, sign: char, times: u32) -> Result<(), NotRe2> {
        match self.last {
            Last::Nothing => Err(NotRe2::NothingToRepeat(sign)),
            Last::Repetition => Err(NotRe2::Repeated(sign)),
            Last::Atom(inner) => {
                let total = inner.saturating_mul(times.max(1));
                if total > MAX_REPEAT {
                    return Err(NotRe2::TooOften);
                }
                if let Some(level) = self.levels.last_mut() {
                    level.repeats = level.repeats.max(total);
                }
                self.last = Last::Repetition;
                Ok(())
            }
        }
    }

    /// `{2}`, `{2,}`, `{2,5}`; anything else is a brace like any character.
    fn counted(&mut self) -> Result<(), NotRe2> {
        let rest = self.rest();
        let Some((inner, _)) = rest.split_once('}') else {
            self.literal('{');
            return Ok(());
        };
        let (least, most) = inner.split_once(',').map_or((inner, None), |(least, most)| (least, Some(most)));
        let is_number = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
        };
        if !is_number(least) || most.is_some_and(|most| !most.is_empty() && !is_number(most)) {
            self.literal('{');
            return Ok(());
        }
        let number = |text: &str| text.parse().unwrap_or(u32::MAX);
        let least = number(least);
        let bound = match most {
            None | Some("") => least,
            Some(most) => number(most),
        };
        if bound > MAX_REPEAT || least > bound {
            return Err(NotRe2::TooOften);
        }
        self.repeat('{', bound)?;
        let _ = write!(self.out, "{{{inner}}}");
        self.skip(inner.len() + 1);
        self.lazy();
        Ok(())
    }

    fn group(&mut self) -> Result<(), NotRe2> {
        if self.levels.len() as u32 >= MAX_DEPTH {
            return Err(NotRe2::TooDeep);
        }
        if self.take('?') {
            if !self.special_group()? {
                return Ok(());
            }
        } else {
            self.out.push('(');
        }
        self.levels.push(Level::default());
        self.last = Last::Nothing;
        Ok(())
    }

    /// What follows `(?`. Whether a group was opened; flags alone open none.
    fn special_group(&mut self) -> Result<bool, NotRe2> {
        let rest = self.rest();
        if rest.starts_with(['=', '!']) || rest.starts_with("<=") || rest.starts_with("<!") {
            return Err(NotRe2::Lookaround);
        }
        if rest.starts_with("P=") {
            return Err(NotRe2::Backreference);
        }
        if let Some(named) = rest.strip_prefix("P<").or_else(|| rest.strip_prefix('<')) {
            let (name, _) = named.split_once('>').ok_or(NotRe2::GroupName)?;
            let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if name.is_empty() || !word || !self.names.insert(name) {
                return Err(NotRe2::GroupName);
            }
            // Rust's names do not start with a digit.
            let _ = write!(self.out, "(?P<_{name}>");
            self.skip(rest.len() - named.len() + name.len() + 1);
            return Ok(true);
        }
        self.flags()
    }

    fn flags(&mut self) -> Result<bool, NotRe2> {
        let mut flags = String::new();
        let mut turned_off = None;
        loop {
            match self.next() {
                Some(c @ ('i' | 'm' | 's' | 'U')) => flags.push(c),
                Some('-') if turned_off.is_none() => {
                    turned_off = Some(flags.len());
                    flags.push('-');
                }
                Some(end @ (':' | ')')) => {
                    if turned_off == Some(flags.len().wrapping_sub(1)) {
                        return Err(NotRe2::Group('-'));
                    }
                    let flags = deduplicated(&flags);
                    match (flags.as_str(), end) {
                        ("", ')') => {}
                        (flags, end) => {
                            let _ = write!(self.out, "(?{flags}{end}");
                        }
                    }
                    return Ok(end == ':');
                }
                Some(other) => return Err(NotRe2::Group(other)),
                None => return Err(NotRe2::UnclosedGroup),
            }
        }
    }

    fn close(&mut self) -> Result<(), NotRe2> {
        if self.levels.len() < 2 {
            return Err(NotRe2::UnopenedGroup);
        }
        let inner = self.levels.pop().unwrap_or_default();
        self.out.push(')');
        if let Some(level) = self.levels.last_mut() {
            level.repeats = level.repeats.max(inner.repeats);
        }
        self.last = Last::Atom(inner.repeats.max(1));
        Ok(())
    }

    fn escape(&mut self) -> Result<(), NotRe2> {
        match self.peek().ok_or(NotRe2::TrailingBackslash)? {
            c @ ('A' | 'z' | 'b' | 'B') => {
                self.next();
                self.out.push_str(match c {
                    'b' => r"(?-u:\b)",
                    'B' => r"\B",
                    'A' => r"\A",
                    _ => r"\z",
                });
                self.last = Last::Atom(1);
            }
            'Q' => {
                self.next();
                while !self.rest().is_empty() {
                    if self.rest().starts_with(r"\E") {
                        self.skip(2);
                        break;
                    }
                    if let Some(c) = self.next() {
                        self.literal(c);
                    }
                }
            }
            c => {
                match self.class_escape()? {
                    Some(class) => self.out.push_str(&class),
                    None if c.is_ascii_digit() && c != '0' => self.octal_or_reference()?,
                    None => {
                        let c = self.char_escape()?;
                        push_literal(&mut self.out, c);
                    }
                }
                self.last = Last::Atom(1);
            }
        }
        Ok(())
    }

    fn octal_or_reference(&mut self) -> Result<(), NotRe2> {
        let rest = self.rest().as_bytes();
        let octal = matches!(rest, [b'1'..=b'7', b'0'..=b'7', ..]);
        if !octal {
            return Err(NotRe2::Backreference);
        }
        let c = self.char_escape()?;
        push_literal(&mut self.out, c);
        Ok(())
    }

    /// `\d` and its like, `\pL`, `\p{Greek}`, behind the backslash; `None` where it is something else.
    fn class_escape(&mut self) -> Result<Option<String>, NotRe2> {
        let class = match self.peek() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('s') => r"[\t\n\f\r ]",
            Some('S') => r"[^\t\n\f\r ]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some('p' | 'P') => return self.unicode_class().map(Some),
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(class.to_owned()))
    }

    fn unicode_class(&mut self) -> Result<String, NotRe2> {
        let mut negated = self.next() == Some('P');
        let name = if self.take('{') {
            let (name, _) = self.rest().split_once('}').ok_or(NotRe2::Class)?;
            self.skip(name.len() + 1);
            name.to_owned()
        } else {
            self.next().ok_or(NotRe2::Class)?.to_string()
        };
        let name = match name.strip_prefix('^') {
            Some(name) => {
                negated = !negated;
                name.to_owned()
            }
            None => name,
        };
        let letters = name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        if !letters || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
            return Err(NotRe2::Class);
        }
        let class = match name.len() {
            1 | 2 => format!("gc={name}"),
            _ if name == "Any" => name,
            _ => format!("sc={name}"),
        };
        let class = format!(r"\{}{{{class}}}", if negated { 'P' } else { 'p' });
        regex_syntax::parse(&class).map_err(|_| NotRe2::Class)?;
        Ok(class)
    }

    /// One character behind a backslash.
    fn char_escape(&mut self) -> Result<char, NotRe2> {
        let c = self.next().ok_or(NotRe2::TrailingBackslash)?;
        Ok(match c {
            'a' => '\u{7}',
            'f' => '\u{c}',
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'v' => '\u{b}',
            'x' => self.hexadecimal()?,
            '0'..='7' => {
                let mut code = u32::from(c) - u32::from('0');
                for _ in 0..2 {
                    let Some((_, digit)) = self.input.next_if(|(_, c)| ('0'..='7').contains(c)) else { break };
                    code = code * 8 + (u32::from(digit) - u32::from('0'));
                }
                char::from_u32(code).ok_or(NotRe2::Escape(c))?
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            c => return Err(NotRe2::Escape(c)),
        })
    }

    fn hexadecimal(&mut self) -> Result<char, NotRe2> {
        let rest = self.rest();
        let (digits, length) = match rest.strip_prefix('{') {
            Some(braced) => {
                let (digits, _) = braced.split_once('}').ok_or(NotRe2::Escape('x'))?;
                (digits, digits.len() + 2)
            }
            None => (rest.get(..2).ok_or(NotRe2::Escape('x'))?, 2),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotRe2::Escape('x'));
        }
        self.skip(length);
        let code = u32::from_str_radix(digits, 16).map_err(|_| NotRe2::Escape('x'))?;
        char::from_u32(code).ok_or(NotRe2::Escape('x'))
    }

    /// What follows a `[`.
    fn class(&mut self) -> Result<(), NotRe2> {
        self.out.push('[');
        if self.take('^') {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return Err(NotRe2::UnclosedClass);
            }
            if rest.starts_with(']') && !first {
                self.skip(1);
                self.out.push(']');
                return Ok(());
            }
            first = false;
            if let Some(named) = rest.strip_prefix("[:")
                && let Some((name, _)) = named.split_once(":]")
            {
                if !ASCII_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return Err(NotRe2::Class);
                }
                let _ = write!(self.out, "[:{name}:]");
                self.skip(name.len() + 4);
                continue;
            }
            if rest.starts_with('\\') {
                self.next();
                if let Some(class) = self.class_escape()? {
                    self.out.push_str(&class);
                    continue;
                }
                let c = self.char_escape()?;
                self.range(c)?;
            } else if let Some(c) = self.next() {
                self.range(c)?;
            }
        }
    }

    /// `low`, and `-high` where it follows.
    fn range(&mut self, low: char) -> Result<(), NotRe2> {
        push_literal(&mut self.out, low);
        let rest = self.rest();
        if !rest.starts_with('-') || rest.starts_with("-]") || rest == "-" {
            return Ok(());
        }
        self.next();
        let high = match self.next().ok_or(NotRe2::UnclosedClass)? {
            '\\' => self.char_escape()?,
            c => c,
        };
        if high < low {
            return Err(NotRe2::Class);
        }
        self.out.push('-');
        push_literal(&mut self.out, high);
        Ok(())
    }
}

/// Flags each once: Go takes repetitions, Rust does not.
fn deduplicated(flags: &str) -> String {
    let mut out = String::new();
    for c in flags.chars() {
        if !out.contains(c) {
            out.push(c);
        }
    }
    out
}

/// A character that stands for itself, inside a class or outside.
fn push_literal(out: &mut String, c: char) {
    if c.is_ascii() && !c.is_ascii_alphanumeric() && c != '/' && c != '_' {
        let _ = write!(out, "\\x{:02X}", u32::from(c));
    } else {
        out.push(c);
    }
}
