//! HTTP/2 on either side. The peers are curl and hyper's own server, whose frames hyper's client does not share.

use std::{process::Command, sync::Arc};

use http_body_util::Full;
use hyper::{Response, body::Bytes, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::world::*;
use crate::snapshot::*;

/// What curl prints of a request by HTTP/2 without TLS.
fn curl(proxy: &Proxy, arguments: &[&str]) -> String {
    let url = format!("http://a.example:{}/path", proxy.address.port());
    let resolve = format!("a.example:{}:127.0.0.1", proxy.address.port());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "--http2-prior-knowledge", "-w", "\n%{http_code} %{http_version}"])
        .args(["--resolve", &resolve])
        .args(arguments)
        .arg(url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An endpoint that speaks HTTP/2 only and answers with what it was asked for, and a trailer-free body.
fn multiplexing_peer() -> std::net::SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            while let Ok((stream, _)) = socket.accept().await {
                let answer = |request: hyper::Request<hyper::body::Incoming>| async move {
                    let text = format!("{:?} {} {}", request.version(), request.method(), request.uri());
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
                };
                let serving = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(serving.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    });
    address
}

#[test]
fn a_client_of_http2_and_an_endpoint_of_http1() {
    let peer = Peer::ok("ok");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    assert_eq!(curl(&proxy, &["-d", "ping"]), "ok\n200 2");
    let seen = &peer.seen()[0];
    assert!(seen.starts_with("POST /path HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nping"), "{seen}");
    assert!(seen.contains(&format!("host: a.example:{}\r\n", proxy.address.port())), "{seen}");
}

#[test]
fn http2_to_endpoints_too() {
    let address = multiplexing_peer();
    let mut policy = cluster("web", &[address]);
    policy.protocol = UpstreamProtocol::Http2;
    let routes = vec![route("/", to(vec![destination("web", 1)]))];
    let proxy = Arc::new(Proxy::new(|port| snapshot(port, "a.example", routes, vec![policy])));
    let port = proxy.address.port();
    assert_eq!(curl(&proxy, &[]), format!("HTTP/2.0 GET http://a.example:{port}/path\n200 2"));
    let answer = proxy.get("a.example", "/one");
    assert_eq!((status(&answer), body(&answer)), (200, "HTTP/2.0 GET http://a.example/one"));
}

#[test]
fn the_clients_protocol_is_used_where_that_is_asked_for() {
    let address = multiplexing_peer();
    let mut policy = cluster("web", &[address]);
    policy.protocol = UpstreamProtocol::OfClient;
    let routes = vec![route("/", to(vec![destination("web", 1)]))];
    let proxy = Proxy::new(|port| snapshot(port, "a.example", routes, vec![policy]));
    assert!(curl(&proxy, &[]).starts_with("HTTP/2.0 GET"));
    // Whether what the endpoint says is read before it closes is chance.
    assert!([502, 503].contains(&status(&proxy.get("a.example", "/"))));
}

#[test]
fn answers_made_here_reach_clients_of_http2() {
    let peer = Peer::ok("ok");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    assert!(curl(&proxy, &["-H", "Host: other.example"]).ends_with("\n404 2"));
    assert!(curl(&proxy, &["-H", "Content-Type: application/grpc", "-H", "Host: other.example"]).ends_with("\n200 2"));
}
