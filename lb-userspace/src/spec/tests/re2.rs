//! RE2 syntax against that of the `regex` crate.

use crate::spec::re2::{NotRe2, to_rust};

#[test]
fn what_both_take_and_what_only_re2_takes() {
    for pattern in [
        "",
        "a",
        "/api/v[0-9]+",
        ".*",
        "a{2}",
        "a{2,}",
        "a{2,5}?",
        "a{",
        "a{,5}",
        "{foo}",
        "a}",
        "]",
        "a{01}",
        "()",
        "a||b",
        "(?i)abc",
        "(?i:abc)",
        "(?s-m:a)",
        "(?:a)",
        "(?)",
        "(?P<a>b)",
        "(?<a>b)",
        r"\Qa.b\E+",
        r"\Q*",
        r"\pL",
        r"\p{Greek}",
        r"\p{^L}",
        r"\PN",
        r"\d\w\s\D\W\S",
        r"[\d-]",
        r"[a\]b]",
        "[]a]",
        "[^]a]",
        "[[a]",
        "[a-]",
        "[-a]",
        "[a&&b]",
        "[[:alpha:]]",
        "[[:^digit:]_]",
        r"\x41",
        r"\x{1F600}",
        r"\012",
        r"\12",
        r"\.",
        r"\-",
        r"\/",
        r"^*",
        r"\bfoo\b",
        "é+",
        "(a{10}){100}",
        "(?ii)a",
        r"a\z",
        "#a b",
        r"[\n\t]",
        "~",
        r"(?P<n>.*user=jason.*)",
        r"^(.*?;)?(user=jason)(;.*)?$",
    ] {
        let rust = to_rust(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        regex_syntax::parse(&rust).unwrap_or_else(|error| panic!("{pattern} became {rust}: {error}"));
    }
}

#[test]
fn what_re2_refuses() {
    use NotRe2::*;
    let deep = format!("{}{}", "(".repeat(1200), ")".repeat(1200));
    let cases = [
        ("(?=a)", Lookaround),
        ("(?!a)", Lookaround),
        ("(?<=a)b", Lookaround),
        ("(?<!a)b", Lookaround),
        (r"(a)\1", Backreference),
        (r"(?P<a>b)(?P=a)", Backreference),
        ("*", NothingToRepeat('*')),
        ("a|*", NothingToRepeat('*')),
        ("(+a)", NothingToRepeat('+')),
        ("a**", Repeated('*')),
        ("a*+", Repeated('+')),
        ("a{2}{3}", Repeated('{')),
        ("a{1001}", TooOften),
        ("a{5,2}", TooOften),
        ("(a{100}){100}", TooOften),
        ("((a{11}){10}){10}", TooOften),
        ("(?>a)", Group('>')),
        ("(?x)a", Group('x')),
        ("(?i-)a", Group('-')),
        ("(?P<>a)", GroupName),
        ("(?P<a>b)(?P<a>c)", GroupName),
        ("(", UnclosedGroup),
        ("(?i", UnclosedGroup),
        (")", UnopenedGroup),
        ("[a", UnclosedClass),
        ("[]", UnclosedClass),
        ("[b-a]", Class),
        ("[[:foo:]]", Class),
        (r"\p{Foo}", Class),
        (r"\p{Letter}", Class),
        (r"\k", Escape('k')),
        (r"\C", Escape('C')),
        (r"\Z", Escape('Z')),
        (r"\u0041", Escape('u')),
        (r"\x4", Escape('x')),
        (r"\é", Escape('é')),
        (r"[a-\d]", Escape('d')),
        ("a\\", TrailingBackslash),
        (&deep, TooDeep),
    ];
    for (pattern, error) in cases {
        assert_eq!(to_rust(pattern), Err(error), "{pattern}");
    }
}

#[test]
fn classes_are_ascii() {
    assert_eq!(to_rust(r"\d+"), Ok("[0-9]+".into()));
    assert_eq!(to_rust(r"[\w-]"), Ok(r"[[0-9A-Za-z_]\x2D]".into()));
    assert_eq!(to_rust("[a&&b]"), Ok(r"[a\x26\x26b]".into()));
    assert_eq!(to_rust("a{,5}"), Ok(r"a\x7B\x2C5\x7D".into()));
}
