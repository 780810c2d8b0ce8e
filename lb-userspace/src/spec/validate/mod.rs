//! What Istio's and Kubernetes' admission refuse about one object alone, for the fields that Meltemi carries out.
//!
//! References to other objects are `model`'s to check: a file may come before what it refers to.

mod endpoints;
mod traffic;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

pub use endpoints::{endpoint_slice, endpoints, pod, service, service_entry, workload_entry, workload_group};
pub use traffic::{destination_rule, gateway, virtual_service};

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
    fn refuse(&mut self, path: impl Into<String>, message: impl Into<String>, remedy: &'static str) {
        self.refusals.push(Refusal { path: path.into(), message: message.into(), remedy });
    }

    fn port(&mut self, path: String, number: u32) {
        if !(1..=65_535).contains(&number) {
            self.refuse(path, format!("{number} is not a port number"), "Ports go from 1 to 65535.");
        }
    }

    fn address(&mut self, path: String, text: &str) {
        if text.parse::<IpAddr>().is_err() {
            self.refuse(path, format!("`{text}` is not an IP address"), "Write an IPv4 or IPv6 address.");
        }
    }

    fn subnet(&mut self, path: String, text: &str) {
        if text.parse::<IpAddr>().is_err() && text.parse::<IpNet>().is_err() {
            self.refuse(path, format!("`{text}` is neither an IP address nor a subnet"), "Write it like 10.0.0.0/8.");
        }
    }

    fn host(&mut self, path: String, host: &str) {
        let name = host.strip_prefix("*.").unwrap_or(host);
        let name = name.strip_suffix('.').unwrap_or(name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if host == "*" || host.parse::<IpAddr>().is_ok() || (name.len() <= 255 && name.split('.').all(label)) {
            return;
        }
        self.refuse(path, format!("`{host}` is not a host name"), "A wildcard may only be the whole first label.");
    }

    fn export_to(&mut self, path: &str, export_to: &[String]) {
        if export_to.len() > 1 && export_to.iter().any(|namespace| matches!(namespace.as_str(), "*" | "~")) {
            self.refuse(path, "`*` and `~` stand alone in exportTo", "Remove the other namespaces.");
        }
        if export_to.iter().collect::<BTreeSet<_>>().len() != export_to.len() {
            self.refuse(path, "a namespace stands twice in exportTo", "Remove one of the two.");
        }
    }
}
