//! Destinations that leave it to the listener which of several ports is meant.

use super::View;
use crate::{
    finding::{Finding, Severity, code},
    model::{registry::PortProtocol, route::port_list},
};

/// Where some listener's port is none of the service's, the model says so, as an error at the same place.
pub fn check(view: &View<'_>, findings: &mut Vec<Finding>) {
    for route in &view.routes {
        for one in route.destinations.iter().filter(|one| one.destination.port.is_none()) {
            let Some(service) = view.context.registry.get(&one.host) else { continue };
            if service.ports.iter().filter(|port| port.protocol != PortProtocol::Udp).count() < 2 {
                continue;
            }
            let message = format!(
                "{} has several ports and none is named: each listener means the one of its own number",
                service.host
            );
            let remedy = format!("Add `port: {{number: ...}}` with one of {}.", port_list(service));
            let path = format!("{}.destination", one.path);
            findings.push(route.service.finding(Severity::Info, code::PORT_REQUIRED, path, message, remedy));
        }
    }
}
