//! Names and values of HTTP headers: in matches, in operations, and in CORS lists.

/// RFC 9110, section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Where a header operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `set` and `add` of a request, which may give it another authority.
    Request,
    /// `remove`, and everything of a response.
    Other,
}

pub fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// Whether `name` is `@request.auth.claims.x` or `@request.auth.claims[x]`, in any case.
pub fn is_claim(name: &str) -> bool {
    const START: &str = "@request.auth.claims";
    let Some((start, rest)) = name.split_at_checked(START.len()) else {
        return false;
    };
    let dotted = rest.starts_with('.') && rest.len() > 1;
    let bracketed = rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2;
    start.eq_ignore_ascii_case(START) && (dotted || bracketed)
}

/// The name of a header to match.
pub fn matched_name(name: &str) -> Result<(), &'static str> {
    let pseudo = matches!(name, ":method" | ":scheme" | ":authority" | ":path" | ":status");
    match name {
        "" => Err("a header has no name"),
        name if pseudo || is_claim(name) || is_token(name) => Ok(()),
        _ => Err("this is not a header's name"),
    }
}

/// The name of a header to set, add or remove.
pub fn operated_name(name: &str, place: Place) -> Result<(), &'static str> {
    match (name, place) {
        ("", _) => Err("a header has no name"),
        (name, Place::Request) if is_authority(name) => Ok(()),
        (name, _) if name.eq_ignore_ascii_case("host") => Err("Host cannot be changed here"),
        (name, _) if name.starts_with(':') => Err("a pseudo header cannot be changed here"),
        _ => Ok(()),
    }
}

/// A header named in a CORS list.
pub fn cors_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("a header has no name"),
        "*" => Ok(()),
        name if is_token(name) => Ok(()),
        _ => Err("this is not a header's name"),
    }
}

/// A value to write: no control characters, and every `%` doubled or part of a `%COMMAND%` or `%COMMAND(...)%`.
pub fn value(text: &str) -> Result<(), &'static str> {
    if text.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
        return Err("the value has a control character");
    }
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = match &rest[at + 1..] {
            [b'%', rest @ ..] => rest,
            [] => return Err("a single `%` at the end; write it twice"),
            rest => command(rest)?,
        };
    }
    Ok(())
}

/// What follows a `%COMMAND%`, given what follows its first `%`.
fn command(text: &[u8]) -> Result<&[u8], &'static str> {
    const OPEN: &str = "a `%` that begins a command which never ends; write it twice if it is meant as it is";
    let end = text.iter().position(|byte| matches!(byte, b'%' | b'(')).ok_or(OPEN)?;
    if text[end] == b'%' {
        return Ok(&text[end + 1..]);
    }
    let rest = spaces(&text[end + 1..]);
    let rest = match rest {
        [b'[', rest @ ..] => strings(rest)?,
        // The first byte is taken as it is, whatever it is.
        [_, rest @ ..] => argument(rest)?,
        [] => return Err(OPEN),
    };
    match spaces(rest) {
        [b'%', rest @ ..] => Ok(rest),
        [] => Err(OPEN),
        _ => Err("a command's `)` is not followed by `%`"),
    }
}

fn spaces(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    &text[end..]
}

/// Up to the `)` of a plain argument. A quote in it begins a list of strings, as in Envoy's own reader.
fn argument(text: &[u8]) -> Result<&[u8], &'static str> {
    const OPEN: &str = "a command's `(` is never closed";
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' if at + 1 == text.len() => return Err("a backslash at the end"),
            b'\\' => at += 1,
            b')' => return Ok(&text[at + 1..]),
            b'"' => return after_string(&text[at + 1..]),
            _ => {}
        }
        at += 1;
    }
    Err(OPEN)
}

/// Up to the `)` behind `"a", "b"]`.
fn strings(text: &[u8]) -> Result<&[u8], &'static str> {
    match spaces(text) {
        [b'"', rest @ ..] => argument(rest),
        [] => Err("a command's `[` is never closed"),
        _ => Err("a command's arguments must be strings in double quotes"),
    }
}

fn after_string(text: &[u8]) -> Result<&[u8], &'static str> {
    match spaces(text) {
        [b',', rest @ ..] => strings(rest),
        [b']', rest @ ..] => match spaces(rest) {
            [b')', rest @ ..] => Ok(rest),
            _ => Err("a command's `]` is not followed by `)`"),
        },
        _ => Err("a command's strings are not parted by `,`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_commands() {
        let cases = [
            ("", true),
            ("plain", true),
            ("a\tb", true),
            ("a\nb", false),
            ("100%%", true),
            ("100%", false),
            ("%HOSTNAME%", true),
            ("a %HOSTNAME% b", true),
            ("abc%123", false),
            ("%START_TIME%%", false),
            ("%REQ(x-a)%", true),
            ("%REQ(x-a)", false),
            ("%REQ(x-a)z%", false),
            ("%PER_REQUEST_STATE([\"a\", \"b\"])%", true),
            ("%PER_REQUEST_STATE([a])%", false),
            ("%UPSTREAM_METADATA([\"a\" \"b\"])%", false),
            ("%UPSTREAM_METADATA([\"a\"] x)%", false),
            ("%REQ(", false),
        ];
        for (text, good) in cases {
            assert_eq!(value(text).is_ok(), good, "{text}");
        }
    }
}
