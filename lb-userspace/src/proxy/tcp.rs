//! Connections whose bytes are not read: passed on to one endpoint, in both directions, half-closes included.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{
    affinity::Affinity,
    client::Client,
    cluster::{Cluster, Counted},
    dial,
    download::Under,
    io::{Prefixed, Stream},
    outlier::Ending,
    record::Key,
    reply::Flag,
    tls::Inside,
    watch::Doing,
    worker::{Revision, Shared},
};
use crate::{
    router,
    snapshot::{Tunnel, TunnelMethod},
};

/// Where a connection goes, and how long it may last.
pub(super) struct Destination {
    cluster: Rc<Cluster>,
    idle_timeout: Option<Duration>,
    max_duration: Option<Duration>,
}

/// Draws a route's destination. `None`: a broken one, for which connections are closed.
pub(super) fn choose(shared: &Rc<Shared>, revision: &Rc<Revision>, tcp: router::Tcp<'_>) -> Option<Destination> {
    let (at, drawn) = tcp.draw(shared.draw())?;
    revision.count(shared, &tcp.route.source, &tcp.route.split, at);
    if drawn.broken.is_some() {
        return None;
    }
    let cluster = revision.cluster(shared, &drawn.cluster)?;
    Some(Destination { cluster, idle_timeout: tcp.route.idle_timeout, max_duration: tcp.route.max_duration })
}

/// The cluster that an `AUTO_PASSTHROUGH` SNI names.
pub(super) fn named(shared: &Rc<Shared>, revision: &Rc<Revision>, sni: &str) -> Option<Destination> {
    let name = &revision.prepared.router().cluster_of_sni(sni)?.name;
    let cluster = revision.cluster(shared, name)?;
    let pool = &cluster.policy().pool;
    let (idle_timeout, max_duration) = (pool.tcp_idle_timeout, pool.max_connection_duration);
    Some(Destination { cluster, idle_timeout, max_duration })
}

/// Connects once, sends what was read already, and carries bytes until both sides have ended.
///
/// # Errors
/// No destination, no endpoint, no connection: the client's is closed.
pub(super) async fn serve(
    client: Client,
    destination: Option<Destination>,
    prefix: Bytes,
    stream: Stream,
) -> io::Result<()> {
    let begin = Instant::now();
    client.watch.begin(Doing::Raw);
    let Destination { cluster, idle_timeout, max_duration } =
        destination.ok_or_else(|| io::Error::other("the destination does not exist"))?;
    let policy = cluster.policy().clone();
    let load = cluster.load.clone();
    let full = || io::Error::other("the destination's connection pool is full");
    let place = Counted::take(&load, |load| &load.connections, policy.pool.max_connections).ok_or_else(full)?;
    let affinity = Affinity::of(&policy.balancer, &client, &Default::default(), "", || client.shared.draw());
    let endpoint = cluster.pick(affinity.hash, || client.shared.draw(), &[], client.local);
    let endpoint = endpoint.ok_or_else(|| io::Error::other("the destination has no endpoint that may be used"))?;
    let under = Under::new(cluster.clone(), endpoint.clone(), place);
    let name = dial::name(&cluster, None);
    let dialing = dial::dial(&client, &cluster, &endpoint, name.as_deref(), Inside::Raw);
    let mut upstream = match tokio::time::timeout(policy.pool.connect_timeout, dialing).await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => {
            cluster.note(&endpoint, Ending::Local);
            return Err(io::Error::other(error));
        }
        Err(_) => {
            cluster.note(&endpoint, Ending::TimedOut);
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    cluster.note(&endpoint, Ending::Status(200));
    let series = |flag| {
        let key = Key::tcp(flag);
        cluster.series().get(key, || client.shared.statistics.series(key.labels(Some(policy.name.clone()))))
    };
    series(Flag::None).open();
    let mut early = Bytes::new();
    if let Some(tunnel) = &policy.tunnel {
        early = through(tunnel, &mut upstream).await?;
    }
    let client_side = Prefixed { prefix, inner: Box::new(stream) };
    let upstream = Prefixed { prefix: early, inner: Box::new(upstream) };
    let moved = Moved::default();
    let carried = relay(client_side, upstream, idle_timeout, &moved);
    let result = match max_duration {
        None => carried.await,
        Some(most) => tokio::time::timeout(most, carried).await.unwrap_or(Ok(())),
    };
    let flag = if result.is_ok() { Flag::None } else { Flag::UpstreamConnectionTermination };
    series(flag).add(begin.elapsed(), moved.forth.get(), moved.back.get());
    drop(under);
    result
}

/// Bytes that were carried.
#[derive(Default)]
pub(super) struct Moved {
    pub forth: Cell<u64>,
    pub back: Cell<u64>,
}

/// Asks an HTTP proxy for a connection; what comes after its answer belongs to the connection.
async fn through(tunnel: &Tunnel, stream: &mut Stream) -> io::Result<Bytes> {
    const MOST: usize = 8 * 1_024;
    let (host, port) = (&tunnel.target_host, tunnel.target_port);
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let head = match tunnel.method {
        TunnelMethod::Connect => format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"),
        TunnelMethod::Post => format!("POST / HTTP/1.1\r\nHost: {target}\r\nTransfer-Encoding: chunked\r\n\r\n"),
    };
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    let end = loop {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > MOST {
            return Err(io::Error::other("no answer from the tunnel's proxy"));
        }
        if let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    match answer.get(..10) {
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2']) => Ok(answer.split_off(end).into()),
        _ => Err(io::Error::other("the tunnel's proxy refused the connection")),
    }
}

/// Carries bytes in both directions until both have ended, or none has moved for `idle`.
///
/// # Errors
/// Either side's.
pub(super) async fn relay(
    mut one: Prefixed,
    mut other: Prefixed,
    idle: Option<Duration>,
    bytes: &Moved,
) -> io::Result<()> {
    let moved = Cell::new(Instant::now());
    let (mut forth, mut back) = (Pipe::default(), Pipe::default());
    let carrying = std::future::poll_fn(|cx| {
        let forth = forth.poll(&mut one, &mut other, &moved, &bytes.forth, cx)?;
        let back = back.poll(&mut other, &mut one, &moved, &bytes.back, cx)?;
        match (forth, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    });
    let Some(idle) = idle else {
        return carrying.await;
    };
    let mut carrying = std::pin::pin!(carrying);
    loop {
        match tokio::time::timeout_at((moved.get() + idle).into(), carrying.as_mut()).await {
            Ok(result) => return result,
            Err(_) if moved.get().elapsed() >= idle => return Ok(()),
            Err(_) => {}
        }
    }
}

/// One direction.
#[derive(Default)]
struct Pipe {
    /// Empty until it is first needed.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nothing more comes; the other side is to be told.
    Ending,
    Ended,
}

impl Pipe {
    fn poll(
        &mut self,
        from: &mut Prefixed,
        to: &mut Prefixed,
        moved: &Cell<Instant>,
        bytes: &Cell<u64>,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>> {
        const SIZE: usize = 64 * 1_024;
        loop {
            if self.state == State::Ended {
                return Ok(Poll::Ready(()));
            }
            if self.start < self.end {
                match Pin::new(&mut *to).poll_write(cx, &self.buffer[self.start..self.end]) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(written) => {
                        let written = written?;
                        self.start += written;
                        bytes.set(bytes.get() + written as u64);
                    }
                    Poll::Pending => return Ok(Poll::Pending),
                }
                moved.set(Instant::now());
                continue;
            }
            if self.state == State::Ending {
                match Pin::new(&mut *to).poll_shutdown(cx) {
                    Poll::Ready(done) => done?,
                    Poll::Pending => return Ok(Poll::Pending),
                }
                self.state = State::Ended;
                continue;
            }
            self.buffer.resize(SIZE, 0);
            let mut buffer = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    return match Pin::new(&mut *to).poll_flush(cx) {
                        Poll::Ready(Err(error)) => Err(error),
                        Poll::Ready(Ok(())) | Poll::Pending => Ok(Poll::Pending),
                    };
                }
            }
            (self.start, self.end) = (0, buffer.filled().len());
            match self.end {
                0 => self.state = State::Ending,
                _ => moved.set(Instant::now()),
            }
        }
    }
}
