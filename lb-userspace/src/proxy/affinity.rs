//! Consistent hashing's key of a request, and the cookie that is made where there is none.

use std::fmt::Write;

use http::{HeaderMap, HeaderValue, header};

use super::{balance, client::Client};
use crate::{
    router::{self, Draw},
    snapshot::{Balancer, HashOn},
};

#[derive(Debug, Default)]
pub(super) struct Affinity {
    pub hash: Option<u64>,
    /// `Set-Cookie` for the response.
    pub cookie: Option<HeaderValue>,
}

impl Affinity {
    pub fn of(
        balancer: &Balancer,
        client: &Client,
        headers: &HeaderMap,
        path_and_query: &str,
        draw: impl FnOnce() -> Draw,
    ) -> Affinity {
        let Balancer::ConsistentHash { on, .. } = balancer else {
            return Affinity::default();
        };
        let by = |key: &[u8]| Affinity { hash: Some(balance::hash(key)), cookie: None };
        match on {
            HashOn::Header(name) => headers.get(&**name).map(|value| by(value.as_bytes())).unwrap_or_default(),
            HashOn::SourceIp => by(client.peer_text.as_bytes()),
            HashOn::QueryParameter(name) => {
                let query = path_and_query.split_once('?').map(|(_, query)| query).unwrap_or_default();
                router::parameter(query, name).map(|value| by(value.as_bytes())).unwrap_or_default()
            }
            HashOn::Nothing => Affinity::default(),
            HashOn::Cookie { name, path, ttl, attributes } => match (cookie(headers, name), ttl) {
                (Some(value), _) => by(value.as_bytes()),
                (None, None) => Affinity::default(),
                (None, Some(ttl)) => {
                    let value = format!("{:016x}", draw().0);
                    let mut text = format!("{name}={value}");
                    if !ttl.is_zero() {
                        let _ = write!(text, "; Max-Age={}", ttl.as_secs());
                    }
                    if !path.is_empty() {
                        let _ = write!(text, "; Path={path}");
                    }
                    for (name, value) in attributes {
                        let _ = match value.is_empty() {
                            true => write!(text, "; {name}"),
                            false => write!(text, "; {name}={value}"),
                        };
                    }
                    text.push_str("; HttpOnly");
                    Affinity { cookie: HeaderValue::from_str(&text).ok(), ..by(value.as_bytes()) }
                }
            },
        }
    }
}

/// The first cookie of a name (RFC 6265 section 4.2.1).
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let pairs = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|all| all.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_several_fields() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; bb=2"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=\"3\";c="));
        let found = ["a", "b", "bb", "c", "d"].map(|name| cookie(&headers, name));
        assert_eq!(found, [Some("1"), Some("3"), Some("2"), Some(""), None]);
    }
}
