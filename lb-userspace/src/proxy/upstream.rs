//! An endpoint as one worker knows it, and connections to it: opened, kept, taken again.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use http::HeaderValue;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Notify, task::spawn_local};

use super::{
    balance,
    client::Client,
    cluster::{Cluster, Counted},
    dial,
    h1::H1,
    io::Stream,
    outlier::Outlier,
    tls::Inside,
    upload::Upload,
};
use crate::snapshot::{self, EndpointAddress, Pool};

pub(super) struct Endpoint {
    pub address: EndpointAddress,
    /// See [`balance::Candidate`].
    pub seed: u64,
    /// Requests under way.
    pub active: Cell<u32>,
    idle: RefCell<Vec<Kept>>,
    shared: RefCell<Vec<Multiplexed>>,
    /// Whether a connection for many requests is on its way: others wait for it instead of opening one each.
    is_opening: Cell<bool>,
    opened: Notify,
    /// As the log names it.
    pub text: String,
    /// SPIFFE id that its certificate must have.
    pub identity: Option<Arc<str>>,
    pub outlier: Outlier,
    pub born: Instant,
}

/// Connections are only alike if they have the same name inside of TLS.
pub(super) type Name = Option<Arc<str>>;

struct Kept {
    name: Name,
    lease: Lease,
}

struct Multiplexed {
    name: Name,
    sender: http2::SendRequest<Upload>,
    streams: Rc<Streams>,
    requests: Cell<u32>,
    opened: Instant,
}

/// Requests on a connection, and since when there are none.
struct Streams {
    count: Cell<u32>,
    idle_since: Cell<Instant>,
}

/// Marks an endpoint as long as a connection is being opened.
struct Opening<'e>(&'e Endpoint);

impl<'e> Opening<'e> {
    fn new(endpoint: &'e Endpoint) -> Opening<'e> {
        endpoint.is_opening.set(true);
        Opening(endpoint)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.is_opening.set(false);
        self.0.opened.notify_waiters();
    }
}

/// A connection that carries one request at a time, and its place in the pool.
pub(super) struct Lease {
    pub h1: Box<H1>,
    name: Name,
    place: Counted,
}

/// A stream's share of a connection.
pub(super) struct Stream2 {
    pub sender: http2::SendRequest<Upload>,
    streams: Rc<Streams>,
}

impl Drop for Stream2 {
    fn drop(&mut self) {
        self.streams.count.set(self.streams.count.get() - 1);
        self.streams.idle_since.set(Instant::now());
    }
}

pub(super) enum Connection {
    One(Lease),
    Many(Stream2),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the pool is full")]
    Overflow,
    #[error("no connection within the connect timeout")]
    TimedOut,
    #[error("{0}")]
    Failed(#[from] std::io::Error),
    #[error("{0}")]
    Handshake(#[from] hyper::Error),
    /// What is wrong between the DestinationRule and the server.
    #[error("{0}")]
    Tls(String),
}

impl Endpoint {
    pub fn new(endpoint: &snapshot::Endpoint) -> Endpoint {
        let text = text(&endpoint.address);
        Endpoint {
            address: endpoint.address.clone(),
            seed: balance::hash(text.as_bytes()),
            active: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            is_opening: Cell::new(false),
            opened: Notify::new(),
            text,
            identity: endpoint.identity.clone(),
            outlier: Outlier::default(),
            born: Instant::now(),
        }
    }

    /// A connection for one request: one that is there, else a new one, else one that becomes free.
    pub async fn connection(
        &self,
        client: &Client,
        cluster: &Cluster,
        authority: Option<&HeaderValue>,
        protocol: Protocol,
    ) -> Result<Connection, ConnectError> {
        let pool = &cluster.policy().pool;
        let name = dial::name(cluster, authority);
        let (mut pending, mut has_waited) = (None, false);
        loop {
            let free = match protocol {
                Protocol::Http1 => self.take_idle(&name, pool).map(Connection::One),
                Protocol::Http2 => self.take_shared(&name, pool).map(Connection::Many),
            };
            if let Some(connection) = free {
                return Ok(connection);
            }
            // Once: after a failure everybody tries for itself.
            if protocol == Protocol::Http2 && self.is_opening.get() && !std::mem::replace(&mut has_waited, true) {
                self.opened.notified().await;
                continue;
            }
            if let Some(place) = Counted::take(&cluster.load, |load| &load.connections, pool.max_connections) {
                drop(pending);
                let _opening = (protocol == Protocol::Http2).then(|| Opening::new(self));
                let opening = self.open(client, cluster, name, protocol, place);
                return tokio::time::timeout(pool.connect_timeout, opening)
                    .await
                    .map_err(|_| ConnectError::TimedOut)?;
            }
            if pending.is_none() {
                let waits = Counted::take(&cluster.load, |load| &load.pending, pool.max_pending_requests);
                pending = Some(waits.ok_or(ConnectError::Overflow)?);
            }
            cluster.load.freed.notified().await;
        }
    }

    fn take_idle(&self, name: &Name, pool: &Pool) -> Option<Lease> {
        loop {
            let mut idle = self.idle.borrow_mut();
            let at = idle.iter().rposition(|kept| kept.name == *name)?;
            let mut kept = idle.swap_remove(at);
            drop(idle);
            if kept.lease.may_go_on(pool) {
                return Some(kept.lease);
            }
        }
    }

    /// Takes a connection back after a response, if another request may go over it.
    pub fn give_back(&self, mut lease: Lease, pool: &Pool) {
        if lease.may_go_on(pool) {
            lease.h1.idle_since = Instant::now();
            let load = lease.place.load.clone();
            self.idle.borrow_mut().push(Kept { name: lease.name.clone(), lease });
            load.freed.notify_one();
        }
    }

    fn take_shared(&self, name: &Name, pool: &Pool) -> Option<Stream2> {
        let mut all = self.shared.borrow_mut();
        let now = Instant::now();
        all.retain(|one| {
            let is_old = pool.max_connection_duration.is_some_and(|most| now.duration_since(one.opened) >= most);
            let is_used_up = pool.max_requests_per_connection.is_some_and(|most| one.requests.get() >= most);
            !one.sender.is_closed() && !is_old && !is_used_up
        });
        let most = pool.max_concurrent_streams.unwrap_or(u32::MAX).min(100);
        let one =
            all.iter().find(|one| one.name == *name && one.streams.count.get() < most && one.sender.is_ready())?;
        one.requests.set(one.requests.get() + 1);
        Some(one.stream())
    }

    async fn open(
        &self,
        client: &Client,
        cluster: &Cluster,
        name: Name,
        protocol: Protocol,
        place: Counted,
    ) -> Result<Connection, ConnectError> {
        let inside = match protocol {
            Protocol::Http1 => Inside::Http1,
            Protocol::Http2 => Inside::Http2,
        };
        let stream = dial::dial(client, cluster, self, name.as_deref(), inside).await?;
        match protocol {
            Protocol::Http1 => {
                let h1 = Box::new(H1::new(stream).await?);
                Ok(Connection::One(Lease { h1, name, place }))
            }
            Protocol::Http2 => {
                let sender = multiplex(stream, &cluster.policy().pool, place).await?;
                let one = Multiplexed {
                    name,
                    sender,
                    streams: Rc::new(Streams { count: Cell::new(0), idle_since: Cell::new(Instant::now()) }),
                    requests: Cell::new(1),
                    opened: Instant::now(),
                };
                let stream = one.stream();
                self.shared.borrow_mut().push(one);
                Ok(Connection::Many(stream))
            }
        }
    }

    /// Closes what nobody has used for too long, and what the endpoint has closed.
    pub fn close_idle(&self, now: Instant, pool: &Pool) {
        self.idle.borrow_mut().retain_mut(|kept| {
            let idle = now.saturating_duration_since(kept.lease.h1.idle_since);
            pool.http_idle_timeout.is_none_or(|most| idle < most) && kept.lease.may_go_on(pool)
        });
        self.shared.borrow_mut().retain(|one| {
            let idle = now.saturating_duration_since(one.streams.idle_since.get());
            let is_idle = one.streams.count.get() == 0 && pool.http_idle_timeout.is_some_and(|most| idle >= most);
            !one.sender.is_closed() && !is_idle
        });
    }
}

impl Multiplexed {
    fn stream(&self) -> Stream2 {
        self.streams.count.set(self.streams.count.get() + 1);
        Stream2 { sender: self.sender.clone(), streams: self.streams.clone() }
    }
}

impl Lease {
    fn may_go_on(&mut self, pool: &Pool) -> bool {
        let is_used_up = pool.max_requests_per_connection.is_some_and(|most| self.h1.requests >= most);
        let is_old = pool.max_connection_duration.is_some_and(|most| self.h1.opened.elapsed() >= most);
        !is_used_up && !is_old && self.h1.is_ready()
    }
}

/// A connection for many requests; its task ends with the last sender or the endpoint's end of it.
async fn multiplex(stream: Stream, pool: &Pool, place: Counted) -> Result<http2::SendRequest<Upload>, hyper::Error> {
    let mut builder = http2::Builder::new(super::http::Local);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(64 * 1_024)
        .initial_connection_window_size(1_024 * 1_024)
        .max_header_list_size(64 * 1_024);
    if let Some((interval, patience)) = pool.http2_keep_alive {
        builder.keep_alive_interval(interval).keep_alive_timeout(patience).keep_alive_while_idle(true);
    }
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    spawn_local(async move {
        let _place = place;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
    });
    Ok(sender)
}

/// As the log names it.
pub(super) fn text(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Ip(address) => address.to_string(),
        EndpointAddress::Name(name, port) => format!("{name}:{port}"),
        EndpointAddress::Unix(path) => format!("unix://{path}"),
    }
}

impl snapshot::UpstreamProtocol {
    /// What is spoken to endpoints for a client that speaks `client`.
    pub(super) fn toward(self, client: Protocol) -> Protocol {
        match self {
            snapshot::UpstreamProtocol::Http1 => Protocol::Http1,
            snapshot::UpstreamProtocol::Http2 => Protocol::Http2,
            snapshot::UpstreamProtocol::OfClient => client,
        }
    }
}
