//! Host names: short names, wildcards, and who may see an object.

/// A VirtualService or DestinationRule host in full: a name without a dot is short for a Service in the namespace of the
/// object that says it. Anything with a dot, an address or `*` is taken as it is.
pub fn expand(host: &str, namespace: &str, cluster_domain: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.contains(['.', ':', '*']) || host.is_empty() {
        return host;
    }
    format!("{host}.{namespace}.svc.{cluster_domain}")
}

/// Whether `pattern` (`*`, `*.suffix` or a name) covers `host`, which may itself be a wildcard.
pub fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix) || pattern == host,
        None => pattern == host,
    }
}

/// Whether some name is covered by both.
pub fn overlap(a: &str, b: &str) -> bool {
    narrower(a, b).is_some()
}

/// The one of two overlapping names that covers less.
pub fn narrower<'n>(a: &'n str, b: &'n str) -> Option<&'n str> {
    match (covers(a, b), covers(b, a)) {
        (true, _) => Some(b),
        (false, true) => Some(a),
        (false, false) => None,
    }
}

/// The wildcards that cover `host`, longest first: `*.b.c`, `*.c`, `*`.
pub fn wildcards(host: &str) -> impl Iterator<Item = String> {
    host.match_indices('.').map(|(at, _)| format!("*{}", &host[at..])).chain(std::iter::once("*".to_owned()))
}

/// Whether an object of namespace `own` with this `exportTo` is visible to proxies of namespace `to`.
pub fn exported(export_to: &[String], own: &str, to: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|namespace| match namespace.as_str() {
            "*" => true,
            "." => own == to,
            "~" => false,
            name => name == to,
        })
}

/// Whether proxies of some namespace see both of two objects, each given by its `exportTo` and its own namespace.
pub fn exported_together(a: (&[String], &str), b: (&[String], &str)) -> bool {
    let scope = |(export_to, own): (&[String], &str)| -> Option<Vec<String>> {
        let all = export_to.is_empty() || export_to.iter().any(|namespace| namespace == "*");
        let named = export_to.iter().filter(|namespace| *namespace != "~");
        let named = named.map(|namespace| if namespace == "." { own.to_owned() } else { namespace.clone() });
        (!all).then(|| named.collect())
    };
    match (scope(a), scope(b)) {
        (None, None) => true,
        (None, Some(some)) | (Some(some), None) => !some.is_empty(),
        (Some(a), Some(b)) => a.iter().any(|namespace| b.contains(namespace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_belong_to_the_object_that_says_them() {
        let cases = [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            ("Reviews.Example.COM.", "reviews.example.com"),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
            ("fd00::1", "fd00::1"),
        ];
        for (host, full) in cases {
            assert_eq!(expand(host, "shop", "cluster.local"), full);
        }
    }

    #[test]
    fn wildcards_are_suffixes_of_any_number_of_labels() {
        let cases = [
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "newexample.com", false),
            ("*.example.com", "*.example.com", true),
            ("*.example.com", "*.a.example.com", true),
            ("*", "anything", true),
            ("*", "*", true),
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
        ];
        for (pattern, host, expected) in cases {
            assert_eq!(covers(pattern, host), expected, "{pattern} {host}");
        }
        assert!(overlap("a.example.com", "*.example.com"));
        assert_eq!(wildcards("a.b.c").collect::<Vec<_>>(), ["*.b.c", "*.c", "*"]);
    }

    #[test]
    fn export() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(exported(&[], "a", "b"));
        assert!(exported(&list(&["*"]), "a", "b"));
        assert!(!exported(&list(&["."]), "a", "b"));
        assert!(exported(&list(&["."]), "a", "a"));
        assert!(exported(&list(&[".", "b"]), "a", "b"));
        assert!(!exported(&list(&["~"]), "a", "a"));
        let together = |a: &[&str], b: &[&str]| exported_together((&list(a), "a"), (&list(b), "b"));
        assert!(together(&[], &["."]) && together(&["."], &["a"]) && together(&["x", "*"], &["*"]));
        assert!(!together(&["."], &["."]) && !together(&["~"], &[]) && !together(&["x"], &["."]));
    }
}
