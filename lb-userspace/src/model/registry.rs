//! Every service that can be a destination, by its full host: Kubernetes Services and ServiceEntries.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{Origin, host, parse::Identity};
use crate::{
    snapshot::UpstreamProtocol,
    spec::{
        Object, ObjectName, Specs, istio,
        kubernetes::{self, TargetPort},
    },
};

/// What a Service port carries, as its protocol, `appProtocol` or name say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortProtocol {
    Tcp,
    Http,
    Https,
    Tls,
    Udp,
    /// Nothing says. A sidecar would look at the bytes.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Port {
    pub name: String,
    pub number: u16,
    pub protocol: PortProtocol,
    /// What its endpoints speak when the traffic is HTTP.
    pub upstream: UpstreamProtocol,
    pub target: TargetPort,
}

#[derive(Clone, Debug)]
pub enum Definition {
    Service(Arc<Object<kubernetes::Service>>),
    Entry(Arc<Object<istio::ServiceEntry>>),
}

/// A service under one of its hosts.
#[derive(Clone, Debug)]
pub struct Service {
    pub host: Arc<str>,
    pub definition: Definition,
    pub ports: Vec<Port>,
    /// ClusterIPs, or the addresses of a ServiceEntry.
    pub addresses: Vec<IpAddr>,
}

impl Service {
    pub fn name(&self) -> &ObjectName {
        match &self.definition {
            Definition::Service(object) => object.name(),
            Definition::Entry(object) => object.name(),
        }
    }

    pub fn namespace(&self) -> &str {
        &self.name().namespace
    }

    pub fn origin(&self, path: &str) -> Origin {
        match &self.definition {
            Definition::Service(object) => object.origin(path),
            Definition::Entry(object) => object.origin(path),
        }
    }

    /// A port that TCP can reach.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number && port.protocol != PortProtocol::Udp)
    }
}

/// All services visible to this agent.
pub struct Registry {
    services: Vec<Service>,
    by_host: HashMap<Arc<str>, Vec<usize>>,
}

impl Registry {
    pub fn new(specs: &Specs, identity: &Identity) -> Registry {
        let mut services: Vec<Service> =
            specs.services.iter().map(|object| kubernetes_service(object, &identity.cluster_domain)).collect();
        let mut entries: Vec<_> = specs.service_entries.iter().collect();
        // One host in several ServiceEntries: those of the agent's own namespace first, then the oldest.
        entries.sort_by_key(|entry| (entry.namespace() != &*identity.namespace, entry.created, entry.name().clone()));
        for entry in entries {
            if host::exported(&entry.spec.export_to, entry.namespace(), &identity.namespace) {
                services.extend(entry.spec.hosts.iter().map(|host| entry_service(entry, host)));
            }
        }
        let mut by_host: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (index, service) in services.iter().enumerate() {
            by_host.entry(service.host.clone()).or_default().push(index);
        }
        Registry { services, by_host }
    }

    /// The service a destination names. A Kubernetes Service comes before a ServiceEntry of the same host.
    pub fn get(&self, host: &str) -> Option<&Service> {
        self.by_host.get(host).map(|indices| &self.services[indices[0]])
    }

    /// Every service whose host is covered by a VirtualService's host.
    pub fn covered<'r>(&'r self, pattern: &str) -> Vec<&'r Service> {
        if pattern.starts_with('*') {
            return self.services.iter().filter(|service| host::covers(pattern, &service.host)).collect();
        }
        let indices = self.by_host.get(pattern).map_or(&[][..], Vec::as_slice);
        indices.iter().map(|index| &self.services[*index]).collect()
    }

    pub fn all(&self) -> &[Service] {
        &self.services
    }
}

fn kubernetes_service(object: &Arc<Object<kubernetes::Service>>, cluster_domain: &str) -> Service {
    let spec = &object.spec;
    let listed = spec.cluster_ips.iter().chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty()));
    let ports = spec.ports.iter().map(|port| Port {
        name: port.name.clone().unwrap_or_default(),
        number: port.port,
        protocol: service_protocol(port),
        upstream: upstream(port.app_protocol.as_deref().or(port.name.as_deref()).unwrap_or_default()),
        target: port.target_port.clone().unwrap_or(TargetPort::Number(port.port)),
    });
    Service {
        host: host::expand(&object.name().name, object.namespace(), cluster_domain).into(),
        definition: Definition::Service(object.clone()),
        ports: ports.collect(),
        addresses: listed.filter_map(|ip| ip.parse().ok()).collect(),
    }
}

fn entry_service(object: &Arc<Object<istio::ServiceEntry>>, name: &str) -> Service {
    let ports = object.spec.ports.iter().filter_map(|port| {
        let number = u16::try_from(port.number).ok()?;
        let target = port.target_port.and_then(|target| u16::try_from(target).ok()).unwrap_or(number);
        let protocol = match port.protocol.as_str() {
            "" => from_name(&port.name),
            protocol => from_word(protocol),
        };
        let upstream = upstream(if port.protocol.is_empty() { &port.name } else { &port.protocol });
        Some(Port { name: port.name.clone(), number, protocol, upstream, target: TargetPort::Number(target) })
    });
    let single = |text: &String| match text.parse::<IpAddr>() {
        Ok(address) => Some(address),
        Err(_) => text
            .parse::<ipnet::IpNet>()
            .ok()
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(|net| net.addr()),
    };
    Service {
        host: name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into(),
        definition: Definition::Entry(object.clone()),
        ports: ports.collect(),
        addresses: object.spec.addresses.iter().filter_map(single).collect(),
    }
}

fn service_protocol(port: &kubernetes::ServicePort) -> PortProtocol {
    if let Some("UDP" | "SCTP") = port.protocol.as_deref() {
        return PortProtocol::Udp;
    }
    let protocol = match (&port.app_protocol, &port.name) {
        (Some(protocol), _) => from_word(protocol),
        (None, Some(name)) => from_name(name),
        (None, None) => PortProtocol::Unknown,
    };
    // Ports of protocols in which the server speaks first; Istio does not wait for the client's bytes there.
    match (protocol, port.port) {
        (PortProtocol::Unknown, 25 | 53 | 3306 | 27017) => PortProtocol::Tcp,
        (protocol, _) => protocol,
    }
}

/// HTTP/2 where a protocol or a port's name says so.
fn upstream(word: &str) -> UpstreamProtocol {
    let word = word.to_ascii_lowercase();
    match word.split('-').next() {
        Some("http2" | "grpc" | "kubernetes.io/h2c") => UpstreamProtocol::Http2,
        Some(_) | None => UpstreamProtocol::Http1,
    }
}

/// `http` or `http-anything`.
fn from_name(name: &str) -> PortProtocol {
    let name = name.to_ascii_lowercase();
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return PortProtocol::Http;
    }
    from_word(name.split('-').next().unwrap_or_default())
}

fn from_word(word: &str) -> PortProtocol {
    match word.to_ascii_lowercase().as_str() {
        "tcp" | "mongo" | "mysql" | "redis" => PortProtocol::Tcp,
        "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" | "kubernetes.io/h2c" | "kubernetes.io/ws" => {
            PortProtocol::Http
        }
        "https" | "kubernetes.io/wss" => PortProtocol::Https,
        "tls" => PortProtocol::Tls,
        "udp" => PortProtocol::Udp,
        _ => PortProtocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_of_a_port() {
        let port = |name: Option<&str>, app: Option<&str>, protocol: Option<&str>, port: u16| kubernetes::ServicePort {
            name: name.map(Into::into),
            app_protocol: app.map(Into::into),
            protocol: protocol.map(Into::into),
            port,
            target_port: None,
            node_port: None,
        };
        let cases = [
            (port(Some("tcp-other"), None, None, 9001), PortProtocol::Tcp),
            (port(Some("TCP"), None, None, 9001), PortProtocol::Tcp),
            (port(Some("http-web"), None, None, 80), PortProtocol::Http),
            (port(Some("grpc-web"), None, None, 80), PortProtocol::Http),
            (port(Some("httpish"), None, None, 80), PortProtocol::Unknown),
            (port(Some("http"), Some("tcp"), None, 80), PortProtocol::Tcp),
            (port(None, None, Some("UDP"), 53), PortProtocol::Udp),
            (port(None, None, None, 3306), PortProtocol::Tcp),
            (port(None, None, None, 9000), PortProtocol::Unknown),
        ];
        for (port, expected) in cases {
            assert_eq!(service_protocol(&port), expected, "{port:?}");
        }
    }
}
