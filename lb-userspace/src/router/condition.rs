//! Whether a route's condition fits a request, and what of it does not.

use std::{borrow::Cow, fmt, sync::Arc};

use http::{HeaderMap, HeaderName};

use super::pattern::{BadPattern, Patterns, Text};
use crate::snapshot::{Case, ClientClass, ClientMatch, Condition, HeaderCondition, StringMatch, UriMatch};

/// A request, as far as routes look at it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'r> {
    /// `http` or `https`: how it came to this proxy, or what a trusted peer says of that.
    pub scheme: &'r str,
    pub method: &'r str,
    /// As sent, with its port.
    pub authority: &'r str,
    /// In the normal form of [`super::path`].
    pub path: &'r str,
    /// Without the question mark.
    pub query: Option<&'r str>,
    pub headers: &'r HeaderMap,
    /// Of whoever connects; `None`: nobody knows them.
    pub client: Option<&'r ClientClass>,
}

/// The first part of a condition that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch<'c> {
    Uri,
    Scheme,
    Method,
    Authority,
    Header(&'c str),
    Query(&'c str),
    Client(&'c ClientMatch),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Uri => f.write_str("uri does not fit"),
            Mismatch::Scheme => f.write_str("scheme does not fit"),
            Mismatch::Method => f.write_str("method does not fit"),
            Mismatch::Authority => f.write_str("authority does not fit"),
            Mismatch::Header(name) => write!(f, "header {name} does not fit"),
            Mismatch::Query(name) => write!(f, "query parameter {name} does not fit"),
            Mismatch::Client(asked) => write!(f, "the client does not have {asked}"),
        }
    }
}

/// Why a condition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadCondition {
    Pattern(BadPattern),
    HeaderName(Arc<str>),
}

impl fmt::Display for BadCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadCondition::Pattern(bad) => bad.fmt(f),
            BadCondition::HeaderName(name) => write!(f, "`{name}` is no name of a header"),
        }
    }
}

impl From<BadPattern> for BadCondition {
    fn from(bad: BadPattern) -> BadCondition {
        BadCondition::Pattern(bad)
    }
}

/// A compiled [`Condition`].
#[derive(Debug, Default)]
pub(super) struct Matcher {
    uri: Option<Uri>,
    scheme: Option<Text>,
    method: Option<Text>,
    authority: Option<Text>,
    headers: Vec<(HeaderName, HeaderText)>,
    query: Vec<(Arc<str>, Option<Text>)>,
    client: Option<ClientMatch>,
}

#[derive(Debug)]
enum Uri {
    As(Text),
    ExactIgnoringCase(Arc<str>),
    PrefixIgnoringCase(Arc<str>),
}

#[derive(Debug)]
enum HeaderText {
    Present,
    Absent,
    Is(Text),
    IsNot(Text),
}

impl Matcher {
    pub fn new(condition: &Condition, patterns: &mut Patterns) -> Result<Matcher, BadCondition> {
        let mut text = |text: &Option<StringMatch>| text.as_ref().map(|text| Text::new(text, patterns)).transpose();
        let (scheme, method, authority) =
            (text(&condition.scheme)?, text(&condition.method)?, text(&condition.authority)?);
        let uri = condition.uri.as_ref().map(|uri| Uri::new(uri, patterns)).transpose()?;
        let mut headers = Vec::with_capacity(condition.headers.len());
        for (name, header) in &condition.headers {
            let parsed = HeaderName::from_bytes(name.as_bytes());
            let name = parsed.map_err(|_| BadCondition::HeaderName(name.clone()))?;
            headers.push((name, HeaderText::new(header, patterns)?));
        }
        let mut query = Vec::with_capacity(condition.query.len());
        for (name, value) in &condition.query {
            query.push((name.clone(), value.as_ref().map(|value| Text::new(value, patterns)).transpose()?));
        }
        let client = condition.client.clone();
        Ok(Matcher { uri, scheme, method, authority, headers, query, client })
    }

    pub fn fits(&self, request: &Request<'_>) -> Result<(), Mismatch<'_>> {
        let unless = |text: &Option<Text>, value: &str| text.as_ref().is_some_and(|text| !text.fits(value.as_bytes()));
        if self.uri.as_ref().is_some_and(|uri| !uri.fits(request.path)) {
            return Err(Mismatch::Uri);
        }
        if unless(&self.method, request.method) {
            return Err(Mismatch::Method);
        }
        if unless(&self.scheme, request.scheme) {
            return Err(Mismatch::Scheme);
        }
        if unless(&self.authority, request.authority) {
            return Err(Mismatch::Authority);
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, text)| !text.fits(value(request.headers, name))) {
            return Err(Mismatch::Header(name.as_str()));
        }
        let query = request.query.unwrap_or_default();
        for (name, text) in &self.query {
            let fits = parameter(query, name)
                .is_some_and(|value| text.as_ref().is_none_or(|text| text.fits(value.as_bytes())));
            if !fits {
                return Err(Mismatch::Query(name));
            }
        }
        if let Some(asked) = self.client.as_ref().filter(|asked| !asked.fits(request.client)) {
            return Err(Mismatch::Client(asked));
        }
        Ok(())
    }
}

impl Uri {
    fn new(uri: &UriMatch, patterns: &mut Patterns) -> Result<Uri, BadPattern> {
        Ok(match (&uri.text, uri.case) {
            (StringMatch::Exact(text), Case::Ignored) => Uri::ExactIgnoringCase(text.clone()),
            (StringMatch::Prefix(text), Case::Ignored) => Uri::PrefixIgnoringCase(text.clone()),
            (text, _) => Uri::As(Text::new(text, patterns)?),
        })
    }

    fn fits(&self, path: &str) -> bool {
        match self {
            Uri::As(text) => text.fits(path.as_bytes()),
            Uri::ExactIgnoringCase(text) => path.eq_ignore_ascii_case(text),
            Uri::PrefixIgnoringCase(text) => {
                path.get(..text.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(text))
            }
        }
    }
}

impl HeaderText {
    fn new(header: &HeaderCondition, patterns: &mut Patterns) -> Result<HeaderText, BadPattern> {
        Ok(match header {
            HeaderCondition::Present => HeaderText::Present,
            HeaderCondition::Absent => HeaderText::Absent,
            HeaderCondition::Is(text) => HeaderText::Is(Text::new(text, patterns)?),
            HeaderCondition::IsNot(text) => HeaderText::IsNot(Text::new(text, patterns)?),
        })
    }

    fn fits(&self, value: Option<Cow<'_, [u8]>>) -> bool {
        match (self, value) {
            (HeaderText::Present, value) => value.is_some(),
            (HeaderText::Absent, value) => value.is_none(),
            (HeaderText::Is(text), value) => value.is_some_and(|value| text.fits(&value)),
            (HeaderText::IsNot(text), value) => value.is_none_or(|value| !text.fits(&value)),
        }
    }
}

/// All fields of one name as one text (RFC 9110 section 5.3).
pub(super) fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let mut joined = Cow::Borrowed(first);
    for value in values {
        let joined = joined.to_mut();
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    Some(joined)
}

/// The first occurrence of a parameter; one without `=` has the empty value. Escapes are left as they are.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}
