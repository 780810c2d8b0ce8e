//! Responses that the proxy makes itself: a status, a reason in plain text, and Envoy's response flag for the log.

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Bytes;

use super::download::Download;
use crate::snapshot::Abort;

/// Why a request did not go its usual way (`%RESPONSE_FLAGS%`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    #[default]
    None,
    /// No route fits, or no virtual host.
    NoRoute,
    /// The route's cluster does not exist.
    NoCluster,
    /// The cluster has no endpoint that may be used.
    NoHealthyUpstream,
    /// No connection came about.
    UpstreamConnectionFailure,
    /// The connection ended before the response did.
    UpstreamConnectionTermination,
    /// A stream was reset by the endpoint.
    UpstreamRemoteReset,
    /// A limit of the connection pool.
    UpstreamOverflow,
    /// The route's timeout, or a try's.
    UpstreamRequestTimeout,
    /// What came from the endpoint is not HTTP.
    UpstreamProtocolError,
    /// The last of several tries failed.
    UpstreamRetryLimitExceeded,
    /// The client went away.
    DownstreamConnectionTermination,
    DownstreamProtocolError,
    FaultInjected,
    DelayInjected,
}

impl Flag {
    /// Envoy's letters; `-` for none.
    pub fn letters(self) -> &'static str {
        match self {
            Flag::None => "-",
            Flag::NoRoute => "NR",
            Flag::NoCluster => "NC",
            Flag::NoHealthyUpstream => "UH",
            Flag::UpstreamConnectionFailure => "UF",
            Flag::UpstreamConnectionTermination => "UC",
            Flag::UpstreamRemoteReset => "UR",
            Flag::UpstreamOverflow => "UO",
            Flag::UpstreamRequestTimeout => "UT",
            Flag::UpstreamProtocolError => "UPE",
            Flag::UpstreamRetryLimitExceeded => "URX",
            Flag::DownstreamConnectionTermination => "DC",
            Flag::DownstreamProtocolError => "DPE",
            Flag::FaultInjected => "FI",
            Flag::DelayInjected => "DI",
        }
    }
}

/// A request that is answered here with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub flag: Flag,
    pub text: &'static str,
}

/// A response with a text for people.
pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Download> {
    let mut response = Response::new(Download::full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The same for gRPC clients, as Envoy says it: status 200, and gRPC's own in the head.
pub(super) fn grpc(status: StatusCode, text: &'static str) -> Response<Download> {
    let code = match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    };
    let mut response = empty(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    headers.insert("grpc-message", HeaderValue::from_static(text));
    response
}

/// `fault.abort`.
pub(super) fn abort(abort: Abort, is_grpc: bool) -> Response<Download> {
    const TEXT: &str = "fault filter abort";
    match abort {
        Abort::Http(status) => text(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), TEXT),
        Abort::Grpc(code) if is_grpc => {
            let mut response = grpc(StatusCode::OK, TEXT);
            response.headers_mut().insert("grpc-status", HeaderValue::from(u16::from(code)));
            response
        }
        Abort::Grpc(code) => {
            let status = match code {
                0 => 200,
                1 => 499,
                3 | 9 | 11 => 400,
                4 => 504,
                5 => 404,
                6 | 10 => 409,
                7 => 403,
                8 => 429,
                12 => 501,
                14 => 503,
                16 => 401,
                _ => 500,
            };
            text(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), TEXT)
        }
    }
}

pub(super) fn empty(status: StatusCode) -> Response<Download> {
    let mut response = Response::new(Download::empty());
    *response.status_mut() = status;
    response
}

pub(super) fn redirect(status: StatusCode, location: &str) -> Response<Download> {
    let mut response = empty(status);
    match HeaderValue::from_str(location) {
        Ok(location) => {
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the redirect leads to something that is no URL"),
    }
}
