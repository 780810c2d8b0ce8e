//! What is done to a request on its way, or instead of it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Broken, ClusterName, Place, StringMatch};

/// `HTTPRedirect`. The query is kept, whatever becomes of the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; `None`: the request's.
    pub scheme: Option<Arc<str>>,
    /// Replaces host and port; `None`: the request's.
    pub authority: Option<Arc<str>>,
    pub port: Option<RedirectPort>,
    pub path: RedirectPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedirectPort {
    Number(u16),
    /// `derivePort: FROM_REQUEST_PORT`: the listener's, not the one in `Host`.
    OfListener,
    /// `derivePort: FROM_PROTOCOL_DEFAULT`: 80 or 443, and so none is written.
    OfScheme,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedirectPath {
    Kept,
    /// `uri`: the whole path.
    Replaced(Arc<str>),
    /// `prefixRewrite`: instead of the prefix that the route matched.
    Prefix(Arc<str>),
}

/// `directResponse`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Respond {
    /// 200 to 599, as far as HTTP knows them.
    pub status: u16,
    pub body: Arc<[u8]>,
}

/// `rewrite`. The default leaves the request as it is. The query is always kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rewrite {
    pub path: PathRewrite,
    pub authority: AuthorityRewrite,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathRewrite {
    #[default]
    Kept,
    /// `uri`: textually instead of the prefix that the route matched; of the whole path where it matched otherwise.
    Uri(Arc<str>),
    /// `uriRegexRewrite`, its expression as that of a [`StringMatch`]: every match is replaced; `\1` stands for the first group.
    Regex { pattern: Arc<str>, substitution: Arc<str> },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorityRewrite {
    #[default]
    Kept,
    Set(Arc<str>),
}

/// One step of `headers.request` or `headers.response`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderOperation {
    /// Lower case; `:authority` (also for `host`) is the request's authority.
    pub name: Arc<str>,
    pub action: HeaderAction,
}

/// Texts are Envoy formats: `%COMMAND%` is a value of the request, `%%` a percent sign (see `router::format`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderAction {
    Remove,
    /// Instead of what is there.
    Set(Arc<str>),
    /// Besides what is there.
    Add(Arc<str>),
}

/// `retries`, with the mesh's default where the route says nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// `None`: the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions (`connect-failure`, `5xx`, ...), lower case.
    pub conditions: Vec<Arc<str>>,
    /// Answers that are tried again, from the numbers in `retryOn`.
    pub statuses: Vec<u16>,
    /// Before the first retry; doubled each time up to ten times of it, with jitter.
    pub backoff: Duration,
    /// Whether a retry may leave the locality of the first try.
    pub localities: RetryLocalities,
    /// Whether hosts that have failed are avoided (up to five picks).
    pub previous_hosts: PreviousHosts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryLocalities {
    #[default]
    Same,
    Any,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreviousHosts {
    #[default]
    Avoided,
    Allowed,
}

/// A share of all requests, in millionths (0.0001 %).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fraction(pub u32);

impl Fraction {
    pub const ALL: Fraction = Fraction(1_000_000);

    /// `percent` as Istio writes it, 0 to 100.
    pub fn of_percent(percent: f64) -> Fraction {
        Fraction((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }
}

/// `fault`. The delay comes first; both are drawn independently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub delay: Option<(Fraction, Duration)>,
    pub abort: Option<(Fraction, Abort)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Abort {
    /// 200 to 599.
    Http(u16),
    /// A gRPC status, 0 to 16: HTTP 200 with it for gRPC clients.
    Grpc(u8),
}

/// A copy of requests whose answers are dropped. `Host` gets `-shadow` before its port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mirror {
    pub cluster: ClusterName,
    pub broken: Option<Broken>,
    pub share: Fraction,
    pub place: Place,
}

/// `corsPolicy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cors {
    /// Empty: no origin is allowed.
    pub origins: Vec<StringMatch>,
    pub methods: Vec<Arc<str>>,
    pub headers: Vec<Arc<str>>,
    pub expose: Vec<Arc<str>>,
    /// Whole seconds.
    pub max_age: Option<Duration>,
    pub credentials: CorsCredentials,
    pub unmatched: UnmatchedPreflight,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CorsCredentials {
    #[default]
    Unsaid,
    Allowed,
}

/// What becomes of a preflight request of an origin that is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnmatchedPreflight {
    #[default]
    Forward,
    /// Answered here, without CORS headers.
    Ignore,
}
