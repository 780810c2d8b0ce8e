//! What `sourceLabels` and `sourceNamespace` mean without sidecars: clients are known by their addresses.

use super::*;

fn mesh(tcp: &str) -> String {
    object("VirtualService", "v", &format!("{{hosts: [a], tcp: [{tcp}]}}"))
}

/// A client's Pod.
fn client(namespace: &str, name: &str, labels: &str, octet: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\nstatus: {{podIP: 10.3.0.{octet}}}\n"
    )
}

fn told(model: &Model) -> Vec<String> {
    let told = |client: &crate::snapshot::Client| {
        format!("{} {} {}", client.address, client.workload, model.clients.classes[usize::from(client.class)])
    };
    model.clients.members.iter().map(told).collect()
}

const V1: &str = "{match: [{sourceLabels: {tier: canary}, port: 80}], route: [{destination: {host: a}}]}";
const REST: &str = "{route: [{destination: {host: b, port: {number: 80}}}]}";

#[test]
fn a_route_for_some_clients_is_theirs_alone() {
    let texts = [
        mesh(&format!("{V1}, {REST}")),
        client("default", "one", "tier: canary, app: x", 1),
        client("default", "two", "tier: stable", 2),
    ];
    let (found, findings) = led(&texts);
    assert_eq!(findings, []);
    let all = "a [10.96.0.1]:80 Flow 1=b:80[10.1.2.1:80 10.1.2.2:80]";
    assert_eq!(found, [all, "a [10.96.0.1]:80 for tier=canary Flow 1=a:80[10.1.1.1:80 10.1.1.2:80]"]);
    // The service's own Pods are clients too, of no class.
    let (model, _) = meaning(&join(&[service("a", 1, &["tcp:80"]), service("b", 2, &["tcp:80"]), join(&texts)]));
    assert_eq!(told(&model), ["10.3.0.1 Pod default/one tier=canary"]);
}

#[test]
fn without_a_route_for_all_others_have_none() {
    let (found, findings) = led(&[mesh(V1), client("default", "one", "tier: canary", 1)]);
    assert_eq!(findings, []);
    assert_eq!(found, ["a [10.96.0.1]:80 for tier=canary Flow 1=a:80[10.1.1.1:80 10.1.1.2:80]"]);
}

#[test]
fn a_match_that_fits_no_known_client_is_told() {
    let (found, findings) = led(&[mesh(&format!("{V1}, {REST}"))]);
    assert_eq!(found, ["a [10.96.0.1]:80 Flow 1=b:80[10.1.2.1:80 10.1.2.2:80]"]);
    assert_eq!(codes(&findings), [(code::NO_CLIENT, Severity::Warning, "spec.tcp[0].match[0]".into())]);
}

#[test]
fn classes_are_what_rules_ask_and_nothing_else() {
    let rules = "{match: [{sourceNamespace: web}], route: [{destination: {host: a}}]}, {match: [{sourceLabels: {tier: canary}, sourceNamespace: web}, {sourceLabels: {app: x}}], route: [{destination: {host: b, port: {number: 80}}}]}";
    let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: web}\nspec: {address: 10.3.0.9, labels: {tier: canary, other: z}}\n";
    let host_network = client("web", "node", "", 8).replace("status:", "spec: {hostNetwork: true}\nstatus:");
    let ended = client("web", "job", "", 7).replace("status: {", "status: {phase: Succeeded, ");
    let texts = [
        mesh(rules),
        client("web", "one", "app: x", 1),
        client("web", "two", "app: z, tier: stable", 2),
        client("default", "three", "app: x", 3),
        // Of two kinds at one address: nobody knows which connects.
        client("web", "four", "", 4),
        client("default", "five", "app: x", 4),
        entry.to_owned(),
        host_network,
        ended,
    ];
    let (model, _) = meaning(&join(&texts));
    assert_eq!(
        told(&model),
        [
            "10.3.0.1 Pod web/one app=x in web",
            "10.3.0.2 Pod web/two in web",
            "10.3.0.3 Pod default/three app=x",
            "10.3.0.9 WorkloadEntry web/vm tier=canary in web",
        ]
    );
    let (found, _) = led(&texts);
    let a = "Flow 1=a:80[10.1.1.1:80 10.1.1.2:80]";
    assert_eq!(
        found,
        [
            format!("a [10.96.0.1]:80 for in web {a}"),
            "a [10.96.0.1]:80 for app=x Flow 1=b:80[10.1.2.1:80 10.1.2.2:80]".to_owned(),
            format!("a [10.96.0.1]:80 for app=x in web {a}"),
            format!("a [10.96.0.1]:80 for tier=canary in web {a}"),
        ]
    );
}

#[test]
fn http_routes_ask_who_the_client_is_when_it_comes() {
    let http = "{match: [{uri: {prefix: /}, sourceLabels: {tier: canary}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: b, port: {number: 80}}}]}";
    let texts = [
        service("a", 1, &["http:80"]),
        service("b", 2, &["http:80"]),
        object("VirtualService", "v", &format!("{{hosts: [a], http: [{http}]}}")),
        client("default", "one", "tier: canary", 1),
    ];
    let (model, _) = meaning(&join(&texts));
    let router = crate::router::Router::new(Arc::new(crate::compile::snapshot(&model, 1))).unwrap();
    let headers = http::HeaderMap::new();
    let to = |from: &str| {
        let client = router.client(from.parse().unwrap());
        let request = crate::router::Request {
            scheme: "http",
            method: "GET",
            authority: "a",
            path: "/",
            query: None,
            headers: &headers,
            client,
        };
        let host = router.door("10.96.0.1:80".parse().unwrap()).unwrap().chain(None).unwrap().host("a").unwrap();
        host.route(&request).unwrap().source().index
    };
    assert_eq!([to("10.3.0.1"), to("10.3.0.2")], [0, 1]);
}
