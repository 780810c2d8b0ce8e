//! Virtual hosts and their routes; where bytes go that are not HTTP.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{ClusterName, Condition, Cors, Fault, HeaderOperation, Mirror, Place, Redirect, Respond, Retry, Rewrite};

/// Requests for one host name, and what becomes of them. A request that fits no route is answered with 404; the routes of
/// a less specific host are not tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VirtualHost {
    /// Lower case, without port: a name, `*.suffix`, or `*`.
    pub name: Arc<str>,
    pub https_redirect: HttpsRedirect,
    /// In the order in which they are asked.
    pub routes: Vec<Route>,
    /// Of the Gateway server or Service.
    pub place: Place,
}

/// `tls.httpsRedirect` of the host's server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpsRedirect {
    #[default]
    Off,
    /// Every request is answered with 301 before any route is asked.
    Always,
}

/// One match item of a rule, or a rule without any. The items of one rule share its action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub source: RuleSource,
    pub condition: Condition,
    pub action: Arc<Action>,
}

/// Where a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSource {
    pub kind: RouteKind,
    /// `namespace/name` of the VirtualService that holds the rule (the delegate, where one does). `None`: a Service that no
    /// VirtualService routes.
    pub virtual_service: Option<Arc<str>>,
    /// Position in that object's own list.
    pub index: u32,
    /// Position in the rule's `match`; `None`: it has none.
    pub item: Option<u32>,
    /// `name` of the rule and of its match, joined by a dot.
    pub name: Option<Arc<str>>,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    Http,
    Tls,
    Tcp,
}

impl fmt::Display for RuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(name) = &self.virtual_service else {
            return write!(f, "all endpoints ({})", self.place);
        };
        let kind = match self.kind {
            RouteKind::Http => "http",
            RouteKind::Tls => "tls",
            RouteKind::Tcp => "tcp",
        };
        write!(f, "VirtualService {name} spec.{kind}[{}]", self.index)?;
        if let Some(item) = self.item {
            write!(f, ".match[{item}]")?;
        }
        write!(f, " ({})", self.place)
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    pub outcome: Outcome,
    pub fault: Option<Fault>,
    pub cors: Option<Cors>,
    /// Done to responses that this proxy makes itself on this route. A destination's list has them already.
    pub response_headers: Vec<HeaderOperation>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Forward {
        split: Split,
        rewrite: Rewrite,
        /// Of the whole request with all its tries and the pauses between; `None`: no limit.
        timeout: Option<Duration>,
        retry: Option<Retry>,
        mirrors: Vec<Mirror>,
    },
    Redirect(Redirect),
    Respond(Respond),
}

/// Weighted destinations. Which one is taken is drawn anew for each request or connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// In the user's order, at least one, zero weights included. A single one has weight 1.
    pub destinations: Vec<Destination>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    pub cluster: ClusterName,
    pub weight: u32,
    /// Why there is no such cluster. Its share of the requests is answered with 503 (connections are closed): weights never
    /// shift.
    pub broken: Option<Broken>,
    /// In the order in which they are done, the route's own among them.
    pub request_headers: Vec<HeaderOperation>,
    pub response_headers: Vec<HeaderOperation>,
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broken {
    HostNotFound,
    SubsetNotFound,
    PortNotFound,
    /// Several ports, none named, and the listener's is not among them.
    PortAmbiguous,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpRoute {
    pub source: RuleSource,
    pub split: Split,
    /// The first destination's policy: no byte in either direction for so long ends the connection. `None`: never.
    pub idle_timeout: Option<Duration>,
    pub max_duration: Option<Duration>,
}
