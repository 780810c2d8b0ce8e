//! WorkloadEntries, endpoints of ServiceEntries, and WorkloadGroups.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Judgement, Subject,
    check::{Check, step},
    hosts,
};
use crate::spec::istio::{Probe, WorkloadEntry, WorkloadGroup};

pub fn workload_entry(subject: Subject<'_>, entry: &WorkloadEntry) -> Vec<Judgement> {
    let mut check = Check::istio(subject);
    workload(&mut check, "spec", entry, Within::Nothing);
    check.finish()
}

/// What an endpoint belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Within<'e> {
    /// An object of its own.
    Nothing,
    /// A ServiceEntry with resolution STATIC, which has ports of these names.
    Static(&'e BTreeSet<&'e str>),
    /// A ServiceEntry whose names are resolved.
    Resolved(&'e BTreeSet<&'e str>),
}

pub fn workload(check: &mut Check<'_>, path: &str, entry: &WorkloadEntry, within: Within<'_>) {
    let address = entry.address.as_str();
    let socket = address.strip_prefix("unix://");
    match within {
        Within::Resolved(_) => {}
        _ if address.is_empty() && entry.network.is_none() => {
            return check.refuse(path, "the workload has no address", "Add `address`.");
        }
        _ if address.is_empty() => {
            check.warn(path, "without an address it is reached through its network's gateway only", "Add `address`.");
        }
        _ => {}
    }
    match (socket, within) {
        (Some(_), Within::Resolved(_)) => {
            let message = "a unix socket cannot be resolved";
            check.refuse(format!("{path}.address"), message, "Use `resolution: STATIC`.");
        }
        (Some(socket), _) => {
            check.unix_socket(format!("{path}.address"), socket);
            if !entry.ports.is_empty() {
                check.refuse(format!("{path}.ports"), "a unix socket has no ports", "Remove them.");
            }
            if let Within::Static(ports) = within
                && ports.len() != 1
            {
                let message = "a unix socket serves exactly one port";
                check.refuse(format!("{path}.address"), message, "Give the ServiceEntry one port.");
            }
        }
        (None, within) => host_or_address(check, path, address, within),
    }
    ports(check, path, entry);
    if let Within::Static(named) | Within::Resolved(named) = within {
        for name in entry.ports.keys().filter(|name| !named.contains(name.as_str())) {
            let message = format!("the ServiceEntry has no port `{name}`");
            check.refuse(step(&format!("{path}.ports"), name), message, "Name one of its ports.");
        }
    }
    check.labels(&format!("{path}.labels"), &entry.labels);
}

fn host_or_address(check: &mut Check<'_>, path: &str, address: &str, within: Within<'_>) {
    let empty_passes = !matches!(within, Within::Resolved(_));
    if address.parse::<IpAddr>().is_ok() || (address.is_empty() && empty_passes) {
        return;
    }
    let path = format!("{path}.address");
    if let Within::Static(_) = within {
        let message = format!("`{address}` is not an IP address, which resolution STATIC needs");
        check.refuse(path, message, "Write an address, or use `resolution: DNS`.");
    } else if let Err(fault) = hosts::full_name(address) {
        let remedy = "Write an IP address or a host name, without a port; ports stand in `ports`.";
        check.refuse(path, format!("`{address}` {fault}"), remedy);
    }
}

fn ports(check: &mut Check<'_>, path: &str, entry: &WorkloadEntry) {
    for (name, port) in &entry.ports {
        let at = step(&format!("{path}.ports"), name);
        if !hosts::is_label(name) {
            check.refuse(&at, format!("`{name}` is not a port's name"), "Use letters, digits and `-`, at most 63.");
        }
        check.port(at, *port);
    }
}

pub fn workload_group(subject: Subject<'_>, group: &WorkloadGroup) -> Vec<Judgement> {
    let mut check = Check::istio(subject);
    match &group.template {
        None => check.refuse("spec", "a WorkloadGroup needs a template", "Add `template`."),
        // The address is that of the machine that registers itself; little else is looked at before.
        Some(template) => {
            if let Some(socket) = template.address.strip_prefix("unix://") {
                check.unix_socket("spec.template.address", socket);
                if !template.ports.is_empty() {
                    check.refuse("spec.template.ports", "a unix socket has no ports", "Remove them.");
                }
            }
            ports(&mut check, "spec.template", template);
        }
    }
    if let Some(metadata) = &group.metadata {
        check.labels("spec.metadata.labels", &metadata.labels);
    }
    if let Some(probe) = &group.probe {
        self::probe(&mut check, probe);
    }
    check.finish()
}

fn probe(check: &mut Check<'_>, probe: &Probe) {
    let path = "spec.probe";
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        check.not_negative(format!("{path}.{field}"), number);
    }
    let ways = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some(), probe.grpc.is_some()];
    if ways.into_iter().filter(|there| *there).count() != 1 {
        let message = "a probe has exactly one way to probe";
        check.refuse(path, message, "Keep one of httpGet, tcpSocket, exec and grpc.");
    }
    if let Some(http) = &probe.http_get {
        check.port(format!("{path}.httpGet.port"), http.port);
        if let Some(scheme) = http.scheme.as_deref().filter(|scheme| !matches!(*scheme, "HTTP" | "HTTPS")) {
            check.refuse(format!("{path}.httpGet.scheme"), format!("`{scheme}` is no scheme"), "Write HTTP or HTTPS.");
        }
        for (at, header) in http.http_headers.iter().enumerate() {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if header.name.is_empty() || !header.name.bytes().all(fits) {
                let message = format!("`{}` is not a header's name", header.name);
                check.refuse(format!("{path}.httpGet.httpHeaders[{at}].name"), message, "Use letters, digits and `-`.");
            }
        }
    }
    if let Some(tcp) = &probe.tcp_socket {
        check.port(format!("{path}.tcpSocket.port"), tcp.port);
    }
    if let Some(exec) = &probe.exec
        && exec.command.is_empty()
    {
        check.refuse(format!("{path}.exec"), "there is no command", "Add `command`.");
    }
    if probe.grpc.is_some() {
        let message = "Istio's admission does not know the grpc probe of its own API";
        check.refuse(format!("{path}.grpc"), message, "Use httpGet, tcpSocket or exec.");
    }
}
