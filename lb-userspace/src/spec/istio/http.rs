//! The http routes of a VirtualService.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Destination, Labels};
use crate::spec::value::{Bytes, Duration, Percent, StringMatch, filled, nulls_as_empty};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    #[serde(deserialize_with = "filled")]
    pub name: Option<String>,
    /// A null item, like one with nothing set, matches everything.
    #[serde(deserialize_with = "nulls_as_empty")]
    pub r#match: Vec<HttpMatch>,
    pub route: Vec<HttpRouteDestination>,
    pub redirect: Option<Redirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<Rewrite>,
    pub timeout: Option<Duration>,
    pub retries: Option<Retries>,
    pub fault: Option<Fault>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<Mirror>,
    /// Deprecated, and the field `mirror_percent` of the oldest files too.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
}

/// All that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    #[serde(deserialize_with = "filled")]
    pub name: Option<String>,
    /// Of the path without its query.
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    pub port: Option<u32>,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub query_params: BTreeMap<String, StringMatch>,
    pub ignore_uri_case: bool,
    pub without_headers: BTreeMap<String, StringMatch>,
    #[serde(deserialize_with = "filled")]
    pub source_namespace: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub stat_prefix: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HttpRouteDestination {
    pub destination: Option<Destination>,
    pub weight: Option<i32>,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HeaderOperations {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Redirect {
    #[serde(deserialize_with = "filled")]
    pub uri: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub prefix_rewrite: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub authority: Option<String>,
    pub port: Option<u32>,
    pub derive_port: Option<DerivePort>,
    #[serde(deserialize_with = "filled")]
    pub scheme: Option<String>,
    /// 301 when left out or 0.
    pub redirect_code: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DirectResponse {
    pub status: u32,
    pub body: Option<Body>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OneBody")]
pub enum Body {
    Empty,
    Text(String),
    Bytes(Bytes),
}

#[derive(Deserialize)]
struct OneBody {
    string: Option<String>,
    bytes: Option<Bytes>,
}

impl TryFrom<OneBody> for Body {
    type Error = &'static str;

    fn try_from(body: OneBody) -> Result<Body, &'static str> {
        match (body.string, body.bytes) {
            (None, None) => Ok(Body::Empty),
            (Some(text), None) => Ok(Body::Text(text)),
            (None, Some(bytes)) => Ok(Body::Bytes(bytes)),
            (Some(_), Some(_)) => Err("only one of string and bytes may stand here"),
        }
    }
}

impl Body {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Body::Empty => &[],
            Body::Text(text) => text.as_bytes(),
            Body::Bytes(bytes) => &bytes.0,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Delegate {
    pub name: String,
    /// The root's own when left out.
    #[serde(deserialize_with = "filled")]
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rewrite {
    #[serde(deserialize_with = "filled")]
    pub uri: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub authority: Option<String>,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RegexRewrite {
    pub r#match: String,
    pub rewrite: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retries {
    pub attempts: i32,
    pub per_try_timeout: Option<Duration>,
    #[serde(deserialize_with = "filled")]
    pub retry_on: Option<String>,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    pub backoff: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delay {
    /// Deprecated; counts where `percentage` is left out.
    pub percent: Option<i32>,
    pub percentage: Option<Percent>,
    pub fixed_delay: Option<Duration>,
    pub exponential_delay: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Abort {
    pub percentage: Option<Percent>,
    pub http_status: Option<i32>,
    pub grpc_status: Option<String>,
    #[serde(rename = "http2Error")]
    pub http2_error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Mirror {
    pub destination: Option<Destination>,
    /// 100 when left out.
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Deprecated: exact origins.
    pub allow_origin: Vec<String>,
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: Option<UnmatchedPreflights>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    Unspecified,
    Forward,
    Ignore,
}
