//! Which DestinationRule speaks, and what it changes.

use super::*;

#[test]
fn which_destination_rule_speaks() {
    let rule = |namespace: &str, name: &str, spec: &str| {
        object("DestinationRule", &format!("{name}, namespace: {namespace}"), spec)
    };
    let host = "a.default.svc.cluster.local";
    let with = |hash: bool, host: &str, more: &str| {
        let policy = if hash { "consistentHash: {useSourceIp: true}" } else { "simple: RANDOM" };
        format!("{{host: {host}, trafficPolicy: {{loadBalancer: {{{policy}}}}}{more}}}")
    };
    let sticky = |host: &str| with(true, host, "");
    let spread = |host: &str| with(false, host, "");
    let cases: Vec<(&str, Vec<String>, bool)> = vec![
        ("none", vec![], false),
        ("service's namespace", vec![rule("default", "d", &sticky("a"))], true),
        ("not exported", vec![rule("default", "d", &with(true, "a", ", exportTo: ['.']"))], false),
        ("a stranger's namespace", vec![rule("other", "d", &sticky(host))], false),
        ("root", vec![rule("root", "d", &sticky(host))], true),
        ("client before service", vec![rule("client", "d", &sticky(host)), rule("default", "d", &spread("a"))], true),
        ("service before root", vec![rule("default", "d", &sticky("a")), rule("root", "d", &spread(host))], true),
        ("wildcard", vec![rule("default", "d", &sticky("'*.cluster.local'"))], true),
        (
            "exact before wildcard",
            vec![rule("default", "d", &spread("'*.cluster.local'")), rule("default", "e", &sticky("a"))],
            true,
        ),
        (
            "longest wildcard",
            vec![rule("default", "d", &spread("'*.local'")), rule("default", "e", &sticky("'*.cluster.local'"))],
            true,
        ),
        (
            "wildcard nearer before exact farther",
            vec![rule("client", "d", &sticky("'*.local'")), rule("default", "e", &spread("a"))],
            true,
        ),
        (
            "first policy of one host",
            vec![rule("default", "e", &spread("a")), rule("default", "d", &sticky("a"))],
            true,
        ),
    ];
    let identity = Identity { namespace: "client".into(), root_namespace: "root".into(), ..identity() };
    for (case, mut rules, sticky) in cases {
        rules.extend([service("a", 1, &["tcp:80"]), gateway("g", SERVER), routes("v", &to("a"))]);
        let (model, _) = meaning_to(&join(&rules), &identity);
        let Action::Tcp(taken) = &model.listeners[0].action else { panic!("{case}: not balanced") };
        assert_eq!(taken.hash == HashKey::SourceIp, sticky, "{case}");
    }
}

#[test]
fn a_client_in_the_root_namespace_takes_the_services_rule_before_the_meshs() {
    let text = join(&[
        service("a", 1, &["tcp:80"]),
        gateway("g", SERVER),
        routes("v", &to("a")),
        object(
            "DestinationRule",
            "d, namespace: istio-system",
            "{host: a.default.svc.cluster.local, trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
        ),
        object(
            "DestinationRule",
            "e",
            "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}",
        ),
    ]);
    let hash = |text: &str| match &meaning(text).0.listeners[0].action {
        Action::Tcp(rule) => rule.hash,
        Action::Proxy(_) => panic!("not balanced"),
    };
    assert_eq!(hash(&text), HashKey::SourceIp);
    // For the gateway's own namespace alone: then it is the gateway's own rule, and comes first.
    assert_eq!(hash(&text.replace("simple: RANDOM}}", "simple: RANDOM}}, exportTo: ['.']")), HashKey::Flow);
}

#[test]
fn policies_of_subsets_and_ports_replace_whole_blocks() {
    let sticky = "loadBalancer: {consistentHash: {useSourceIp: true}}";
    let random = "loadBalancer: {simple: RANDOM}";
    let cases = [
        (format!("trafficPolicy: {{{sticky}}}"), "{outlierDetection: {}}".to_owned(), HashKey::SourceIp),
        (format!("trafficPolicy: {{{sticky}}}"), format!("{{{random}}}"), HashKey::Flow),
        (format!("trafficPolicy: {{{random}}}"), format!("{{{sticky}}}"), HashKey::SourceIp),
        (
            format!("trafficPolicy: {{{sticky}, portLevelSettings: [{{port: {{number: 80}}, tls: {{}}}}]}}"),
            "{outlierDetection: {}}".to_owned(),
            HashKey::Flow,
        ),
        (
            format!("trafficPolicy: {{{sticky}, portLevelSettings: [{{port: {{number: 81}}, tls: {{}}}}]}}"),
            "{outlierDetection: {}}".to_owned(),
            HashKey::SourceIp,
        ),
        (
            format!("trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, {random}}}]}}"),
            format!("{{portLevelSettings: [{{port: {{number: 80}}, {sticky}}}]}}"),
            HashKey::SourceIp,
        ),
    ];
    for (top, subset, expected) in cases {
        let rule =
            format!("{{host: a, {top}, subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {subset}}}]}}");
        let (model, findings) = meaning(&join(&[
            service("a", 1, &["tcp:80"]),
            gateway("g", SERVER),
            object("DestinationRule", "d", &rule),
            routes("v", "{route: [{destination: {host: a, subset: v1}}]}"),
        ]));
        let Action::Tcp(taken) = &model.listeners[0].action else { panic!("not balanced: {findings:#?}") };
        assert_eq!(taken.hash, expected, "{rule}");
    }
}

/// What only the kernel cannot do is said where the kernel carries flows to the host, and nowhere else.
#[test]
fn what_the_proxy_does_is_no_finding() {
    let rule = "{host: a, trafficPolicy: {outlierDetection: {}, connectionPool: {tcp: {maxConnections: 3}, http: {maxRetries: 1}}, loadBalancer: {simple: LEAST_REQUEST}}}";
    let text = |server: &str, route: String| {
        let rule = object("DestinationRule", "d", rule);
        join(&[service("a", 1, &["tcp:80"]), gateway("g", server), rule, route])
    };
    let http = "{hosts: ['*'], gateways: [g], http: [{route: [{destination: {host: a}}]}]}";
    let by_http =
        text("{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}", object("VirtualService", "v", http));
    let by_tcp = text(SERVER, routes("v", &to("a")));
    let paths = |text: &str, proxy| {
        let (_, findings) = meaning_to(text, &Identity { proxy, ..identity() });
        findings.into_iter().map(|finding| finding.path).collect::<Vec<_>>()
    };
    let policy = |field: &str| format!("spec.trafficPolicy.{field}");
    let kernel = ["connectionPool.tcp.maxConnections", "loadBalancer.simple", "outlierDetection"].map(policy);
    let mut found = paths(&by_tcp, Proxy::On);
    found.sort();
    assert_eq!(found, kernel);
    assert_eq!(paths(&by_http, Proxy::On), [""; 0]);
    let off = paths(&by_http, Proxy::Off);
    for path in ["spec.servers[0].port.protocol", "spec.http", "spec.trafficPolicy.connectionPool.http.maxRetries"] {
        assert!(off.iter().any(|found| found == path), "{path}: {off:?}");
    }
}

#[test]
fn plaintext_is_never_sent_where_something_else_is_asked_for() {
    for policy in [
        "tls: {mode: SIMPLE}",
        "tls: {mode: ISTIO_MUTUAL}",
        "tunnel: {targetHost: x, targetPort: 1}",
        "proxyProtocol: {version: V2}",
    ] {
        let rule = format!("{{host: a, trafficPolicy: {{{policy}}}}}");
        let text = join(&[
            service("a", 1, &["tcp:80"]),
            gateway("g", SERVER),
            object("DestinationRule", "d", &rule),
            routes("v", &to("a")),
        ]);
        let left_out = ["DestinationRule default/d", "VirtualService default/v"];
        let mesh = if policy.contains("ISTIO_MUTUAL") { &left_out[..1] } else { &[] };
        for (proxy, expected) in [(Proxy::Off, &left_out[..]), (Proxy::On, mesh)] {
            let (model, findings) = meaning_to(&text, &Identity { proxy, ..identity() });
            assert_eq!(sketch(&model), ["default/g *:100 proxy Tcp"], "{policy}");
            let objects: Vec<_> = findings.iter().map(|finding| finding.object.as_str()).collect();
            assert_eq!(objects, expected, "{policy} {proxy:?}: {findings:?}");
            assert!(findings.iter().all(|finding| finding.code == code::UNSUPPORTED), "{findings:?}");
        }
    }
    let (found, findings) = led(&[
        gateway("g", SERVER),
        object("DestinationRule", "d", "{host: a, trafficPolicy: {tls: {mode: DISABLE}}}"),
        routes("v", &to("a")),
    ]);
    assert_eq!((found, findings), (vec![A.to_owned()], vec![]));
}
