//! Headers that belong to one hop, and those by which a proxy says what it knows of the client.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use hyper::body::Bytes;

use super::client::Client;
use crate::router::Draw;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes what concerns one connection only (RFC 9110 section 7.6.1), both the known fields and those that `Connection`
/// names. `TE: trailers` stays.
pub(super) fn clean(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // Framing and the host are nobody's to take away.
            .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
            .collect();
        for name in named {
            if name != header::TE {
                headers.remove(name);
            }
        }
        headers.remove(header::CONNECTION);
    }
    for name in [&KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS] {
        headers.remove(name);
    }
    for name in [header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    if let Some(te) = headers.get(header::TE) {
        let wants = te.as_bytes().split(|byte| *byte == b',').any(|one| {
            let coding = one.split(|byte| *byte == b';').next().unwrap_or_default();
            coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
        });
        match wants {
            true => drop(headers.insert(header::TE, HeaderValue::from_static("trailers"))),
            false => drop(headers.remove(header::TE)),
        }
    }
}

/// Says who the client is. Whatever untrusted clients say of scheme and certificates is replaced.
pub(super) fn stamp(headers: &mut HeaderMap, client: &Client, draw: impl FnMut() -> Draw) {
    let peer = match headers.get(&X_FORWARDED_FOR) {
        None => client.peer_text.clone(),
        Some(_) => joined(headers, &client.peer_text),
    };
    headers.insert(&X_FORWARDED_FOR, peer);
    let is_trusted = client.shared.options.trusted_hops > 0;
    if !is_trusted || !headers.contains_key(&X_FORWARDED_PROTO) {
        let scheme = if client.is_secure { "https" } else { "http" };
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !headers.contains_key(&X_REQUEST_ID) {
        headers.insert(&X_REQUEST_ID, request_id(draw));
    }
}

/// How the client came to the first proxy that is trusted.
pub(super) fn scheme(client: &Client, headers: &HeaderMap) -> &'static str {
    let told = headers.get(&X_FORWARDED_PROTO).filter(|_| client.shared.options.trusted_hops > 0);
    match told.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if client.is_secure => "https",
        _ => "http",
    }
}

fn joined(headers: &HeaderMap, peer: &HeaderValue) -> HeaderValue {
    let mut all = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&all).unwrap_or_else(|_| peer.clone())
}

/// A random UUID (RFC 9562 section 5.4).
fn request_id(mut draw: impl FnMut() -> Draw) -> HeaderValue {
    let (high, low) = (draw().0, draw().0);
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    let mut text = String::with_capacity(36);
    let write = write!(
        text,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    );
    debug_assert!(write.is_ok());
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("-"))
}

/// As the log and `%PROTOCOL%` name a version.
pub(super) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
