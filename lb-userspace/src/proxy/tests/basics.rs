//! One request in, one out: framing, headers, keep-alive, the answers made here.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::atomic::Ordering,
    time::Duration,
};

use super::world::*;
use crate::snapshot::*;

#[test]
fn a_request_goes_to_the_endpoint_and_its_answer_comes_back() {
    let peer = Peer::answering("HTTP/1.1 201 Created\r\nX-Own: 1\r\nKeep-Alive: 5\r\nContent-Length: 5\r\n\r\nhello");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let answer = proxy.get("a.example:80", "/x/../y?q=1");
    assert_eq!((status(&answer), body(&answer)), (201, "hello"));
    assert!(answer.contains("x-own: 1\r\n") && !answer.contains("keep-alive: 5"), "{answer}");
    let [seen] = &peer.seen()[..] else { panic!("{:?}", peer.seen()) };
    let mut lines: Vec<_> = seen.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /y?q=1 HTTP/1.1");
    lines.retain(|line| !line.starts_with("x-request-id: "));
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["host: a.example:80", "x-envoy-attempt-count: 1", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]
    );
}

#[test]
fn connections_are_kept_on_both_sides() {
    let peer = Peer::ok("ok");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let mut stream = proxy.connect();
    for _ in 0..5 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok") {
            let mut part = [0; 1_024];
            let length = stream.read(&mut part).unwrap();
            assert_ne!(length, 0);
            answer.extend_from_slice(&part[..length]);
        }
    }
    assert_eq!((peer.seen().len(), peer.connections.load(Ordering::SeqCst)), (5, 1));
}

#[test]
fn bodies_go_both_ways() {
    let peer = Peer::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let answer = proxy.ask("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping");
    assert!(body(&answer).contains("abc") && answer.ends_with("0\r\n\r\n"), "{answer}");
    let chunked = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    proxy.ask(&format!("{chunked}4\r\npong\r\n0\r\n\r\n"));
    let seen = peer.seen();
    assert!(seen[0].ends_with("\r\n\r\nping") && seen[1].ends_with("4\r\npong\r\n0\r\n\r\n"), "{seen:?}");
    assert_eq!(peer.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn answers_made_here() {
    let peer = Peer::ok("ok");
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let redirect = Redirect {
        status: 302,
        scheme: None,
        authority: Some("b.example".into()),
        port: None,
        path: RedirectPath::Kept,
    };
    let broken = Destination { broken: Some(Broken::SubsetNotFound), ..destination("gone", 1) };
    let routes = vec![
        route("/moved", Outcome::Redirect(redirect)),
        route("/said", Outcome::Respond(Respond { status: 418, body: (*b"short and stout").into() })),
        route("/broken", to(vec![broken])),
        route("/refused", to(vec![destination("refused", 1)])),
        route("/empty", to(vec![destination("empty", 1)])),
        route("/ok", to(vec![destination("web", 1)])),
    ];
    let clusters = vec![cluster("web", &[peer.address]), cluster("refused", &[nobody]), cluster("empty", &[])];
    let proxy = Proxy::new(|port| snapshot(port, "a.example", routes, clusters));
    let ask = |path: &str| proxy.get("a.example", path);
    assert!(ask("/moved?x").contains("location: http://b.example/moved?x\r\n"));
    assert_eq!((status(&ask("/said")), body(&ask("/said"))), (418, "short and stout"));
    let wanted =
        [("/broken", 503), ("/refused", 503), ("/empty", 503), ("/nothing", 404), ("/ok", 200), ("/a%zz", 400)];
    assert_eq!(wanted.map(|(path, _)| (path, status(&ask(path)))), wanted);
    assert_eq!(status(&proxy.get("other.example", "/ok")), 404);
    assert_eq!(status(&proxy.ask("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")), 426);
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn an_endpoint_that_closes_idle_connections_costs_no_request() {
    let peer = Peer::new(|mut stream, seen| {
        if let Some(head) = read_request(&mut stream) {
            seen.lock().unwrap().push(head);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let proxy = Proxy::new(|port| simple(port, peer.address));
    for _ in 0..20 {
        assert_eq!(status(&proxy.get("a.example", "/")), 200);
    }
    assert_eq!(peer.connections.load(Ordering::SeqCst), 20);
}

#[test]
fn a_change_of_routes_holds_for_old_connections() {
    let (one, other) = (Peer::ok("one"), Peer::ok("two"));
    let proxy = Proxy::new(|port| simple(port, one.address));
    let mut stream = proxy.connect();
    let mut ask = || {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let mut answer = [0; 1_024];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask().ends_with("one"));
    proxy.adopt(simple(proxy.address.port(), other.address));
    let end = std::time::Instant::now() + PATIENCE;
    while !ask().ends_with("two") {
        assert!(std::time::Instant::now() < end);
    }
}

#[test]
fn draining_ends_idle_connections_and_waits_for_requests() {
    let peer = Peer::ok("ok");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let mut idle = proxy.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let mut part = [0; 1_024];
    assert_ne!(idle.read(&mut part).unwrap(), 0);
    proxy.drain(Duration::from_secs(60));
    assert_eq!(idle.read(&mut part).unwrap(), 0);
    eventually("the worker ends", || proxy.has_ended());
}

#[test]
fn forms_of_smuggling_reach_no_endpoint_twice() {
    let peer = Peer::ok("ok");
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let second = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for (headers, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400),
        ("Transfer-Encoding: chunked\r\nConnection: close\r\n", 200),
        ("Transfer-Encoding: chunked, chunked\r\n", 501),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: xchunked\r\n", 400),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Host: b.example\r\nContent-Length: 0\r\nConnection: close\r\n", 400),
    ] {
        let before = peer.seen().len();
        let mut stream = proxy.connect();
        let request = format!("POST / HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n0\r\n\r\n{second}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // An end or a reset: what follows is not read.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!((status(&answer), answer.matches("HTTP/1.1 ").count()), (expected, 1), "{headers} {answer}");
        let seen = peer.seen().split_off(before);
        assert_eq!(seen.len(), usize::from(expected == 200), "{headers} {seen:?}");
        assert!(seen.iter().all(|one| !one.contains("content-length") && one.ends_with("0\r\n\r\n")), "{seen:?}");
    }
}

#[test]
fn trailers_reach_clients_that_want_them() {
    let head = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    let peer = Peer::answering(&format!("{head}2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"));
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let ask = |te: &str| proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{te}Connection: close\r\n\r\n"));
    assert!(ask("TE: trailers\r\n").ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"));
    assert!(ask("").ends_with("2\r\nok\r\n0\r\n\r\n"));
    assert!(peer.seen()[0].contains("te: trailers\r\n") && !peer.seen()[1].contains("te: "), "{:?}", peer.seen());
}

#[test]
fn an_endpoint_that_breaks_off_leaves_no_whole_answer() {
    let peer = Peer::new(|mut stream, _| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel").unwrap();
    });
    let proxy = Proxy::new(|port| simple(port, peer.address));
    let answer = proxy.get("a.example", "/");
    // Nothing at all where the break was seen before the head had left.
    assert!(answer.is_empty() || status(&answer) == 200, "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn slow_heads_and_idle_connections_are_ended() {
    let peer = Peer::ok("ok");
    let limits = super::super::Limits {
        head_time: Duration::from_millis(700),
        idle_time: Duration::from_millis(700),
        ..Default::default()
    };
    let options = super::super::Options { limits, ..Default::default() };
    let proxy = Proxy::with(options, |port| simple(port, peer.address));
    for begin in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"] {
        let mut stream = proxy.connect();
        stream.write_all(begin.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let begun = std::time::Instant::now();
        stream.read_to_end(&mut answer).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(600), "{begin}");
        assert_eq!(!answer.is_empty(), begin.ends_with("\r\n\r\n"), "{begin}");
    }
}
