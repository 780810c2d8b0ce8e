//! Kubernetes' kinds, as far as they say where endpoints are.

use std::net::IpAddr;

use super::{Judgement, Subject, check::Check};
use crate::spec::kubernetes::{EndpointSlice, Endpoints, Pod, Service};

pub fn service(subject: Subject<'_>, service: &Service) -> Vec<Judgement> {
    let mut check = Check::new(subject);
    let single = service.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let many = service.cluster_ips.iter().enumerate().map(|(index, ip)| (format!("spec.clusterIPs[{index}]"), ip));
    for (path, ip) in single.chain(many).filter(|(_, ip)| !ip.is_empty() && *ip != "None") {
        check.address(path, ip);
    }
    for (index, port) in service.ports.iter().enumerate() {
        check.port(format!("spec.ports[{index}].port"), port.port.into());
    }
    check.finish()
}

pub fn endpoints(subject: Subject<'_>, endpoints: &Endpoints) -> Vec<Judgement> {
    let mut check = Check::new(subject);
    for (index, subset) in endpoints.subsets.iter().enumerate() {
        for (field, list) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
            for (at, address) in list.iter().enumerate() {
                check.address(format!("subsets[{index}].{field}[{at}].ip"), &address.ip);
            }
        }
    }
    check.finish()
}

pub fn endpoint_slice(subject: Subject<'_>, slice: &EndpointSlice) -> Vec<Judgement> {
    let mut check = Check::new(subject);
    match slice.address_type.as_str() {
        "IPv4" | "IPv6" => {}
        "FQDN" => return check.finish(),
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
    check.finish()
}

pub fn pod(subject: Subject<'_>, pod: &Pod) -> Vec<Judgement> {
    let mut check = Check::new(subject);
    let single = pod.status.pod_ip.iter().map(|ip| ("status.podIP".to_owned(), ip));
    let many = pod.status.pod_ips.iter().enumerate().map(|(index, ip)| (format!("status.podIPs[{index}].ip"), &ip.ip));
    for (path, ip) in single.chain(many).filter(|(_, ip)| !ip.is_empty()) {
        check.address(path, ip);
    }
    check.finish()
}
