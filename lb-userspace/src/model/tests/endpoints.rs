//! Where endpoints come from.

use super::*;

/// The endpoints of Service `default/a`, port `tcp` 80.
fn endpoints(texts: &[String]) -> (String, Vec<&'static str>) {
    let mut all = texts.to_vec();
    all.extend([gateway("g", SERVER), routes("v", &to("a"))]);
    let (model, findings) = meaning(&join(&all));
    let line = sketch(&model).remove(0);
    let start = line.find('[').unwrap();
    (line[start..].to_owned(), findings.iter().map(|finding| finding.code).collect())
}

#[test]
fn where_endpoints_come_from() {
    let target = |target: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{selector: {{app: a}}, ports: [{{name: tcp, port: 80, targetPort: {target}}}]}}\n"
        )
    };
    let slice = |name: &str, endpoints: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{{name: tcp, port: 8080}}, {{name: other, port: 9}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let legacy = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: a}\nsubsets: [{addresses: [{ip: 10.2.0.1}], notReadyAddresses: [{ip: 10.2.0.2}], ports: [{name: tcp, port: 8081}]}]\n".to_owned();
    let workload =
        |more: &str| object("WorkloadEntry", "w", &format!("{{address: 10.3.0.1, labels: {{app: a}}{more}}}"));
    let cases: Vec<(&str, Vec<String>, &str, &[&str])> = vec![
        ("pods, number", vec![target("8000"), pod("a", 1, 1)], "[10.1.1.1:8000]", &[]),
        ("pods, named port", vec![target("named"), pod("a", 1, 1)], "[10.1.1.1:7777]", &[]),
        ("pods, unknown name", vec![target("nobody"), pod("a", 1, 1)], "[]", &["MEL0008"]),
        ("not ready", vec![target("80"), pod("a", 1, 1).replace("\"True\"", "\"False\"")], "[]", &["MEL0008"]),
        (
            "ended",
            vec![target("80"), pod("a", 1, 1).replace("  podIP", "  phase: Succeeded\n  podIP")],
            "[]",
            &["MEL0008"],
        ),
        (
            "not ready but wanted",
            vec![
                target("80").replace("{selector", "{publishNotReadyAddresses: true, selector"),
                pod("a", 1, 1).replace("\"True\"", "\"False\""),
            ],
            "[10.1.1.1:80]",
            &[],
        ),
        ("other labels", vec![target("80"), pod("b", 1, 1)], "[]", &["MEL0008"]),
        (
            "other namespace",
            vec![target("80"), pod("a", 1, 1).replace("{name: a-v1", "{namespace: x, name: a-v1")],
            "[]",
            &["MEL0008"],
        ),
        (
            "slices, united, ready by default, not pods",
            vec![
                target("80"),
                pod("a", 1, 1),
                slice("s", "{addresses: [10.4.0.1]}, {addresses: [10.4.0.2], conditions: {ready: false}}"),
                slice("t", "{addresses: [10.4.0.1]}, {addresses: [10.4.0.3], conditions: {ready: null}}"),
                legacy.clone(),
            ],
            "[10.4.0.1:8080 10.4.0.3:8080]",
            &[],
        ),
        ("Endpoints", vec![target("80"), pod("a", 1, 1), legacy], "[10.2.0.1:8081]", &[]),
        ("WorkloadEntry", vec![target("8000"), workload("")], "[10.3.0.1:8000]", &[]),
        ("WorkloadEntry with a port", vec![target("8000"), workload(", ports: {tcp: 5}")], "[10.3.0.1:5]", &[]),
        (
            "WorkloadEntry beside Pods",
            vec![target("8000"), pod("a", 1, 1), workload("")],
            "[10.1.1.1:8000 10.3.0.1:8000]",
            &[],
        ),
    ];
    for (case, texts, expected, expected_codes) in cases {
        assert_eq!(endpoints(&texts), (expected.to_owned(), expected_codes.to_vec()), "{case}");
    }
}

#[test]
fn labels_of_a_slice_come_from_its_pods_by_name_or_address() {
    let slice = |target: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{{name: tcp, port: 80}}]\nendpoints: [{{addresses: [10.1.1.1]}}, {{addresses: [10.9.9.9]{target}}}]\n"
        )
    };
    for (target, expected) in [
        ("", "[10.1.1.1:80]"),
        (", targetRef: {kind: Pod, name: a-v1, namespace: default}", "[10.1.1.1:80 10.9.9.9:80]"),
    ] {
        let (model, _) = meaning(&join(&[
            service("a", 1, &["tcp:80"]),
            slice(target),
            gateway("g", SERVER),
            object("DestinationRule", "d", "{host: a, subsets: [{name: v1, labels: {app: a, version: v1}}]}"),
            routes("v", "{route: [{destination: {host: a, subset: v1}}]}"),
        ]));
        assert!(sketch(&model)[0].ends_with(expected), "{:?}", sketch(&model));
    }
}

#[test]
fn service_entries() {
    let entry = |spec: &str| {
        object(
            "ServiceEntry",
            "s",
            &format!(
                "{{hosts: [db.example], ports: [{{number: 80, name: tcp, protocol: TCP, targetPort: 8000}}], {spec}}}"
            ),
        )
    };
    let endpoint = "endpoints: [{address: 10.5.0.2, weight: 3}, {address: 10.5.0.1, ports: {tcp: 7}}]";
    let cases = [
        (
            entry(&format!("resolution: STATIC, {endpoint}")),
            "g *:100 Flow 1=db.example:80[10.5.0.1:7 10.5.0.2:8000]",
            vec![],
        ),
        (
            entry("resolution: STATIC, workloadSelector: {labels: {app: a, version: v1}}"),
            "g *:100 Flow 1=db.example:80[10.1.1.1:8000]",
            vec![],
        ),
        (entry("resolution: DNS"), "g *:100 Flow 1=db.example:80[]", vec!["MEL0008", "MEL0001"]),
        (entry("resolution: STATIC, exportTo: ['.']"), "g *:100 Flow 1=HostNotFound", vec!["IST0101"]),
    ];
    for (text, expected, mut expected_codes) in cases {
        let (found, findings) = led(&[gateway("g", SERVER), routes("v", &to("db.example")), text.clone()]);
        assert_eq!(found, [expected], "{text}");
        let mut found: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        found.sort_unstable();
        expected_codes.sort_unstable();
        assert_eq!(found, expected_codes, "{text}");
    }
    let text = join(&[
        entry(&format!("resolution: STATIC, {endpoint}")),
        gateway("g", SERVER),
        routes("v", &to("db.example")),
    ]);
    let weights: Vec<u32> = meaning(&text)
        .0
        .clusters
        .values()
        .flat_map(|cluster| &cluster.endpoints)
        .map(|endpoint| endpoint.weight)
        .collect();
    assert_eq!(weights, [1, 3]);
}
