//! Connections that change their protocol (WebSocket and others): only when the endpoint has said 101.

use std::rc::Rc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Version, header};

use super::{download::Under, io::Prefixed};

/// The endpoint's side, ready for the new protocol.
pub(super) struct Upgraded {
    pub stream: Prefixed,
    /// Counts it as long as it lives.
    pub under: Rc<Under>,
}

/// The protocol that an HTTP/1.1 request asks for. `None`: none, or `h2c`, which is for one hop only and is not passed on.
pub(super) fn wanted(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 {
        return None;
    }
    let mut options =
        headers.get_all(header::CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade")) {
        return None;
    }
    let protocol = headers.get(header::UPGRADE)?;
    (!protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// Asks for a protocol, or agrees to it.
pub(super) fn mark(headers: &mut HeaderMap, protocol: HeaderValue) {
    static UPGRADE: HeaderName = header::UPGRADE;
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(&UPGRADE, protocol);
}
