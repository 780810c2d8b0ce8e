//! Pure decisions over a snapshot: whom a connection or request is for, and what is done to it. The proxy acts on them and
//! `explain` reports them; both by the functions here. Clock and chance are arguments.
//!
//! The way of a connection is `Router::door` -> `Door::chain` -> for HTTP `Chain::host` -> `Host::route` -> `Rule`'s methods.
//! All of these are views of one [`Router`], which holds everything that is compiled once for a revision.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use lb_common::flow::FlowHash;

use crate::snapshot::{
    self, Action, ClientClass, Cluster, ClusterName, Content, Destination, Outcome, RuleSource, Snapshot, TcpRoute,
    VirtualHost,
};

mod chance;
mod condition;
mod cors;
mod format;
mod headers;
mod index;
mod names;
mod pattern;
mod rewrite;
mod split;

pub mod path;

#[cfg(test)]
mod tests;

pub use chance::{endpoint, mirrors, shadow};
pub use condition::{BadCondition, Mismatch, Request, parameter};
pub use cors::CorsDecision;
pub use format::{Format, Nothing, Variables};
pub use headers::{BadOperation, Operations};
pub use names::host_of;
pub use pattern::{BadPattern, Patterns};
pub use rewrite::Rewritten;
pub use split::{Draw, Shares};

use condition::Matcher;
use index::Index;
use names::Names;
use rewrite::Substitution;

/// One revision, ready to decide.
#[derive(Debug)]
pub struct Router {
    snapshot: Arc<Snapshot>,
    /// As the snapshot's.
    listeners: Vec<ListenerTable>,
    by_port: HashMap<u16, Vec<usize>>,
    clusters: HashMap<ClusterName, usize>,
}

#[derive(Debug)]
struct ListenerTable {
    chains: Vec<ChainTable>,
    names: Names,
}

#[derive(Debug)]
enum ChainTable {
    Http { hosts: Vec<HostTable>, names: Names },
    Tcp(Shares),
    AutoPassthrough,
}

#[derive(Debug)]
struct HostTable {
    routes: Vec<RouteTable>,
    index: Index,
}

#[derive(Debug)]
struct RouteTable {
    matcher: Matcher,
    action: Arc<ActionTable>,
}

/// Shared by the match items of one rule.
#[derive(Debug)]
struct ActionTable {
    shares: Option<Shares>,
    /// As the split's destinations: what is done to requests, and to responses.
    headers: Vec<(Operations, Operations)>,
    own_response: Operations,
    substitution: Option<Substitution>,
    cors: Option<cors::Policy>,
}

/// Why a snapshot cannot be used. `model` lets none of these through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub rule: String,
    pub reason: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.reason)
    }
}

impl std::error::Error for Unusable {}

impl Router {
    pub fn new(snapshot: Arc<Snapshot>) -> Result<Router, Unusable> {
        let mut patterns = Patterns::default();
        let mut listeners = Vec::with_capacity(snapshot.listeners.len());
        let mut by_port: HashMap<u16, Vec<usize>> = HashMap::new();
        for (at, listener) in snapshot.listeners.iter().enumerate() {
            by_port.entry(listener.port.get()).or_default().push(at);
            let mut names = Names::default();
            let mut chains = Vec::with_capacity(listener.chains.len());
            for (at, chain) in listener.chains.iter().enumerate() {
                chain.names.iter().for_each(|name| names.add(name, at));
                chains.push(ChainTable::new(&chain.content, &mut patterns)?);
            }
            listeners.push(ListenerTable { chains, names });
        }
        let clusters = snapshot.clusters.iter().enumerate().map(|(at, cluster)| (cluster.name.clone(), at)).collect();
        Ok(Router { snapshot, listeners, by_port, clusters })
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The listener for connections to an address and port: one that names the address before one for all of the agent's.
    pub fn door(&self, to: SocketAddr) -> Option<Door<'_>> {
        let all = self.by_port.get(&to.port())?;
        let accepts = |at: &&usize| self.snapshot.listeners[**at].addresses.contain(to.ip());
        let is_own = |at: &&usize| self.snapshot.listeners[**at].addresses == snapshot::Addresses::Own;
        let at = all.iter().filter(accepts).min_by_key(|at| is_own(at))?;
        Some(Door { listener: &self.snapshot.listeners[*at], table: &self.listeners[*at], position: *at })
    }

    /// What rules may ask of whoever connects from an address.
    pub fn client(&self, address: IpAddr) -> Option<&ClientClass> {
        self.snapshot.clients.class(address).map(|class| &**class)
    }

    /// `None`: there is no such cluster (a broken destination has none).
    pub fn cluster(&self, name: &ClusterName) -> Option<&Arc<Cluster>> {
        self.clusters.get(name).map(|at| &self.snapshot.clusters[*at])
    }

    /// The cluster that an `AUTO_PASSTHROUGH` SNI names: `outbound_.PORT_.SUBSET_.HOST`.
    pub fn cluster_of_sni(&self, sni: &str) -> Option<&Arc<Cluster>> {
        let (port, rest) = sni.strip_prefix("outbound_.")?.split_once("_.")?;
        let (subset, host) = rest.split_once("_.")?;
        let subset = Some(subset).filter(|subset| !subset.is_empty()).map(Into::into);
        self.cluster(&ClusterName { host: host.into(), subset, port: port.parse().ok()? })
    }
}

impl ChainTable {
    fn new(content: &Content, patterns: &mut Patterns) -> Result<ChainTable, Unusable> {
        let hosts = match content {
            Content::Tcp(route) => return Ok(ChainTable::Tcp(Shares::new(&route.split))),
            Content::AutoPassthrough => return Ok(ChainTable::AutoPassthrough),
            Content::Http(hosts) => hosts,
        };
        let mut names = Names::default();
        let mut tables = Vec::with_capacity(hosts.len());
        for (at, host) in hosts.iter().enumerate() {
            names.add(&host.name, at);
            tables.push(HostTable::new(host, patterns)?);
        }
        Ok(ChainTable::Http { hosts: tables, names })
    }
}

impl HostTable {
    fn new(host: &VirtualHost, patterns: &mut Patterns) -> Result<HostTable, Unusable> {
        let mut routes: Vec<RouteTable> = Vec::with_capacity(host.routes.len());
        for (at, route) in host.routes.iter().enumerate() {
            let unusable =
                |reason: &dyn fmt::Display| Unusable { rule: route.source.to_string(), reason: reason.to_string() };
            let matcher = Matcher::new(&route.condition, patterns).map_err(|bad| unusable(&bad))?;
            let last = at.checked_sub(1).filter(|last| Arc::ptr_eq(&host.routes[*last].action, &route.action));
            let action = match last {
                Some(last) => routes[last].action.clone(),
                None => Arc::new(ActionTable::new(&route.action, patterns).map_err(|reason| unusable(&reason))?),
            };
            routes.push(RouteTable { matcher, action });
        }
        Ok(HostTable { routes, index: Index::new(host.routes.iter().map(|route| &route.condition)) })
    }
}

impl ActionTable {
    fn new(action: &Action, patterns: &mut Patterns) -> Result<ActionTable, String> {
        let bad = |bad: BadPattern| bad.to_string();
        let operations = |all: &[snapshot::HeaderOperation]| {
            Operations::new(all).map_err(|bad| format!("`{}` is no name of a header", bad.name))
        };
        let mut table = ActionTable {
            shares: None,
            headers: Vec::new(),
            own_response: operations(&action.response_headers)?,
            substitution: None,
            cors: action.cors.as_ref().map(|cors| cors::Policy::new(cors, patterns)).transpose().map_err(bad)?,
        };
        if let Outcome::Forward { split, rewrite, .. } = &action.outcome {
            table.shares = Some(Shares::new(split));
            table.substitution = Substitution::new(rewrite).map_err(bad)?;
            for one in &split.destinations {
                table.headers.push((operations(&one.request_headers)?, operations(&one.response_headers)?));
            }
        }
        Ok(table)
    }
}

/// A listener, for one connection.
#[derive(Clone, Copy, Debug)]
pub struct Door<'r> {
    pub listener: &'r snapshot::Listener,
    /// Among the snapshot's listeners.
    pub position: usize,
    table: &'r ListenerTable,
}

impl<'r> Door<'r> {
    /// The chain for a server name; without one (also: plain text) the chain for `*`. `None`: the connection is closed.
    pub fn chain(self, sni: Option<&str>) -> Option<Chain<'r>> {
        let lower = sni.filter(|sni| !sni.is_empty()).map(host_of);
        let at = match lower {
            Some(sni) => self.table.names.find(&sni)?,
            None => self.table.names.nameless()?,
        };
        Some(Chain { door: self, chain: &self.listener.chains[at], table: &self.table.chains[at] })
    }
}

/// A chain, for one connection.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'r> {
    pub door: Door<'r>,
    pub chain: &'r snapshot::Chain,
    table: &'r ChainTable,
}

impl<'r> Chain<'r> {
    /// The virtual host for an authority. `None`: 404.
    pub fn host(self, authority: &str) -> Option<Host<'r>> {
        let (Content::Http(hosts), ChainTable::Http { hosts: tables, names }) = (&self.chain.content, self.table)
        else {
            return None;
        };
        let at = names.find(&host_of(authority))?;
        Some(Host { chain: self, host: &hosts[at], table: &tables[at] })
    }

    /// Whether another server of the listener, one with other TLS settings, owns the name that is asked for: what was agreed on
    /// this connection does not hold there (RFC 9110 section 15.5.20).
    pub fn is_misdirected(self, authority: &str) -> bool {
        let owner = self.chain.tls.as_ref().and_then(|_| self.door.chain(Some(&host_of(authority))));
        owner.is_some_and(|owner| !std::ptr::eq(owner.chain, self.chain) && owner.chain.tls != self.chain.tls)
    }

    /// Where the connection's bytes go, if they are not read as HTTP.
    pub fn tcp(self) -> Option<Tcp<'r>> {
        match (&self.chain.content, self.table) {
            (Content::Tcp(route), ChainTable::Tcp(shares)) => Some(Tcp { route, shares }),
            (Content::Http(_) | Content::AutoPassthrough | Content::Tcp(_), _) => None,
        }
    }
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'r> {
    pub route: &'r TcpRoute,
    shares: &'r Shares,
}

impl<'r> Tcp<'r> {
    /// The destination that the kernel would choose. `None`: all weights are zero.
    pub fn of_flow(self, hash: FlowHash) -> Option<&'r Destination> {
        self.shares.of_flow(hash).map(|at| &self.route.split.destinations[at])
    }

    /// A destination and its position. `None`: all weights are zero.
    pub fn draw(self, draw: Draw) -> Option<(usize, &'r Destination)> {
        self.shares.draw(draw).map(|at| (at, &self.route.split.destinations[at]))
    }
}

/// A virtual host, for one request.
#[derive(Clone, Copy, Debug)]
pub struct Host<'r> {
    pub chain: Chain<'r>,
    pub host: &'r VirtualHost,
    table: &'r HostTable,
}

impl<'r> Host<'r> {
    /// Where `httpsRedirect` sends a request, before any route is asked. `None`: it is not on, or the request is secure.
    pub fn https_redirect(self, request: &Request<'_>) -> Option<String> {
        match self.host.https_redirect {
            snapshot::HttpsRedirect::Always if request.scheme != "https" => Some(rewrite::https_location(request)),
            snapshot::HttpsRedirect::Always | snapshot::HttpsRedirect::Off => None,
        }
    }

    /// The first route in list order that fits. `None`: 404.
    pub fn route(self, request: &Request<'_>) -> Option<Rule<'r>> {
        let fits = |at: usize| self.table.routes[at].matcher.fits(request).is_ok();
        let header = |name: &http::HeaderName| condition::value(request.headers, name);
        self.table.index.first(request.path, header, fits).map(|at| self.rule(at))
    }

    /// Why a route of the host's list does not fit, if it does not.
    pub fn judge(self, at: usize, request: &Request<'_>) -> Result<(), Mismatch<'r>> {
        self.table.routes[at].matcher.fits(request)
    }

    fn rule(self, at: usize) -> Rule<'r> {
        Rule { host: self, at, route: &self.host.routes[at], table: &self.table.routes[at].action }
    }
}

/// A route that fits a request.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'r> {
    pub host: Host<'r>,
    /// Position in the host's list.
    pub at: usize,
    pub route: &'r snapshot::Route,
    table: &'r ActionTable,
}

/// A destination that was drawn.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'r> {
    /// Position in the split.
    pub at: usize,
    pub destination: &'r Destination,
    pub request_headers: &'r Operations,
    pub response_headers: &'r Operations,
}

impl<'r> Rule<'r> {
    pub fn source(self) -> &'r RuleSource {
        &self.route.source
    }

    pub fn action(self) -> &'r Action {
        &self.route.action
    }

    /// Which destination gets the request. `None`: the rule does not forward, or all weights are zero.
    pub fn draw(self, draw: Draw) -> Option<Drawn<'r>> {
        let Outcome::Forward { split, .. } = &self.route.action.outcome else {
            return None;
        };
        let at = self.table.shares.as_ref()?.draw(draw)?;
        let (request_headers, response_headers) = &self.table.headers[at];
        Some(Drawn { at, destination: &split.destinations[at], request_headers, response_headers })
    }

    /// Path and authority as they are forwarded, before header operations.
    pub fn rewrite<'q>(self, request: &Request<'q>) -> Rewritten<'q>
    where
        'r: 'q,
    {
        match &self.route.action.outcome {
            Outcome::Forward { rewrite, .. } => {
                rewrite::rewrite(rewrite, self.table.substitution.as_ref(), &self.route.condition, request)
            }
            Outcome::Redirect(_) | Outcome::Respond(_) => {
                rewrite::rewrite(&UNCHANGED, None, &self.route.condition, request)
            }
        }
    }

    /// Status and `Location`, where the rule redirects.
    pub fn redirect(self, request: &Request<'_>) -> Option<(u16, String)> {
        let Outcome::Redirect(redirect) = &self.route.action.outcome else {
            return None;
        };
        let port = self.host.chain.door.listener.port.get();
        Some((redirect.status, rewrite::location(redirect, &self.route.condition, request, port)))
    }

    pub fn cors(self, method: &str, headers: &http::HeaderMap) -> CorsDecision {
        self.table.cors.as_ref().map_or(CorsDecision::None, |policy| policy.decide(method, headers))
    }

    /// Done to responses that the proxy makes itself.
    pub fn own_response_headers(self) -> &'r Operations {
        &self.table.own_response
    }
}

const UNCHANGED: snapshot::Rewrite =
    snapshot::Rewrite { path: snapshot::PathRewrite::Kept, authority: snapshot::AuthorityRewrite::Kept };
