//! One client connection: which listener and chain it is for, and what is spoken on it.

use std::{io, net::SocketAddr, rc::Rc, sync::atomic::Ordering};

use ::http::HeaderValue;
use hyper::body::Bytes;
use rustls::server::Accepted;
use tokio::{net::TcpStream, task::spawn_local};
use tokio_rustls::server::StartHandshake;

use super::{
    hello::{self, Hello},
    http,
    io::{Downstream, Prefixed, Stream},
    proxy_header, tcp,
    watch::{Order, Watch, Watched},
    worker::{Revision, Shared},
};
use crate::{
    router::{Chain, Door},
    snapshot::{Content, Listener},
};

/// What is known of a connection; shared by its requests.
pub(super) struct Client {
    pub shared: Rc<Shared>,
    pub watch: Rc<Watch>,
    /// The original destination: what the client connected to.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// The peer's address without port.
    pub peer_text: HeaderValue,
    /// What the client asked for in TLS.
    pub sni: Option<String>,
    pub is_secure: bool,
    /// Where the connection's bytes go once its protocol has changed.
    pub upgraded: std::cell::RefCell<Option<super::upgrade::Upgraded>>,
}

/// Begins to serve a connection, in a task of its own.
pub(super) fn begin(shared: &Rc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let watched = shared.watches.add();
    shared.statistics.connections_opened.fetch_add(1, Ordering::Relaxed);
    let shared = shared.clone();
    spawn_local(async move {
        let watch = watched.watch.clone();
        let statistics = shared.statistics.clone();
        let served = connection(shared, &watched, stream, peer);
        if let Some(Err(error)) = watch.guarded(served).await {
            tracing::debug!(%peer, %error, "a client's connection ended");
        }
        statistics.connections_closed.fetch_add(1, Ordering::Relaxed);
    });
}

async fn connection(shared: Rc<Shared>, watched: &Watched, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let (local, mut peer) = (canonical(stream.local_addr()?), canonical(peer));
    let mut stream = stream;
    if shared.options.proxy_protocol_from.iter().any(|net| net.contains(&peer.ip())) {
        peer = proxy_header::read(&mut stream).await?.map_or(peer, canonical);
    }
    let peer_text = HeaderValue::from_str(&peer.ip().to_string()).map_err(io::Error::other)?;
    let watch = watched.watch.clone();
    let revision = shared.revision();
    let Some(door) = revision.prepared.router().door(local) else {
        return Ok(());
    };
    let upgraded = Default::default();
    let mut client = Client { shared, watch, local, peer, peer_text, sni: None, is_secure: false, upgraded };
    if !has_names(door.listener) {
        return plain(client, &revision, door, Bytes::new(), Stream::Tcp(stream)).await;
    }
    let (accepted, bytes) = match hello::read(&mut stream).await? {
        Hello::Tls(accepted, bytes) => (accepted, bytes),
        Hello::Other(bytes) => return plain(client, &revision, door, bytes, Stream::Tcp(stream)).await,
    };
    client.sni = accepted.client_hello().server_name().map(str::to_owned);
    let Some(chain) = door.chain(client.sni.as_deref()) else {
        return Err(io::Error::other("nobody serves this server name"));
    };
    match (&chain.chain.tls, &chain.chain.content) {
        (Some(_), _) => secure(client, &revision, chain, *accepted, stream).await,
        (None, Content::Tcp(_)) => {
            let destination = chain.tcp().and_then(|tcp| tcp::choose(&client.shared, &revision, tcp));
            tcp::serve(client, destination, bytes, Stream::Tcp(stream)).await
        }
        (None, Content::AutoPassthrough) => {
            let destination = client.sni.as_deref().and_then(|sni| tcp::named(&client.shared, &revision, sni));
            tcp::serve(client, destination, bytes, Stream::Tcp(stream)).await
        }
        (None, Content::Http(_)) => Err(io::Error::other("TLS where plain HTTP is spoken")),
    }
}

/// Whether the first bytes decide the chain.
fn has_names(listener: &Listener) -> bool {
    listener.chains.iter().any(|chain| {
        let is_named = chain.names.iter().any(|name| &**name != "*");
        chain.tls.is_some() || is_named || chain.content == Content::AutoPassthrough
    })
}

/// What is not TLS.
async fn plain(
    client: Client,
    revision: &Rc<Revision>,
    door: Door<'_>,
    prefix: Bytes,
    stream: Stream,
) -> io::Result<()> {
    let Some(chain) = door.chain(None).filter(|chain| chain.chain.tls.is_none()) else {
        return Err(io::Error::other("plain text where TLS is spoken"));
    };
    match &chain.chain.content {
        Content::Http(_) => {
            talk(client, prefix, stream).await;
            Ok(())
        }
        Content::Tcp(_) => {
            let destination = chain.tcp().and_then(|tcp| tcp::choose(&client.shared, revision, tcp));
            tcp::serve(client, destination, prefix, stream).await
        }
        Content::AutoPassthrough => Err(io::Error::other("plain text where TLS is passed through")),
    }
}

async fn secure(
    mut client: Client,
    revision: &Rc<Revision>,
    chain: Chain<'_>,
    accepted: Accepted,
    stream: TcpStream,
) -> io::Result<()> {
    let made = chain.chain.tls.as_ref().and_then(|tls| revision.prepared.server(tls));
    let config = match made {
        Some(Ok(config)) => config.clone(),
        Some(Err(reason)) => {
            let place = &chain.chain.place;
            return Err(io::Error::other(format!("no TLS for the server at {place}: {reason}")));
        }
        None => return Ok(()),
    };
    let stream = Prefixed { prefix: Bytes::new(), inner: Box::new(Stream::Tcp(stream)) };
    let stream = StartHandshake::from_parts(accepted, stream).into_stream(config).await?;
    client.is_secure = true;
    let stream = Stream::ServerTls(Box::new(stream));
    match &chain.chain.content {
        Content::Http(_) => {
            talk(client, Bytes::new(), stream).await;
            Ok(())
        }
        Content::Tcp(_) => {
            let destination = chain.tcp().and_then(|tcp| tcp::choose(&client.shared, revision, tcp));
            tcp::serve(client, destination, Bytes::new(), stream).await
        }
        Content::AutoPassthrough => Ok(()),
    }
}

async fn talk(client: Client, prefix: Bytes, stream: Stream) {
    let watch = client.watch.clone();
    http::serve(Rc::new(client), Downstream::new(prefix, stream, watch)).await;
}

/// IPv4 clients of a socket for both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl Watch {
    /// Runs something until it ends or the connection is to be closed at once.
    async fn guarded<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if self.order(cx) == Order::Close {
                return std::task::Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }
}
