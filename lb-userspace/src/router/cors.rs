//! What a CORS policy says to a request (Fetch standard, section 3.2; `corsPolicy`).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::pattern::{BadPattern, Patterns, Text};
use crate::snapshot::{Cors, CorsCredentials, UnmatchedPreflight};

/// A policy with its origins compiled and its headers' values joined.
#[derive(Debug)]
pub(super) struct Policy {
    origins: Vec<Text>,
    preflight: Vec<(HeaderName, HeaderValue)>,
    response: Vec<(HeaderName, HeaderValue)>,
    unmatched: UnmatchedPreflight,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq)]
pub enum CorsDecision {
    /// The request goes on, and its response stays as it is.
    None,
    /// The request goes on, and its response gets these headers instead of the server's own.
    Allow(Vec<(HeaderName, HeaderValue)>),
    /// Answered here with status 200 and these headers.
    Answer(Vec<(HeaderName, HeaderValue)>),
}

impl Policy {
    pub fn new(cors: &Cors, patterns: &mut Patterns) -> Result<Policy, BadPattern> {
        let list = |name: HeaderName, items: &[std::sync::Arc<str>]| {
            let joined = items.join(",");
            let value = HeaderValue::from_str(&joined).ok().filter(|_| !joined.is_empty());
            value.map(|value| (name, value))
        };
        let mut response = Vec::new();
        if cors.credentials == CorsCredentials::Allowed {
            response.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        }
        let mut preflight = response.clone();
        response.extend(list(header::ACCESS_CONTROL_EXPOSE_HEADERS, &cors.expose));
        preflight.extend(list(header::ACCESS_CONTROL_ALLOW_METHODS, &cors.methods));
        preflight.extend(list(header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers));
        if let Some(age) = cors.max_age {
            preflight.push((header::ACCESS_CONTROL_MAX_AGE, age.as_secs().into()));
        }
        let origins = cors.origins.iter().map(|origin| Text::new(origin, patterns)).collect::<Result<_, _>>()?;
        Ok(Policy { origins, preflight, response, unmatched: cors.unmatched })
    }

    pub fn decide(&self, method: &str, headers: &HeaderMap) -> CorsDecision {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return CorsDecision::None;
        };
        let asks = method == "OPTIONS" && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = self.origins.iter().any(|text| text.fits(origin.as_bytes()));
        let with_origin = |rest: &[(HeaderName, HeaderValue)]| {
            let first = (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            std::iter::once(first).chain(rest.iter().cloned()).collect()
        };
        match (asks, allowed, self.unmatched) {
            (true, true, _) => CorsDecision::Answer(with_origin(&self.preflight)),
            (false, true, _) => CorsDecision::Allow(with_origin(&self.response)),
            (true, false, UnmatchedPreflight::Ignore) => CorsDecision::Answer(Vec::new()),
            (true, false, UnmatchedPreflight::Forward) | (false, false, _) => CorsDecision::None,
        }
    }
}
