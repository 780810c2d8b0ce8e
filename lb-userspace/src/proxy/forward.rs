//! A request to endpoints: the destination is drawn, tries are made within time, and the response is made ready for the client.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header, request::Parts, uri::PathAndQuery,
};

use super::{
    affinity::Affinity,
    attempt::{self, Copies, Failed},
    client::Client,
    cluster::{Cluster, Counted},
    download::{Download, Under},
    forwarded, mirror,
    outlier::Ending,
    record::Record,
    reply::{Flag, Refusal},
    request::Facts,
    retry::{self, Try},
    upload::{Source, Upload},
    upstream::{Endpoint, Protocol},
    worker::Revision,
};
use crate::{
    router::{Drawn, Rule},
    snapshot::{Outcome, PreviousHosts, Retry},
};

static X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
static X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
static X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// What is to be forwarded, and how.
pub(super) struct Order<'o> {
    pub client: &'o Rc<Client>,
    pub revision: &'o Rc<Revision>,
    pub rule: Rule<'o>,
    /// As it is sent.
    pub target: PathAndQuery,
    pub authority: HeaderValue,
    /// The path before it was rewritten.
    pub original: Option<HeaderValue>,
    pub source: Option<Rc<Source>>,
    pub record: &'o mut Record,
}

/// A response, and what is under way with it.
pub(super) struct Forwarded {
    pub response: Response<Download>,
    pub under: Under,
    /// When the response must be over.
    pub deadline: Option<Instant>,
}

pub(super) fn unavailable(flag: Flag, text: &'static str) -> Refusal {
    Refusal { status: StatusCode::SERVICE_UNAVAILABLE, flag, text }
}

pub(super) async fn forward(order: Order<'_>, mut parts: Parts) -> Result<Forwarded, Refusal> {
    let begin = Instant::now();
    let Order { client, revision, rule, .. } = order;
    let shared = &client.shared;
    let Outcome::Forward { split, timeout, retry, mirrors, .. } = &rule.action().outcome else {
        return Err(unavailable(Flag::NoCluster, "the route forwards nothing"));
    };
    let drawn = rule.draw(shared.draw()).ok_or(unavailable(Flag::NoCluster, "all weights of the route are zero"))?;
    revision.count(shared, rule.source(), split, drawn.at);
    order.record.destination = Some(drawn.destination.cluster.clone());
    let no_cluster = unavailable(Flag::NoCluster, "the route's destination does not exist");
    if drawn.destination.broken.is_some() {
        return Err(no_cluster);
    }
    let cluster = revision.cluster(shared, &drawn.destination.cluster).ok_or(no_cluster)?;
    let facts = Facts { client, version: parts.version };
    let affinity =
        Affinity::of(&cluster.policy().balancer, client, &parts.headers, order.target.as_str(), || shared.draw());
    let own_authority = drawn.request_headers.apply(&mut parts.headers, &facts);
    let authority = own_authority.and_then(|text| HeaderValue::from_str(&text).ok()).unwrap_or(order.authority);
    if let Some(original) = order.original {
        parts.headers.insert(&X_ENVOY_ORIGINAL_PATH, original);
    }
    parts.headers.remove(header::EXPECT);
    let pool = &cluster.policy().pool;
    let counted = Counted::take(&cluster.load, |load| &load.requests, pool.max_requests);
    let overflow = unavailable(Flag::UpstreamOverflow, "the destination has as many requests as it may have");
    let counted = counted.ok_or(overflow)?;
    let deadline = limit(*timeout, &parts).map(|time| begin + time);
    mirror::send(mirrors, client, revision, &parts, &order.target, &authority, order.source.as_ref());
    let tries = Tries {
        client,
        cluster: &cluster,
        retry: retry.as_ref(),
        target: &order.target,
        authority: &authority,
        source: order.source.as_ref(),
        deadline,
        hash: affinity.hash,
    };
    let (response, endpoint) = tries.run(parts).await?;
    let mut response = response;
    finish(&mut response, drawn, &facts, begin);
    if let Some(cookie) = affinity.cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(Forwarded { response, under: Under::new(cluster, endpoint, counted), deadline })
}

/// The route's timeout; a gRPC client may ask for less.
fn limit(timeout: Option<Duration>, parts: &Parts) -> Option<Duration> {
    let asked = parts.headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
    match (timeout, asked) {
        (Some(timeout), Some(asked)) => Some(timeout.min(asked)),
        (timeout, asked) => timeout.or(asked),
    }
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The tries of one request.
struct Tries<'t> {
    client: &'t Rc<Client>,
    cluster: &'t Rc<Cluster>,
    retry: Option<&'t Retry>,
    target: &'t PathAndQuery,
    authority: &'t HeaderValue,
    source: Option<&'t Rc<Source>>,
    deadline: Option<Instant>,
    hash: Option<u64>,
}

impl Tries<'_> {
    async fn run(&self, parts: Parts) -> Result<(Response<Download>, Rc<Endpoint>), Refusal> {
        let shared = &self.client.shared;
        let client_speaks = if parts.version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
        let protocol = self.cluster.policy().protocol.toward(client_speaks);
        let is_grpc =
            parts.headers.get(header::CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"));
        let attempts = self.retry.map_or(0, |retry| retry.attempts);
        let keeps = self.retry.is_some_and(|retry| retry::needs_copy(retry, is_grpc, protocol == Protocol::Http2));
        let mut parts = Some(parts);
        let mut avoided: Vec<Rc<Endpoint>> = Vec::new();
        let mut retries = None;
        for n in 0.. {
            let endpoint = self.cluster.pick(self.hash, || shared.draw(), &avoided, self.client.local);
            let endpoint = endpoint
                .ok_or(unavailable(Flag::NoHealthyUpstream, "the destination has no endpoint that may be used"))?;
            let may_retry = n < attempts;
            if let Some(parts) = &mut parts {
                parts.headers.insert(&X_ENVOY_ATTEMPT_COUNT, (n + 1).into());
            }
            let result = self.within(&endpoint, protocol, &mut parts, may_retry && keeps).await;
            let ended = match &result {
                Ok(response) => Try::answered(response.status(), response.headers()),
                Err(failed) => failed.ended(),
            };
            self.note(&endpoint, ended);
            let is_wanted = may_retry && self.retry.is_some_and(|retry| retry::is_wanted(retry, ended));
            // What was consumed cannot be sent again.
            let is_possible = parts.is_some() && self.source.is_none_or(|source| source.is_whole());
            if let (true, true, Some(retry)) = (is_wanted, is_possible, self.retry)
                && (retries.is_some() || self.may_begin_retry(&mut retries))
            {
                drop(result);
                if retry.previous_hosts == PreviousHosts::Avoided {
                    avoided.push(endpoint);
                }
                let pause = retry::pause(retry.backoff, n, shared.draw());
                if self.deadline.is_none_or(|deadline| Instant::now() + pause < deadline) {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                return Err(timed_out());
            }
            return match result {
                Ok(response) => Ok((response, endpoint)),
                Err(failed) => {
                    Err(failed.refusal(self.cluster, attempts > 0 && n == attempts && is_wanted_kind(ended)))
                }
            };
        }
        Err(timed_out())
    }

    /// One try, within the try's time and what is left of the whole.
    async fn within(
        &self,
        endpoint: &Rc<Endpoint>,
        protocol: Protocol,
        parts: &mut Option<Parts>,
        keeps: bool,
    ) -> Result<Response<Download>, Failed> {
        let per_try = self.retry.and_then(|retry| retry.per_try_timeout).map(|time| Instant::now() + time);
        let is_repeatable = self.source.is_none() && parts.as_ref().is_some_and(|parts| parts.method.is_idempotent());
        let make = |copies: Copies| {
            let own = if keeps || copies == Copies::Kept { parts.clone() } else { parts.take() };
            let own = own.ok_or(Failed::Gone)?;
            request(own, self.target, self.authority, protocol, self.is_tls(), Upload::new(self.source))
        };
        let attempt = attempt::run(self.client, self.cluster, endpoint, protocol, self.authority, is_repeatable, make);
        match per_try.into_iter().chain(self.deadline).min() {
            None => attempt.await,
            Some(at) => tokio::time::timeout_at(at.into(), attempt).await.unwrap_or(Err(Failed::TimedOut)),
        }
    }

    fn is_tls(&self) -> bool {
        self.cluster.policy().tls.is_some()
    }

    fn may_begin_retry(&self, retries: &mut Option<Counted>) -> bool {
        let pool = &self.cluster.policy().pool;
        let active = self.cluster.load.requests.get();
        let most = match &pool.retry_budget {
            Some(budget) => Some(retry::budget(budget, active)),
            None => pool.max_retries,
        };
        *retries = Counted::take(&self.cluster.load, |load| &load.retries, most);
        retries.is_some()
    }

    fn note(&self, endpoint: &Rc<Endpoint>, ended: Try) {
        let ending = match ended {
            Try::Answered(status, _) => Ending::Status(status.as_u16()),
            Try::Unconnected | Try::Refused | Try::Reset => Ending::Local,
            Try::TimedOut => Ending::TimedOut,
        };
        self.cluster.note(endpoint, ending);
    }
}

fn is_wanted_kind(ended: Try) -> bool {
    !matches!(ended, Try::Answered(..))
}

fn timed_out() -> Refusal {
    Refusal {
        status: StatusCode::GATEWAY_TIMEOUT,
        flag: Flag::UpstreamRequestTimeout,
        text: "upstream request timeout",
    }
}

/// The request as an endpoint gets it.
pub(super) fn request(
    mut parts: Parts,
    target: &PathAndQuery,
    authority: &HeaderValue,
    protocol: Protocol,
    is_tls: bool,
    body: Upload,
) -> Result<Request<Upload>, Failed> {
    let target = target.clone();
    parts.uri = match protocol {
        Protocol::Http1 => {
            parts.headers.insert(header::HOST, authority.clone());
            parts.version = Version::HTTP_11;
            Uri::from(target)
        }
        Protocol::Http2 => {
            parts.headers.remove(header::HOST);
            parts.version = Version::HTTP_2;
            let scheme = if is_tls { "https" } else { "http" };
            let uri = Uri::builder().scheme(scheme).authority(authority.as_bytes()).path_and_query(target);
            uri.build().map_err(|_| Failed::BadTarget)?
        }
    };
    Ok(Request::from_parts(parts, body))
}

/// The response as the client gets it.
fn finish(response: &mut Response<Download>, drawn: Drawn<'_>, facts: &Facts<'_>, begin: Instant) {
    static X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        forwarded::clean(response.headers_mut());
    }
    *response.version_mut() = Version::HTTP_11;
    let time = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    response.headers_mut().insert(&X_ENVOY_UPSTREAM_SERVICE_TIME, time.into());
    drawn.response_headers.apply(response.headers_mut(), facts);
}

/// What a client is told when a limit was reached.
pub(super) fn overloaded(response: &mut Response<Download>) {
    response.headers_mut().insert(&X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("2H", Some(Duration::from_secs(7_200))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789S", None),
            ("S", None),
            ("1", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(grpc_timeout(text), expected, "{text}");
        }
    }
}
