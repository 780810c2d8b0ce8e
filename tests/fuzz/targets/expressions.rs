//! Regexes and hosts: what is taken as RE2's must be readable by the crate that matches, and hosts that one VirtualService may
//! have together must not both be refused and accepted by the order in which they stand.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use meltemi::spec::{self, Outcome, re2};

fuzz_target!(|text: &str| {
    if let Ok(rust) = re2::to_rust(text) {
        let read = regex_syntax::ParserBuilder::new().nest_limit(1000).build().parse(&rust);
        assert!(read.is_ok(), "{text:?} became {rust:?}: {}", read.unwrap_err());
    }
    let Some((a, b)) = text.split_once(' ') else { return };
    let accepted = |a: &str, b: &str| {
        let text = virtual_service(a, b);
        let file = spec::read(&Arc::from("a.yaml"), &text);
        file.items.first().is_some_and(|item| matches!(item.outcome, Outcome::Valid(_)))
    };
    assert_eq!(accepted(a, b), accepted(b, a), "{a:?} {b:?}");
});

/// A VirtualService of two hosts, as JSON.
fn virtual_service(a: &str, b: &str) -> String {
    format!(
        r#"{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{{"name":"v"}},
"spec":{{"hosts":[{a:?},{b:?}],"gateways":["g"],"tcp":[{{"route":[{{"destination":{{"host":"c"}}}}]}}]}}}}"#
    )
}
