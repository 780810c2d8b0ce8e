//! What Istio's and Kubernetes' admission refuse about one object alone, for the fields that Meltemi carries out.
//!
//! References to other objects are `model`'s to check: a file may come before what it refers to.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{
    istio::{
        ClientTlsMode, DestinationRule, Gateway, Resolution, RouteDestination, ServiceEntry,
        TrafficPolicy, VirtualService, WorkloadEntry,
    },
    kubernetes::{EndpointSlice, Endpoints, Pod, Service},
};

/// One reason to refuse an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub path: String,
    pub message: String,
    pub remedy: &'static str,
}

/// Collects refusals.
#[derive(Default)]
struct Check {
    refusals: Vec<Refusal>,
}

impl Check {
    fn refuse(
        &mut self,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: &'static str,
    ) {
        self.refusals.push(Refusal {
            path: path.into(),
            message: message.into(),
            remedy,
        });
    }

    fn port(&mut self, path: String, number: u32) {
        if !(1..=65_535).contains(&number) {
            self.refuse(
                path,
                format!("{number} is not a port number"),
                "Ports go from 1 to 65535.",
            );
        }
    }

    fn address(&mut self, path: String, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.refuse(
                path,
                format!("`{text}` is not an IP address"),
                "Write an IPv4 or IPv6 address.",
            );
        }
    }

    fn subnet(&mut self, path: String, text: &str) {
        if text.parse::<IpAddr>().is_err() && text.parse::<IpNet>().is_err() {
            self.refuse(
                path,
                format!("`{text}` is neither an IP address nor a subnet"),
                "Write it like 10.0.0.0/8.",
            );
        }
    }

    fn host(&mut self, path: String, host: &str) {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if host == "*"
            || host.parse::<IpAddr>().is_ok()
            || (name.len() <= 255 && name.split('.').all(label))
        {
            return;
        }
        self.refuse(
            path,
            format!("`{host}` is not a host name"),
            "A wildcard may only be the whole first label.",
        );
    }

    fn export_to(&mut self, path: &str, export_to: &[String]) {
        if export_to.len() > 1
            && export_to
                .iter()
                .any(|namespace| matches!(namespace.as_str(), "*" | "~"))
        {
            self.refuse(
                path,
                "`*` and `~` stand alone in exportTo",
                "Remove the other namespaces.",
            );
        }
        if export_to.iter().collect::<BTreeSet<_>>().len() != export_to.len() {
            self.refuse(
                path,
                "a namespace stands twice in exportTo",
                "Remove one of the two.",
            );
        }
    }
}

pub fn gateway(gateway: &Gateway) -> Vec<Refusal> {
    let mut check = Check::default();
    if gateway.servers.is_empty() {
        check.refuse(
            "spec",
            "a Gateway needs at least one server",
            "Add `servers`.",
        );
    }
    let mut names = BTreeSet::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        let unix = server
            .bind
            .as_deref()
            .is_some_and(|bind| bind.starts_with("unix://"));
        if let Some(bind) = server
            .bind
            .as_deref()
            .filter(|bind| !unix && !bind.is_empty())
        {
            check.address(format!("{path}.bind"), bind);
        }
        match &server.port {
            None => check.refuse(
                &path,
                "a server needs a port",
                "Add `port` with number, name and protocol.",
            ),
            Some(port) => {
                if !(unix && port.number == 0) {
                    check.port(format!("{path}.port.number"), port.number);
                }
                if port.name.is_empty() {
                    check.refuse(
                        format!("{path}.port"),
                        "the port has no name",
                        "Add `name`.",
                    );
                } else if !names.insert(port.name.as_str()) {
                    let message = format!("port name `{}` stands twice in this Gateway", port.name);
                    check.refuse(
                        format!("{path}.port.name"),
                        message,
                        "Give each server's port a name of its own.",
                    );
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
            check.refuse(
                path,
                format!("a {protocol} server needs `tls`"),
                "Add `tls` with a mode.",
            );
        }
        "TCP" | "MONGO" | "MYSQL" | "REDIS" | "UDP" if tls => {
            check.refuse(
                format!("{path}.tls"),
                format!("a {protocol} server cannot have `tls`"),
                "Use protocol TLS.",
            );
        }
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" | "HTTPS" | "TLS" | "TCP"
        | "MONGO" | "MYSQL" | "REDIS" | "UDP" => {}
        "" => check.refuse(
            format!("{path}.port"),
            "the port has no protocol",
            "Add `protocol`, such as TCP.",
        ),
        _ => check.refuse(
            at,
            format!("unknown protocol `{protocol}`"),
            "Use TCP, TLS, HTTP, HTTPS, HTTP2 or GRPC.",
        ),
    }
}

fn server_host(check: &mut Check, path: String, text: &str) {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    if namespace == "~" || namespace.is_empty() {
        check.refuse(
            path,
            format!("`{namespace}` is no namespace here"),
            "Write `*/`, `./` or a namespace's name.",
        );
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
        check.refuse(
            "spec",
            "a VirtualService needs http, tls or tcp routes",
            "Add at least one route.",
        );
    }
    // Without hosts it is a delegate, which only `http` can be.
    if service.hosts.is_empty() && !(service.tls.is_empty() && service.tcp.is_empty()) {
        check.refuse(
            "spec",
            "a VirtualService with tcp or tls routes needs hosts",
            "Add `hosts`.",
        );
    }
    let mesh =
        service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
    for (index, host) in service.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" && mesh {
            check.refuse(
                path,
                "`*` cannot be a host for the mesh",
                "Name the hosts, or bind to a gateway only.",
            );
        } else {
            check.host(path, host);
        }
    }
    for (index, gateway) in service.gateways.iter().enumerate() {
        if gateway.is_empty() || gateway.contains('*') {
            let message = format!("`{gateway}` is no gateway's name");
            check.refuse(
                format!("spec.gateways[{index}]"),
                message,
                "Write `name`, `namespace/name` or `mesh`.",
            );
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
            check.refuse(
                &path,
                "a tls route needs `match` with sniHosts",
                "Add `match`.",
            );
        }
        for (at, item) in route
            .r#match
            .iter()
            .enumerate()
            .filter(|(_, item)| item.sni_hosts.is_empty())
        {
            let _ = item;
            check.refuse(
                format!("{path}.match[{at}]"),
                "a tls match needs sniHosts",
                "Add `sniHosts`.",
            );
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
            check.refuse(
                format!("{path}.weight"),
                "a weight cannot be negative",
                "Weights are zero or more.",
            );
        }
        let Some(destination) = &entry.destination else {
            check.refuse(
                path,
                "the route entry has no destination",
                "Add `destination` with a host.",
            );
            continue;
        };
        let at = format!("{path}.destination.host");
        match destination.host.as_str() {
            "" => check.refuse(
                format!("{path}.destination"),
                "the destination has no host",
                "Add `host`.",
            ),
            "*" => check.refuse(at, "`*` is no destination", "Name one host."),
            host if host.contains('/') => {
                check.refuse(
                    at,
                    format!("`{host}` is no host name"),
                    "Write name.namespace.svc.cluster.local.",
                );
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
        check.refuse(
            format!("{path}.route"),
            message,
            "Give at least one destination a weight above zero.",
        );
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
            check.refuse(
                format!("{path}.name"),
                message,
                "Rename or remove one of the two.",
            );
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
        check.refuse(
            format!("{path}.proxyProtocol"),
            message,
            "Remove one of the two.",
        );
    }
    let tls = policy.tls.iter().map(|tls| (format!("{path}.tls"), tls));
    let ports = policy.port_level_settings.iter().enumerate();
    let port_tls = ports.clone().filter_map(|(index, port)| {
        port.tls
            .as_ref()
            .map(|tls| (format!("{path}.portLevelSettings[{index}].tls"), tls))
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

pub fn service_entry(entry: &ServiceEntry) -> Vec<Refusal> {
    let mut check = Check::default();
    if entry.hosts.is_empty() {
        check.refuse("spec", "a ServiceEntry needs hosts", "Add `hosts`.");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        match host.as_str() {
            "*" => check.refuse(
                format!("spec.hosts[{index}]"),
                "`*` is no ServiceEntry host",
                "Name the hosts.",
            ),
            host => check.host(format!("spec.hosts[{index}]"), host),
        }
    }
    for (index, address) in entry.addresses.iter().enumerate() {
        check.subnet(format!("spec.addresses[{index}]"), address);
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in entry.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check.port(format!("{path}.number"), port.number);
        if port.name.is_empty() {
            check.refuse(&path, "the port has no name", "Add `name`.");
        } else if !names.insert(port.name.as_str()) {
            check.refuse(
                format!("{path}.name"),
                format!("port name `{}` stands twice", port.name),
                "Rename one.",
            );
        }
        if !numbers.insert(port.number) {
            check.refuse(
                format!("{path}.number"),
                format!("port {} stands twice", port.number),
                "Remove one.",
            );
        }
        if let Some(target) = port.target_port {
            check.port(format!("{path}.targetPort"), target);
        }
    }
    if !entry.endpoints.is_empty() && entry.workload_selector.is_some() {
        check.refuse(
            "spec.endpoints",
            "endpoints and workloadSelector exclude each other",
            "Remove one of the two.",
        );
    }
    if !entry.endpoints.is_empty() && entry.resolution == Resolution::None {
        check.refuse(
            "spec.endpoints",
            "resolution NONE has no endpoints",
            "Set `resolution: STATIC`.",
        );
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        workload(&mut check, &path, endpoint);
        let named = |name: &str| entry.ports.iter().any(|port| port.name == name);
        for name in endpoint.ports.keys().filter(|name| !named(name)) {
            check.refuse(
                format!("{path}.ports"),
                format!("the ServiceEntry has no port `{name}`"),
                "Name one of `ports`.",
            );
        }
        let address = endpoint.address.as_str();
        let literal = address.is_empty()
            || address.starts_with("unix://")
            || address.parse::<IpAddr>().is_ok();
        if entry.resolution == Resolution::Static && !literal {
            let message =
                format!("`{address}` is not an IP address, which resolution STATIC needs");
            check.refuse(
                format!("{path}.address"),
                message,
                "Write an address, or use `resolution: DNS`.",
            );
        }
    }
    check.export_to("spec.exportTo", &entry.export_to);
    check.refusals
}

pub fn workload_entry(entry: &WorkloadEntry) -> Vec<Refusal> {
    let mut check = Check::default();
    workload(&mut check, "spec", entry);
    check.refusals
}

fn workload(check: &mut Check, path: &str, entry: &WorkloadEntry) {
    let address = entry.address.as_str();
    if address.is_empty() {
        if entry.network.as_deref().unwrap_or_default().is_empty() {
            check.refuse(path, "the workload has no address", "Add `address`.");
        }
    } else if !address.starts_with("unix://") && address.parse::<IpAddr>().is_err() {
        check.host(format!("{path}.address"), address);
    }
    for (name, port) in &entry.ports {
        let mut at = format!("{path}.ports");
        super::node::push_field(&mut at, name);
        check.port(at, *port);
    }
}

pub fn service(service: &Service) -> Vec<Refusal> {
    let mut check = Check::default();
    let single = service
        .cluster_ip
        .iter()
        .map(|ip| ("spec.clusterIP".to_owned(), ip));
    let many = service
        .cluster_ips
        .iter()
        .enumerate()
        .map(|(index, ip)| (format!("spec.clusterIPs[{index}]"), ip));
    for (path, ip) in single
        .chain(many)
        .filter(|(_, ip)| !ip.is_empty() && *ip != "None")
    {
        check.address(path, ip);
    }
    for (index, port) in service.ports.iter().enumerate() {
        check.port(format!("spec.ports[{index}].port"), port.port.into());
    }
    check.refusals
}

pub fn endpoints(endpoints: &Endpoints) -> Vec<Refusal> {
    let mut check = Check::default();
    for (index, subset) in endpoints.subsets.iter().enumerate() {
        for (at, address) in subset.addresses.iter().enumerate() {
            check.address(format!("subsets[{index}].addresses[{at}].ip"), &address.ip);
        }
    }
    check.refusals
}

pub fn endpoint_slice(slice: &EndpointSlice) -> Vec<Refusal> {
    let mut check = Check::default();
    match slice.address_type.as_str() {
        "IPv4" | "IPv6" => {}
        "FQDN" => return check.refusals,
        "" => check.refuse(
            "",
            "the slice has no addressType",
            "Add `addressType: IPv4` or IPv6.",
        ),
        other => check.refuse(
            "addressType",
            format!("unknown address type `{other}`"),
            "Use IPv4 or IPv6.",
        ),
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        for (at, text) in endpoint.addresses.iter().enumerate() {
            let path = format!("endpoints[{index}].addresses[{at}]");
            let fits = match text.parse() {
                Ok(IpAddr::V4(_)) => slice.address_type == "IPv4",
                Ok(IpAddr::V6(_)) => slice.address_type == "IPv6",
                Err(_) => false,
            };
            if !fits {
                let message = format!("`{text}` is not an {} address", slice.address_type);
                check.refuse(
                    path,
                    message,
                    "A slice holds addresses of its addressType only.",
                );
            }
        }
    }
    check.refusals
}

pub fn pod(pod: &Pod) -> Vec<Refusal> {
    let mut check = Check::default();
    let single = pod
        .status
        .pod_ip
        .iter()
        .map(|ip| ("status.podIP".to_owned(), ip));
    let many = pod
        .status
        .pod_ips
        .iter()
        .enumerate()
        .map(|(index, ip)| (format!("status.podIPs[{index}].ip"), &ip.ip));
    for (path, ip) in single.chain(many).filter(|(_, ip)| !ip.is_empty()) {
        check.address(path, ip);
    }
    check.refusals
}
