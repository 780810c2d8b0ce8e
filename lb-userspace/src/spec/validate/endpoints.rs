//! Kinds that say where endpoints are: ServiceEntries, WorkloadEntries and Kubernetes' own.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Check, Refusal};
use crate::spec::{
    istio::{Resolution, ServiceEntry, WorkloadEntry, WorkloadGroup},
    kubernetes::{EndpointSlice, Endpoints, Pod, Service},
    node::push_field,
};

pub fn service_entry(entry: &ServiceEntry) -> Vec<Refusal> {
    let mut check = Check::default();
    if entry.hosts.is_empty() {
        check.refuse("spec", "a ServiceEntry needs hosts", "Add `hosts`.");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        match host.as_str() {
            "*" => check.refuse(format!("spec.hosts[{index}]"), "`*` is no ServiceEntry host", "Name the hosts."),
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
            check.refuse(format!("{path}.name"), format!("port name `{}` stands twice", port.name), "Rename one.");
        }
        if !numbers.insert(port.number) {
            check.refuse(format!("{path}.number"), format!("port {} stands twice", port.number), "Remove one.");
        }
        if let Some(target) = port.target_port {
            check.port(format!("{path}.targetPort"), target);
        }
    }
    if !entry.endpoints.is_empty() && entry.workload_selector.is_some() {
        check.refuse("spec.endpoints", "endpoints and workloadSelector exclude each other", "Remove one of the two.");
    }
    if !entry.endpoints.is_empty() && entry.resolution == Resolution::None {
        check.refuse("spec.endpoints", "resolution NONE has no endpoints", "Set `resolution: STATIC`.");
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
        let literal = address.is_empty() || address.starts_with("unix://") || address.parse::<IpAddr>().is_ok();
        if entry.resolution == Resolution::Static && !literal {
            let message = format!("`{address}` is not an IP address, which resolution STATIC needs");
            check.refuse(format!("{path}.address"), message, "Write an address, or use `resolution: DNS`.");
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

pub fn workload_group(group: &WorkloadGroup) -> Vec<Refusal> {
    let mut check = Check::default();
    match &group.template {
        None => check.refuse("spec", "a WorkloadGroup needs a template", "Add `template`."),
        // The address is that of the machine that registers itself.
        Some(template) if template.address.is_empty() => ports(&mut check, "spec.template", template),
        Some(template) => workload(&mut check, "spec.template", template),
    }
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
    ports(check, path, entry);
}

fn ports(check: &mut Check, path: &str, entry: &WorkloadEntry) {
    for (name, port) in &entry.ports {
        let mut at = format!("{path}.ports");
        push_field(&mut at, name);
        check.port(at, *port);
    }
}

pub fn service(service: &Service) -> Vec<Refusal> {
    let mut check = Check::default();
    let single = service.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let many = service.cluster_ips.iter().enumerate().map(|(index, ip)| (format!("spec.clusterIPs[{index}]"), ip));
    for (path, ip) in single.chain(many).filter(|(_, ip)| !ip.is_empty() && *ip != "None") {
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
        "" => check.refuse("", "the slice has no addressType", "Add `addressType: IPv4` or IPv6."),
        other => check.refuse("addressType", format!("unknown address type `{other}`"), "Use IPv4 or IPv6."),
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
                check.refuse(path, message, "A slice holds addresses of its addressType only.");
            }
        }
    }
    check.refusals
}

pub fn pod(pod: &Pod) -> Vec<Refusal> {
    let mut check = Check::default();
    let single = pod.status.pod_ip.iter().map(|ip| ("status.podIP".to_owned(), ip));
    let many = pod.status.pod_ips.iter().enumerate().map(|(index, ip)| (format!("status.podIPs[{index}].ip"), &ip.ip));
    for (path, ip) in single.chain(many).filter(|(_, ip)| !ip.is_empty()) {
        check.address(path, ip);
    }
    check.refusals
}
