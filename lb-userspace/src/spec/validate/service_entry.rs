//! ServiceEntries: hosts, ports, and what each resolution needs and excludes.

use std::collections::BTreeSet;

use super::{
    Judgement, Subject,
    check::{Check, Nobody},
    gateway::Protocol,
    hosts,
    workload::{Within, workload},
};
use crate::{
    finding::code,
    spec::istio::{Labels, Resolution, ServiceEntry},
};

/// Most hosts the CRD takes.
const MAX_HOSTS: usize = 256;
/// The label by which an address is made for a ServiceEntry that has none, or not.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";

pub fn service_entry(subject: Subject<'_>, entry: &ServiceEntry) -> Vec<Judgement> {
    let mut check = Check::istio(subject);
    if let Some(selector) = &entry.workload_selector {
        check.selector("spec.workloadSelector.labels", &selector.labels);
        if !entry.endpoints.is_empty() {
            let message = "endpoints and workloadSelector exclude each other";
            check.refuse("spec.endpoints", message, "Remove one of the two.");
        }
    }
    entry_hosts(&mut check, entry);
    for (index, address) in entry.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{index}]");
        check.subnet(&path, address);
        if address.contains('/') && !matches!(entry.resolution, Resolution::None | Resolution::Static) {
            let message = "a subnet needs resolution NONE or STATIC";
            check.refuse(path, message, "List single addresses, or change the resolution.");
        }
    }
    ports(&mut check, entry);
    resolution(&mut check, entry);
    if entry.resolution != Resolution::None && entry.hosts.len() > 1 {
        let told_apart = |text: &str| matches!(Protocol::parse(text), Some(Protocol::Http | Protocol::Tls));
        if let Some(at) = entry.ports.iter().position(|port| !told_apart(&port.protocol)) {
            let message = "several hosts on a port that is neither HTTP nor TLS cannot be told apart";
            check.refuse(format!("spec.ports[{at}]"), message, "Write a ServiceEntry for each host.");
        }
    }
    check.export_to(&entry.export_to, Nobody::Allowed);
    check.finish()
}

fn entry_hosts(check: &mut Check<'_>, entry: &ServiceEntry) {
    if entry.hosts.is_empty() {
        check.refuse("spec", "a ServiceEntry needs hosts", "Add `hosts`.");
    }
    if entry.hosts.len() > MAX_HOSTS {
        check.refuse("spec.hosts", format!("more than {MAX_HOSTS} hosts"), "Split it into several ServiceEntries.");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            check.refuse(path, "`*` is no ServiceEntry host", "Name the hosts.");
        } else if let Err(fault) = hosts::wildcard_name(host) {
            check.refuse(path, format!("`{host}` {fault}"), "Write a host name; a wildcard is its first label.");
        } else if host.starts_with('*') && !host.starts_with("*.") && entry.resolution != Resolution::DynamicDns {
            let message = format!("`{host}` is a partial wildcard");
            check.warn(path, message, "A wildcard is the whole first label, as in *.a.b.");
        }
    }
}

/// Whether Istio makes an address for an entry that has none.
pub fn allocates_address(entry: &ServiceEntry, labels: &Labels) -> bool {
    let refused = labels.get(AUTO_ALLOCATE).is_some_and(|value| value.eq_ignore_ascii_case("false"));
    entry.resolution != Resolution::None && !refused
}

fn ports(check: &mut Check<'_>, entry: &ServiceEntry) {
    let no_address = entry.addresses.is_empty() && !allocates_address(entry, check.subject.labels);
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in entry.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check.port(format!("{path}.number"), port.number);
        if port.name.is_empty() {
            check.refuse(&path, "the port has no name", "Add `name`.");
        } else if !hosts::is_label(&port.name) {
            let message = format!("`{}` is not a port's name", port.name);
            check.refuse(format!("{path}.name"), message, "Use letters, digits and `-`, at most 63.");
        }
        if !names.insert(port.name.as_str()) {
            check.refuse(format!("{path}.name"), format!("port name `{}` stands twice", port.name), "Rename one.");
        }
        if !numbers.insert(port.number) {
            check.refuse(format!("{path}.number"), format!("port {} stands twice", port.number), "Remove one.");
        }
        if let Some(target) = port.target_port.filter(|target| *target != 0) {
            check.port(format!("{path}.targetPort"), target);
        }
        if !port.protocol.is_empty() && Protocol::parse(&port.protocol).is_none() {
            let message = format!("unknown protocol `{}`", port.protocol);
            check.refuse(
                format!("{path}.protocol"),
                message,
                "Use TCP, TLS, HTTP, HTTPS, HTTP2, GRPC, MONGO or REDIS.",
            );
        }
        if no_address && matches!(port.protocol.as_str(), "" | "TCP") {
            let message = "a TCP port of a ServiceEntry without `addresses` is told from others by its number alone";
            check.warn_as(code::ADDRESSES_REQUIRED, path, message, "Add `addresses`.");
        }
    }
}

fn resolution(check: &mut Check<'_>, entry: &ServiceEntry) {
    let names: BTreeSet<&str> = entry.ports.iter().map(|port| port.name.as_str()).collect();
    match entry.resolution {
        Resolution::None => {
            if !entry.endpoints.is_empty() {
                let message = "resolution NONE, which is the default, has no endpoints";
                check.refuse("spec.endpoints", message, "Set `resolution: STATIC`.");
            }
            if entry.workload_selector.is_some() {
                let message = "resolution NONE, which is the default, selects no workloads";
                check.warn("spec.workloadSelector", message, "Set `resolution: STATIC`.");
            }
        }
        Resolution::Static => endpoints(check, entry, Within::Static(&names)),
        Resolution::Dns | Resolution::DnsRoundRobin => {
            resolved(check, entry);
            endpoints(check, entry, Within::Resolved(&names));
        }
        Resolution::DynamicDns => dynamic(check, entry),
    }
}

fn endpoints(check: &mut Check<'_>, entry: &ServiceEntry, within: Within<'_>) {
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        workload(check, &format!("spec.endpoints[{index}]"), endpoint, within);
    }
}

fn resolved(check: &mut Check<'_>, entry: &ServiceEntry) {
    let unresolvable = entry.hosts.iter().position(|host| hosts::full_name(host).is_err());
    if let Some(at) = unresolvable.filter(|_| entry.endpoints.is_empty()) {
        let message = format!("`{}` cannot be resolved, and there are no endpoints", entry.hosts[at]);
        check.refuse(format!("spec.hosts[{at}]"), message, "Write full names, or add `endpoints`.");
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        let message = "DNS_ROUND_ROBIN has one endpoint at most";
        check.refuse("spec.endpoints", message, "Keep one, or use `resolution: DNS`.");
    }
    let plain = |text: &str| Protocol::parse(text).is_some_and(|protocol| protocol != Protocol::Http);
    let tcp = entry.ports.iter().any(|port| plain(&port.protocol) && !port.protocol.eq_ignore_ascii_case("udp"));
    if entry.hosts.len() > 1 && !entry.addresses.is_empty() && tcp {
        let message = "several hosts share the addresses and a TCP port";
        check.warn("spec.addresses", message, "Write a ServiceEntry for each host.");
    }
}

fn dynamic(check: &mut Check<'_>, entry: &ServiceEntry) {
    for (at, host) in entry.hosts.iter().enumerate().filter(|(_, host)| !host.starts_with('*')) {
        let message = format!("`{host}` is no wildcard, which DYNAMIC_DNS needs");
        check.refuse(format!("spec.hosts[{at}]"), message, "Write it like *.example.com, or use `resolution: DNS`.");
    }
    if !entry.addresses.is_empty() {
        check.refuse("spec.addresses", "DYNAMIC_DNS has no addresses", "Remove them.");
    }
    if !entry.endpoints.is_empty() {
        check.refuse("spec.endpoints", "DYNAMIC_DNS has no endpoints", "Remove them.");
    }
    for (at, port) in entry.ports.iter().enumerate() {
        let protocol = port.protocol.to_ascii_uppercase();
        if !matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC" | "TLS") {
            let message = "DYNAMIC_DNS needs a protocol that names its host";
            check.refuse(format!("spec.ports[{at}]"), message, "Use HTTP, HTTP2, GRPC or TLS.");
        }
    }
}
