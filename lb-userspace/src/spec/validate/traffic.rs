//! Gateways, VirtualServices and DestinationRules.

use std::collections::BTreeSet;

use super::{Check, Refusal};
use crate::spec::istio::{ClientTlsMode, DestinationRule, Gateway, RouteDestination, TrafficPolicy, VirtualService};

pub fn gateway(gateway: &Gateway) -> Vec<Refusal> {
    let mut check = Check::default();
    if gateway.servers.is_empty() {
        check.refuse("spec", "a Gateway needs at least one server", "Add `servers`.");
    }
    let mut names = BTreeSet::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        let unix = server.bind.as_deref().is_some_and(|bind| bind.starts_with("unix://"));
        if let Some(bind) = server.bind.as_deref().filter(|bind| !unix && !bind.is_empty()) {
            check.address(format!("{path}.bind"), bind);
        }
        match &server.port {
            None => check.refuse(&path, "a server needs a port", "Add `port` with number, name and protocol."),
            Some(port) => {
                if !(unix && port.number == 0) {
                    check.port(format!("{path}.port.number"), port.number);
                }
                if port.name.is_empty() {
                    check.refuse(format!("{path}.port"), "the port has no name", "Add `name`.");
                } else if !names.insert(port.name.as_str()) {
                    let message = format!("port name `{}` stands twice in this Gateway", port.name);
                    check.refuse(format!("{path}.port.name"), message, "Give each server's port a name of its own.");
                }
                server_protocol(&mut check, &path, &port.protocol, server.tls.is_some());
            }
        }
        if server.hosts.is_empty() {
            check.refuse(&path, "a server needs hosts", "Add `hosts`, such as \"*\".");
        }
        for (at, host) in server.hosts.iter().enumerate() {
            server_host(&mut check, format!("{path}.hosts[{at}]"), host);
        }
    }
    check.refusals
}

fn server_protocol(check: &mut Check, path: &str, protocol: &str, tls: bool) {
    let at = format!("{path}.port.protocol");
    match protocol.to_ascii_uppercase().as_str() {
        "HTTPS" | "TLS" if !tls => {
            check.refuse(path, format!("a {protocol} server needs `tls`"), "Add `tls` with a mode.");
        }
        "TCP" | "MONGO" | "MYSQL" | "REDIS" | "UDP" if tls => {
            check.refuse(format!("{path}.tls"), format!("a {protocol} server cannot have `tls`"), "Use protocol TLS.");
        }
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" | "HTTPS" | "TLS" | "TCP" | "MONGO" | "MYSQL"
        | "REDIS" | "UDP" => {}
        "" => check.refuse(format!("{path}.port"), "the port has no protocol", "Add `protocol`, such as TCP."),
        _ => check.refuse(at, format!("unknown protocol `{protocol}`"), "Use TCP, TLS, HTTP, HTTPS, HTTP2 or GRPC."),
    }
}

fn server_host(check: &mut Check, path: String, text: &str) {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    if namespace == "~" || namespace.is_empty() {
        check.refuse(path, format!("`{namespace}` is no namespace here"), "Write `*/`, `./` or a namespace's name.");
    } else if host != "*" && !host.contains(['.', ':']) {
        let remedy = "Write the full name; short names are not expanded in a Gateway.";
        check.refuse(path, format!("`{host}` is a name without a dot"), remedy);
    } else {
        check.host(path, host);
    }
}

pub fn virtual_service(service: &VirtualService) -> Vec<Refusal> {
    let mut check = Check::default();
    if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
        check.refuse("spec", "a VirtualService needs http, tls or tcp routes", "Add at least one route.");
    }
    // Without hosts it is a delegate, which only `http` can be.
    if service.hosts.is_empty() && !(service.tls.is_empty() && service.tcp.is_empty()) {
        check.refuse("spec", "a VirtualService with tcp or tls routes needs hosts", "Add `hosts`.");
    }
    let mesh = service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
    for (index, host) in service.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" && mesh {
            check.refuse(path, "`*` cannot be a host for the mesh", "Name the hosts, or bind to a gateway only.");
        } else {
            check.host(path, host);
        }
    }
    for (index, gateway) in service.gateways.iter().enumerate() {
        if gateway.is_empty() || gateway.contains('*') {
            let message = format!("`{gateway}` is no gateway's name");
            check.refuse(format!("spec.gateways[{index}]"), message, "Write `name`, `namespace/name` or `mesh`.");
        }
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        for (at, item) in route.r#match.iter().enumerate() {
            let Some(item) = item else { continue };
            let path = format!("{path}.match[{at}]");
            if let Some(port) = item.port {
                check.port(format!("{path}.port"), port);
            }
            for (at, subnet) in item.destination_subnets.iter().enumerate() {
                check.subnet(format!("{path}.destinationSubnets[{at}]"), subnet);
            }
        }
        destinations(&mut check, &path, &route.route);
    }
    for (index, route) in service.tls.iter().enumerate() {
        let path = format!("spec.tls[{index}]");
        if route.r#match.is_empty() {
            check.refuse(&path, "a tls route needs `match` with sniHosts", "Add `match`.");
        }
        for (at, item) in route.r#match.iter().enumerate().filter(|(_, item)| item.sni_hosts.is_empty()) {
            let _ = item;
            check.refuse(format!("{path}.match[{at}]"), "a tls match needs sniHosts", "Add `sniHosts`.");
        }
        destinations(&mut check, &path, &route.route);
    }
    check.export_to("spec.exportTo", &service.export_to);
    check.refusals
}

fn destinations(check: &mut Check, path: &str, route: &[RouteDestination]) {
    if route.is_empty() {
        check.refuse(path, "the route has no destination", "Add `route`.");
    }
    for (index, entry) in route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        if entry.weight.is_some_and(|weight| weight < 0) {
            check.refuse(format!("{path}.weight"), "a weight cannot be negative", "Weights are zero or more.");
        }
        let Some(destination) = &entry.destination else {
            check.refuse(path, "the route entry has no destination", "Add `destination` with a host.");
            continue;
        };
        let at = format!("{path}.destination.host");
        match destination.host.as_str() {
            "" => check.refuse(format!("{path}.destination"), "the destination has no host", "Add `host`."),
            "*" => check.refuse(at, "`*` is no destination", "Name one host."),
            host if host.contains('/') => {
                check.refuse(at, format!("`{host}` is no host name"), "Write name.namespace.svc.cluster.local.");
            }
            host => check.host(at, host),
        }
        if let Some(port) = destination.port {
            check.port(format!("{path}.destination.port.number"), port.number);
        }
    }
    let weighs_nothing = route.iter().all(|entry| entry.weight.unwrap_or(0) == 0);
    if route.len() > 1 && weighs_nothing {
        let message = "the weights of several destinations sum to zero";
        check.refuse(format!("{path}.route"), message, "Give at least one destination a weight above zero.");
    }
}

pub fn destination_rule(rule: &DestinationRule) -> Vec<Refusal> {
    let mut check = Check::default();
    match rule.host.as_str() {
        "" => check.refuse("spec", "a DestinationRule needs a host", "Add `host`."),
        host => check.host("spec.host".into(), host),
    }
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy(&mut check, "spec.trafficPolicy", policy);
    }
    let mut names = BTreeSet::new();
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if subset.name.is_empty() {
            check.refuse(&path, "the subset has no name", "Add `name`.");
        } else if !names.insert(subset.name.as_str()) {
            let message = format!("subset `{}` stands twice", subset.name);
            check.refuse(format!("{path}.name"), message, "Rename or remove one of the two.");
        }
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&mut check, &format!("{path}.trafficPolicy"), policy);
        }
    }
    check.export_to("spec.exportTo", &rule.export_to);
    check.refusals
}

fn traffic_policy(check: &mut Check, path: &str, policy: &TrafficPolicy) {
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        let message = "proxyProtocol and tunnel exclude each other";
        check.refuse(format!("{path}.proxyProtocol"), message, "Remove one of the two.");
    }
    let tls = policy.tls.iter().map(|tls| (format!("{path}.tls"), tls));
    let ports = policy.port_level_settings.iter().enumerate();
    let port_tls = ports.clone().filter_map(|(index, port)| {
        port.tls.as_ref().map(|tls| (format!("{path}.portLevelSettings[{index}].tls"), tls))
    });
    for (path, tls) in tls.chain(port_tls) {
        let files = tls.client_certificate.is_some() && tls.private_key.is_some();
        if tls.mode == Some(ClientTlsMode::Mutual) && tls.credential_name.is_none() && !files {
            let message = "mode MUTUAL needs clientCertificate and privateKey, or credentialName";
            check.refuse(path, message, "Name the client's certificate.");
        }
    }
    for (index, port) in ports {
        let path = format!("{path}.portLevelSettings[{index}]");
        match port.port {
            None => check.refuse(path, "the entry has no port", "Add `port: {number: ...}`."),
            Some(port) => check.port(format!("{path}.port.number"), port.number),
        }
    }
}
