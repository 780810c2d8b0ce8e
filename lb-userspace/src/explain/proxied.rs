//! What the proxy does with a connection and a request: answered by the router, on a snapshot of the one listener that has
//! the connection.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::flow::{FlowHash, HashKey, V4, V6, mix};

use super::{
    Answer, Chosen, Question, Rewritten, RouteAnswer, Share, Verdict, done, frame,
    request::{HttpRequest, Sent},
};
use crate::{
    compile,
    model::{Listener, Model},
    router::{self, Chain, CorsDecision, Draw, Host, Nothing, Request, Router, Rule, Unusable, path},
    snapshot::{Abort, Broken, Content, Destination, EndpointAddress, Outcome, RouteKind, RuleSource, Split},
};

/// Candidates that are named one by one.
const NAMED: usize = 40;

/// An answer in the making.
#[derive(Default)]
pub(super) struct Way {
    pub verdict: Option<Verdict>,
    pub reason: &'static str,
    pub gateway: Option<String>,
    pub route: Option<RouteAnswer>,
    pub destinations: Vec<Share>,
    pub chosen: Option<Chosen>,
    pub status: Option<u16>,
    pub location: Option<String>,
    pub rewritten: Option<Rewritten>,
    pub steps: Vec<String>,
}

impl Way {
    pub fn into_answer(self, answer: &mut Answer) {
        answer.verdict = self.verdict.unwrap_or(Verdict::Proxy);
        answer.reason = self.reason;
        if let (Some(gateway), Some(listener)) = (self.gateway, &mut answer.listener) {
            listener.gateway = gateway;
        }
        answer.route = self.route;
        answer.destinations = self.destinations;
        answer.chosen = self.chosen;
        answer.status = self.status;
        answer.location = self.location;
        answer.rewritten = self.rewritten;
    }

    fn step(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn end(&mut self, verdict: Verdict, reason: &'static str, step: impl Into<String>) {
        self.verdict = Some(verdict);
        self.reason = reason;
        self.step(step);
    }

    fn respond(&mut self, status: u16, reason: &'static str, step: impl Into<String>) {
        self.status = Some(status);
        self.end(Verdict::Respond, reason, step);
    }
}

/// Reasons of the proxy, beside those of `lb_common::verdict::Reason`.
mod reason {
    pub const READ: &str = "proxy.read";
    pub const ROUTED: &str = "proxy.routed";
    pub const NO_CHAIN: &str = "reject.no-chain";
    pub const NOT_TLS: &str = "reject.not-tls";
    pub const NO_CLUSTER: &str = "respond.no-cluster";
    pub const NO_ENDPOINT: &str = "respond.no-endpoint";
    pub const CLOSED_NO_CLUSTER: &str = "reject.broken-destination";
    pub const CLOSED_NO_ENDPOINT: &str = "reject.no-endpoint";
    pub const BAD_PATH: &str = "respond.bad-path";
    pub const NO_HOST: &str = "respond.no-host";
    pub const MISDIRECTED: &str = "respond.misdirected";
    pub const NO_ROUTE: &str = "respond.no-route";
    pub const HTTPS_REDIRECT: &str = "respond.https-redirect";
    pub const REDIRECT: &str = "respond.redirect";
    pub const DIRECT: &str = "respond.direct";
    pub const FAULT: &str = "respond.fault";
    pub const CORS: &str = "respond.cors";
}

/// Follows a connection to `listener`, whose action is the proxy's.
pub(super) fn follow(question: &Question<'_>, listener: &Arc<Listener>) -> Result<Way, Unusable> {
    let alone =
        Model { listeners: vec![listener.clone()], upstreams: question.model.upstreams.clone(), ..Model::default() };
    let router = Router::new(Arc::new(compile::snapshot(&alone, 0)))?;
    let mut way = Way { reason: reason::READ, ..Way::default() };
    if let Some(door) = router.door(question.to) {
        let mut walk = Walk { router: &router, question, way: &mut way };
        walk.connection(door, question.sent);
    }
    Ok(way)
}

struct Walk<'w, 'r> {
    router: &'r Router,
    question: &'w Question<'w>,
    way: &'w mut Way,
}

impl<'r> Walk<'_, 'r> {
    fn connection(&mut self, door: router::Door<'r>, sent: &Sent) {
        let chains = &door.listener.chains;
        let plain =
            chains.iter().all(|chain| chain.tls.is_none() && !matches!(chain.content, Content::AutoPassthrough));
        let only_tcp = matches!(&chains[..], [only] if matches!(&only.content, Content::Tcp(route) if route.source.kind == RouteKind::Tcp) && only.tls.is_none());
        if *sent == Sent::default() && !only_tcp {
            self.way.step("what it sends decides: ask with --http or --sni");
            return;
        }
        let name = sent.tls().flatten();
        let Some(chain) = door.chain(name) else {
            // Only ports of TLS have no chain for clients without a name.
            if sent.tls().is_none() {
                let step = "the client speaks plain text, and this port TLS: closed";
                return self.way.end(Verdict::Reject, reason::NOT_TLS, step);
            }
            let name = name.map_or("a client without a server name".to_owned(), |name| format!("server name {name}"));
            for chain in chains.iter().take(NAMED) {
                self.way.step(format!("chain refused: it is for {} ({})", chain.names.join(", "), chain.place));
            }
            self.way.end(
                Verdict::Reject,
                reason::NO_CHAIN,
                format!("no chain is for {name}: the connection is closed"),
            );
            return;
        };
        self.way.gateway = Some(chain.chain.gateway.to_string());
        if !(chains.len() == 1 && plain) {
            let who = name.map_or("a client without a server name".to_owned(), |name| format!("server name {name}"));
            self.way.step(format!(
                "{who} falls to the chain for {} ({})",
                chain.chain.names.join(", "),
                chain.chain.place
            ));
        }
        match (&chain.chain.content, &chain.chain.tls, sent.tls()) {
            (Content::Http(_), None, Some(_)) => {
                self.way.end(
                    Verdict::Reject,
                    reason::NOT_TLS,
                    "the client speaks TLS, and this port plain HTTP: closed",
                );
            }
            (_, Some(tls), None) => {
                let step = format!("the client speaks plain text, and this port TLS ({}): closed", tls.place);
                self.way.end(Verdict::Reject, reason::NOT_TLS, step);
            }
            (Content::Tcp(_), _, _) => self.bytes(chain),
            (Content::AutoPassthrough, _, _) => self.named_cluster(name),
            (Content::Http(_), _, _) => match &sent.http {
                Some(request) => self.request(chain, request),
                None => self.way.step("which request comes decides: ask with --http"),
            },
        }
    }

    /// Connections that are moved as they are.
    fn bytes(&mut self, chain: Chain<'r>) {
        let Some(tcp) = chain.tcp() else { return };
        self.take(&tcp.route.source);
        self.split(&tcp.route.split);
        let hash = flow_hash(self.question.from, self.question.to);
        let drawn = hash.and_then(|hash| tcp.of_flow(hash));
        self.way.verdict = Some(Verdict::Proxy);
        self.way.reason = reason::ROUTED;
        match drawn {
            Some(destination) => self.destination(destination, None),
            None => self.way.end(Verdict::Reject, reason::CLOSED_NO_ENDPOINT, "all weights are zero: closed"),
        }
    }

    fn named_cluster(&mut self, name: Option<&str>) {
        let found = name.and_then(|name| self.router.cluster_of_sni(name));
        match found {
            Some(cluster) => {
                self.way.step(format!("the server name stands for cluster {} ({})", cluster.name, cluster.place));
                self.way.verdict = Some(Verdict::Proxy);
                self.way.reason = reason::ROUTED;
                self.endpoint(cluster, None);
            }
            None => self.way.end(Verdict::Reject, reason::NO_CHAIN, "the server name stands for no cluster: closed"),
        }
    }

    fn request(&mut self, chain: Chain<'r>, sent: &HttpRequest) {
        let target = match path::normalize(&sent.target) {
            Ok(target) => target,
            Err(refused) => return self.way.respond(400, reason::BAD_PATH, format!("{refused}: 400")),
        };
        if target.path != sent.target.split('?').next().unwrap_or_default() {
            self.way.step(format!("its path in normal form is {}", target.path));
        }
        let request = Request {
            scheme: if chain.chain.tls.is_some() { "https" } else { "http" },
            method: &sent.method,
            authority: &sent.authority,
            path: &target.path,
            query: target.query,
            headers: &sent.headers,
            client: self.router.client(self.question.from.ip()),
        };
        let Some(host) = self.host(chain, &request) else { return };
        if let Some(location) = host.https_redirect(&request) {
            self.way.location = Some(location);
            let step = format!("httpsRedirect of the server ({}) answers before any route: 301", host.host.place);
            return self.way.respond(301, reason::HTTPS_REDIRECT, step);
        }
        let taken = host.route(&request);
        self.judge(host, taken, &request);
        match taken {
            Some(rule) => self.rule(rule, &request),
            None => self.way.respond(404, reason::NO_ROUTE, format!("no route of host {} fits: 404", host.host.name)),
        }
    }

    fn host(&mut self, chain: Chain<'r>, request: &Request<'_>) -> Option<Host<'r>> {
        let found = chain.host(request.authority);
        let Content::Http(hosts) = &chain.chain.content else { return None };
        let own = router::host_of(request.authority);
        if chain.is_misdirected(request.authority) {
            let step = format!("another server of this port, with other TLS settings, owns {own}: 421");
            self.way.respond(421, reason::MISDIRECTED, step);
            return None;
        }
        for host in hosts.iter().filter(|host| found.is_none_or(|found| !std::ptr::eq(found.host, *host))).take(NAMED) {
            self.way.step(format!("host refused: {} ({}) is not {own}, or less specific", host.name, host.place));
        }
        match found {
            Some(found) => self.way.step(format!("{own} is virtual host {} ({})", found.host.name, found.host.place)),
            None => self.way.respond(404, reason::NO_HOST, format!("no virtual host is for {own}: 404")),
        }
        found
    }

    /// Every route before the one taken, with what of it does not fit.
    fn judge(&mut self, host: Host<'r>, taken: Option<Rule<'r>>, request: &Request<'_>) {
        let end = taken.map_or(host.host.routes.len(), |rule| rule.at);
        let routes = &host.host.routes[..end];
        for (at, route) in routes.iter().enumerate().take(NAMED) {
            if let Err(mismatch) = host.judge(at, request) {
                self.way.step(format!("{} refused: {mismatch}", route.source));
            }
        }
        if routes.len() > NAMED {
            self.way.step(format!("and {} more routes", routes.len() - NAMED));
        }
        if let Some(rule) = taken {
            self.way.step(format!("{} taken", rule.source()));
        }
    }

    fn take(&mut self, source: &RuleSource) {
        self.way.route = Some(RouteAnswer {
            virtual_service: source.virtual_service.as_deref().map(str::to_owned),
            kind: match source.kind {
                RouteKind::Http => "http",
                RouteKind::Tls => "tls",
                RouteKind::Tcp => "tcp",
            },
            index: source.index as usize,
            r#match: source.item.map(|item| item as usize),
            name: source.name.as_deref().map(str::to_owned),
            file: source.place.file.to_string(),
            line: source.place.line,
        });
    }

    fn rule(&mut self, rule: Rule<'r>, request: &Request<'_>) {
        self.take(rule.source());
        let action = rule.action();
        match rule.cors(request.method, request.headers) {
            CorsDecision::None => {}
            CorsDecision::Allow(_) => self.way.step("its origin is allowed by corsPolicy"),
            CorsDecision::Answer(_) => {
                return self.way.respond(200, reason::CORS, "corsPolicy answers the preflight request: 200");
            }
        }
        match &action.outcome {
            Outcome::Redirect(_) => {
                let Some((status, location)) = rule.redirect(request) else { return };
                self.way.respond(status, reason::REDIRECT, format!("redirected with {status} to {location}"));
                self.way.location = Some(location);
            }
            Outcome::Respond(respond) => {
                self.way.steps.extend(done::own_response(action));
                self.way.respond(respond.status, reason::DIRECT, format!("answered directly with {}", respond.status));
            }
            Outcome::Forward { split, .. } => {
                self.split(split);
                if !self.fault(rule) {
                    self.forward(rule, request);
                }
            }
        }
    }

    /// Whether a fault answers instead.
    fn fault(&mut self, rule: Rule<'r>) -> bool {
        let Some(fault) = &rule.action().fault else { return false };
        let (delay, abort) = fault.draw(self.number(DELAY), self.number(ABORT));
        if let Some(delay) = delay {
            self.way.step(format!("fault: waits {delay:?} first"));
        }
        match abort {
            Some(Abort::Http(status)) => {
                self.way.respond(status, reason::FAULT, format!("fault: aborted with {status}"))
            }
            Some(Abort::Grpc(code)) => {
                self.way.respond(200, reason::FAULT, format!("fault: aborted with grpc-status {code}"));
            }
            None => {}
        }
        abort.is_some()
    }

    fn forward(&mut self, rule: Rule<'r>, request: &Request<'_>) {
        let Some(drawn) = rule.draw(self.number(SHARE)) else {
            return self.way.respond(503, reason::NO_CLUSTER, "all weights are zero: 503");
        };
        let rewritten = rule.rewrite(request);
        let mut headers = request.headers.clone();
        let authority = drawn.request_headers.apply(&mut headers, &Nothing);
        let rewritten = Rewritten {
            method: request.method.to_owned(),
            authority: authority.unwrap_or_else(|| rewritten.authority.into_owned()),
            path: rewritten.path_and_query.into_owned(),
        };
        self.way.verdict = Some(Verdict::Proxy);
        self.way.reason = reason::ROUTED;
        self.way.steps.extend(done::steps(rule.action(), drawn.destination));
        self.destination(drawn.destination, Some(rewritten));
    }

    fn split(&mut self, split: &Split) {
        let sum: u64 = split.destinations.iter().map(|one| u64::from(one.weight)).sum();
        for one in &split.destinations {
            let broken = one.broken.map(|broken| format!(": broken, {}", why(broken))).unwrap_or_default();
            self.way.step(format!("weight {} of {sum}: {} ({}){broken}", one.weight, one.cluster, one.place));
            self.way.destinations.push(Share {
                host: one.cluster.host.to_string(),
                subset: one.cluster.subset.as_deref().map(str::to_owned),
                port: one.cluster.port,
                weight: one.weight,
                share: f64::from(one.weight) / sum.max(1) as f64,
            });
        }
    }

    /// A destination that was drawn; `rewritten` where it is a request that goes there.
    fn destination(&mut self, destination: &Destination, rewritten: Option<Rewritten>) {
        self.way.step(format!("the draw falls on {}", destination.cluster));
        let cluster = self.router.cluster(&destination.cluster).filter(|_| destination.broken.is_none());
        match cluster {
            Some(cluster) => self.endpoint(cluster, rewritten),
            None if rewritten.is_some() => {
                self.way.respond(503, reason::NO_CLUSTER, "this destination is broken; its share is answered with 503");
            }
            None => {
                let step = "this destination is broken; its share is closed";
                self.way.end(Verdict::Reject, reason::CLOSED_NO_CLUSTER, step);
            }
        }
    }

    fn endpoint(&mut self, cluster: &crate::snapshot::Cluster, rewritten: Option<Rewritten>) {
        let Some(endpoint) = router::endpoint(cluster, self.number(ENDPOINT)) else {
            let step = "it has no ready endpoint; its share is refused";
            return match rewritten {
                Some(_) => self.way.respond(503, reason::NO_ENDPOINT, format!("{step} with 503")),
                None => self.way.end(Verdict::Reject, reason::CLOSED_NO_ENDPOINT, step),
            };
        };
        if let Some(tls) = &cluster.tls {
            let (name, _) = cluster.policy.clone().unwrap_or_default();
            self.way.step(format!("DestinationRule {name} asks for TLS {} ({})", tls.mode, tls.place));
        }
        let backend = match &endpoint.address {
            EndpointAddress::Ip(address) => Some(*address),
            EndpointAddress::Unix(path) => {
                self.way.step(format!("endpoint unix:{path}"));
                None
            }
            EndpointAddress::Name(name, port) => {
                self.way.step(format!("endpoint {name}:{port}, which is resolved when it is needed"));
                None
            }
        };
        self.way.rewritten = rewritten;
        if let Some(backend) = backend {
            self.way.step(format!("endpoint {backend}, one of {}", cluster.endpoints.len()));
            self.way.chosen = Some(Chosen {
                host: cluster.name.host.to_string(),
                subset: cluster.name.subset.as_deref().map(str::to_owned),
                port: cluster.name.port,
                backend,
                forwarding: "proxy",
            });
        }
    }

    /// A number that depends on the client's address and port, one for each purpose.
    fn number(&self, purpose: u64) -> Draw {
        let from = match self.question.from.ip() {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let hash = mix(from as u64 ^ mix((from >> 64) as u64 ^ purpose));
        Draw(mix(hash ^ mix(u64::from(self.question.from.port()) ^ purpose)))
    }
}

const SHARE: u64 = 0x9216_d5d9_8979_fb1b;
const ENDPOINT: u64 = 0xd131_0ba6_98df_b5ac;
const DELAY: u64 = 0x2ffd_72db_d01a_dfb7;
const ABORT: u64 = 0xb8e1_afed_6a26_7e96;

pub(super) const fn why(broken: Broken) -> &'static str {
    match broken {
        Broken::HostNotFound => "no such host",
        Broken::SubsetNotFound => "no such subset",
        Broken::PortNotFound => "no such port",
        Broken::PortAmbiguous => "several ports and none named",
    }
}

fn flow_hash(from: SocketAddr, to: SocketAddr) -> Option<FlowHash> {
    match to {
        SocketAddr::V4(_) => frame::tuple::<V4>(from, to).map(|flow| FlowHash::of(&flow, HashKey::Flow)),
        SocketAddr::V6(_) => frame::tuple::<V6>(from, to).map(|flow| FlowHash::of(&flow, HashKey::Flow)),
    }
}
