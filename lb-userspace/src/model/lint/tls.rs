//! Client TLS of DestinationRules against what the ports speak: the classic 503 after a DestinationRule.

use super::{
    View,
    routes::{Kind, Route},
};
use crate::{
    finding::{Finding, Severity, code},
    model::{
        policy::ProxyNeed,
        registry::{Definition, Port, PortProtocol, Service},
    },
    spec::{
        Object,
        istio::{ClientTls, ClientTlsMode, DestinationRule, TrafficPolicy},
        kubernetes::TargetPort,
    },
};

/// The label and annotation of Pods, and a namespace's label, that say whether there is a sidecar to speak mutual TLS with.
const INJECT: &str = "sidecar.istio.io/inject";
const INJECTION: &str = "istio-injection";

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    for rule in &view.context.specs.destination_rules {
        let host = view.context.full_host(&rule.spec.host, rule.namespace());
        let services = view.context.registry.covered(&host);
        for block in blocks(&rule.spec) {
            unverified(rule, &block, findings);
            let speaks = services.iter().find_map(|service| disagrees(view, service, &block));
            if let Some((message, remedy)) = speaks {
                let path = format!("{}.mode", block.path);
                findings.push(rule.finding(Severity::Warning, code::TLS_DISAGREES, path, message, remedy));
            }
        }
        resets(rule, findings);
    }
    for route in &view.routes {
        decrypted(view, route, findings);
    }
}

/// One `tls` block, with the ports it is for.
struct Block<'s> {
    path: String,
    tls: &'s ClientTls,
    /// Only this port; without one every port that no entry of `portLevelSettings` takes out.
    port: Option<u32>,
    taken_out: Vec<u32>,
}

impl Block<'_> {
    fn mode(&self) -> ClientTlsMode {
        self.tls.mode.unwrap_or_default()
    }

    fn is_for(&self, port: &Port) -> bool {
        let number = u32::from(port.number);
        self.port.is_none_or(|only| only == number) && !self.taken_out.contains(&number)
    }
}

fn policies(rule: &DestinationRule) -> impl Iterator<Item = (String, &TrafficPolicy)> {
    let top = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.subsets.iter().enumerate().filter_map(|(at, subset)| {
        subset.traffic_policy.as_ref().map(|policy| (format!("spec.subsets[{at}].trafficPolicy"), policy))
    });
    top.chain(subsets)
}

fn blocks(rule: &DestinationRule) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    for (path, policy) in policies(rule) {
        let numbers = policy.port_level_settings.iter().map(|entry| entry.port.map_or(0, |port| port.number));
        let taken_out: Vec<u32> = numbers.collect();
        for (at, entry) in policy.port_level_settings.iter().enumerate() {
            if let Some(tls) = &entry.tls {
                let path = format!("{path}.portLevelSettings[{at}].tls");
                blocks.push(Block { path, tls, port: Some(taken_out[at]), taken_out: Vec::new() });
            }
        }
        if let Some(tls) = &policy.tls {
            blocks.push(Block { path: format!("{path}.tls"), tls, port: None, taken_out });
        }
    }
    blocks
}

/// TLS without anything to check the server against.
fn unverified(rule: &Object<DestinationRule>, block: &Block<'_>, findings: &mut Vec<Finding>) {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let tls = block.tls;
    // Sidecars read a Secret only where the rule selects its clients.
    let fetched = given(&tls.credential_name) && rule.spec.workload_selector.is_some();
    let checked = given(&tls.ca_certificates) || fetched || tls.insecure_skip_verify == Some(true);
    if checked || !matches!(block.mode(), ClientTlsMode::Simple | ClientTlsMode::Mutual) {
        return;
    }
    let code = match block.port {
        None => code::UNVERIFIED_TLS,
        Some(_) => code::UNVERIFIED_TLS_PORT,
    };
    let (message, remedy) = match given(&tls.credential_name) {
        true => (
            "gateways read credentialName, sidecars do so only where the rule has a workloadSelector: those check the server against the system's authorities",
            "Add `workloadSelector`, or `caCertificates` for sidecars.",
        ),
        false => (
            "no caCertificates or credentialName: the server is checked against the system's authorities, and before Istio 1.20 not at all",
            "Add `caCertificates`, or `credentialName` with a CA, for servers with a private authority.",
        ),
    };
    findings.push(rule.finding(Severity::Warning, code, block.path.clone(), message, remedy));
}

/// What a service's ports speak, where a block's mode cannot agree with it.
fn disagrees(view: &View<'_>, service: &Service, block: &Block<'_>) -> Option<(String, &'static str)> {
    let mode = block.mode();
    let mut ports = service.ports.iter().filter(|port| block.is_for(port));
    match mode {
        ClientTlsMode::Disable => None,
        ClientTlsMode::IstioMutual => {
            ports.next()?;
            let pod = without_sidecar(view, service)?;
            let message = format!("ISTIO_MUTUAL needs a sidecar at the far end, and {pod} has none: its connections fail (503)");
            Some((message, "Use `mode: DISABLE` for this host, or inject the sidecar."))
        }
        ClientTlsMode::Simple | ClientTlsMode::Mutual => ports.find_map(|port| {
            if speaks_plain(service, port) {
                let message = format!(
                    "the DestinationRule makes TLS to port {} of {}, whose name says that it speaks plain {}: connections fail (503)",
                    port.number,
                    service.host,
                    if port.protocol == PortProtocol::Http { "HTTP" } else { "TCP" },
                );
                return Some((message, "Use `mode: DISABLE`, or name the port `https` if it does speak TLS."));
            }
            let doubled = view.routes.iter().any(|route| {
                route.kind != Kind::Http && route.destinations.iter().any(|one| goes_to(one, service, port))
            });
            (doubled && matches!(port.protocol, PortProtocol::Https | PortProtocol::Tls)).then(|| {
                let message = format!(
                    "TLS is made twice: tls and tcp routes pass on bytes that clients have encrypted, and this rule encrypts them again for port {} of {}",
                    port.number, service.host
                );
                (message, "Remove `tls`, or end the clients' TLS at the gateway and route with `http`.")
            })
        }),
    }
}

/// A port of the cluster that is named for plain HTTP. Outside of the cluster `http` with TLS made on the way is common, and
/// inside it a target port of TLS tells as much as the name.
fn speaks_plain(service: &Service, port: &Port) -> bool {
    let tls_target = match &port.target {
        TargetPort::Number(number) => number % 1000 == 443,
        TargetPort::Name(name) => name.contains("https") || name.contains("tls"),
    };
    matches!(service.definition, Definition::Service(_)) && port.protocol == PortProtocol::Http && !tls_target
}

fn goes_to(one: &super::routes::Weighted<'_>, service: &Service, port: &Port) -> bool {
    let number = one.destination.port.map(|port| port.number);
    let only = service.ports.len() == 1;
    *one.host == *service.host && (number == Some(u32::from(port.number)) || (number.is_none() && only))
}

/// A Pod of the service that is told to go without a sidecar.
fn without_sidecar(view: &View<'_>, service: &Service) -> Option<String> {
    let Definition::Service(object) = &service.definition else { return None };
    let specs = view.context.specs;
    let namespace = specs.namespaces.iter().find(|namespace| *namespace.name().name == *object.namespace());
    let by_namespace =
        namespace.and_then(|namespace| namespace.labels.get(INJECTION)).is_some_and(|value| value == "disabled");
    let selects = |labels: &_| {
        !object.spec.selector.is_empty() && crate::model::workloads::matches(&object.spec.selector, labels)
    };
    let pods = specs.pods.iter().filter(|pod| pod.namespace() == object.namespace() && selects(&pod.labels));
    let bare = pods.into_iter().find(|pod| match pod.labels.get(INJECT).or_else(|| pod.annotations.get(INJECT)) {
        Some(value) => value == "false",
        None => by_namespace,
    })?;
    Some(format!("Pod {} ({}:{})", bare.name(), bare.file, bare.origin("").line))
}

/// An entry for a port replaces every block: what it leaves out goes back to defaults.
fn resets(rule: &Object<DestinationRule>, findings: &mut Vec<Finding>) {
    for (path, policy) in policies(&rule.spec) {
        for (at, entry) in policy.port_level_settings.iter().enumerate() {
            let lost = [
                ("loadBalancer", policy.load_balancer.is_some() && entry.load_balancer.is_none()),
                ("connectionPool", policy.connection_pool.is_some() && entry.connection_pool.is_none()),
                ("outlierDetection", policy.outlier_detection.is_some() && entry.outlier_detection.is_none()),
                ("tls", policy.tls.is_some() && entry.tls.is_none()),
            ];
            let lost: Vec<&str> = lost.iter().filter(|(_, lost)| *lost).map(|(field, _)| *field).collect();
            if lost.is_empty() {
                continue;
            }
            let message = format!(
                "{} of {path} does not hold for this port: an entry here replaces all blocks, and those it leaves out go back to Istio's defaults",
                lost.join(", ")
            );
            let path = format!("{path}.portLevelSettings[{at}]");
            let remedy = "Repeat what is meant for this port too.";
            // Istio's own tutorials leave a balancer out; without TLS or ejection the port is another one than was meant.
            let grave = lost.iter().any(|field| matches!(*field, "tls" | "outlierDetection"));
            let severity = if grave { Severity::Warning } else { Severity::Info };
            findings.push(rule.finding(severity, code::PORT_RESETS, path, message, remedy));
        }
    }
}

/// Requests that a gateway has decrypted, or that came in plain, at a port that speaks TLS.
fn decrypted(view: &View<'_>, route: &Route<'_>, findings: &mut Vec<Finding>) {
    if route.kind != Kind::Http || route.gateways.is_empty() {
        return;
    }
    for one in &route.destinations {
        let Some(found) = view.context.find(&one.host) else { continue };
        let Some(port) = found.service.ports.iter().find(|port| goes_to(one, found.service, port)) else { continue };
        if !matches!(port.protocol, PortProtocol::Https | PortProtocol::Tls) {
            continue;
        }
        let effect = found.policy.as_ref().map(|policy| policy.effect(one.subset(), port.number)).unwrap_or_default();
        if matches!(effect.needs_proxy, Some(ProxyNeed::Tls(_))) {
            continue;
        }
        let ruled = match &found.policy {
            Some(policy) => format!("DestinationRule {} does not make TLS to it", policy.rule().name()),
            None => "no DestinationRule makes TLS to it".to_owned(),
        };
        let message = format!(
            "requests go out in plain text to port {} of {}, which speaks TLS by its name, and {ruled}: they fail (400 or 503)",
            port.number, one.host
        );
        let remedy = "Set `trafficPolicy.tls.mode: SIMPLE` for the host, or pass TLS through with a `tls` route.";
        let path = format!("{}.destination", one.path);
        findings.push(route.service.finding(Severity::Warning, code::TLS_DISAGREES, path, message, remedy));
    }
}
