//! Tests of what configurations mean, from YAML text to the model.

mod clients;
mod destinations;
mod endpoints;
mod gateways;
mod mesh;
mod mutations;
mod parts;
mod policies;
mod proxied;

use std::sync::Arc;

use super::*;
use crate::{
    finding::{Finding, Severity, code},
    spec::{Store, read},
};

/// The examples' YAML, one text an example.
fn example(name: &str) -> String {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no files");
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect::<Vec<_>>().join("---\n")
}

fn identity() -> Identity {
    Identity::default()
}

/// What several documents mean; the text of findings of the reading itself comes first.
fn meaning_to(text: &str, identity: &Identity) -> (Model, Vec<Finding>) {
    let mut store = Store::default();
    let mut findings = store.merge(&[read(&Arc::from("a.yaml"), text)], &[]);
    let (model, more) = parse(&store.specs(), identity);
    findings.extend(more);
    (model, findings)
}

fn meaning(text: &str) -> (Model, Vec<Finding>) {
    meaning_to(text, &identity())
}

/// One line a listener: door, destinations with weights, and endpoints.
fn sketch(model: &Model) -> Vec<String> {
    model.listeners.iter().map(|listener| sketch_listener(model, listener)).collect()
}

fn sketch_listener(model: &Model, listener: &Listener) -> String {
    let door = match &listener.door {
        Door::Gateway { gateway, bind: None, port } => format!("{gateway} *:{port}"),
        Door::Gateway { gateway, bind: Some(bind), port } => format!("{gateway} {bind}:{port}"),
        Door::Service { service, addresses, port, share } => {
            format!("{service} {addresses:?}:{port}{}", Share { at: None, ..share.clone() })
        }
    };
    let Action::Tcp(rule) = &listener.action else {
        return format!("{door} proxy {:?}", listener.protocol);
    };
    let destinations = rule.destinations.iter().map(|destination| match &destination.target {
        Target::Broken(reason) => format!("{}={reason:?}", destination.weight),
        Target::Cluster(name) => {
            let endpoints = model.clusters[name].endpoints.iter();
            let endpoints: Vec<_> =
                endpoints.map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect();
            format!("{}={name}[{}]", destination.weight, endpoints.join(" "))
        }
    });
    format!("{door} {:?} {}", rule.hash, destinations.collect::<Vec<_>>().join(" "))
}

fn codes(findings: &[Finding]) -> Vec<(&'static str, Severity, String)> {
    findings.iter().map(|finding| (finding.code, finding.severity, finding.path.clone())).collect()
}

#[test]
fn tcp_echo_is_split_twenty_to_eighty() {
    let (model, findings) = meaning(&example("tcp-echo"));
    assert_eq!(findings, []);
    assert_eq!(
        sketch(&model),
        ["default/tcp-echo-gateway *:31400 Flow \
          20=tcp-echo.default.svc.cluster.local:9000/v1[10.1.0.2:9000 fd00:1::2:9000] \
          80=tcp-echo.default.svc.cluster.local:9000/v2[10.1.0.3:9000 fd00:1::3:9000]"]
    );
    let Action::Tcp(rule) = &model.listeners[0].action else { panic!("not balanced") };
    assert_eq!(rule.match_index, Some(0));
    assert_eq!(rule.virtual_service.as_ref().unwrap().to_string(), "default/tcp-echo");
}

#[test]
fn the_other_examples() {
    let (model, findings) = meaning(&example("three-way"));
    assert_eq!(findings, []);
    let Action::Tcp(rule) = &model.listeners[0].action else { panic!("not balanced") };
    assert_eq!(rule.destinations.iter().map(|destination| destination.weight).collect::<Vec<_>>(), [5, 5, 90]);

    let (model, findings) = meaning(&example("rejected-share"));
    assert_eq!(
        codes(&findings),
        [(code::NOT_FOUND, Severity::Error, "spec.tcp[0].route[1].destination.subset".into())]
    );
    assert!(sketch(&model)[0].ends_with(" 20=SubsetNotFound"));

    let (model, findings) = meaning(&example("source-ip"));
    assert_eq!(findings, []);
    assert!(sketch(&model)[0].starts_with("default/tcp-echo-gateway *:31400 SourceIp 20="));

    let (model, findings) = meaning(&example("mesh"));
    assert_eq!(findings, []);
    assert_eq!(model.listeners.len(), 1);
    assert!(sketch(&model)[0].starts_with("default/tcp-echo [10.96.0.10]:9000 Flow 20="), "{:?}", sketch(&model));
}

/// A Service `default/NAME` with one ready Pod of version v1 and one of v2, and the ports given (`name:port`).
fn service(name: &str, octet: u8, ports: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.96.0.{octet}\n  selector: {{app: {name}}}\n  ports:\n"
    );
    for port in ports {
        let (port_name, number) = port.split_once(':').unwrap();
        text += &format!("  - {{name: {port_name}, port: {number}}}\n");
    }
    for version in [1, 2] {
        text += &format!("---\n{}", pod(name, version, octet));
    }
    text
}

fn pod(app: &str, version: u8, octet: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {app}-v{version}, labels: {{app: {app}, version: v{version}}}}}\nspec:\n  containers:\n  - ports: [{{name: named, containerPort: 7777}}]\nstatus:\n  podIP: 10.1.{octet}.{version}\n  conditions: [{{type: Ready, status: \"True\"}}]\n"
    )
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn gateway(name: &str, servers: &str) -> String {
    object("Gateway", name, &format!("{{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"))
}

const SERVER: &str = "{port: {number: 100, name: tcp, protocol: TCP}, hosts: ['*']}";

/// A VirtualService for gateway `g` and every host, with these tcp routes.
fn routes(name: &str, tcp: &str) -> String {
    object("VirtualService", name, &format!("{{hosts: ['*'], gateways: [g], tcp: [{tcp}]}}"))
}

/// What the case is, the objects added, the listeners and the findings' codes expected.
type Case = (&'static str, Vec<String>, &'static [&'static str], &'static [&'static str]);

fn to(host: &str) -> String {
    format!("{{route: [{{destination: {{host: {host}}}}}]}}")
}

fn join(texts: &[String]) -> String {
    texts.join("---\n")
}

/// Where gateway `g`'s port 100 leads to, with services a and b there.
fn led(texts: &[String]) -> (Vec<String>, Vec<Finding>) {
    let mut all = vec![service("a", 1, &["tcp:80"]), service("b", 2, &["tcp:80", "tcp-other:100"])];
    all.extend_from_slice(texts);
    let (model, findings) = meaning(&join(&all));
    let short = |line: String| line.replace(".default.svc.cluster.local", "").replace("default/", "");
    (sketch(&model).into_iter().map(short).collect(), findings)
}

const A: &str = "g *:100 Flow 1=a:80[10.1.1.1:80 10.1.1.2:80]";
const B: &str = "g *:100 Flow 1=b:100[10.1.2.1:100 10.1.2.2:100]";
