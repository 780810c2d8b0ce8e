//! Gateways: servers, their ports and hosts.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Judgement, Subject,
    check::Check,
    hosts,
    server_tls::{self, mode},
};
use crate::spec::istio::{Gateway, Port, Server, ServerTlsMode};

pub fn gateway(subject: Subject<'_>, gateway: &Gateway) -> Vec<Judgement> {
    let mut check = Check::istio(subject);
    if !hosts::is_label(subject.name) {
        let message = format!("`{}` cannot be a Gateway's name", subject.name);
        check.refuse("metadata.name", message, "Use letters, digits and `-`, at most 63, and no dot.");
    }
    if gateway.servers.is_empty() {
        check.refuse("spec", "a Gateway needs at least one server", "Add `servers`.");
    }
    let mut names = BTreeSet::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        self::server(&mut check, &path, server);
        let name = server.port.as_ref().map(|port| port.name.as_str()).filter(|name| !name.is_empty());
        if let Some(name) = name.filter(|name| !names.insert(*name)) {
            let message = format!("port name `{name}` stands twice in this Gateway");
            check.refuse(format!("{path}.port.name"), message, "Give each server's port a name of its own.");
        }
    }
    check.finish()
}

fn server(check: &mut Check<'_>, path: &str, server: &Server) {
    if server.hosts.is_empty() {
        check.refuse(path, "a server needs hosts", "Add `hosts`, such as \"*\".");
    }
    for (at, host) in server.hosts.iter().enumerate() {
        server_host(check, format!("{path}.hosts[{at}]"), host);
    }
    let socket = server.bind.as_deref().and_then(|bind| bind.strip_prefix("unix://"));
    match (socket, server.bind.as_deref()) {
        (Some(socket), _) => {
            check.unix_socket(format!("{path}.bind"), socket);
            if server.port.as_ref().is_some_and(|port| port.number != 0) {
                check.refuse(format!("{path}.port.number"), "a unix socket has no port", "Set the number to 0.");
            }
        }
        (None, Some(bind)) => check.address(format!("{path}.bind"), bind),
        (None, None) => {}
    }
    if let Some(tls) = &server.tls {
        server_tls::server_tls(check, &format!("{path}.tls"), tls);
    }
    if server.default_endpoint.is_some() {
        let message = "defaultEndpoint is not carried out, in Istio as here";
        check.idle(format!("{path}.defaultEndpoint"), message, "Remove it.");
    }
    match &server.port {
        None => check.refuse(path, "a server needs a port", "Add `port` with number, name and protocol."),
        Some(port) => server_port(check, path, server, port, socket.is_some()),
    }
}

fn server_port(check: &mut Check<'_>, path: &str, server: &Server, port: &Port, socket: bool) {
    if !socket {
        check.port(format!("{path}.port.number"), port.number);
    }
    if port.name.is_empty() {
        check.refuse(format!("{path}.port"), "the port has no name", "Add `name`.");
    }
    if port.target_port.is_some_and(|target| target > 0) {
        check.refuse(format!("{path}.port.targetPort"), "targetPort has no effect in a Gateway", "Remove it.");
    }
    let Some(protocol) = Protocol::parse(&port.protocol) else {
        let (at, message) = match port.protocol.as_str() {
            "" => (format!("{path}.port"), "the port has no protocol".to_owned()),
            unknown => (format!("{path}.port.protocol"), format!("unknown protocol `{unknown}`")),
        };
        return check.refuse(at, message, "Use TCP, TLS, HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, MYSQL or REDIS.");
    };
    let Some(tls) = &server.tls else {
        if protocol == Protocol::Tls {
            check.refuse(path, format!("a {} server needs `tls`", port.protocol), "Add `tls` with a mode.");
        }
        return;
    };
    let certificate =
        [&tls.ca_certificates, &tls.private_key, &tls.server_certificate].into_iter().any(Option::is_some);
    let passes = matches!(mode(tls), ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
    match protocol {
        Protocol::Tls => {}
        Protocol::Http if passes && !certificate => {}
        Protocol::Http => {
            let message = format!("a {} server is plain text and cannot have a certificate", port.protocol);
            check.refuse(
                format!("{path}.tls"),
                message,
                "Use protocol HTTPS; plain servers may only have httpsRedirect.",
            );
        }
        Protocol::Tcp => {
            let message = format!("a {} server cannot have `tls`", port.protocol);
            check.refuse(format!("{path}.tls"), message, "Use protocol TLS.");
        }
    }
    if protocol != Protocol::Http && tls.https_redirect {
        let message = "httpsRedirect does nothing on a server that does not speak plain HTTP";
        check.warn(format!("{path}.tls.httpsRedirect"), message, "Move it to the HTTP server, or remove it.");
    }
}

fn server_host(check: &mut Check<'_>, path: String, text: &str) {
    let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
    if namespace.is_empty() || host.is_empty() {
        return check.refuse(path, format!("`{text}` lacks a part"), "Write `namespace/host`, or the host alone.");
    }
    if !matches!(namespace, "*" | ".") && !hosts::is_label(namespace) {
        let message = format!("`{namespace}` is not a namespace's name");
        return check.refuse(path, message, "Write `*/`, `./` or a namespace's name.");
    }
    let address = host.parse::<IpAddr>().is_ok();
    if host != "*" && !host.contains('.') {
        let remedy = "Write the full name; short names are not expanded in a Gateway.";
        check.refuse(path, format!("`{host}` is a name without a dot"), remedy);
    } else if let Err(fault) = hosts::wildcard_name(host)
        && !address
    {
        check.refuse(path, format!("`{host}` {fault}"), "A wildcard may only be the whole first label.");
    } else if host.len() > 1 && host.starts_with('*') && !host.starts_with("*.") {
        check.refuse(
            path,
            format!("`{host}` is a partial wildcard"),
            "A wildcard is the whole first label, as in *.a.b.",
        );
    }
}

/// What a port speaks, as far as admission tells protocols apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Tls,
    /// Everything else.
    Tcp,
}

impl Protocol {
    /// In any case of letters; `None` for a protocol that does not exist.
    pub fn parse(text: &str) -> Option<Protocol> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" | "http2" | "grpc" | "grpc-web" | "http_proxy" => Protocol::Http,
            "https" | "tls" => Protocol::Tls,
            "tcp" | "udp" | "mongo" | "redis" | "mysql" => Protocol::Tcp,
            _ => return None,
        })
    }
}
