//! Which server listens, and which route it takes.

use super::*;

#[test]
fn the_first_route_that_fits_of_the_first_virtual_service_that_has_one() {
    let with_match =
        |item: &str, host: &str| format!("{{match: [{item}], route: [{{destination: {{host: {host}}}}}]}}");
    let dated =
        |text: String, time: &str| text.replacen("metadata: {", &format!("metadata: {{creationTimestamp: {time}, "), 1);
    let cases: Vec<Case> = vec![
        ("no match", vec![routes("v", &to("a"))], &[A], &[]),
        ("port fits", vec![routes("v", &with_match("{port: 100}", "a"))], &[A], &[]),
        ("port differs", vec![routes("v", &with_match("{port: 101}", "a"))], &[], &["MEL0007"]),
        ("any item", vec![routes("v", &with_match("{port: 101}, {port: 100}", "a"))], &[A], &[]),
        ("null item fits", vec![routes("v", &with_match("null", "a"))], &[A], &[]),
        ("first wins", vec![routes("v", &format!("{}, {}", to("a"), to("b")))], &[A], &["IST0130"]),
        ("passed over", vec![routes("v", &format!("{}, {}", with_match("{port: 101}", "a"), to("b")))], &[B], &[]),
        ("names decide", vec![routes("w", &to("b")), routes("v", &to("a"))], &[A], &["IST0130"]),
        (
            "age decides before names",
            vec![
                dated(routes("v", &to("b")), "2024-01-02T00:00:00Z"),
                dated(routes("w", &to("a")), "2024-01-01T00:00:00Z"),
            ],
            &[A],
            &["IST0130"],
        ),
        ("next service asked", vec![routes("v", &with_match("{port: 9}", "b")), routes("w", &to("a"))], &[A], &[]),
        ("subnets ignored", vec![routes("v", &with_match("{destinationSubnets: [1.2.3.4]}", "a"))], &[A], &["MEL0002"]),
        ("labels ignored", vec![routes("v", &with_match("{sourceLabels: {x: z}}", "a"))], &[A], &["MEL0002"]),
        (
            "other gateway in match",
            vec![routes("v", &with_match("{gateways: [mesh]}", "a")).replace("hosts: ['*']", "hosts: [x.y]")],
            &[],
            &["MEL0007"],
        ),
        (
            "gateway in match only",
            vec![object(
                "VirtualService",
                "v",
                &format!("{{hosts: [x.y], gateways: [mesh], tcp: [{}]}}", with_match("{gateways: [g]}", "a")),
            )],
            &[A],
            &[],
        ),
        (
            "no gateway listed",
            vec![object("VirtualService", "v", &format!("{{hosts: [x.y], tcp: [{}]}}", to("a")))],
            &[],
            &["MEL0007"],
        ),
        ("own namespace", vec![routes("v", &to("a")).replace("[g]", "[./g]")], &[A], &[]),
        ("full name", vec![routes("v", &to("a")).replace("[g]", "[default/g]")], &[A], &[]),
        ("unknown gateway", vec![routes("v", &to("a")).replace("[g]", "[other/g]")], &[], &["MEL0007", "IST0101"]),
        ("not exported", vec![routes("v", &to("a")).replace("{hosts", "{exportTo: ['.'], hosts")], &[], &["MEL0007"]),
        (
            "exported to us",
            vec![routes("v", &to("a")).replace("{hosts", "{exportTo: [istio-system], hosts")],
            &[A],
            &[],
        ),
        (
            "named export before public",
            vec![routes("v", &to("b")), routes("w", &to("a")).replace("{hosts", "{exportTo: [istio-system], hosts")],
            &[A],
            &["IST0130"],
        ),
    ];
    for (case, mut texts, expected, expected_codes) in cases {
        texts.push(gateway("g", SERVER));
        let (found, findings) = led(&texts);
        assert_eq!(found, expected, "{case}: {findings:#?}");
        let mut found: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        let mut expected_codes = expected_codes.to_vec();
        found.sort_unstable();
        expected_codes.sort_unstable();
        assert_eq!(found, expected_codes, "{case}");
    }
}

#[test]
fn hosts_bind_a_virtual_service_to_a_server() {
    let cases = [
        ("'*'", "x.y", true),
        ("x.y", "'*'", true),
        ("x.y", "x.y", true),
        ("'*.x.y'", "a.x.y", true),
        ("a.x.y", "'*.x.y'", true),
        ("x.y", "z.y", false),
        ("default/x.y", "x.y", true),
        ("./x.y", "x.y", true),
        ("'*/x.y'", "x.y", true),
        ("other/x.y", "x.y", false),
        ("a.default.svc.cluster.local", "a", true),
        ("X.Y", "x.y", true),
    ];
    for (server, host, bound) in cases {
        let servers = format!("{{port: {{number: 100, name: tcp, protocol: TCP}}, hosts: [{server}]}}");
        let service = routes("v", &to("a")).replace("hosts: ['*']", &format!("hosts: [{host}]"));
        let (found, findings) = led(&[gateway("g", &servers), service]);
        assert_eq!(!found.is_empty(), bound, "{server} {host}");
        assert_eq!(findings.iter().any(|finding| finding.code == code::HOST_NOT_IN_GATEWAY), !bound, "{server} {host}");
    }
}

#[test]
fn one_port_one_winner() {
    let server = |number: u16, name: &str, protocol: &str| {
        let tls = if protocol == "HTTPS" { ", tls: {mode: SIMPLE, credentialName: c}" } else { "" };
        format!("{{port: {{number: {number}, name: {name}, protocol: {protocol}}}, hosts: ['*']{tls}}}")
    };
    let cases = [
        (server(100, "a", "TCP"), server(100, "b", "TCP"), 1, true),
        (server(100, "a", "TCP"), server(101, "b", "TCP"), 2, false),
        (server(100, "a", "TCP"), server(100, "b", "HTTP"), 1, true),
        (server(100, "a", "HTTP"), server(100, "b", "GRPC"), 1, false),
        (server(100, "a", "HTTPS"), server(100, "b", "HTTPS"), 1, false),
    ];
    for (first, second, listeners, conflict) in cases {
        let younger =
            gateway("f", &second).replace("metadata: {", "metadata: {creationTimestamp: 2024-01-01T00:00:00Z, ");
        let service = routes("v", &to("a")).replace("[g]", "[f, g]");
        let (found, findings) = led(&[younger, gateway("g", &first), service]);
        assert_eq!(found.len(), listeners, "{first} {second}");
        assert!(found.iter().any(|line| line.starts_with("g *:100 ")), "the older Gateway wins: {found:?}");
        let conflicts: Vec<_> = findings.iter().filter(|finding| finding.code == code::GATEWAY_CONFLICT).collect();
        assert_eq!(conflicts.len(), usize::from(conflict), "{first} {second}");
        assert!(
            conflicts
                .iter()
                .all(|finding| finding.object == "Gateway default/f" && finding.message.contains("default/g"))
        );
    }
}

#[test]
fn gateways_of_others_and_binds() {
    let (found, findings) =
        led(&[gateway("g", SERVER).replace("ingressgateway", "egressgateway"), routes("v", &to("a"))]);
    assert_eq!(found, [""; 0]);
    assert_eq!(codes(&findings), [(code::GATEWAY_IDLE, Severity::Info, "spec.selector".into())]);
    let (found, _) = led(&[gateway("g", SERVER).replace("{istio: ingressgateway}", "{}"), routes("v", &to("a"))]);
    assert_eq!(found, [A]);
    let (found, _) = led(&[gateway("g", &SERVER.replace("hosts", "bind: 10.0.0.9, hosts")), routes("v", &to("a"))]);
    assert_eq!(found, [A.replace('*', "10.0.0.9")]);
    let (found, _) = led(&[gateway("g", &SERVER.replace("hosts", "bind: '0.0.0.0', hosts")), routes("v", &to("a"))]);
    assert_eq!(found, [A]);
}
