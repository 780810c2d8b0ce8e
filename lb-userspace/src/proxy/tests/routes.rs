//! What routes and policies do to requests: retries, time-outs, faults, mirrors, balancing, outliers, the log.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{super::*, world::*};
use crate::snapshot::*;

fn retry(attempts: u32, conditions: &[&str], statuses: &[u16]) -> Retry {
    Retry {
        attempts,
        per_try_timeout: None,
        conditions: conditions.iter().map(|text| (*text).into()).collect(),
        statuses: statuses.to_vec(),
        backoff: Duration::from_millis(1),
        localities: RetryLocalities::Any,
        previous_hosts: PreviousHosts::Avoided,
    }
}

fn forward(host: &str, change: impl FnOnce(&mut Option<Duration>, &mut Option<Retry>, &mut Vec<Mirror>)) -> Outcome {
    let mut outcome = to(vec![destination(host, 1)]);
    if let Outcome::Forward { timeout, retry, mirrors, .. } = &mut outcome {
        change(timeout, retry, mirrors);
    }
    outcome
}

fn one_cluster(outcome: Outcome, cluster: Cluster) -> Proxy {
    Proxy::new(|port| snapshot(port, "a.example", vec![route("/", outcome)], vec![cluster]))
}

const NOBODY: &str = "127.0.0.1:1";

#[test]
fn a_connect_failure_is_tried_again_elsewhere() {
    let peer = Peer::ok("ok");
    let endpoints: [SocketAddr; 2] = [NOBODY.parse().unwrap(), peer.address];
    let outcome = forward("web", |_, to, _| *to = Some(retry(2, &["connect-failure"], &[])));
    let proxy = one_cluster(outcome, cluster("web", &endpoints));
    for _ in 0..10 {
        assert_eq!(status(&proxy.get("a.example", "/")), 200);
    }
    let post = proxy.ask("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping");
    assert_eq!(status(&post), 200);
    assert_eq!(peer.seen().len(), 11);
}

#[test]
fn statuses_are_tried_again_with_the_whole_body_and_the_last_one_is_returned() {
    let bad = Peer::answering("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno");
    let outcome = forward("web", |_, to, _| *to = Some(retry(2, &["retriable-status-codes"], &[503])));
    let proxy = one_cluster(outcome, cluster("web", &[bad.address]));
    let answer = proxy.ask("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping");
    assert_eq!((status(&answer), body(&answer)), (503, "no"));
    let seen = bad.seen();
    assert!(seen.len() == 3 && seen.iter().all(|one| one.ends_with("\r\n\r\nping")), "{seen:?}");
    let counted = (1..).zip(&seen).all(|(n, one)| one.contains(&format!("x-envoy-attempt-count: {n}\r\n")));
    assert!(counted, "{seen:?}");
}

#[test]
fn a_post_whose_connection_breaks_is_not_sent_twice() {
    let peer = Peer::new(|mut stream, seen| {
        while let Some(head) = read_request(&mut stream) {
            let is_first = seen.lock().unwrap().is_empty();
            seen.lock().unwrap().push(head);
            if !is_first {
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
    });
    let outcome = forward("web", |_, to, _| *to = Some(retry(2, &["connect-failure", "refused-stream"], &[])));
    let proxy = one_cluster(outcome, cluster("web", &[peer.address]));
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping";
    assert_eq!([status(&proxy.ask(post)), status(&proxy.ask(post))], [200, 503]);
    assert_eq!(peer.seen().len(), 2);
}

#[test]
fn time_outs_of_routes_and_tries() {
    let silent = Peer::new(|mut stream, seen| {
        while let Some(head) = read_request(&mut stream) {
            seen.lock().unwrap().push(head);
        }
    });
    let begin = Instant::now();
    let short = Duration::from_millis(100);
    let whole = forward("web", |timeout, _, _| *timeout = Some(short));
    let each = forward("web", |_, to, _| {
        *to = Some(Retry { per_try_timeout: Some(short), ..retry(1, &["5xx"], &[]) });
    });
    let routes = vec![route("/whole", whole), route("/each", each)];
    let proxy = Proxy::new(|port| snapshot(port, "a.example", routes, vec![cluster("web", &[silent.address])]));
    assert_eq!([status(&proxy.get("a.example", "/whole")), status(&proxy.get("a.example", "/each"))], [504, 504]);
    assert_eq!(silent.seen().len(), 3);
    assert!(begin.elapsed() >= short * 3);
}

#[test]
fn a_body_that_outlasts_the_timeout_is_cut_not_completed() {
    let slow = Peer::new(|mut stream, _| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let outcome = forward("web", |timeout, _, _| *timeout = Some(Duration::from_millis(150)));
    let proxy = one_cluster(outcome, cluster("web", &[slow.address]));
    let answer = proxy.get("a.example", "/");
    assert!(answer.contains("ab\r\n") && !answer.contains("0\r\n\r\n"), "{answer}");
}

#[test]
fn faults() {
    let peer = Peer::ok("ok");
    let mut aborted = route("/abort", to(vec![destination("web", 1)]));
    let fault = Fault { delay: None, abort: Some((Fraction::ALL, Abort::Http(418))) };
    Arc::get_mut(&mut aborted.action).unwrap().fault = Some(fault);
    let mut delayed = route("/delay", to(vec![destination("web", 1)]));
    let fault = Fault { delay: Some((Fraction::ALL, Duration::from_millis(200))), abort: None };
    Arc::get_mut(&mut delayed.action).unwrap().fault = Some(fault);
    let proxy =
        Proxy::new(|port| snapshot(port, "a.example", vec![aborted, delayed], vec![cluster("web", &[peer.address])]));
    let answer = proxy.get("a.example", "/abort");
    assert_eq!((status(&answer), body(&answer)), (418, "fault filter abort"));
    let begin = Instant::now();
    assert_eq!(status(&proxy.get("a.example", "/delay")), 200);
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn mirrors_get_a_copy_with_its_body() {
    let (real, shadow) = (Peer::ok("real"), Peer::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    let mirror = Mirror { cluster: name("shadow"), broken: None, share: Fraction::ALL, place: place() };
    let outcome = forward("web", |_, _, mirrors| mirrors.push(mirror));
    let clusters = vec![cluster("web", &[real.address]), cluster("shadow", &[shadow.address])];
    let proxy = Proxy::new(|port| snapshot(port, "a.example", vec![route("/", outcome)], clusters));
    let answer =
        proxy.ask("POST /x HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping");
    assert_eq!(body(&answer), "real");
    eventually("the copy arrives", || shadow.seen().len() == 1);
    let seen = &shadow.seen()[0];
    assert!(seen.starts_with("POST /x ") && seen.contains("host: a.example-shadow:80\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nping"), "{seen}");
}

#[test]
fn weights_are_shares_of_requests_and_a_broken_share_is_not_shifted() {
    let (one, other) = (Peer::ok("one"), Peer::ok("two"));
    let broken = Destination { broken: Some(Broken::HostNotFound), ..destination("gone", 20) };
    let split = to(vec![destination("one", 70), destination("two", 10), broken]);
    let clusters = vec![cluster("one", &[one.address]), cluster("two", &[other.address])];
    let proxy = Proxy::new(|port| snapshot(port, "a.example", vec![route("/", split)], clusters));
    let mut stream = proxy.connect();
    let mut counts = [0_u32; 3];
    for _ in 0..1_000 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
        let mut answer = [0; 2_048];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        let at = ["one", "two", "exist"].iter().position(|end| answer.contains(end)).unwrap();
        counts[at] += 1;
    }
    // Five standard deviations of a binomial distribution, and more.
    assert!(counts[0].abs_diff(700) < 75 && counts[1].abs_diff(100) < 50 && counts[2].abs_diff(200) < 65, "{counts:?}");
}

#[test]
fn an_endpoint_that_fails_is_ejected() {
    let (good, bad) = (Peer::ok("ok"), Peer::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"));
    let mut policy = cluster("web", &[good.address, bad.address]);
    policy.outlier_detection =
        Some(OutlierDetection { consecutive_5xx: 3, max_ejection_percent: 50, ..OutlierDetection::default() });
    let proxy = one_cluster(to(vec![destination("web", 1)]), policy);
    let failures = (0..40).filter(|_| status(&proxy.get("a.example", "/")) == 500).count();
    assert_eq!((failures, bad.seen().len()), (3, 3));
}

#[test]
fn one_key_goes_to_one_endpoint_and_a_cookie_is_made() {
    let peers: Vec<Peer> = (0..4).map(|at| Peer::ok(&at.to_string())).collect();
    let endpoints: Vec<_> = peers.iter().map(|peer| peer.address).collect();
    let hashed = |on: HashOn, algorithm| {
        let mut policy = cluster("web", &endpoints);
        policy.balancer = Balancer::ConsistentHash { on, algorithm };
        one_cluster(to(vec![destination("web", 1)]), policy)
    };
    let ring = HashAlgorithm::Ring { minimum_size: 1_024 };
    let proxy = hashed(HashOn::Header("x-user".into()), ring);
    let ask = |user: u32| {
        let answer =
            proxy.ask(&format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-User: {user}\r\nConnection: close\r\n\r\n"));
        body(&answer).to_owned()
    };
    let chosen: Vec<_> = (0..40).map(ask).collect();
    assert_eq!((0..40).map(ask).collect::<Vec<_>>(), chosen);
    assert!((0..4).all(|at: u32| chosen.contains(&at.to_string())), "{chosen:?}");
    let on = HashOn::Cookie {
        name: "stick".into(),
        path: "/".into(),
        ttl: Some(Duration::from_secs(60)),
        attributes: vec![("SameSite".into(), "Lax".into())],
    };
    let proxy = hashed(on, HashAlgorithm::Maglev { table_size: 251 });
    let answer = proxy.get("a.example", "/");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().to_owned();
    let (pair, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " Max-Age=60; Path=/; SameSite=Lax; HttpOnly");
    for _ in 0..10 {
        let request = format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {pair}\r\nConnection: close\r\n\r\n");
        let again = proxy.ask(&request);
        assert!(body(&again) == body(&answer) && !again.contains("set-cookie"), "{again}");
    }
}

#[test]
fn full_pools_are_said_to_be_overloaded() {
    let silent = Peer::new(|mut stream, seen| {
        seen.lock().unwrap().push(String::new());
        read_request(&mut stream);
        let _ = stream.read(&mut [0]);
    });
    let mut policy = cluster("web", &[silent.address]);
    policy.pool.max_connections = Some(1);
    policy.pool.max_pending_requests = Some(0);
    let proxy = one_cluster(to(vec![destination("web", 1)]), policy);
    let mut first = proxy.connect();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    eventually("the first request is under way", || silent.seen().len() == 1);
    let answer = proxy.get("a.example", "/");
    assert!(status(&answer) == 503 && answer.contains("x-envoy-overloaded: true\r\n"), "{answer}");
    assert_eq!(silent.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn the_log_names_the_rule_and_the_flag_and_metrics_count() {
    let peer = Peer::ok("ok");
    let lines = Arc::new(Mutex::new(String::new()));
    let sink = lines.clone();
    let options = Options {
        access_log: AccessLog::Text,
        log_to: LogTo(Arc::new(move |text| sink.lock().unwrap().push_str(text))),
        ..Options::default()
    };
    let proxy = Proxy::with(options, |port| simple(port, peer.address));
    proxy.get("a.example", "/x?y");
    proxy.get("b.example", "/");
    eventually("both are logged", || lines.lock().unwrap().lines().count() == 2);
    let text = lines.lock().unwrap().clone();
    let [ok, lost] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(ok.contains("\"GET /x?y HTTP/1.1\" 200 - - - \"-\" 0 2 "), "{ok}");
    assert!(ok.contains(&format!(" \"{}\" outbound|80||web - {} ", peer.address, proxy.address)), "{ok}");
    assert!(ok.ends_with("- - \"VirtualService default/web spec.http[0] (a.yaml:1)\""), "{ok}");
    assert!(lost.contains("\"GET / HTTP/1.1\" 404 NR no_virtual_host_for_this_authority - \"-\" 0 "), "{lost}");
    let counts: Vec<_> =
        proxy.statistics.read().series.into_iter().map(|(labels, one)| (labels.status, one.count)).collect();
    assert_eq!(counts, [(404, 1), (200, 1)]);
}
