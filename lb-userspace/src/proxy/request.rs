//! The way of one request: admitted, routed, and then answered here or forwarded.

use std::{borrow::Cow, rc::Rc};

use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::{Body, Incoming};

use super::{
    admit::{self, Admitted},
    client::Client,
    download::{Download, Tail},
    forward, forwarded,
    io::Prefixed,
    record::Record,
    reply,
    reply::{Flag, Refusal},
    upgrade::{self, Upgraded},
    upload::Source,
};
use crate::{
    router::{self, CorsDecision, Rewritten, Router, Rule, Variables, path},
    snapshot::{Abort, Fault, Outcome},
};

static SERVER: HeaderValue = HeaderValue::from_static("meltemi");

/// Answers a request, always.
pub(super) async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Response<Download> {
    client.watch.request_begins();
    let (parts, body) = request.into_parts();
    let (version, is_grpc) = (parts.version, is_grpc(&parts.headers));
    let mut record = Record::new(client.clone(), &parts, is_grpc);
    let (mut response, upstream) = match answer(&client, &mut record, parts, body).await {
        Ok(answered) => answered,
        Err(refusal) => {
            (record.flag, record.reason) = (refusal.flag, refusal.text);
            (refused(&refusal, version, is_grpc), None)
        }
    };
    response.headers_mut().insert(header::SERVER, SERVER.clone());
    record.answered(response.status(), response.headers());
    response.map(|body| body.with(Tail { record, upstream }))
}

type Answered = (Response<Download>, Option<super::download::Under>);

fn refused(refusal: &Refusal, version: Version, is_grpc: bool) -> Response<Download> {
    let mut response = match is_grpc {
        true => reply::grpc(refusal.status, refusal.text),
        false => reply::text(refusal.status, refusal.text),
    };
    // What follows on a connection whose framing is in doubt is not read.
    if refusal.flag == Flag::DownstreamProtocolError && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.flag == Flag::UpstreamOverflow {
        forward::overloaded(&mut response);
    }
    response
}

fn bad(text: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, flag: Flag::DownstreamProtocolError, text }
}

fn not_found(text: &'static str) -> Refusal {
    Refusal { status: StatusCode::NOT_FOUND, flag: Flag::NoRoute, text }
}

async fn answer(
    client: &Rc<Client>,
    record: &mut Record,
    mut parts: Parts,
    body: Incoming,
) -> Result<Answered, Refusal> {
    let shared = &client.shared;
    let limits = &shared.options.limits;
    // hyper has taken the length away, and would close the connection only afterwards.
    if client.watch.names_both() && parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    let Admitted { authority } = admit::admit(&parts.method, &parts.uri, parts.version, &parts.headers, limits)?;
    // Shares the text.
    let uri = parts.uri.clone();
    let raw = uri.path_and_query().map_or("/", |target| target.as_str());
    let target = path::normalize(raw).map_err(|_| bad("a path that has no normal form"))?;
    let wanted = upgrade::wanted(parts.version, &parts.headers);
    forwarded::clean(&mut parts.headers);
    if let Some(protocol) = &wanted {
        upgrade::mark(&mut parts.headers, protocol.clone());
    }
    forwarded::stamp(&mut parts.headers, client, || shared.draw());
    record.stamped(&parts.headers);
    let revision = shared.revision();
    let text = authority.to_str().unwrap_or_default();
    let host = host(revision.prepared.router(), client, text)?;
    let headers = std::mem::take(&mut parts.headers);
    let method = parts.method.clone();
    let view = router::Request {
        scheme: forwarded::scheme(client, &headers),
        method: method.as_str(),
        authority: text,
        path: &target.path,
        query: target.query,
        headers: &headers,
        client: revision.prepared.router().client(client.peer.ip().to_canonical()),
    };
    if let Some(location) = host.https_redirect(&view) {
        return Ok((reply::redirect(StatusCode::MOVED_PERMANENTLY, &location), None));
    }
    let rule = host.route(&view).ok_or(not_found("no route for this request"))?;
    record.routed(rule.source());
    let allowed = match rule.cors(view.method, view.headers) {
        CorsDecision::None => Vec::new(),
        CorsDecision::Allow(headers) => headers,
        CorsDecision::Answer(headers) => {
            let mut response = reply::empty(StatusCode::OK);
            response.headers_mut().extend(headers);
            return Ok((response, None));
        }
    };
    if let Some(fault) = &rule.action().fault
        && let Some(abort) = injected(client, record, fault).await
    {
        return Ok((reply::abort(abort, is_grpc(&headers)), None));
    }
    let mut answered = match &rule.action().outcome {
        Outcome::Forward { .. } => {
            let rewritten = rule.rewrite(&view);
            let original = is_new(&rewritten, &view).then(|| HeaderValue::from_str(raw).ok()).flatten();
            let authority = match rewritten.authority {
                Cow::Borrowed(same) if same == text => authority.clone(),
                other => HeaderValue::from_str(&other).unwrap_or(authority.clone()),
            };
            let target = match uri.path_and_query().filter(|sent| sent.as_str() == rewritten.path_and_query) {
                Some(as_sent) => as_sent.clone(),
                None => rewritten.path_and_query.parse().map_err(|_| bad("the rewritten path is none"))?,
            };
            let source = (!body.is_end_stream())
                .then(|| Source::new(body, client.watch.clone(), record.received.clone(), limits.replay));
            parts.headers = headers;
            let order =
                forward::Order { client, revision: &revision, rule, target, authority, original, source, record };
            let forwarded = forward::forward(order, parts).await?;
            if forwarded.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return switch(client, wanted, forwarded).await;
            }
            (forwarded.response.map(|body| body.until(forwarded.deadline)), Some(forwarded.under))
        }
        Outcome::Redirect(_) | Outcome::Respond(_) => own(client, rule, &view),
    };
    for (name, value) in allowed {
        answered.0.headers_mut().insert(name, value);
    }
    Ok(answered)
}

/// The virtual host that the request is for.
fn host<'r>(router: &'r Router, client: &Client, authority: &str) -> Result<router::Host<'r>, Refusal> {
    let door = router.door(client.local);
    let chain = door.and_then(|door| door.chain(client.sni.as_deref())).ok_or(not_found("no listener any more"))?;
    if chain.is_misdirected(authority) {
        return Err(Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            flag: Flag::NoRoute,
            text: "another server owns this name: connect anew",
        });
    }
    chain.host(authority).ok_or(not_found("no virtual host for this authority"))
}

/// Delays the request where that is its lot, and gives the abort that is.
async fn injected(client: &Client, record: &mut Record, fault: &Fault) -> Option<Abort> {
    let (delay, abort) = fault.draw(client.shared.draw(), client.shared.draw());
    if let Some(delay) = delay {
        record.flag = Flag::DelayInjected;
        tokio::time::sleep(delay).await;
    }
    if abort.is_some() {
        (record.flag, record.reason) = (Flag::FaultInjected, "fault filter abort");
    }
    abort
}

/// Whether the path or query are others than those that the client asked for.
fn is_new(rewritten: &Rewritten<'_>, asked: &router::Request<'_>) -> bool {
    let length = asked.path.len() + asked.query.map_or(0, |query| query.len() + 1);
    !rewritten.path_and_query.starts_with(asked.path) || rewritten.path_and_query.len() != length
}

/// The endpoint changes the protocol: so does the client's connection, once it has been told.
async fn switch(
    client: &Rc<Client>,
    wanted: Option<HeaderValue>,
    forwarded: forward::Forwarded,
) -> Result<Answered, Refusal> {
    let bad = |text| Refusal { status: StatusCode::BAD_GATEWAY, flag: Flag::UpstreamProtocolError, text };
    let (head, body) = forwarded.response.into_parts();
    let lease = body.into_lease().filter(|_| wanted.is_some());
    let lease = lease.ok_or(bad("the endpoint changes the protocol, which nobody has asked for"))?;
    let raw = lease.h1.into_raw().await.ok_or(bad("the endpoint did not change the protocol"))?;
    let agreed = head.headers.get(header::UPGRADE).cloned().or(wanted);
    let stream = Prefixed { prefix: raw.1, inner: Box::new(raw.0) };
    *client.upgraded.borrow_mut() = Some(Upgraded { stream, under: Rc::new(forwarded.under) });
    let mut response = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    *response.headers_mut() = head.headers;
    forwarded::clean(response.headers_mut());
    if let Some(protocol) = agreed {
        upgrade::mark(response.headers_mut(), protocol);
    }
    Ok((response, None))
}

fn is_grpc(headers: &http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

/// What the rule answers by itself.
fn own(client: &Client, rule: Rule<'_>, view: &router::Request<'_>) -> Answered {
    let mut response = match &rule.action().outcome {
        Outcome::Respond(respond) => {
            let status = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            match respond.body.is_empty() {
                true => reply::empty(status),
                false => reply::text(status, respond.body.to_vec()),
            }
        }
        Outcome::Redirect(_) | Outcome::Forward { .. } => match rule.redirect(view) {
            Some((status, location)) => {
                reply::redirect(StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY), &location)
            }
            None => reply::empty(StatusCode::NOT_FOUND),
        },
    };
    let variables = Facts { client, version: Version::HTTP_11 };
    rule.own_response_headers().apply(response.headers_mut(), &variables);
    (response, None)
}

/// Values of header formats.
pub(super) struct Facts<'c> {
    pub client: &'c Client,
    pub version: Version,
}

impl Variables for Facts<'_> {
    fn value(&self, command: &str, _: Option<&str>) -> Option<Cow<'_, str>> {
        let client = self.client;
        Some(match command {
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => client.peer.to_string().into(),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                client.peer.ip().to_string().into()
            }
            "DOWNSTREAM_REMOTE_PORT" => client.peer.port().to_string().into(),
            "DOWNSTREAM_LOCAL_ADDRESS" => client.local.to_string().into(),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => client.local.ip().to_string().into(),
            "DOWNSTREAM_LOCAL_PORT" => client.local.port().to_string().into(),
            "REQUESTED_SERVER_NAME" => client.sni.as_deref()?.into(),
            "PROTOCOL" => forwarded::version(self.version).into(),
            _ => return None,
        })
    }
}
