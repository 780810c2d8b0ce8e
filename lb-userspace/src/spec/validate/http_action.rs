//! What an http route does with requests and answers.

use std::collections::BTreeMap;

use super::{
    check::{Check, step},
    headers::{self, Place},
};
use crate::{
    finding::code,
    spec::{
        istio::{
            Abort, CorsPolicy, Delay, DirectResponse, Fault, HeaderOperations, Headers, HttpMatch, HttpRoute, Redirect,
            Retries, Rewrite,
        },
        value::{Duration, GRPC_STATUS, Percent, StringMatch},
    },
};

const KIB: usize = 1024;

pub fn headers(check: &mut Check<'_>, path: &str, headers: &Headers) {
    if let Some(request) = &headers.request {
        operations(check, &format!("{path}.request"), request, Place::Request);
    }
    if let Some(response) = &headers.response {
        operations(check, &format!("{path}.response"), response, Place::Other);
    }
}

fn operations(check: &mut Check<'_>, path: &str, operations: &HeaderOperations, place: Place) {
    let remedy = "Use `rewrite.authority` for the host, and plain header names otherwise.";
    for (field, pairs) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in pairs {
            let at = step(&format!("{path}.{field}"), name);
            if let Err(fault) = headers::operated_name(name, place) {
                check.refuse(&at, fault, remedy);
            }
            if let Err(fault) = headers::value(value) {
                check.refuse(at, fault, "A `%` stands twice, or around one of Envoy's commands.");
            }
        }
    }
    for (at, name) in operations.remove.iter().enumerate() {
        if let Err(fault) = headers::operated_name(name, Place::Other) {
            check.refuse(format!("{path}.remove[{at}]"), fault, remedy);
        }
    }
}

/// The authority may be rewritten in one place of a route only.
pub fn one_authority(check: &mut Check<'_>, path: &str, route: &HttpRoute) {
    let mut taken = route.rewrite.as_ref().and_then(|rewrite| rewrite.authority.as_deref()).is_some();
    let Some(request) = route.headers.as_ref().and_then(|headers| headers.request.as_ref()) else {
        return;
    };
    let authority = |pairs: &BTreeMap<String, String>| -> Vec<(String, String)> {
        let pairs = pairs.iter().filter(|(name, _)| headers::is_authority(name));
        pairs.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let set = authority(&request.set).into_iter().map(|pair| ("set", pair));
    let add = authority(&request.add).into_iter().map(|pair| ("add", pair));
    for (field, (name, value)) in set.chain(add) {
        if taken {
            let at = step(&format!("{path}.headers.request.{field}"), &name);
            check.refuse(at, "the authority is rewritten twice", "Keep one; `rewrite.authority` is the plainest.");
        }
        taken |= !value.is_empty();
    }
}

pub fn redirect(check: &mut Check<'_>, path: &str, redirect: &Redirect, matches: &[HttpMatch]) {
    let Redirect { uri, prefix_rewrite, authority, port, derive_port, scheme, redirect_code } = redirect;
    if port.is_some() && derive_port.is_some() {
        check.refuse(format!("{path}.derivePort"), "port and derivePort exclude each other", "Keep one of the two.");
    }
    if uri.is_some() && prefix_rewrite.is_some() {
        check.refuse(
            format!("{path}.prefixRewrite"),
            "uri and prefixRewrite exclude each other",
            "Keep one of the two.",
        );
    }
    let no_prefix = |item: &&HttpMatch| item.uri.as_ref().is_some_and(|uri| !matches!(uri, StringMatch::Prefix(_)));
    if prefix_rewrite.is_some() && matches.iter().any(|item| no_prefix(&item)) {
        let message = "prefixRewrite needs a match whose uri is a prefix";
        check.refuse(format!("{path}.prefixRewrite"), message, "Match a prefix, or use `uri`.");
    }
    let empty = uri.is_none() && prefix_rewrite.is_none() && authority.is_none() && scheme.is_none();
    if empty && port.is_none() && derive_port.is_none() {
        check.refuse(path, "the redirect changes nothing", "Add uri, prefixRewrite, authority, port or scheme.");
    }
    match redirect_code {
        None | Some(0 | 301 | 302 | 303 | 307 | 308) => {}
        Some(code @ 300..=399) => {
            let message = format!("Istio takes {code} and makes no working route of it");
            check.idle(format!("{path}.redirectCode"), message, "Use 301, 302, 303, 307 or 308.");
        }
        Some(code) => {
            let message = format!("{code} is not the status of a redirect");
            check.refuse(format!("{path}.redirectCode"), message, "Use 301, 302, 303, 307 or 308.");
        }
    }
    if let Some(scheme) = scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        check.refuse(format!("{path}.scheme"), format!("`{scheme}` is no scheme here"), "Write http or https.");
    }
    if let Some(port) = port.filter(|port| *port != 0) {
        check.port(format!("{path}.port"), port);
    }
}

pub fn direct_response(check: &mut Check<'_>, path: &str, response: &DirectResponse) {
    status(check, format!("{path}.status"), i64::from(response.status));
    let size = response.body.as_ref().map_or(0, |body| body.as_bytes().len());
    if size > KIB * KIB {
        check.refuse(format!("{path}.body"), "the body is larger than 1 MiB", "Serve it from a backend.");
    } else if size > 100 * KIB {
        check.warn(format!("{path}.body"), "the body is larger than 100 KiB", "Serve it from a backend.");
    }
}

fn status(check: &mut Check<'_>, path: String, status: i64) {
    if !(200..=600).contains(&status) {
        check.refuse(path, format!("{status} is not a status that can be sent"), "Write one from 200 to 599.");
    }
}

pub fn rewrite(check: &mut Check<'_>, path: &str, rewrite: &Rewrite) {
    let Rewrite { uri, authority, uri_regex_rewrite } = rewrite;
    if uri.is_some() && uri_regex_rewrite.is_some() {
        let message = "uri and uriRegexRewrite exclude each other";
        check.refuse(format!("{path}.uriRegexRewrite"), message, "Keep one of the two.");
    }
    if uri.is_none() && uri_regex_rewrite.is_none() && authority.is_none() {
        check.refuse(path, "the rewrite changes nothing", "Add uri, uriRegexRewrite or authority.");
    }
    let Some(regex) = uri_regex_rewrite else {
        return;
    };
    let path = format!("{path}.uriRegexRewrite");
    if regex.r#match.is_empty() || regex.rewrite.is_empty() {
        return check.refuse(path, "match and rewrite are both needed", "Add the one that is missing.");
    }
    check.regex(format!("{path}.match"), &regex.r#match);
}

/// Envoy's conditions for HTTP and gRPC, as far as Istio lets them through.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Statuses that have a name in Go's `net/http`.
fn is_named_status(text: &str) -> bool {
    let known = |status: u16| {
        matches!(status, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451)
            || matches!(status, 500..=508 | 510 | 511)
    };
    text.parse().is_ok_and(known)
}

pub fn retries(check: &mut Check<'_>, path: &str, retries: &Retries) {
    check.not_negative(format!("{path}.attempts"), retries.attempts);
    let fields = [
        ("perTryTimeout", retries.per_try_timeout.is_some()),
        ("retryOn", retries.retry_on.is_some()),
        ("retryRemoteLocalities", retries.retry_remote_localities.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, there)| *there && retries.attempts == 0) {
        let message = format!("{field} stands beside attempts 0, which turns retries off");
        check.refuse(format!("{path}.{field}"), message, "Set `attempts`, or remove it.");
    }
    check.duration(format!("{path}.perTryTimeout"), retries.per_try_timeout);
    check.duration(format!("{path}.backoff"), retries.backoff);
    for word in retries.retry_on.iter().flat_map(|words| words.split(',')) {
        if !(RETRY_ON.contains(&word) || is_named_status(word)) {
            let message = format!("`{word}` is no condition to retry on");
            let remedy =
                "Use words like 5xx, connect-failure, refused-stream or statuses like 503, with commas and no spaces.";
            check.refuse(format!("{path}.retryOn"), message, remedy);
        }
    }
}

pub fn fault(check: &mut Check<'_>, path: &str, fault: &Fault) {
    if fault.abort.is_none() && fault.delay.is_none() {
        check.refuse(path, "the fault has neither delay nor abort", "Add one, or remove it.");
    }
    if let Some(abort) = &fault.abort {
        self::abort(check, &format!("{path}.abort"), abort);
    }
    if let Some(delay) = &fault.delay {
        self::delay(check, &format!("{path}.delay"), delay);
    }
}

fn abort(check: &mut Check<'_>, path: &str, abort: &Abort) {
    check.fraction(format!("{path}.percentage.value"), abort.percentage);
    let Abort { http_status, grpc_status, http2_error, .. } = abort;
    match (http_status, grpc_status, http2_error) {
        (None, None, None) => {
            check.warn(path, "the abort says not with what", "Add `httpStatus` or `grpcStatus`.");
        }
        (Some(http), None, None) => status(check, format!("{path}.httpStatus"), i64::from(*http)),
        (None, Some(grpc), None) if GRPC_STATUS.contains(&grpc.as_str()) => {}
        (None, Some(grpc), None) => {
            let message = format!("`{grpc}` is no gRPC status");
            check.refuse(format!("{path}.grpcStatus"), message, "Write a name like NOT_FOUND or UNAVAILABLE.");
        }
        (None, None, Some(_)) => {
            let message = "http2Error is not supported, in Istio either";
            check.refuse(format!("{path}.http2Error"), message, "Use `httpStatus`.");
        }
        _ => check.refuse(path, "httpStatus, grpcStatus and http2Error exclude each other", "Keep one."),
    }
    no_share(check, path, abort.percentage, None);
}

fn delay(check: &mut Check<'_>, path: &str, delay: &Delay) {
    check.fraction(format!("{path}.percentage.value"), delay.percentage);
    if delay.exponential_delay.is_some() {
        let message = "exponentialDelay is not supported, in Istio either";
        check.refuse(format!("{path}.exponentialDelay"), message, "Use `fixedDelay`.");
    } else if delay.fixed_delay.is_none() {
        check.idle(path, "the delay says not how long", "Add `fixedDelay`.");
    }
    check.duration(format!("{path}.fixedDelay"), delay.fixed_delay);
    if delay.percent.is_some() {
        let at = format!("{path}.percent");
        check.warn_as(code::DEPRECATED, at, "percent is deprecated", "Use `percentage: {value: ...}`.");
    }
    no_share(check, path, delay.percentage, delay.percent);
}

/// Without a percentage no request is meant.
fn no_share(check: &mut Check<'_>, path: &str, percentage: Option<Percent>, percent: Option<i32>) {
    if percentage.is_none() && percent.unwrap_or(0) == 0 {
        let message = "without `percentage` this happens to no request";
        check.idle(path, message, "Add `percentage: {value: 100}`.");
    }
}

pub fn cors(check: &mut Check<'_>, path: &str, policy: &CorsPolicy) {
    for (at, origin) in policy.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{at}]");
        match origin {
            StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Regex(text) if text.is_empty() => {
                check.refuse(path, "the origin is empty", "Write an origin like https://example.com.");
            }
            StringMatch::Present => {
                check.refuse(path, "the origin says neither exact, prefix nor regex", "Add one of the three.");
            }
            StringMatch::Regex(regex) => check.regex(format!("{path}.regex"), regex),
            StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
        }
    }
    if !policy.allow_origin.is_empty() {
        let at = format!("{path}.allowOrigin");
        check.warn_as(code::DEPRECATED, at, "allowOrigin is deprecated", "Use `allowOrigins: [{exact: ...}]`.");
    }
    const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
    for (at, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let message = format!("`{method}` is no HTTP method");
            check.refuse(format!("{path}.allowMethods[{at}]"), message, "Methods are in upper case, or `*`.");
        }
    }
    for (field, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (at, name) in names.iter().enumerate() {
            if let Err(fault) = headers::cors_name(name) {
                check.refuse(format!("{path}.{field}[{at}]"), fault, "Write one header's name, or `*`.");
            }
        }
    }
    check.duration(format!("{path}.maxAge"), policy.max_age);
    if policy.max_age.is_some_and(|age| age >= Duration::MILLISECOND && !age.is_whole(Duration::SECOND)) {
        check.refuse(format!("{path}.maxAge"), "browsers count whole seconds", "Round it to seconds.");
    }
}
