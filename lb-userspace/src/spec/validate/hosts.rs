//! Names of hosts: full names, wildcards, and which covers which. As text; short names are not expanded here.

/// Longest host name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;

/// A DNS-1123 label as Istio reads it: upper case passes.
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_label_text(text)
}

/// A label of any length.
pub fn is_label_text(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// The name part of a label's key, or its value.
pub fn is_qualified(text: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
}

/// Why a text is no host name, in words that go on after the name.
type Fault = &'static str;

pub fn full_name(name: &str) -> Result<(), Fault> {
    length(name)?;
    labels(name)
}

/// A full name whose first label may be `*` or start with `*`.
pub fn wildcard_name(name: &str) -> Result<(), Fault> {
    length(name)?;
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let stem = first.strip_prefix("*-").or_else(|| first.strip_prefix('*')).unwrap_or(first);
    if first.len() > 63 || !(first == "*" || is_label_text(stem)) {
        return Err(match first.contains('*') {
            true => "has a wildcard elsewhere than at its start",
            false => "is not a host name",
        });
    }
    rest.map_or(Ok(()), labels)
}

fn length(name: &str) -> Result<(), Fault> {
    match name.len() {
        0 => Err("is empty"),
        1..=MAX_NAME => Ok(()),
        _ => Err("is longer than 255 characters"),
    }
}

fn labels(name: &str) -> Result<(), Fault> {
    let top = name.rsplit('.').next().unwrap_or(name);
    if !top.is_empty() && top.trim_start_matches(['+', '-']).bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("ends in a label of digits only");
    }
    // One trailing dot is allowed.
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Ok(());
    }
    let wildcard =
        || if name.contains('*') { "has a wildcard elsewhere than at its start" } else { "is not a host name" };
    name.split('.').all(is_label).then_some(()).ok_or_else(wildcard)
}

/// `outbound_.PORT_.SUBSET_.HOST`, the SNI of Istio's own passthrough between clusters.
pub fn is_outbound_sni(name: &str) -> Result<bool, Fault> {
    if !name.starts_with("outbound_") {
        return Ok(false);
    }
    let parts: Vec<&str> = name.split('_').collect();
    let has = |at: usize, wanted: fn(&u8) -> bool| parts.get(at).is_some_and(|part| part.as_bytes().iter().any(wanted));
    match has(1, u8::is_ascii_digit) && has(3, u8::is_ascii_alphabetic) {
        true => Ok(true),
        false => Err("is not of the form outbound_.PORT_.SUBSET_.HOST"),
    }
}

fn suffix(name: &str) -> Option<&str> {
    name.strip_prefix('*')
}

/// Whether some name is meant by both.
pub fn overlap(a: &str, b: &str) -> bool {
    match (suffix(a), suffix(b)) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(a), None) => b.ends_with(a),
        (None, Some(b)) => a.ends_with(b),
        (None, None) => a == b,
    }
}

/// Whether every name that `inner` means is meant by `outer` too.
pub fn covers(outer: &str, inner: &str) -> bool {
    match (suffix(outer), suffix(inner)) {
        (Some(outer), Some(inner)) => inner.ends_with(outer),
        (Some(outer), None) => inner.ends_with(outer),
        (None, Some(_)) => false,
        (None, None) => outer == inner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a.".repeat(128);
        let cases = [
            ("a", true, true),
            ("a.b", true, true),
            ("a.b.", true, true),
            ("a..b", false, false),
            ("A-1.b", true, true),
            ("a_b.c", false, false),
            ("-a.b", false, false),
            ("a.1", false, false),
            ("1.a", true, true),
            ("10.0.0.1", false, false),
            ("*", false, true),
            ("*.a", false, true),
            ("*a.b", false, true),
            ("*-a.b", false, true),
            ("a*.b", false, false),
            ("a.*.b", false, false),
            ("**.b", false, false),
            ("", false, false),
            (&long, false, false),
        ];
        for (name, full, wildcard) in cases {
            assert_eq!((full_name(name).is_ok(), wildcard_name(name).is_ok()), (full, wildcard), "{name}");
        }
    }

    #[test]
    fn wildcards_are_suffixes() {
        assert!(overlap("*.foo.com", "*.com") && overlap("*", "a") && overlap("a.com", "*.com") && overlap("a", "a"));
        assert!(!overlap("*.foo.com", "foo.com") && !overlap("a", "b"));
        assert!(covers("*.com", "*.foo.com") && covers("*", "*.com") && covers("*.com", "a.b.com"));
        assert!(!covers("*.foo.com", "*.com") && !covers("foo.com", "*.com") && !covers("*.com", "com"));
    }
}
