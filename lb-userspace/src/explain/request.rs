//! What a client sends once it is connected, as far as the answer depends on it.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

/// What `explain` is told besides the addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    /// `Some("")`: a TLS client that sends no name.
    pub sni: Option<String>,
    pub http: Option<HttpRequest>,
}

impl Sent {
    /// Whether the client begins with TLS, and with which name.
    pub fn tls(&self) -> Option<Option<&str>> {
        match (&self.sni, &self.http) {
            (Some(name), _) => Some(Some(name.as_str()).filter(|name| !name.is_empty())),
            // A client takes the name from the URL; addresses are no names.
            (None, Some(request)) if request.scheme == "https" => {
                let host = request.authority.rsplit_once(':').map_or(request.authority.as_str(), |(host, _)| host);
                let is_name = host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
                Some(is_name.then_some(host))
            }
            (None, Some(_) | None) => None,
        }
    }
}

/// An HTTP request without its body.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRequest {
    pub method: String,
    pub scheme: String,
    pub authority: String,
    /// Path and query as sent.
    pub target: String,
    pub headers: HeaderMap,
}

/// Why a text is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRequest(pub String);

impl fmt::Display for NoRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HttpRequest {
    /// Of `METHOD URL` (or a URL, which is then got) and lines `name: value`. A `Host` line is the authority.
    pub fn parse(line: &str, fields: &[String]) -> Result<HttpRequest, NoRequest> {
        let mut words = line.split_whitespace();
        let (method, url) = match (words.next(), words.next(), words.next()) {
            (Some(method), Some(url), None) => (method, url),
            (Some(url), None, None) => ("GET", url),
            _ => return Err(NoRequest(format!("`{line}` is not `METHOD URL`, such as `GET http://example.com/path`"))),
        };
        // A fragment is never sent.
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (scheme, rest) = url
            .split_once("://")
            .filter(|(scheme, _)| ["http", "https"].contains(scheme))
            .ok_or_else(|| NoRequest(format!("`{url}` begins with neither http:// nor https://")))?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.is_empty() || authority.parse::<http::uri::Authority>().is_err() || authority.contains('@') {
            return Err(NoRequest(format!("`{authority}` is no host with an optional port")));
        }
        let target = match target {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            target => target.to_owned(),
        };
        let mut request = HttpRequest {
            method: method.to_owned(),
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            target,
            headers: HeaderMap::new(),
        };
        for field in fields {
            request.field(field)?;
        }
        Ok(request)
    }

    fn field(&mut self, field: &str) -> Result<(), NoRequest> {
        let bad = || NoRequest(format!("`{field}` is not a header such as `end-user: jason`"));
        let (name, value) = field.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| bad())?;
        if name == http::header::HOST {
            let authority = value.to_str().map_err(|_| bad())?;
            authority.parse::<Uri>().map_err(|_| bad())?;
            self.authority = authority.to_owned();
        } else {
            self.headers.append(name, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let parse = |line: &str, fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            HttpRequest::parse(line, &fields)
                .map(|request| (request.method, request.scheme, request.authority, request.target))
        };
        let expected = |parts: [&str; 4]| Ok(parts.map(str::to_owned).into());
        assert_eq!(parse("GET http://a.b/c?d", &[]), expected(["GET", "http", "a.b", "/c?d"]));
        assert_eq!(parse("http://a.b", &[]), expected(["GET", "http", "a.b", "/"]));
        assert_eq!(parse("PUT https://a.b:8443?x#y", &[]), expected(["PUT", "https", "a.b:8443", "/?x"]));
        assert_eq!(parse("GET http://a/", &["Host: c.d:80"]), expected(["GET", "http", "c.d:80", "/"]));
        for (line, fields) in [
            ("", vec![]),
            ("GET a.b/c", vec![]),
            ("GET http:///x", vec![]),
            ("A B C", vec![]),
            ("GET http://a/", vec!["no colon"]),
        ] {
            assert!(parse(line, &fields).is_err(), "{line} {fields:?}");
        }
    }

    #[test]
    fn the_server_name_is_that_of_the_url() {
        let tls = |url: &str, sni: Option<&str>| {
            let http = Some(HttpRequest::parse(url, &[]).unwrap());
            let sent = Sent { sni: sni.map(str::to_owned), http };
            sent.tls().map(|name| name.map(str::to_owned))
        };
        assert_eq!(tls("https://a.b:443/", None), Some(Some("a.b".into())));
        assert_eq!(tls("https://10.0.0.1/", None), Some(None));
        assert_eq!(tls("https://[fd00::1]:443/", None), Some(None));
        assert_eq!(tls("https://a.b/", Some("c.d")), Some(Some("c.d".into())));
        assert_eq!(tls("https://a.b/", Some("")), Some(None));
        assert_eq!(tls("http://a.b/", None), None);
    }
}
