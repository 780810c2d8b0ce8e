//! What an http route asks of requests.

use std::collections::BTreeMap;

use super::{
    check::{Check, step},
    headers, hosts,
    virtual_service::{claim, source},
};
use crate::spec::{
    istio::{HttpMatch, VirtualService},
    value::StringMatch,
};

pub fn http_match(check: &mut Check<'_>, path: &str, service: &VirtualService, item: &HttpMatch) {
    // Only a uri may have an empty prefix.
    if let Some(StringMatch::Regex(regex)) = &item.uri {
        self::regex(check, &format!("{path}.uri"), regex);
    }
    for (field, text) in [("scheme", &item.scheme), ("method", &item.method), ("authority", &item.authority)] {
        if let Some(text) = text {
            string(check, &format!("{path}.{field}"), text);
        }
    }
    header_names(check, &format!("{path}.headers"), service, &item.headers);
    for (name, text) in &item.headers {
        string(check, &step(&format!("{path}.headers"), name), text);
    }
    header_names(check, &format!("{path}.withoutHeaders"), service, &item.without_headers);
    for (name, text) in &item.without_headers {
        // No regex, but Istio's word for any value.
        if *text != StringMatch::Regex("*".to_owned()) {
            string(check, &step(&format!("{path}.withoutHeaders"), name), text);
        }
    }
    for (name, text) in &item.query_params {
        string(check, &step(&format!("{path}.queryParams"), name), text);
    }
    source(check, path, item.port, &item.source_labels, &item.gateways);
    if let Some(namespace) = &item.source_namespace
        && !hosts::is_label(namespace)
    {
        let message = format!("`{namespace}` is not a namespace's name");
        check.refuse(format!("{path}.sourceNamespace"), message, "Use letters, digits and `-`, at most 63.");
    }
    if item.ignore_uri_case && !matches!(item.uri, Some(StringMatch::Exact(_) | StringMatch::Prefix(_))) {
        let message = "ignoreUriCase acts on an exact or prefix uri only";
        check.idle(format!("{path}.ignoreUriCase"), message, "Begin the regex with (?i) instead.");
    }
}

fn header_names(check: &mut Check<'_>, path: &str, service: &VirtualService, headers: &BTreeMap<String, StringMatch>) {
    for name in headers.keys() {
        let at = step(path, name);
        if let Err(fault) = headers::matched_name(name) {
            check.refuse(&at, fault, "Header names have letters, digits and `-`.");
        }
        if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
            let message = format!("a header match named `{name}` is ignored");
            check.idle(&at, message, "Write it beside `headers`, not inside.");
        }
        claim(check, at, service, name);
    }
}

fn string(check: &mut Check<'_>, path: &str, text: &StringMatch) {
    match text {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            check.refuse(format!("{path}.prefix"), "the prefix is empty", "Write `{}` to ask for presence only.");
        }
        StringMatch::Regex(regex) => self::regex(check, path, regex),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
    }
}

fn regex(check: &mut Check<'_>, path: &str, regex: &str) {
    let path = format!("{path}.regex");
    match regex {
        "" => check.refuse(path, "the regex is empty", "Write `.*` for any text."),
        regex => check.regex(path, regex),
    }
}
