//! VirtualServices but for their http routes: hosts, gateways, delegates, tls and tcp routes, destinations.

use std::net::IpAddr;

use super::{
    Judgement, Subject,
    check::{Check, Nobody},
    headers, hosts, http,
};
use crate::spec::istio::{Destination, L4Match, Labels, TlsMatch, VirtualService};

/// The name that stands for every sidecar in `gateways`.
const MESH: &str = "mesh";

pub fn virtual_service(subject: Subject<'_>, service: &VirtualService) -> Vec<Judgement> {
    let mut check = Check::istio(subject);
    if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
        check.refuse("spec", "a VirtualService needs http, tls or tcp routes", "Add at least one route.");
    }
    if service.hosts.is_empty() {
        delegate(&mut check, service);
    }
    gateways(&mut check, "spec.gateways", &service.gateways);
    service_hosts(&mut check, service);
    for (index, route) in service.http.iter().enumerate() {
        http::route(&mut check, &format!("spec.http[{index}]"), service, route);
    }
    for (index, route) in service.tls.iter().enumerate() {
        let path = format!("spec.tls[{index}]");
        if route.r#match.is_empty() {
            check.refuse(&path, "a tls route needs `match` with sniHosts", "Add `match`.");
        }
        for (at, item) in route.r#match.iter().enumerate() {
            tls_match(&mut check, &format!("{path}.match[{at}]"), service, item);
        }
        let route = route.route.iter().map(|entry| (entry.destination.as_ref(), entry.weight));
        destinations(&mut check, &path, route);
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        for (at, item) in route.r#match.iter().enumerate() {
            if let Some(item) = item {
                tcp_match(&mut check, &format!("{path}.match[{at}]"), item);
            }
        }
        let route = route.route.iter().map(|entry| (entry.destination.as_ref(), entry.weight));
        destinations(&mut check, &path, route);
    }
    check.export_to(&service.export_to, Nobody::Refused);
    check.finish()
}

/// Whether it is for gateways alone: only there are claims matched, and only there may `*` be a host.
fn for_gateways_only(service: &VirtualService) -> bool {
    !service.gateways.is_empty() && !service.gateways.iter().any(|gateway| gateway == MESH)
}

/// Without hosts it is a delegate, which has http routes only.
fn delegate(check: &mut Check<'_>, service: &VirtualService) {
    if !service.gateways.is_empty() {
        let message = "a VirtualService without hosts is a delegate, which has no gateways";
        check.refuse("spec.gateways", message, "Add `hosts`, or remove the gateways.");
    }
    for (field, there) in [("tls", !service.tls.is_empty()), ("tcp", !service.tcp.is_empty())] {
        if there {
            let message = format!("a VirtualService with {field} routes needs hosts");
            check.refuse("spec", message, "Add `hosts`.");
        }
    }
}

fn service_hosts(check: &mut Check<'_>, service: &VirtualService) {
    let gateways_only = for_gateways_only(service);
    let sni = service.tls.iter().flat_map(|route| &route.r#match).any(|item| !item.sni_hosts.is_empty());
    let mut good = true;
    for (index, host) in service.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        let verdict = name_of_service(host, gateways_only && sni);
        match verdict {
            Ok(()) if host == "*" && !gateways_only => {
                check.refuse(path, "`*` cannot be a host for the mesh", "Name the hosts, or bind to a gateway only.");
                good = false;
            }
            Ok(()) => {}
            Err(_) if host.parse::<IpAddr>().is_ok() => {}
            Err(fault) => {
                check.refuse(path, format!("`{host}` {fault}"), "A wildcard may only be the first label's start.");
                good = false;
            }
        }
    }
    if !good {
        return;
    }
    for (at, host) in service.hosts.iter().enumerate() {
        if let Some(other) = service.hosts[..at].iter().find(|other| hosts::overlap(host, other)) {
            let message = format!("`{host}` and `{other}` mean some host twice");
            check.refuse(format!("spec.hosts[{at}]"), message, "Let each host be meant once.");
        }
    }
}

fn name_of_service(host: &str, outbound: bool) -> Result<(), &'static str> {
    if outbound && hosts::is_outbound_sni(host)? {
        return Ok(());
    }
    hosts::wildcard_name(host)
}

/// `name`, `namespace/name`, `mesh`. As in Istio's admission, nothing behind the first plain name is refused.
pub fn gateways(check: &mut Check<'_>, path: &str, gateways: &[String]) {
    let mut looked_at = true;
    for (at, gateway) in gateways.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let fault = match gateway.split_once('/') {
            None => hosts::full_name(gateway).err(),
            Some((namespace, name)) => {
                let own = namespace == ".";
                let good = (own || hosts::is_label(namespace)) && hosts::is_label(name);
                (!good).then_some("is not of the form namespace/name")
            }
        };
        let remedy = "Write `name`, `namespace/name` or `mesh`.";
        match fault {
            Some(fault) if looked_at => check.refuse(path, format!("`{gateway}` {fault}"), remedy),
            Some(fault) => check.idle(path, format!("`{gateway}` {fault} and names no gateway"), remedy),
            None if !gateway.contains('/') && gateway.contains('.') => {
                let mut parts = gateway.split('.');
                let (name, namespace) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let message =
                    format!("`{gateway}` is the old form of a gateway's name; now it is `{namespace}/{name}`");
                check.warn(path, message, "Write it as namespace/name.");
            }
            None => {}
        }
        looked_at &= gateway.contains('/');
    }
}

/// What http, tls and tcp matches share.
pub fn source(check: &mut Check<'_>, path: &str, port: Option<u32>, labels: &Labels, listed: &[String]) {
    if let Some(port) = port.filter(|port| *port != 0) {
        check.port(format!("{path}.port"), port);
    }
    check.labels(&format!("{path}.sourceLabels"), labels);
    gateways(check, &format!("{path}.gateways"), listed);
}

fn subnets(check: &mut Check<'_>, path: &str, subnets: &[String]) {
    for (at, subnet) in subnets.iter().enumerate() {
        check.subnet(format!("{path}.destinationSubnets[{at}]"), subnet);
    }
}

fn tcp_match(check: &mut Check<'_>, path: &str, item: &L4Match) {
    subnets(check, path, &item.destination_subnets);
    source(check, path, item.port, &item.source_labels, &item.gateways);
}

fn tls_match(check: &mut Check<'_>, path: &str, service: &VirtualService, item: &TlsMatch) {
    if item.sni_hosts.is_empty() {
        check.refuse(path, "a tls match needs sniHosts", "Add `sniHosts`.");
    }
    for (at, host) in item.sni_hosts.iter().enumerate() {
        sni_host(check, format!("{path}.sniHosts[{at}]"), service, host);
    }
    subnets(check, path, &item.destination_subnets);
    source(check, path, item.port, &item.source_labels, &item.gateways);
}

fn sni_host(check: &mut Check<'_>, path: String, service: &VirtualService, host: &str) {
    let outbound = !service.gateways.iter().any(|gateway| gateway == MESH);
    match name_of_service(host, outbound) {
        Err(_) if host.parse::<IpAddr>().is_ok() => {
            let message = format!("`{host}` is an address, and clients send no addresses as SNI (RFC 6066, section 3)");
            check.warn(path, message, "Write a host name.");
        }
        Err(fault) => check.refuse(path, format!("`{host}` {fault}"), "Write a host name."),
        Ok(()) if service.hosts.iter().any(|outer| hosts::covers(outer, host)) => {}
        Ok(()) => {
            let message = format!("`{host}` is covered by no host of the VirtualService");
            check.refuse(path, message, "Add it to `hosts`, or narrow it.");
        }
    }
}

/// The weighted destinations of a route at `path`.
pub fn destinations<'r>(
    check: &mut Check<'_>,
    path: &str,
    route: impl ExactSizeIterator<Item = (Option<&'r Destination>, Option<i32>)>,
) {
    let count = route.len();
    if count == 0 {
        check.refuse(path, "the route has no destination", "Add `route`.");
    }
    let mut sum = 0;
    for (index, (destination, weight)) in route.enumerate() {
        let path = format!("{path}.route[{index}]");
        let weight = weight.unwrap_or(0);
        if weight < 0 {
            check.refuse(format!("{path}.weight"), "a weight cannot be negative", "Weights are zero or more.");
        }
        sum += i64::from(weight);
        match destination {
            None => check.refuse(path, "the route entry has no destination", "Add `destination` with a host."),
            Some(to) => self::destination(check, &format!("{path}.destination"), to),
        }
    }
    if count > 1 && sum == 0 {
        let message = "the weights of several destinations sum to zero";
        check.refuse(format!("{path}.route"), message, "Give at least one destination a weight above zero.");
    }
}

pub fn destination(check: &mut Check<'_>, path: &str, destination: &Destination) {
    let at = format!("{path}.host");
    match destination.host.as_str() {
        "" => check.refuse(path, "the destination has no host", "Add `host`."),
        "*" => check.refuse(at, "`*` is no destination", "Name one host."),
        host => {
            if let Err(fault) = hosts::wildcard_name(host) {
                check.refuse(
                    at,
                    format!("`{host}` {fault}"),
                    "Write a name like reviews or reviews.prod.svc.cluster.local.",
                );
            }
        }
    }
    if let Some(subset) = &destination.subset
        && !hosts::is_label(subset)
    {
        check.refuse(
            format!("{path}.subset"),
            format!("`{subset}` is not a subset's name"),
            "Use letters, digits and `-`.",
        );
    }
    if let Some(port) = destination.port {
        check.port(format!("{path}.port.number"), port.number);
    }
}

/// Claims of tokens are matched at gateways only.
pub fn claim(check: &mut Check<'_>, path: String, service: &VirtualService, header: &str) {
    if headers::is_claim(header) && !for_gateways_only(service) {
        let message = "claims of a token are matched at gateways only";
        check.refuse(path, message, "List gateways without `mesh`, or remove this match.");
    }
}
