//! One try of a request on one connection, and why it may fail.

use std::rc::Rc;

use http::{HeaderValue, Request, Response, StatusCode};

use super::{
    client::Client,
    cluster::Cluster,
    download::Download,
    forward::unavailable,
    h1::Failure,
    reply::{Flag, Refusal},
    retry::Try,
    upload::Upload,
    upstream::{ConnectError, Connection, Endpoint, Protocol},
};

/// Why a try brought no response.
pub(super) enum Failed {
    Connect(ConnectError),
    /// Of HTTP/1.1.
    One(Failure),
    Many(hyper::Error),
    TimedOut,
    /// The request is no more.
    Gone,
    /// The rewritten path or authority is none.
    BadTarget,
}

impl Failed {
    pub fn ended(&self) -> Try {
        match self {
            Failed::Connect(_) => Try::Unconnected,
            Failed::Many(error) if is_refused(error) => Try::Refused,
            Failed::One(_) | Failed::Many(_) | Failed::Gone | Failed::BadTarget => Try::Reset,
            Failed::TimedOut => Try::TimedOut,
        }
    }

    /// What the client is told. `is_last`: of several tries.
    pub fn refusal(&self, cluster: &Cluster, is_last: bool) -> Refusal {
        let or_retries = |flag| if is_last { Flag::UpstreamRetryLimitExceeded } else { flag };
        match self {
            Failed::Connect(ConnectError::Overflow) => {
                unavailable(Flag::UpstreamOverflow, "the destination's connection pool is full")
            }
            Failed::Connect(error) => {
                tracing::debug!(cluster = %cluster.policy().name, %error, "no connection to an endpoint");
                let text = match error {
                    ConnectError::TimedOut => "no connection to the endpoint within the connect timeout",
                    ConnectError::Tls(_) => "no TLS with the endpoint",
                    _ => "no connection to the endpoint",
                };
                unavailable(or_retries(Flag::UpstreamConnectionFailure), text)
            }
            Failed::One(failure) => {
                if let Failure::Lost(error) = failure
                    && error.is_parse()
                {
                    let text = "the endpoint answered with something that is not HTTP/1.1";
                    return Refusal { status: StatusCode::BAD_GATEWAY, flag: Flag::UpstreamProtocolError, text };
                }
                let text = "the endpoint closed the connection before it answered";
                unavailable(or_retries(Flag::UpstreamConnectionTermination), text)
            }
            Failed::Many(_) => unavailable(or_retries(Flag::UpstreamRemoteReset), "the endpoint reset the request"),
            Failed::Gone => unavailable(Flag::UpstreamConnectionTermination, "the request could not be sent again"),
            Failed::TimedOut => Refusal {
                status: StatusCode::GATEWAY_TIMEOUT,
                flag: or_retries(Flag::UpstreamRequestTimeout),
                text: "upstream request timeout",
            },
            Failed::BadTarget => Refusal {
                status: StatusCode::BAD_REQUEST,
                flag: Flag::DownstreamProtocolError,
                text: "the rewritten path or authority is none",
            },
        }
    }
}

/// RFC 9113 section 8.7: nothing has been done for the request.
fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let reason = source.and_then(|source| source.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
    reason == Some(h2::Reason::REFUSED_STREAM)
}

/// Whether what is made of the request is all that is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    /// Another one may be asked for.
    Kept,
    Last,
}

/// How often a connection from the pool may turn out to be dead before one try has failed.
const STALE: usize = 3;

/// Makes the try. `make` is asked for the request once there is a connection. A connection from the pool that turns out to be
/// closed is no failure, as long as nothing was written, or the request can safely be made twice (RFC 9110 section 9.2.2;
/// `is_repeatable`): the next is taken.
pub(super) async fn run(
    client: &Rc<Client>,
    cluster: &Rc<Cluster>,
    endpoint: &Rc<Endpoint>,
    protocol: Protocol,
    authority: &HeaderValue,
    is_repeatable: bool,
    mut make: impl FnMut(Copies) -> Result<Request<Upload>, Failed>,
) -> Result<Response<Download>, Failed> {
    let mut unsent: Option<Request<Upload>> = None;
    let mut stale = 0;
    loop {
        let connection = endpoint.connection(client, cluster, Some(authority), protocol);
        match connection.await.map_err(Failed::Connect)? {
            Connection::One(mut lease) => {
                let is_old = lease.h1.requests > 0 && stale < STALE;
                let copies = if is_old && is_repeatable { Copies::Kept } else { Copies::Last };
                let request = unsent.take().map_or_else(|| make(copies), Ok)?;
                match lease.h1.send(request).await {
                    Ok(response) => return Ok(response.map(|body| Download::http1(body, lease))),
                    Err(Failure::Unsent(back)) if is_old => unsent = Some(*back),
                    Err(Failure::Lost(error)) if copies == Copies::Kept && !error.is_parse() => {}
                    Err(Failure::Closed) if copies == Copies::Kept => {}
                    Err(failure) => return Err(Failed::One(failure)),
                }
                stale += 1;
            }
            Connection::Many(mut stream) => {
                let request = unsent.take().map_or_else(|| make(Copies::Last), Ok)?;
                match stream.sender.try_send_request(request).await {
                    Ok(response) => return Ok(response.map(|body| Download::http2(body, stream))),
                    Err(mut error) => match error.take_message() {
                        Some(back) if stale < STALE => unsent = Some(back),
                        _ => return Err(Failed::Many(error.into_error())),
                    },
                }
                stale += 1;
            }
        }
    }
}
