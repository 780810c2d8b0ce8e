//! Connections that are not read, and those that change their protocol.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::Arc,
};

use super::{super::Options, world::*};
use crate::snapshot::*;

fn tcp_snapshot(port: u16, names: &[&str], route_to: &str, clusters: Vec<Cluster>) -> Snapshot {
    let mut snapshot = snapshot(port, "a.example", Vec::new(), clusters);
    let source = route("/", to(vec![destination(route_to, 1)])).source;
    let split = Split { destinations: vec![destination(route_to, 1)] };
    let chain = &mut snapshot.listeners[0].chains[0];
    chain.names = names.iter().map(|name| (*name).into()).collect();
    chain.content = Content::Tcp(TcpRoute { source, split, idle_timeout: None, max_duration: None });
    snapshot
}

/// Sends back whatever comes, after a greeting, until the client has ended its half.
fn echo() -> Peer {
    Peer::new(|mut stream, seen| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        seen.lock().unwrap().push(String::from_utf8_lossy(&all).into_owned());
        stream.write_all(b"got ").unwrap();
        stream.write_all(&all).unwrap();
    })
}

fn exchange(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut stream = proxy.connect();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn bytes_and_half_closes_are_carried() {
    let peer = echo();
    let proxy = Proxy::new(|port| tcp_snapshot(port, &["*"], "web", vec![cluster("web", &[peer.address])]));
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
    let answer = exchange(&proxy, &bytes);
    assert!(answer[..4] == *b"got " && answer[4..] == bytes, "{} bytes", answer.len());
}

#[test]
fn endpoints_are_told_who_the_client_is() {
    let peer = echo();
    let mut policy = cluster("web", &[peer.address]);
    policy.proxy_protocol = Some(ProxyProtocol::V1);
    let proxy = Proxy::new(|port| tcp_snapshot(port, &["*"], "web", vec![policy]));
    exchange(&proxy, b"hello");
    let seen = &peer.seen()[0];
    assert!(seen.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && seen.ends_with("\r\nhello"), "{seen}");
}

#[test]
fn balancers_in_front_say_who_the_client_is() {
    let peer = Peer::ok("ok");
    let options = Options { proxy_protocol_from: vec!["127.0.0.0/8".parse().unwrap()], ..Options::default() };
    let proxy = Proxy::with(options, |port| simple(port, peer.address));
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&proxy.ask(&format!("PROXY TCP4 192.0.2.7 192.0.2.1 5 80\r\n{request}"))), 200);
    assert!(peer.seen()[0].contains("x-forwarded-for: 192.0.2.7\r\n"), "{:?}", peer.seen());
    let mut stream = proxy.connect();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Closed, or reset because some of it was not read.
    assert!(!matches!(stream.read_to_end(&mut answer), Ok(1..)));
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn a_client_hello_is_passed_on_untouched_however_it_is_cut() {
    let peer = echo();
    let proxy = Proxy::new(|port| tcp_snapshot(port, &["a.example"], "web", vec![cluster("web", &[peer.address])]));
    let hello = |name: &str| {
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    let wanted = hello("a.example");
    let mut stream = proxy.connect();
    stream.set_nodelay(true).unwrap();
    for byte in &wanted {
        stream.write_all(&[*byte]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer[4..] == wanted);
    assert!(exchange(&proxy, &hello("b.example")).is_empty());
    assert!(exchange(&proxy, b"GET / HTTP/1.1\r\n\r\n").is_empty());
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn a_websocket_is_carried_after_101_and_not_before() {
    let peer = Peer::new(|mut stream, seen| {
        let head = read_request(&mut stream).unwrap();
        let answer = match head.to_lowercase().contains("upgrade: websocket") {
            true => "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
            false => "HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n",
        };
        seen.lock().unwrap().push(head);
        stream.write_all(answer.as_bytes()).unwrap();
        let mut bytes = [0; 4];
        while stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(&bytes).unwrap();
        }
    });
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let mut stream = proxy.connect();
    let ask = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"first") {
        let mut part = [0; 512];
        let length = stream.read(&mut part).unwrap();
        assert_ne!(length, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..length]);
    }
    let head = String::from_utf8_lossy(&answer).into_owned();
    assert!(status(&head) == 101 && head.contains("upgrade: websocket\r\n"), "{head}");
    for word in [b"ping", b"pong"] {
        stream.write_all(word).unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, *word);
    }
    drop(stream);
    let h2c = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(status(&proxy.ask(h2c)), 426);
    assert!(!peer.seen()[1].to_lowercase().contains("upgrade"), "{:?}", peer.seen());
}
