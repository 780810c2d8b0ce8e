//! The one form of a path that is matched and forwarded alike (RFC 3986 section 6.2.2, with what Istio's gateways do by
//! default): dot segments are resolved, a backslash is a slash, unreserved characters are not escaped. Slashes are not
//! merged, escaped slashes stay escaped, and everything else stays as it was sent. What has no such form is refused.

use std::{borrow::Cow, fmt};

/// A request target in origin form: the path's normal form, and the query as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'t> {
    pub path: Cow<'t, str>,
    /// Without the question mark.
    pub query: Option<&'t str>,
}

/// Why a target is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NoSlash,
    Fragment,
    /// A percent sign without two hexadecimal digits.
    BadEscape,
    /// Control characters, raw or escaped zero bytes, spaces and bytes that are not ASCII.
    BadCharacter,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NoSlash => "the path does not begin with /",
            Refused::Fragment => "the path has a fragment (#)",
            Refused::BadEscape => "the path has a percent sign without two hexadecimal digits",
            Refused::BadCharacter => "the path has a character that must not be there",
        })
    }
}

/// Splits a target (path and query, or `*`) and brings its path into the normal form. Only that allocates, and only where
/// something changes.
pub fn normalize(target: &str) -> Result<Target<'_>, Refused> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    if target.contains('#') {
        return Err(Refused::Fragment);
    }
    if target.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(Refused::BadCharacter);
    }
    if target == "*" {
        return Ok(Target { path: Cow::Borrowed(path), query });
    }
    if !path.starts_with(['/', '\\']) {
        return Err(Refused::NoSlash);
    }
    let plain = !path.bytes().any(|byte| byte == b'%' || byte == b'\\') && !path.contains("/.");
    let path = if plain { Cow::Borrowed(path) } else { Cow::Owned(resolve(&unescape(path)?)) };
    Ok(Target { path, query })
}

/// Backslashes to slashes, and escapes of unreserved characters (RFC 3986 section 2.3) to these.
fn unescape(path: &str) -> Result<String, Refused> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        out.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b'\\' {
            out.push('/');
            rest = &rest[at + 1..];
            continue;
        }
        let escape = rest.get(at..at + 3).ok_or(Refused::BadEscape)?;
        let digits = &escape[1..];
        let value = Some(digits)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or(Refused::BadEscape)?;
        match value {
            0 => return Err(Refused::BadCharacter),
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => out.push(char::from(value)),
            _ => out.push_str(escape),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

/// RFC 3986 section 5.2.4. What leads above the root stays at the root.
fn resolve(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => out.truncate(out.rfind('/').unwrap_or(0)),
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if is_last {
            out.push('/');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_forms() {
        for (sent, path, query) in [
            ("/", "/", None),
            ("/a/b", "/a/b", None),
            ("/a/b?c=/../d", "/a/b", Some("c=/../d")),
            ("/a?", "/a", Some("")),
            ("/a/./b", "/a/b", None),
            ("/a/../b", "/b", None),
            ("/a/b/..", "/a/", None),
            ("/a/b/.", "/a/b/", None),
            ("/..", "/", None),
            ("/../../etc/passwd", "/etc/passwd", None),
            ("/.", "/", None),
            ("/a//b", "/a//b", None),
            ("//a", "//a", None),
            ("/a//../b", "/a/b", None),
            ("/a/%2e%2E/b", "/b", None),
            ("/a/.%2e/b", "/b", None),
            ("/%61%2D%7e", "/a-~", None),
            ("/a%2Fb", "/a%2Fb", None),
            ("/a%2fb", "/a%2fb", None),
            ("/a%5cb", "/a%5cb", None),
            ("/a\\b", "/a/b", None),
            ("\\a\\..\\b", "/b", None),
            ("/%252e%252e/a", "/%252e%252e/a", None),
            ("/a/..;/b", "/a/..;/b", None),
            ("/a;p=1/b", "/a;p=1/b", None),
            ("/.hidden/..x/...", "/.hidden/..x/...", None),
            ("/A", "/A", None),
            ("*", "*", None),
        ] {
            let found = normalize(sent);
            assert_eq!(found, Ok(Target { path: path.into(), query }), "{sent}");
        }
    }

    #[test]
    fn what_has_no_normal_form_is_refused() {
        for (sent, refused) in [
            ("", Refused::NoSlash),
            ("a", Refused::NoSlash),
            ("?a", Refused::NoSlash),
            ("http://a/", Refused::NoSlash),
            ("/a#b", Refused::Fragment),
            ("/a?b#c", Refused::Fragment),
            ("/a%", Refused::BadEscape),
            ("/a%2", Refused::BadEscape),
            ("/a%zz", Refused::BadEscape),
            ("/a%+1", Refused::BadEscape),
            ("/%2%35", Refused::BadEscape),
            ("/a%00", Refused::BadCharacter),
            ("/a\0", Refused::BadCharacter),
            ("/a b", Refused::BadCharacter),
            ("/a\tb", Refused::BadCharacter),
            ("/\u{e9}", Refused::BadCharacter),
            ("/a\u{7f}", Refused::BadCharacter),
        ] {
            assert_eq!(normalize(sent), Err(refused), "{sent:?}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(sent in "/(\\.|%2e|%2E|%2f|%25|%41|/|a|;|\\\\|%){0,12}") {
            if let Ok(target) = normalize(&sent) {
                let again = normalize(&target.path).unwrap();
                prop_assert_eq!(&again.path, &target.path);
                prop_assert!(!target.path.split('/').any(|segment| segment == "." || segment == ".."), "{}", target.path);
            }
        }
    }
}
