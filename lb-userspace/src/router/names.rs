//! Look-up by host name: the exact name, else the longest `*.suffix`, else `*`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Patterns (lower case) and what they stand for. Of two equal patterns the first counts.
#[derive(Clone, Debug, Default)]
pub struct Names {
    exact: HashMap<Arc<str>, usize>,
    /// By length of the suffix, which is what is behind the `*`.
    suffixes: BTreeMap<Reverse<usize>, HashMap<Arc<str>, usize>>,
    any: Option<usize>,
}

impl Names {
    pub fn add(&mut self, pattern: &str, value: usize) {
        match pattern.strip_prefix('*') {
            Some("") => {
                self.any.get_or_insert(value);
            }
            Some(suffix) => {
                self.suffixes.entry(Reverse(suffix.len())).or_default().entry(suffix.into()).or_insert(value);
            }
            None => {
                self.exact.entry(pattern.into()).or_insert(value);
            }
        }
    }

    /// `name` in lower case. A suffix needs at least one character before it.
    pub fn find(&self, name: &str) -> Option<usize> {
        let by_suffix = || {
            let shorter = self.suffixes.range(Reverse(name.len().saturating_sub(1))..);
            shorter.into_iter().find_map(|(Reverse(length), all)| all.get(name.get(name.len() - length..)?))
        };
        self.exact.get(name).or_else(by_suffix).copied().or(self.any)
    }

    /// What is for clients that give no name.
    pub fn nameless(&self) -> Option<usize> {
        self.any
    }
}

/// The host of an authority, in lower case: without port and, for a name, without the dot at the end.
pub fn host_of(authority: &str) -> std::borrow::Cow<'_, str> {
    let host = match authority.strip_prefix('[') {
        // An IPv6 address: its colons are no port's.
        Some(rest) => rest.find(']').map_or(authority, |end| &authority[..end + 2]),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_name_wins() {
        let mut names = Names::default();
        for (at, pattern) in ["*", "a.b.c", "*.b.c", "*.c", "*.b.c", "*x.d"].iter().enumerate() {
            names.add(pattern, at);
        }
        for (name, expected) in [
            ("a.b.c", 1),
            ("z.b.c", 2),
            ("y.z.b.c", 2),
            ("b.c", 3),
            ("c", 0),
            (".c", 0),
            ("other", 0),
            ("", 0),
            ("wx.d", 5),
            ("x.d", 0),
        ] {
            assert_eq!(names.find(name), Some(expected), "{name}");
        }
        assert_eq!(names.nameless(), Some(0));
    }

    #[test]
    fn nothing_fits_without_a_star() {
        let mut names = Names::default();
        names.add("a.b", 0);
        names.add("*.b", 1);
        assert_eq!((names.find("b"), names.find("a.c"), names.nameless()), (None, None, None));
    }

    #[test]
    fn hosts_of_authorities() {
        for (authority, host) in [
            ("a.b", "a.b"),
            ("A.B:8080", "a.b"),
            ("a.b.", "a.b"),
            ("a.b.:80", "a.b"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[FD00::1]:80", "[fd00::1]"),
            ("[fd00::1]", "[fd00::1]"),
            ("[fd00::1", "[fd00::1"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority), host, "{authority}");
        }
    }
}
