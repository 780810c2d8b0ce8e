//! A snapshot goes over a socket and comes back as it was.

use std::time::Duration;

use super::*;

fn place(line: u32) -> Place {
    Place { file: "a.yaml".into(), line }
}

fn name(host: &str) -> ClusterName {
    ClusterName { host: host.into(), subset: Some("v1".into()), port: 80 }
}

fn destination(host: &str) -> Destination {
    let operation =
        HeaderOperation { name: "x-a".into(), action: HeaderAction::Set("%DOWNSTREAM_REMOTE_ADDRESS%".into()) };
    Destination {
        cluster: name(host),
        weight: 10,
        broken: Some(Broken::PortAmbiguous),
        request_headers: vec![operation.clone()],
        response_headers: vec![operation],
        place: place(3),
    }
}

fn route(outcome: Outcome) -> Route {
    let text = StringMatch::Regex("a+".into());
    let condition = Condition {
        client: Some(ClientMatch { labels: [("app".into(), "a".into())].into(), namespace: None }),
        uri: Some(UriMatch { text: StringMatch::Prefix("/x".into()), case: Case::Ignored }),
        scheme: Some(text.clone()),
        method: Some(StringMatch::Exact("GET".into())),
        authority: None,
        headers: vec![("x-b".into(), HeaderCondition::IsNot(text.clone())), ("x-c".into(), HeaderCondition::Present)],
        query: vec![("q".into(), Some(text)), ("r".into(), None)],
    };
    let source = RuleSource {
        kind: RouteKind::Http,
        virtual_service: Some("a/b".into()),
        index: 1,
        item: Some(2),
        name: Some("canary".into()),
        place: place(9),
    };
    let fault = Fault {
        delay: Some((Fraction::of_percent(0.1), Duration::from_millis(1_500))),
        abort: Some((Fraction::ALL, Abort::Grpc(14))),
    };
    Route {
        source,
        condition,
        action: Arc::new(Action { outcome, fault: Some(fault), cors: None, response_headers: Vec::new() }),
    }
}

fn tls() -> ServerTls {
    ServerTls {
        certificates: vec![Certificate::Secret { namespace: "istio-system".into(), name: "web".into() }],
        client: ClientVerification::Required(PeerCheck {
            authorities: Authorities::Secrets { namespace: "istio-system".into(), names: vec!["web-cacert".into()] },
            revocations: Some("/etc/crl.pem".into()),
            names: Names::Listed(vec!["client".into()]),
            spki_pins: Vec::new(),
            certificate_pins: Vec::new(),
        }),
        min_version: TlsVersion::V1_2,
        max_version: TlsVersion::V1_3,
        cipher_suites: Vec::new(),
        alpn: vec!["h2".into(), "http/1.1".into()],
        place: place(4),
    }
}

fn clients() -> Clients {
    let class = ClientClass { labels: [("app".into(), "a".into())].into(), namespace: Some("shop".into()) };
    let client = Client { address: [10, 0, 0, 9].into(), class: 0, workload: "Pod shop/a".into() };
    Clients { classes: vec![Arc::new(class)], members: vec![client] }
}

fn example() -> Snapshot {
    let forward = Outcome::Forward {
        split: Split { destinations: vec![destination("a.b"), destination("c.d")] },
        rewrite: Rewrite { path: PathRewrite::Uri("/y".into()), authority: AuthorityRewrite::Set("z".into()) },
        timeout: Some(Duration::from_secs(3)),
        retry: None,
        mirrors: vec![Mirror { cluster: name("m"), broken: None, share: Fraction(7), place: place(8) }],
    };
    let host = VirtualHost {
        name: "*.b".into(),
        https_redirect: HttpsRedirect::Always,
        routes: vec![route(forward), route(Outcome::Respond(Respond { status: 418, body: (*b"no").into() }))],
        place: place(2),
    };
    let chain = Chain {
        names: vec!["*.b".into()],
        tls: Some(Arc::new(tls())),
        content: Content::Http(vec![host]),
        gateway: "a/g".into(),
        place: place(1),
    };
    let cluster = Cluster {
        name: name("a.b"),
        endpoints: vec![Endpoint {
            address: EndpointAddress::Ip("[fd00::1]:80".parse().unwrap()),
            weight: 2,
            locality: Locality { region: "r".into(), ..Locality::default() },
            health: Health::Ready,
            identity: Some("spiffe://cluster.local/ns/a/sa/b".into()),
            labels: [("version".into(), "v1".into())].into(),
        }],
        protocol: UpstreamProtocol::Http2,
        balancer: Balancer::ConsistentHash {
            on: HashOn::Header("x-user".into()),
            algorithm: HashAlgorithm::Ring { minimum_size: 1_024 },
        },
        locality: LocalityPolicy::Off,
        warmup: None,
        pool: Pool::default(),
        outlier_detection: Some(OutlierDetection::default()),
        tls: Some(ClientTls {
            mode: "MUTUAL".into(),
            certificate: Some(Certificate::Files { chain: "/c".into(), key: "/k".into() }),
            server: PeerCheck {
                authorities: Authorities::System,
                revocations: None,
                names: Names::Sni,
                spki_pins: Vec::new(),
                certificate_pins: Vec::new(),
            },
            sni: None,
            place: place(6),
        }),
        proxy_protocol: Some(ProxyProtocol::V2),
        tunnel: None,
        place: place(5),
        policy: Some(("a/b".into(), place(7))),
    };
    let listener = Listener {
        name: "gateway a/g :443".into(),
        addresses: Addresses::Listed(vec!["10.0.0.1".parse().unwrap()]),
        port: NonZeroU16::new(443).unwrap(),
        gateway: "a/g".into(),
        chains: vec![chain],
        place: place(1),
    };
    Snapshot { revision: 7, listeners: vec![listener], clusters: vec![Arc::new(cluster)], clients: Arc::new(clients()) }
}

#[test]
fn goes_over_a_socket_and_comes_back() {
    let text = serde_json::to_string(&example()).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), example());
}

#[test]
fn names_every_credential_once() {
    let files = Certificate::Files { chain: "/c".into(), key: "/k".into() };
    let secret = Certificate::Secret { namespace: "istio-system".into(), name: "web".into() };
    let authorities = Authorities::Secrets { namespace: "istio-system".into(), names: vec!["web-cacert".into()] };
    let expected = Credentials {
        certificates: [files, secret].into(),
        authorities: [authorities, Authorities::System].into(),
        revocations: ["/etc/crl.pem".into()].into(),
    };
    assert_eq!(example().credentials(), expected);
}

#[test]
fn catch_alls_have_no_condition_but_the_root_prefix() {
    let prefix = |text: &str| UriMatch { text: StringMatch::Prefix(text.into()), case: Case::Sensitive };
    let with = |uri| Condition { uri, ..Condition::default() };
    assert!(with(None).is_catch_all());
    assert!(with(Some(prefix("/"))).is_catch_all());
    assert!(!with(Some(prefix("/a"))).is_catch_all());
    let header = Condition { headers: vec![("a".into(), HeaderCondition::Present)], ..with(Some(prefix("/"))) };
    assert!(!header.is_catch_all());
}

#[test]
fn fractions_have_steps_of_a_ten_thousandth_percent() {
    for (percent, millionths) in
        [(0.0, 0), (0.0001, 1), (0.1, 1_000), (50.0, 500_000), (100.0, 1_000_000), (101.0, 1_000_000)]
    {
        assert_eq!(Fraction::of_percent(percent), Fraction(millionths), "{percent}");
    }
}
