//! A new connection to an endpoint: the socket, a PROXY header, TLS; and what to say when TLS does not come about.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use hyper::body::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{
    client::Client,
    cluster::Cluster,
    io::{Prefixed, Stream},
    proxy_header,
    tls::{self, Inside, Origination},
    upstream::{ConnectError, Endpoint},
};
use crate::{
    router,
    snapshot::{EndpointAddress, KeepAlive},
};

/// The name inside of TLS for a request to an authority.
pub(super) fn name(cluster: &Cluster, authority: Option<&HeaderValue>) -> Option<Arc<str>> {
    let Some(Ok(origination)) = &cluster.origination else {
        return None;
    };
    if origination.sni.is_some() {
        return origination.sni.clone();
    }
    let host = router::host_of(authority?.to_str().ok()?);
    Some(host.trim_start_matches('[').trim_end_matches(']').into())
}

pub(super) async fn dial(
    client: &Client,
    cluster: &Cluster,
    endpoint: &Endpoint,
    name: Option<&str>,
    inside: Inside,
) -> Result<Stream, ConnectError> {
    let policy = cluster.policy();
    let mut stream = socket(&endpoint.address, policy.pool.keep_alive).await?;
    if let Some(version) = policy.proxy_protocol {
        stream.write_all(&proxy_header::write(version, client.peer, client.local)).await?;
    }
    match &cluster.origination {
        None => Ok(stream),
        Some(Err(reason)) => Err(ConnectError::Tls(format!("no TLS to {}: {reason}", policy.name))),
        Some(Ok(origination)) => secure(origination, cluster, endpoint, name, inside, stream).await,
    }
}

async fn socket(address: &EndpointAddress, keep_alive: Option<KeepAlive>) -> io::Result<Stream> {
    let stream = match address {
        EndpointAddress::Ip(address) => TcpStream::connect(address).await?,
        EndpointAddress::Name(name, port) => TcpStream::connect((&**name, *port)).await?,
        EndpointAddress::Unix(path) => return unix(path).await.map(Stream::Unix),
    };
    stream.set_nodelay(true)?;
    if let Some(settings) = keep_alive {
        let mut all = TcpKeepalive::new();
        if let Some(time) = settings.time {
            all = all.with_time(time);
        }
        if let Some(interval) = settings.interval {
            all = all.with_interval(interval);
        }
        if let Some(probes) = settings.probes {
            all = all.with_retries(probes);
        }
        SockRef::from(&stream).set_tcp_keepalive(&all)?;
    }
    Ok(Stream::Tcp(stream))
}

async fn unix(path: &str) -> io::Result<UnixStream> {
    use std::os::{linux::net::SocketAddrExt, unix::net};
    let Some(name) = path.strip_prefix('@') else {
        return UnixStream::connect(path).await;
    };
    let stream = net::UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name)?)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn secure(
    origination: &Origination,
    cluster: &Cluster,
    endpoint: &Endpoint,
    name: Option<&str>,
    inside: Inside,
    stream: Stream,
) -> Result<Stream, ConnectError> {
    let address = match &endpoint.address {
        EndpointAddress::Ip(address) => address.ip(),
        EndpointAddress::Name(..) | EndpointAddress::Unix(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let server_name = tls::server_name(name, address);
    let connector = TlsConnector::from(origination.config(inside));
    let stream = Prefixed { prefix: Bytes::new(), inner: Box::new(stream) };
    let secured = match connector.connect(server_name, stream).await {
        Ok(secured) => secured,
        Err(error) => return Err(told(cluster, endpoint, &disagreement(&error))),
    };
    let (_, session) = secured.get_ref();
    if inside == Inside::Http2 && session.alpn_protocol() != Some(b"h2") {
        return Err(told(cluster, endpoint, "the server speaks TLS but does not offer HTTP/2 (ALPN h2)"));
    }
    if let Some(identity) = &endpoint.identity
        && cluster.policy().tls.as_ref().is_some_and(|tls| &*tls.mode == "ISTIO_MUTUAL")
    {
        let shown = session.peer_certificates().and_then(|chain| chain.first());
        if !shown.is_some_and(|certificate| tls::has_identity(certificate, identity)) {
            return Err(told(cluster, endpoint, &format!("the server's certificate is not for {identity}")));
        }
    }
    Ok(Stream::ClientTls(Box::new(secured)))
}

/// What the server spoke instead.
fn disagreement(error: &io::Error) -> String {
    use rustls::Error as Tls;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
    match inner {
        Some(Tls::InvalidMessage(_)) => "the server does not speak TLS: it answered in plain text".into(),
        Some(Tls::AlertReceived(alert)) => format!("the server refused the handshake with the alert {alert:?}"),
        Some(Tls::InvalidCertificate(reason)) => format!("the server's certificate is not accepted: {reason:?}"),
        Some(other) => format!("the handshake failed: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the handshake; perhaps it does not speak TLS".into()
        }
        None => format!("the connection broke during the handshake: {error}"),
    }
}

/// The error, and a line in the log that names the DestinationRule, its mode and what the server did; not more often than
/// every ten seconds for a cluster.
fn told(cluster: &Cluster, endpoint: &Endpoint, what: &str) -> ConnectError {
    let policy = cluster.policy();
    let mode = policy.tls.as_ref().map_or("DISABLE", |tls| &*tls.mode);
    let rule = match &policy.policy {
        Some((name, place)) => format!("DestinationRule {name} ({place})"),
        None => "no DestinationRule".to_owned(),
    };
    let text = format!("{}: {what}; {rule} says tls mode {mode} for {}", endpoint.text, policy.name);
    let is_due = cluster.told.get().is_none_or(|last| last.elapsed() >= Duration::from_secs(10));
    if is_due {
        cluster.told.set(Some(Instant::now()));
        tracing::warn!("{text}");
    }
    ConnectError::Tls(text)
}
