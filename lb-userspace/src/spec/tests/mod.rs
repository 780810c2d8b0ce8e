//! Tests of the whole way from text to objects in force.

use std::{collections::BTreeMap, sync::Arc};

mod admission;
mod re2;

use proptest::prelude::*;

use super::*;
use crate::finding::{Finding, Severity, code};

fn parse(text: &str) -> FileSpecs {
    read(&Arc::from("a.yaml"), text)
}

/// `line:column code path message` of each finding.
fn lines(findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| {
        let Finding { line, column, code, path, message, .. } = finding;
        format!("{line}:{column} {code} {path} {message}")
    };
    findings.iter().map(line).collect()
}

fn names(specs: &Specs) -> Vec<String> {
    let services = specs.services.iter().map(|object| object.key.to_string());
    services.chain(specs.virtual_services.iter().map(|object| object.key.to_string())).collect()
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";

fn service(name: &str, port: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n  - port: {port}\n")
}

fn route(weight: &str) -> String {
    let head =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: v\nspec:\n  hosts: [a]\n  tcp:\n";
    format!("{head}  - route:\n    - destination:\n        host: a\n      weight: {weight}\n")
}

#[test]
fn one_object_in_every_dress() {
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}"#;
    let surrogates = json.replace(r#""name":"a""#, r#""name":"a","labels":{"x":"\ud83d\ude00"}"#);
    let dresses = [
        SERVICE.to_owned(),
        SERVICE.replace('\n', "\r\n"),
        format!("\u{feff}{SERVICE}"),
        format!("---\n# nothing\n---\n{SERVICE}---\n"),
        format!("%YAML 1.1\n---\n{SERVICE}...\n"),
        format!("apiVersion: v1\nkind: List\nitems:\n- {}", SERVICE.trim_end().replace('\n', "\n  ")),
        format!("{{\"apiVersion\":\"v1\",\"kind\":\"ServiceList\",\"items\":[{json}]}}"),
        format!("apiVersion: v1\nkind: List\nitems: [{{apiVersion: v1, kind: List, items: [{json}]}}]\n"),
        json.to_owned(),
        surrogates,
        SERVICE.replace("80", "80.0"),
        SERVICE.replace("80", "0x50"),
        SERVICE.replace("{name: a}", "{name: a, labels: null, annotations: ~}"),
        SERVICE.replace('\n', "\r\n").replace("spec", "\r\n# a comment\r\nspec"),
        format!("apiVersion: v1\nkind: List\nitems: [{json}]\n---\napiVersion: v1\nkind: List\nitems: []\n"),
    ];
    for dress in dresses {
        let file = parse(&dress);
        assert_eq!(file.findings, [], "{dress}");
        let [Item { key, outcome: Outcome::Valid(Manifest::Service(object)), .. }] = file.items.as_slice() else {
            panic!("not one Service: {dress}")
        };
        assert_eq!(key.to_string(), "Service default/a");
        assert_eq!(object.spec.ports[0].port, 80);
        assert_eq!(file.kinds, BTreeMap::from([("Service".to_owned(), 1)]));
        assert!(!file.incomplete);
    }
}

/// YAML's lines may end with a carriage return alone; lines are counted as editors do.
#[test]
fn a_lone_carriage_return_ends_no_line_of_the_file() {
    let text = "---\napiVersion: v1\r\nkind: Service\rmetadata: {name: a}\n\nspec:\r  ports: [{port: x}]\n";
    let file = parse(text);
    let places: Vec<_> = file.findings.iter().map(|one| (one.line, one.column, one.path.as_str())).collect();
    assert_eq!(places, [(5, 18, "spec.ports[0].port")], "{:?}", file.findings);
    let broken = parse("a: 1\rb: [\r");
    assert_eq!(broken.findings.iter().map(|one| one.line).collect::<Vec<_>>(), [1]);
}

#[test]
fn empty_files_hold_nothing() {
    for text in ["", "---\n", "# only a comment\n", "---\n---\n...\n", "null\n", "\u{feff}"] {
        let file = parse(text);
        assert_eq!((file.items.len(), file.findings.len(), file.incomplete), (0, 0, false), "{text:?}");
    }
}

#[test]
fn a_finding_stands_where_the_text_is() {
    let cases = [
        (route("ten"), "11:7 IST0106 spec.tcp[0].route[0].weight expected a whole number, found string \"ten\""),
        (route("\"10\""), "11:7 IST0106 spec.tcp[0].route[0].weight expected a whole number, found string \"10\""),
        (route("1.5"), "11:7 IST0106 spec.tcp[0].route[0].weight expected a whole number, found number `1.5`"),
        (route("-1"), "11:7 IST0106 spec.tcp[0].route[0].weight a weight cannot be negative"),
        (route("1\n      wieght: 2"), "12:7 MEL0004 spec.tcp[0].route[0].wieght unknown field, it has no effect"),
        (route("1\n      weight: 2"), "12:7 IST0106 spec.tcp[0].route[0].weight this key stands twice in one mapping"),
        (
            route("1").replace("host: a", "host: 5"),
            "10:9 IST0106 spec.tcp[0].route[0].destination.host expected text, found integer `5`",
        ),
        (route("1").replace("name: v", "nam: v"), "3:1 IST0106 metadata the object has no `metadata.name`"),
        (
            route("1").replace("  tcp:", "  http: []\n  tpc:"),
            "5:1 IST0106 spec a VirtualService needs http, tls or tcp routes",
        ),
        (service("a", "0"), "6:5 IST0106 spec.ports[0].port 0 is not a port number"),
        (
            service("a", "70000"),
            "6:5 IST0106 spec.ports[0].port expected a whole number, zero or more, found integer `70000`",
        ),
        ("a: [1\n".to_owned(), "1:4 MEL0003  this is not valid YAML: unclosed bracket '['"),
        ("a: 1\n".to_owned(), "1:1 IST0106  this is no Kubernetes object: it lacks `apiVersion` or `kind`"),
        ("- a\n".to_owned(), "1:1 IST0106  this is no Kubernetes object: it lacks `apiVersion` or `kind`"),
        ("? [a]\n: 1\n".to_owned(), "1:3 MEL0003  this is not valid YAML: a list or mapping cannot be a key"),
    ];
    for (text, expected) in cases {
        let found = lines(&parse(&text).findings);
        assert!(found.iter().any(|line| line == expected), "{text}\nexpected {expected}\nfound {found:#?}");
    }
}

#[test]
fn unknown_fields_name_the_nearest_field_of_that_very_place() {
    let cases = [
        (route("1\n      wieght: 2"), "Did you mean `weight`?"),
        (route("1").replace("  hosts", "  host"), "Did you mean `hosts`?"),
        (route("1").replace("  hosts", "  export_to: [a]\n  hosts"), "Did you mean `exportTo`?"),
        (route("1").replace("        host", "        subste: x\n        host"), "Did you mean `subset`?"),
        (route("1\n      banana: 2"), "VirtualService has no such field; remove it."),
    ];
    for (text, remedy) in cases {
        let file = parse(&text);
        let found = file.findings.iter().find(|finding| finding.code == code::UNKNOWN_FIELD);
        assert_eq!(found.map(|finding| (finding.severity, finding.remedy.as_str())), Some((Severity::Warning, remedy)));
    }
}

#[test]
fn a_broken_document_and_a_broken_object_cost_only_themselves() {
    let text =
        format!("{}---\na: \"never ends\n---\n{}---\n{}", service("a", "80"), service("b", "x"), service("c", "80"));
    let file = parse(&text);
    assert!(file.incomplete);
    let outcomes: Vec<_> =
        file.items.iter().map(|item| (item.key.to_string(), matches!(item.outcome, Outcome::Valid(_)))).collect();
    let expected = [("Service default/a", true), ("Service default/b", false), ("Service default/c", true)];
    assert_eq!(outcomes, expected.map(|(name, valid)| (name.to_owned(), valid)));
}

#[test]
fn bombs_and_nesting_end_in_findings() {
    let letters: Vec<char> = ('a'..='z').collect();
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for pair in letters.windows(2) {
        bomb += &format!("{1}: &{1} [{0}]\n", vec![format!("*{}", pair[0]); 10].join(","), pair[1]);
    }
    let text = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1000].join(","));
    let wide: String = (0..2000).map(|at| format!("  k{at}: 1\n")).collect();
    let merges = format!("x: &x\n{wide}y:\n{}", "  - <<: *x\n".repeat(1000));
    let cases = [
        (bomb, "expand to too much"),
        (text, "expand to too much"),
        (merges, "expand to too much"),
        (format!("a: {}", "[".repeat(1000)), "recursion limit"),
        ((0..200).map(|at| format!("{}a:\n", " ".repeat(at))).collect(), "nested deeper than 100"),
        (format!("a: &a {0}{1}\nb: {0}*a{1}\n", "[".repeat(60), "]".repeat(60)), "nest deeper than 100"),
        ("a: &a [*a]\n".to_owned(), "alias"),
    ];
    for (text, expected) in cases {
        let file = parse(&text);
        assert_eq!(file.findings.len(), 1, "{expected}");
        assert_eq!(file.findings[0].code, code::SYNTAX);
        assert!(file.findings[0].message.contains(expected), "{}", file.findings[0].message);
    }
}

#[test]
fn anchors_and_merge_keys_are_carried_out() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: &m {name: a, labels: &l {x: v}}\nspec:\n  selector:\n    <<: *l\n    z: w\n  ports: [{port: 80}]\n";
    let file = parse(text);
    assert_eq!(file.findings, []);
    let Outcome::Valid(Manifest::Service(object)) = &file.items[0].outcome else { panic!("not a Service") };
    let pairs = [("x", "v"), ("z", "w")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(object.spec.selector, BTreeMap::from(pairs));
}

#[test]
fn the_store_keeps_the_last_good_version_of_what_is_broken_and_nothing_else() {
    let mut store = Store::default();
    let mut load = |files: &[(&str, &str)], unreadable: &[&str]| {
        let files: Vec<_> = files.iter().map(|(file, text)| read(&Arc::from(*file), text)).collect();
        let unreadable: Vec<Arc<str>> = unreadable.iter().map(|path| Arc::from(*path)).collect();
        let findings = store.merge(&files, &unreadable);
        let specs = store.specs();
        let ports: Vec<u16> = specs.services.iter().map(|object| object.spec.ports[0].port).collect();
        (names(&specs).join(" "), ports, findings.len())
    };
    let both = format!("{}---\n{}", service("a", "80"), service("b", "81"));
    assert_eq!(load(&[("d/x", &both)], &[]), ("Service default/a Service default/b".into(), vec![80, 81], 0));
    // Present but broken: the last good version, and a finding.
    let broken = format!("{}---\n{}", service("a", "oops"), service("b", "82"));
    assert_eq!(load(&[("d/x", &broken)], &[]), ("Service default/a Service default/b".into(), vec![80, 82], 1));
    // Still broken: still the last good version.
    assert_eq!(load(&[("d/x", &broken)], &[]), ("Service default/a Service default/b".into(), vec![80, 82], 1));
    // Text that does not parse hides objects: all of the file stay.
    assert_eq!(load(&[("d/x", "a: [")], &[]), ("Service default/a Service default/b".into(), vec![80, 82], 1));
    // What of such a file does parse is newer and counts.
    let half = format!("a: [\n---\n{}", service("b", "84"));
    assert_eq!(load(&[("d/x", &half)], &[]).1, [80, 84]);
    // Out of reach for now, by the file or by its directory: all stay.
    assert_eq!(load(&[], &["d/x"]).1, [80, 84]);
    assert_eq!(load(&[], &["d"]).1, [80, 84]);
    // Removed from a file that parses: gone.
    assert_eq!(load(&[("d/x", &service("b", "83"))], &[]), ("Service default/b".into(), vec![83], 0));
    // The file is gone: its objects are.
    assert_eq!(load(&[], &["e"]), (String::new(), vec![], 0));
    // Never good: nothing to keep.
    assert_eq!(load(&[("d/x", &service("a", "oops"))], &[]), (String::new(), vec![], 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// A path that is out of reach, though nothing is under it, has a store build everything anew.
    #[test]
    fn a_store_that_takes_changed_files_over_holds_what_one_built_anew_holds(
        steps in proptest::collection::vec((0usize..3, proptest::collection::vec((0usize..4, 0u8..6), 0..4)), 1..12),
    ) {
        let (mut kept, mut anew) = (Store::default(), Store::default());
        let empty = |file: usize| Arc::new(read(&format!("{file}.yaml").into(), ""));
        let mut files: Vec<Arc<FileSpecs>> = (0..3).map(empty).collect();
        for (file, objects) in steps {
            let text = |(name, way): &(usize, u8)| match way {
                0..=3 => service(&format!("s{name}"), &format!("8{way}")),
                4 => service(&format!("s{name}"), "oops"),
                _ => "a: [\n".to_owned(),
            };
            let text = objects.iter().map(text).collect::<Vec<_>>().join("---\n");
            files[file] = Arc::new(read(&format!("{file}.yaml").into(), &text));
            let before: BTreeMap<Key, Manifest> = kept.manifests().map(|(key, one)| (key.clone(), one.clone())).collect();
            prop_assert_eq!(kept.merge(&files, &[]), anew.merge(&files, &["nowhere".into()]));
            prop_assert!(kept.manifests().eq(anew.manifests()));
            if let Some(changes) = kept.changes() {
                let mut after = before;
                for change in changes {
                    match &change.now {
                        Some(now) => _ = after.insert(change.key.clone(), now.clone()),
                        None => _ = after.remove(&change.key),
                    }
                }
                prop_assert!(kept.manifests().eq(&after), "the changes do not lead there");
            }
        }
    }
}

#[test]
fn an_object_written_twice_is_reported_and_the_later_one_counts() {
    let mut store = Store::default();
    let files = [("a.yaml", "80"), ("b.yaml", "81")].map(|(file, port)| read(&Arc::from(file), &service("a", port)));
    let findings = store.merge(&files, &[]);
    assert_eq!(lines(&findings), ["1:1 MEL0006  this object is also in a.yaml; this later one is used"]);
    assert_eq!(store.specs().services[0].spec.ports[0].port, 81);
}

#[test]
fn a_secret_is_read_and_never_printed() {
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/tls\n";
    let file = parse(&format!("{head}data: {{tls.crt: aHVzaA==, tls.key: c2VjcmV0}}\nstringData: {{tls.key: hush}}\n"));
    assert_eq!(file.findings, []);
    let Outcome::Valid(Manifest::Secret(secret)) = &file.items[0].outcome else { panic!("not a Secret") };
    assert_eq!(secret.spec.value("tls.crt"), Some(&b"hush"[..]));
    assert_eq!(secret.spec.value("tls.key"), Some(&b"hush"[..]));
    assert_eq!(secret.spec.value("ca.crt"), None);
    let printed = format!("{file:?}");
    assert!(!printed.contains("hush") && !printed.contains("secret\"") && printed.contains("tls.key"), "{printed}");
    for broken in ["data: {tls.key: hush!}", "data: hush", "stringData: {a: 4711}", "stringData: [hush]"] {
        let file = parse(&format!("{head}{broken}\n"));
        let text = format!("{:?}", file.findings);
        assert_eq!(file.findings.len(), 1);
        assert!(!text.contains("hush") && !text.contains("4711"), "{text}");
    }
}

#[test]
fn a_namespace_has_none_itself() {
    let file = parse("apiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {a: b}}\n");
    assert_eq!(file.findings, []);
    assert_eq!(file.items[0].key.to_string(), "Namespace prod");
}

#[test]
fn booleans_and_numbers_of_yaml_1_1_are_said_where_text_is_due() {
    let selector = |value: &str| SERVICE.replace("{ports", &format!("{{selector: {{version: {value}}}, ports"));
    let boolean = "Put the value in quotes: without, YAML reads true, yes, on, y and their opposites as booleans.";
    let cases = [
        ("yes", "expected text, found boolean `true`", boolean),
        ("off", "expected text, found boolean `false`", boolean),
        ("n", "expected text, found boolean `false`", boolean),
        ("1", "expected text, found integer `1`", "Put the value in quotes."),
        ("0x10", "expected text, found integer `16`", "Put the value in quotes."),
        ("1.10", "expected text, found number `1.1`", "Put the value in quotes."),
        ("1e3", "expected text, found integer `1000`", "Put the value in quotes."),
    ];
    for (value, message, remedy) in cases {
        let file = parse(&selector(value));
        let found: Vec<_> = file.findings.iter().map(|one| (one.message.as_str(), one.remedy.as_str())).collect();
        assert_eq!(found, [(message, remedy)], "{value}");
    }
    for value in ["\"yes\"", "'1'", "!!str 1", "v1", "1.10.0", "2024-01-01"] {
        assert_eq!(parse(&selector(value)).findings, [], "{value}");
    }
}
