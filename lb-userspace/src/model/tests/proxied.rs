//! What the proxy gets: names, routes and their order.

use super::*;
use crate::{
    router::Patterns,
    snapshot::{Condition, Content, HttpsRedirect, RuleSource, StringMatch, VirtualHost},
};

fn rule(source: &RuleSource) -> String {
    let name = source.virtual_service.as_deref().unwrap_or("-").replace("default/", "");
    let item = source.item.map(|item| format!(".{item}")).unwrap_or_default();
    format!("{name}.{}{item}", source.index)
}

fn condition(condition: &Condition) -> String {
    let text = |text: &StringMatch| match text {
        StringMatch::Exact(text) => format!("={text}"),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Regex(text) => format!("~{text}"),
    };
    let parts = [condition.method.as_ref(), condition.uri.as_ref().map(|uri| &uri.text)];
    parts.into_iter().flatten().map(|part| format!(" {}", text(part))).collect()
}

fn host(host: &VirtualHost) -> String {
    let redirect = if host.https_redirect == HttpsRedirect::Always { " redirects" } else { "" };
    let routes = host.routes.iter().map(|route| format!("{}{}", rule(&route.source), condition(&route.condition)));
    format!("{}{redirect} [{}]", host.name, routes.collect::<Vec<_>>().join(", "))
}

/// One line a virtual host or a chain of bytes, of all listeners that are the proxy's.
fn read_at(text: &str) -> (Vec<String>, Vec<Finding>) {
    let (model, findings) = meaning(&join(&[service("a", 1, &["http:80", "tls:443"]), text.to_owned()]));
    let chains = model.listeners.iter().filter_map(|listener| match &listener.action {
        Action::Proxy(chains) => Some(chains),
        Action::Tcp(_) => None,
    });
    let lines = chains.flatten().flat_map(|chain| match &chain.content {
        Content::Http(hosts) => hosts.iter().map(host).collect(),
        Content::Tcp(route) => {
            vec![format!("{} {:?} {}", chain.names.join(","), route.source.kind, rule(&route.source))]
        }
        Content::AutoPassthrough => vec!["any cluster".to_owned()],
    });
    (lines.collect(), findings)
}

fn server(hosts: &str, tls: &str) -> String {
    gateway("g", &format!("{{port: {{number: 100, name: p, protocol: {tls}, hosts: ['{hosts}']}}"))
}

const HTTP: &str = "HTTP}";
const PASSTHROUGH: &str = "TLS}, tls: {mode: PASSTHROUGH}";

fn bound(name: &str, host: &str, rest: &str) -> String {
    object("VirtualService", name, &format!("{{hosts: ['{host}'], gateways: [g], {rest}}}"))
}

fn http(name: &str, host: &str, items: &[&str]) -> String {
    let route = |item: &&str| match *item {
        "" => to("a"),
        item => format!("{{match: [{item}], route: [{{destination: {{host: a}}}}]}}"),
    };
    bound(name, host, &format!("http: [{}]", items.iter().map(route).collect::<Vec<_>>().join(", ")))
}

#[test]
fn a_host_is_the_narrower_of_the_servers_and_the_virtual_services() {
    for (server_host, host, expected) in [
        ("*.example.com", "a.example.com", &["a.example.com [v.0]"][..]),
        ("a.example.com", "*.example.com", &["a.example.com [v.0]"]),
        ("*.example.com", "*", &["*.example.com [v.0]"]),
        ("a.example.com", "b.example.com", &[]),
        ("default/*", "a.b", &["a.b [v.0]"]),
        ("./*", "a.b", &["a.b [v.0]"]),
        ("other/*", "a.b", &[]),
        ("other/*.b", "a.b", &[]),
    ] {
        let (found, _) = read_at(&join(&[server(server_host, HTTP), http("v", host, &[""])]));
        assert_eq!(found, expected, "{server_host} {host}");
    }
}

#[test]
fn routes_for_one_host_follow_each_other_with_catch_alls_last() {
    let texts = [
        server("*", HTTP),
        http("v", "x.y", &["{uri: {prefix: /a}}", ""]),
        http("w", "x.y", &["{uri: {exact: /b}}, {method: {exact: PUT}}", ""]),
    ];
    assert_eq!(read_at(&join(&texts)).0, ["x.y [v.0.0 /a*, w.0.0 =/b, w.0.1 =PUT, v.1, w.1]"]);
    let texts = [
        server("*", HTTP),
        http("v", "x.y", &["{uri: {regex: '.*'}}", "{uri: {exact: /never}}"]),
        http("w", "x.y", &["{uri: {exact: /b}}", "{uri: {prefix: /}}"]),
    ];
    assert_eq!(read_at(&join(&texts)).0, ["x.y [w.0.0 =/b, v.0.0 ~.*, w.1.0 /*]"]);
}

#[test]
fn a_delegate_only_refines_its_root() {
    let leaf = |items: &str| {
        let matched = if items.is_empty() { String::new() } else { format!("match: [{items}], ") };
        object("VirtualService", "leaf", &format!("{{http: [{{{matched}route: [{{destination: {{host: a}}}}]}}]}}"))
    };
    let root = "http: [{match: [{uri: {prefix: /a}, method: {exact: GET}}], delegate: {name: leaf}}]";
    for (items, expected) in [
        ("", &["x.y [leaf.0 =GET /a*]"][..]),
        ("{uri: {prefix: /a/b}}", &["x.y [leaf.0.0 =GET /a/b*]"]),
        ("{uri: {exact: /ab}}, {uri: {exact: /ac}}", &["x.y [leaf.0.0 =GET =/ab, leaf.0.1 =GET =/ac]"]),
        ("{uri: {prefix: /c}}", &[]),
        ("{method: {exact: PUT}}", &[]),
        ("{uri: {exact: /ab}}, {uri: {exact: /c}}", &[]),
    ] {
        let (found, _) = read_at(&join(&[server("*", HTTP), bound("v", "x.y", root), leaf(items)]));
        assert_eq!(found, expected, "{items}");
    }
}

#[test]
fn a_server_takes_the_routes_of_its_kind() {
    let routes = "http: [{route: [{destination: {host: a, port: {number: 80}}}]}], \
                  tls: [{match: [{sniHosts: [x.y]}], route: [{destination: {host: a, port: {number: 443}}}]}], \
                  tcp: [{route: [{destination: {host: a, port: {number: 80}}}]}]";
    for (tls, expected) in [
        (HTTP, &["x.y [v.0]"][..]),
        ("HTTP}, tls: {httpsRedirect: true}", &["* redirects []", "x.y redirects [v.0]"]),
        ("HTTPS}, tls: {mode: SIMPLE, credentialName: c}", &["x.y [v.0]"]),
        ("TLS}, tls: {mode: SIMPLE, credentialName: c}", &["* Tcp v.0"]),
        (PASSTHROUGH, &["x.y Tls v.0.0"]),
        ("TLS}, tls: {mode: AUTO_PASSTHROUGH}", &["any cluster"]),
    ] {
        let (found, findings) = read_at(&join(&[server("*", tls), bound("v", "x.y", routes)]));
        assert_eq!(found, expected, "{tls} {findings:#?}");
    }
}

#[test]
fn in_the_mesh_the_oldest_virtual_service_takes_it_all() {
    let mesh = |name: &str, hosts: &str| {
        http(name, hosts, &["{uri: {exact: /x}}"]).replace("gateways: [g]", "gateways: [mesh]")
    };
    for (first, second, expected) in [
        ("a.default.svc.cluster.local", "a.default.svc.cluster.local", "v"),
        ("*.svc.cluster.local", "a.default.svc.cluster.local", "w"),
        ("*.svc.cluster.local", "*.default.svc.cluster.local", "w"),
    ] {
        let (found, _) = read_at(&join(&[mesh("v", first), mesh("w", second)]));
        assert_eq!(found, [format!("* [{expected}.0.0 =/x]")], "{first} {second}");
    }
}

#[test]
fn what_only_the_mesh_looks_at_in_tls_matches() {
    let route = |gateways: &str, item: &str| {
        let tls = format!(
            "tls: [{{match: [{{sniHosts: [a.default.svc.cluster.local], {item}}}], route: [{{destination: {{host: a, port: {{number: 443}}}}}}]}}]"
        );
        bound("v", "a.default.svc.cluster.local", &tls).replace("gateways: [g]", gateways)
    };
    let fields = ["sourceLabels: {x: z}", "sourceNamespace: x", "destinationSubnets: [10.9.9.9]"];
    let told = |findings: &[Finding], code| {
        let told = codes(findings).into_iter().filter(|(found, _, path)| *found == code && path.len() > 10);
        told.map(|(_, _, path)| path).collect::<Vec<_>>()
    };
    for item in fields {
        let (found, findings) = read_at(&join(&[server("*", PASSTHROUGH), route("gateways: [g]", item)]));
        let path = format!("spec.tls[0].match[0].{}", item.split_once(':').unwrap().0);
        assert_eq!(found, ["a.default.svc.cluster.local Tls v.0.0"], "{item}");
        assert_eq!(told(&findings, code::NO_EFFECT), [path], "{item}");
    }
    let taken = &["a.default.svc.cluster.local Tls v.0.0", "* Tls -.0"][..];
    for (item, expected, field) in [
        ("port: 443", taken, None),
        ("port: 444", &[], None),
        ("sourceLabels: {x: z}", &[], Some("sourceLabels")),
        ("sourceNamespace: x", &[], Some("sourceNamespace")),
        ("destinationSubnets: [10.96.0.0/24]", taken, None),
        ("destinationSubnets: [10.96.0.2]", &[], None),
    ] {
        let (found, findings) = read_at(&route("gateways: [mesh]", item));
        assert_eq!(found, expected, "{item}");
        let paths: Vec<_> = field.map(|field| format!("spec.tls[0].match[0].{field}")).into_iter().collect();
        assert_eq!(told(&findings, code::UNSUPPORTED), paths, "{item}");
    }
    let dual = "clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1, 'fd00:96::1']";
    let text =
        join(&[service("a", 1, &["tls:443"]), route("gateways: [mesh]", "destinationSubnets: ['fd00:96::/64']")]);
    let (model, findings) = meaning(&text.replace("clusterIP: 10.96.0.1", dual));
    assert_eq!(model.listeners, []);
    assert_eq!(told(&findings, code::UNSUPPORTED), ["spec.tls[0].match[0].destinationSubnets"]);
}

/// RE2's classes are ASCII, its `.` is a character, and its group names may begin with a digit.
#[test]
fn regexes_are_those_of_re2() {
    for (regex, text, fits) in [
        (r"/\\d+", "/12", true),
        (r"/\\d+", "/\u{664}", false),
        (r"/\\w", "/\u{e9}", false),
        ("/a.c", "/a\u{e9}c", true),
        ("/(?P<1x>a)", "/a", true),
        (r"/\\Qa.b\\E", "/a.b", true),
    ] {
        let (model, findings) = meaning(&join(&[
            service("a", 1, &["http:80"]),
            server("*", HTTP),
            http("v", "x.y", &[&format!("{{uri: {{regex: \"{regex}\"}}}}")]),
        ]));
        let Some(Action::Proxy(chains)) = model.listeners.first().map(|one| &one.action) else {
            panic!("{regex}: {findings:#?}")
        };
        let Content::Http(hosts) = &chains[0].content else { panic!("no HTTP") };
        let Some(StringMatch::Regex(pattern)) = hosts[0].routes[0].condition.uri.as_ref().map(|uri| &uri.text) else {
            panic!("no regex")
        };
        assert_eq!(Patterns::default().whole(pattern).unwrap().is_match(text.as_bytes()), fits, "{regex} {text}");
    }
    let texts = [server("*", HTTP), http("v", "x.y", &["{uri: {regex: '(?x)/a'}}"])];
    assert_eq!(read_at(&join(&texts)).0, [""; 0], "Rust's own syntax is none");
}
