//! Gateways against each other, against their Service, and against the VirtualServices that name them.

use std::collections::{BTreeMap, BTreeSet};

use super::View;
use crate::{
    finding::{Finding, Severity, code},
    model::{
        binding::{for_mesh, gateways as listed},
        gateway, host,
        workloads::matches,
    },
    spec::{
        Object, ObjectName,
        istio::{Gateway, Server},
        kubernetes::{Service, TargetPort},
    },
};

pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    let mut gateways: Vec<&Object<Gateway>> = view.context.specs.gateways.iter().map(|gateway| &**gateway).collect();
    gateways.sort_by_key(|gateway| (gateway.created, gateway.name().clone()));
    let by_name: BTreeMap<&ObjectName, &Object<Gateway>> =
        gateways.iter().map(|gateway| (gateway.name(), *gateway)).collect();
    hosts_left_out(view, &by_name, findings);
    shared_hosts(view, &gateways, findings);
    certificates(view, &gateways, findings);
    for gateway in &gateways {
        ports(view, gateway, findings);
        credentials(view, gateway, findings);
    }
}

/// Hosts of a VirtualService that no server of any of its gateways serves, while others of it are served.
fn hosts_left_out(view: &View<'_>, by_name: &BTreeMap<&ObjectName, &Object<Gateway>>, findings: &mut Vec<Finding>) {
    let identity = view.context.identity;
    for service in &view.context.virtual_services {
        let names = listed(service);
        let gateways: Vec<_> = names.iter().filter_map(|name| by_name.get(name)).collect();
        // One that does not exist may be meant for any of the hosts.
        if gateways.len() < names.len() {
            continue;
        }
        let served = |host: &String| {
            let full = host::expand(host, service.namespace(), &identity.cluster_domain);
            gateways.iter().any(|gateway| {
                gateway.spec.servers.iter().flat_map(|server| &server.hosts).any(|text| {
                    gateway::sees(text, gateway.namespace(), service.namespace())
                        && host::overlap(&gateway::pattern(text), &full)
                })
            })
        };
        let (inside, outside): (Vec<_>, Vec<_>) =
            service.spec.hosts.iter().enumerate().partition(|(_, host)| served(host));
        if inside.is_empty() {
            continue;
        }
        for (at, host) in outside {
            // It is there for the mesh.
            let full = view.context.full_host(host, service.namespace());
            if for_mesh(&service.spec) && !view.context.registry.covered(&full).is_empty() {
                continue;
            }
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let message = format!(
                "host `{host}` is in no server of Gateway {}: requests for it are not served there",
                names.join(", ")
            );
            let remedy = "Add it to the `hosts` of a server, or remove it here.";
            let path = format!("spec.hosts[{at}]");
            findings.push(service.finding(Severity::Warning, code::HOST_NOT_IN_GATEWAY, path, message, remedy));
        }
    }
}

fn is_tls(server: &Server) -> bool {
    server.port.as_ref().is_some_and(|port| matches!(port.protocol.to_ascii_uppercase().as_str(), "HTTPS" | "TLS"))
}

fn is_http(server: &Server) -> bool {
    let http =
        |protocol: &str| matches!(protocol.to_ascii_uppercase().as_str(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB");
    server.port.as_ref().is_some_and(|port| http(&port.protocol))
}

/// What two Gateways must have in common to be served by one gateway: this agent, or the same selector.
fn served_by(view: &View<'_>, gateway: &Object<Gateway>) -> String {
    match matches(&gateway.spec.selector, &view.context.identity.gateway_labels) {
        true => String::new(),
        false => format!("{:?}", gateway.spec.selector),
    }
}

/// Two Gateways for the same gateways, one port and one host. Two that want a port in ways that exclude each other are said by
/// the model.
fn shared_hosts(view: &View<'_>, gateways: &[&Object<Gateway>], findings: &mut Vec<Finding>) {
    type Taken<'s> = (&'s Object<Gateway>, usize, &'s Server);
    let mut taken: BTreeMap<(String, u32, Option<&str>, &str), Taken<'_>> = BTreeMap::new();
    for gateway in gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = &server.port else { continue };
            for (at, written) in server.hosts.iter().enumerate() {
                let key = (served_by(view, gateway), port.number, server.bind.as_deref(), written.as_str());
                let (first, first_index, first_server) = *taken.entry(key).or_insert((gateway, index, server));
                let same = first.name() == gateway.name();
                let both = |is: fn(&Server) -> bool| is(first_server) && is(server);
                if (same && first_index == index) || !(both(is_tls) || (both(is_http) && !same)) {
                    continue;
                }
                let line = first.origin(&format!("spec.servers[{first_index}]"));
                let winner =
                    format!("spec.servers[{first_index}] of Gateway {} ({}:{})", first.name(), line.file, line.line);
                let (severity, message) = match both(is_tls) {
                    true => (
                        Severity::Error,
                        format!(
                            "`{written}` on port {} is already served by {winner}, which is older or comes first; this server is dropped for it",
                            port.number
                        ),
                    ),
                    false => (
                        Severity::Warning,
                        format!(
                            "`{written}` on port {} is served by {winner} too: the routes of both Gateways' VirtualServices are merged",
                            port.number
                        ),
                    ),
                };
                let remedy = "Put the server into one of the two Gateways, or give them different hosts.";
                let path = format!("spec.servers[{index}].hosts[{at}]");
                findings.push(gateway.finding(severity, code::GATEWAY_CONFLICT, path, message, remedy));
            }
        }
    }
}

/// One certificate in two TLS servers of a port: browsers reuse an HTTP/2 connection for both hosts, and the second answers 404.
fn certificates(view: &View<'_>, gateways: &[&Object<Gateway>], findings: &mut Vec<Finding>) {
    /// Who serves it, the port, and the Secret or the two files.
    type Certificate<'s> = (String, u32, &'s str, &'s str);
    let mut seen: BTreeMap<Certificate<'_>, (&Object<Gateway>, usize)> = BTreeMap::new();
    for gateway in gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate().filter(|(_, server)| is_tls(server)) {
            let Some(tls) = &server.tls else { continue };
            let files = || Some((tls.server_certificate.as_deref()?, tls.private_key.as_deref()?, "serverCertificate"));
            let secret = tls.credential_name.as_deref().map(|name| (name, "", "credentialName"));
            let Some((name, other, field)) = secret.or_else(files) else { continue };
            let port = server.port.as_ref().map_or(0, |port| port.number);
            let key = (served_by(view, gateway), port, name, other);
            let (first, at) = *seen.entry(key).or_insert((gateway, index));
            if first.name() == gateway.name() && at == index {
                continue;
            }
            let line = first.origin(&format!("spec.servers[{at}]"));
            let message = format!(
                "certificate `{name}` is also in spec.servers[{at}] of Gateway {} ({}:{}): clients reuse a connection for both, and hosts of the other server answer 404",
                first.name(),
                line.file,
                line.line
            );
            let remedy = "Put the hosts of both into one server.";
            let path = format!("spec.servers[{index}].tls.{field}");
            findings.push(gateway.finding(Severity::Warning, code::DUPLICATE_CERTIFICATE, path, message, remedy));
        }
    }
}

/// In Istio a server's port is a port of the Service in front of the gateway's pods.
fn ports(view: &View<'_>, gateway: &Object<Gateway>, findings: &mut Vec<Finding>) {
    let specs = view.context.specs;
    if gateway.spec.selector.is_empty() {
        return;
    }
    let pods: Vec<_> = specs.pods.iter().filter(|pod| matches(&gateway.spec.selector, &pod.labels)).collect();
    let in_front = |service: &&Object<Service>| {
        let selector = &service.spec.selector;
        let by_pod = pods.iter().any(|pod| pod.namespace() == service.namespace() && matches(selector, &pod.labels));
        !selector.is_empty() && (by_pod || matches(&gateway.spec.selector, selector))
    };
    let services: Vec<&Object<Service>> = specs.services.iter().map(|service| &**service).filter(in_front).collect();
    if services.is_empty() && pods.is_empty() {
        return;
    }
    let ports = || services.iter().flat_map(|service| &service.spec.ports);
    let targets = ports().filter_map(|port| match port.target_port {
        Some(TargetPort::Number(number)) => Some(u32::from(number)),
        Some(TargetPort::Name(_)) | None => None,
    });
    // Istio takes the number that the pods listen on too.
    let numbers: BTreeSet<u32> = ports().map(|port| u32::from(port.port)).chain(targets).collect();
    for (index, server) in gateway.spec.servers.iter().enumerate() {
        let Some(port) = server.port.as_ref().filter(|port| port.number != 0 && !numbers.contains(&port.number)) else {
            continue;
        };
        let listed: Vec<String> = numbers.iter().map(u32::to_string).collect();
        let (message, remedy) = match services.first() {
            Some(first) => (
                format!(
                    "port {} is no port of Service {}, which stands in front of the gateway",
                    port.number,
                    first.name()
                ),
                format!("Add the port to the Service, or use one of {}.", listed.join(", ")),
            ),
            None => (
                format!("no Service stands in front of the gateway's Pods, such as Pod {}", pods[0].name()),
                format!("Define one with port {}.", port.number),
            ),
        };
        let path = format!("spec.servers[{index}].port.number");
        findings.push(gateway.finding(Severity::Warning, code::GATEWAY_PORT_NOT_ON_SERVICE, path, message, remedy));
    }
}

/// Secrets by name, where Secrets are part of what was read.
fn credentials(view: &View<'_>, gateway: &Object<Gateway>, findings: &mut Vec<Finding>) {
    let (secrets, namespace) = (&view.context.specs.secrets, &view.context.identity.namespace);
    if secrets.is_empty() || !matches(&gateway.spec.selector, &view.context.identity.gateway_labels) {
        return;
    }
    for (index, server) in gateway.spec.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        let several =
            tls.credential_names.iter().enumerate().map(|(at, name)| (format!("credentialNames[{at}]"), name));
        let one = tls.credential_name.iter().map(|name| ("credentialName".to_owned(), name));
        for (field, name) in one.chain(several).filter(|(_, name)| !name.is_empty() && !name.contains("://")) {
            let path = format!("spec.servers[{index}].tls.{field}");
            let own = |secret: &&std::sync::Arc<Object<crate::spec::kubernetes::Secret>>| {
                *secret.name().name == **name && secret.namespace() == &**namespace
            };
            let Some(secret) = secrets.iter().find(own) else {
                let message =
                    format!("there is no Secret `{name}` in namespace {namespace}, where the gateway looks for it");
                let elsewhere = secrets.iter().find(|secret| *secret.name().name == **name);
                let remedy = match elsewhere {
                    Some(secret) => format!(
                        "Move Secret {} to the gateway's namespace; that of the Gateway object does not count.",
                        secret.name()
                    ),
                    None => "Add the Secret; until then handshakes fail.".to_owned(),
                };
                findings.push(gateway.finding(Severity::Error, code::NOT_FOUND, path, message, remedy));
                continue;
            };
            if let Some(message) = unusable(&secret.spec) {
                let message =
                    format!("Secret {} ({}:{}) {message}", secret.name(), secret.file, secret.origin("").line);
                let remedy = "Give `tls.crt` and `tls.key` (or `cert` and `key`) in PEM.";
                findings.push(gateway.finding(Severity::Error, code::INVALID_CREDENTIAL, path, message, remedy));
            }
        }
    }
}

/// Why a Secret is no certificate and key.
fn unusable(secret: &crate::spec::kubernetes::Secret) -> Option<&'static str> {
    let pair = |cert: &str, key: &str| Some((secret.value(cert)?, secret.value(key)?));
    let Some((cert, key)) = pair("cert", "key").or_else(|| pair("tls.crt", "tls.key")) else {
        return Some("has no certificate and key");
    };
    let has = |bytes: &[u8], mark: &str| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
    if !has(cert, "-----BEGIN CERTIFICATE-----") {
        return Some("has a certificate that is not PEM");
    }
    (!has(key, "PRIVATE KEY-----")).then_some("has a key that is not PEM")
}
