//! From a connection's address to the destination.

use super::*;

fn web(name: &str, status: u16) -> VirtualHost {
    let respond = Outcome::Respond(Respond { status, body: (*b"").into() });
    host(name, vec![route(0, uri(StringMatch::Prefix("/a".into())), respond)])
}

fn status(router: &Router, to: &str, sni: Option<&str>, url: &str) -> Option<u16> {
    let headers = HeaderMap::new();
    let request = request("GET", url, &headers);
    let host = router.door(to.parse().unwrap())?.chain(sni)?.host(request.authority)?;
    match host.route(&request)?.action().outcome {
        Outcome::Respond(Respond { status, .. }) => Some(status),
        Outcome::Forward { .. } | Outcome::Redirect(_) => None,
    }
}

#[test]
fn address_then_host_then_route() {
    let own = listener(
        80,
        Addresses::Own,
        vec![(&["*"], Content::Http(vec![web("*", 200), web("*.b", 201), web("a.b", 202)]))],
    );
    let one = listener(
        80,
        Addresses::Listed(vec!["10.0.0.9".parse().unwrap()]),
        vec![(&["*"], Content::Http(vec![web("x", 203)]))],
    );
    let router = router(vec![own, one]);
    for (to, url, expected) in [
        ("10.0.0.1:80", "http://other/a", Some(200)),
        ("10.0.0.1:80", "http://A.B:80/a", Some(202)),
        ("10.0.0.1:80", "http://z.b/ab", Some(201)),
        ("10.0.0.1:80", "http://a.b/b", None),
        ("10.0.0.9:80", "http://x/a", Some(203)),
        ("10.0.0.9:80", "http://a.b/a", None),
        ("[fd00::1]:80", "http://a.b/a", Some(202)),
        ("10.0.0.1:81", "http://a.b/a", None),
    ] {
        assert_eq!(status(&router, to, None, url), expected, "{to} {url}");
    }
}

#[test]
fn the_chain_is_chosen_by_server_name() {
    let http = |status| Content::Http(vec![web("*", status)]);
    let named: Vec<(&[&str], Content)> = vec![(&["a.b", "c.d"], http(200)), (&["*.b"], http(201))];
    let mut with_star = named.clone();
    with_star.push((&["*"], http(202)));
    let closed = router(vec![listener(443, Addresses::Own, named)]);
    let open = router(vec![listener(443, Addresses::Own, with_star)]);
    for (sni, without, with) in [
        (Some("A.b"), Some(200), Some(200)),
        (Some("c.d"), Some(200), Some(200)),
        (Some("x.b"), Some(201), Some(201)),
        (Some("x.y"), None, Some(202)),
        (Some(""), None, Some(202)),
        (None, None, Some(202)),
    ] {
        assert_eq!(status(&closed, "10.0.0.1:443", sni, "https://h/a"), without, "{sni:?}");
        assert_eq!(status(&open, "10.0.0.1:443", sni, "https://h/a"), with, "{sni:?}");
    }
}

#[test]
fn destinations_are_drawn_with_exact_shares_and_bring_their_headers() {
    let step = HeaderOperation { name: "x-version".into(), action: HeaderAction::Set("2".into()) };
    let second = Destination { request_headers: vec![step], ..destination("b", 10) };
    let router =
        only(vec![route(0, Condition::default(), forward(vec![destination("a", 90), second], Rewrite::default()))]);
    let headers = HeaderMap::new();
    let rule = only_host(&router).route(&request("GET", "http://h/", &headers)).unwrap();
    let drawn = |at: u64| rule.draw(Draw(u64::MAX / 10_000 * at + 1_000)).unwrap();
    let second: Vec<_> = (0..10_000).map(drawn).filter(|drawn| drawn.at == 1).collect();
    assert_eq!(second.len(), 1_000);
    assert!(second.iter().all(|drawn| &*drawn.destination.cluster.host == "b" && !drawn.request_headers.is_empty()));
}

/// A flow of TLS or TCP through the proxy goes where the kernel would have sent it.
#[test]
fn flows_fall_as_in_the_kernel() {
    use crate::slots::shares;
    use lb_common::{
        flow::{HashKey, Tuple, V4},
        wire::{Be16, Be32},
    };
    let split = Split { destinations: vec![destination("a", 70), destination("b", 30)] };
    let source = route(0, Condition::default(), forward(Vec::new(), Rewrite::default())).source;
    let tcp = TcpRoute { source, split: split.clone(), idle_timeout: None, max_duration: None };
    let router = router(vec![listener(443, Addresses::Own, vec![(&["*"], Content::Tcp(tcp))])]);
    let tcp = router.door("10.0.0.1:443".parse().unwrap()).unwrap().chain(None).unwrap().tcp().unwrap();
    let kernel: Vec<_> = split
        .destinations
        .iter()
        .map(|one| shares::Share {
            seed: crate::image::name_hash(&format!("{}:80", one.cluster.host)),
            weight: one.weight,
        })
        .collect();
    let table = shares::fill(&kernel, 10_000);
    for port in 0..2_000u16 {
        let flow =
            Tuple { src: V4(Be32::new(7)), dst: V4(Be32::new(9)), sport: Be16::new(port), dport: Be16::new(443) };
        let hash = FlowHash::of(&flow, HashKey::Flow);
        let expected = &split.destinations[usize::from(table[hash.subset_slot(10_000) as usize])];
        assert_eq!(tcp.of_flow(hash), Some(expected));
    }
}

#[test]
fn clusters_by_name_and_by_server_name() {
    let name = ClusterName { host: "a.b".into(), subset: Some("v1".into()), port: 9080 };
    let cluster = Cluster {
        name: name.clone(),
        endpoints: Vec::new(),
        protocol: UpstreamProtocol::Http1,
        balancer: Balancer::LeastRequest,
        locality: LocalityPolicy::Off,
        warmup: None,
        pool: Pool::default(),
        outlier_detection: None,
        tls: None,
        proxy_protocol: None,
        tunnel: None,
        place: Place::default(),
        policy: None,
    };
    let snapshot = Snapshot { clusters: vec![Arc::new(cluster)], ..Snapshot::default() };
    let router = Router::new(Arc::new(snapshot)).unwrap();
    assert_eq!(router.cluster(&name).map(|found| &found.name), Some(&name));
    assert_eq!(router.cluster_of_sni("outbound_.9080_.v1_.a.b").map(|found| &found.name), Some(&name));
    for sni in ["outbound_.9080_._.a.b", "outbound_.9081_.v1_.a.b", "a.b", "outbound_.x_.v1_.a.b"] {
        assert!(router.cluster_of_sni(sni).is_none(), "{sni}");
    }
}
