//! What no proxy may pass on, although hyper takes it: smuggling forms, missing or double hosts, odd targets. Pure.

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};

use super::{
    Limits,
    reply::{Flag, Refusal},
};

/// Whom a request is for, checked.
#[derive(Debug)]
pub(super) struct Admitted {
    /// As sent, with its port; ASCII.
    pub authority: HeaderValue,
}

/// Judges the head of a request before anything looks at it.
pub(super) fn admit(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<Admitted, Refusal> {
    let bad = |text| Err(Refusal { status: StatusCode::BAD_REQUEST, flag: Flag::DownstreamProtocolError, text });
    if version < Version::HTTP_11 {
        let text = "HTTP/1.0 is not spoken here";
        return Err(Refusal { status: StatusCode::UPGRADE_REQUIRED, flag: Flag::DownstreamProtocolError, text });
    }
    if method == Method::CONNECT {
        return Err(Refusal { status: StatusCode::NOT_FOUND, flag: Flag::NoRoute, text: "CONNECT is not served here" });
    }
    if uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.target_size) {
        let text = "the request's target is too long";
        return Err(Refusal { status: StatusCode::URI_TOO_LONG, flag: Flag::DownstreamProtocolError, text });
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_chunked = codings.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if headers.contains_key(header::CONTENT_LENGTH) {
            return bad("both Content-Length and Transfer-Encoding");
        }
        if !is_chunked || codings.next().is_some() {
            let text = "a transfer coding other than chunked";
            return Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, flag: Flag::DownstreamProtocolError, text });
        }
    }
    // RFC 9112 section 3.2: one Host, and what an absolute target says comes first. RFC 9113 section 8.3.1: `:authority`.
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return bad("more than one Host");
    }
    let authority = match (uri.authority(), host) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, Some(host)) => Some(host.clone()),
        (None, None) => return bad("no Host"),
    };
    if host.is_none() && version == Version::HTTP_11 {
        return bad("no Host");
    }
    match authority.filter(|authority| is_authority(authority.as_bytes())) {
        Some(authority) => Ok(Admitted { authority }),
        None => bad("a Host that is none"),
    }
}

/// `host[:port]` (RFC 3986 section 3.2.2), without user information.
fn is_authority(text: &[u8]) -> bool {
    let (host, rest) = match text.strip_prefix(b"[") {
        Some(inside) => match inside.iter().position(|byte| *byte == b']') {
            Some(end) => (&inside[..end], &inside[end + 1..]),
            None => return false,
        },
        None => text.split_at(text.iter().position(|byte| *byte == b':').unwrap_or(text.len())),
    };
    let is_host = if text.starts_with(b"[") {
        host.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
    } else {
        host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte))
    };
    let is_port = match rest {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && is_host && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(uri: &str, version: Version, headers: &[(&'static str, &str)]) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let judged = admit(&Method::GET, &uri.parse().unwrap(), version, &map, &Limits::default());
        judged
            .map(|admitted| admitted.authority.to_str().unwrap().to_owned())
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn hosts() {
        for (uri, hosts, expected) in [
            ("/", &["a.b"][..], Ok("a.b")),
            ("/", &["a.b:80"], Ok("a.b:80")),
            ("/", &["[fd00::1]:80"], Ok("[fd00::1]:80")),
            ("http://x.y/", &["a.b"], Ok("x.y")),
            ("http://x.y/", &[], Err(400)),
            ("/", &[], Err(400)),
            ("/", &["a", "a"], Err(400)),
            ("/", &[""], Err(400)),
            ("/", &["a/b"], Err(400)),
            ("/", &["u@b"], Err(400)),
            ("/", &["a b"], Err(400)),
            ("/", &["a:x"], Err(400)),
            ("/", &["a:"], Ok("a:")),
            ("/", &["[fd00::1"], Err(400)),
            ("/", &["[::1]x"], Err(400)),
        ] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert_eq!(judge(uri, Version::HTTP_11, &headers), expected.map(str::to_owned), "{uri} {hosts:?}");
        }
        assert_eq!(judge("http://a/", Version::HTTP_2, &[]), Ok("a".into()));
        assert_eq!(judge("http://a/", Version::HTTP_2, &[("host", "b")]), Ok("a".into()));
    }

    #[test]
    fn smuggling_forms() {
        let with = |headers: &[(&'static str, &str)]| {
            let mut all = vec![("host", "a")];
            all.extend(headers);
            judge("/", Version::HTTP_11, &all)
        };
        assert_eq!(with(&[("transfer-encoding", "chunked")]), Ok("a".into()));
        assert_eq!(with(&[("transfer-encoding", "Chunked")]), Ok("a".into()));
        assert_eq!(with(&[("transfer-encoding", "chunked"), ("content-length", "3")]), Err(400));
        for coding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", ""] {
            assert_eq!(with(&[("transfer-encoding", coding)]), Err(501), "{coding}");
        }
        assert_eq!(with(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]), Err(501));
        assert_eq!(judge("/", Version::HTTP_10, &[("host", "a")]), Err(426));
        assert_eq!(judge(&format!("/{}", "a".repeat(8_192)), Version::HTTP_11, &[("host", "a")]), Err(414));
    }
}
