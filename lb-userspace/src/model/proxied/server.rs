//! Gateway servers whose bytes are read, to filter chains.

use std::sync::Arc;

use super::{
    hosts::gateway_hosts,
    place, tcp_route, tcp_source,
    tls::{self, sni_routes},
};
use crate::{
    finding::{Severity, code},
    model::{
        Action, Origin,
        gateway::{Gateway, tcp_action},
        parse::{Context, Output},
    },
    snapshot::{Chain, Content, TcpRoute},
    spec::istio::{self, ServerTlsMode},
};

/// One of a Gateway's servers.
#[derive(Clone, Copy)]
pub struct Server<'s> {
    pub gateway: &'s Gateway,
    pub index: usize,
}

impl<'s> Server<'s> {
    pub fn spec(&self) -> &'s istio::Server {
        &self.gateway.spec.servers[self.index]
    }

    pub fn origin(&self) -> Origin {
        self.gateway.origin(&self.path())
    }

    pub fn path(&self) -> String {
        format!("spec.servers[{}]", self.index)
    }

    /// Its hosts without the namespaces whose VirtualServices may bind.
    pub fn names(&self) -> Vec<String> {
        let name = |text: &String| text.split_once('/').map_or(text.as_str(), |(_, name)| name).to_ascii_lowercase();
        self.spec().hosts.iter().map(name).collect()
    }
}

/// The chains of servers that share a port, in order of precedence. Of two for one name the first has it. Empty where nothing
/// would be served: nothing listens then.
pub fn chains<'s>(context: &Context<'s>, output: &mut Output<'s>, servers: &[Server<'s>], port: u16) -> Vec<Chain> {
    let is_plain = |server: &Server<'_>| {
        let protocol = server.spec().port.as_ref().map(|port| port.protocol.to_ascii_uppercase());
        !matches!(protocol.as_deref(), Some("HTTPS" | "TLS"))
    };
    let (plain, secure): (Vec<Server<'s>>, Vec<Server<'s>>) = servers.iter().copied().partition(is_plain);
    let mut chains = Vec::new();
    if let Some(first) = plain.first() {
        let content = Content::Http(gateway_hosts(context, output, &plain, port));
        chains.push(chain(first, vec!["*".to_owned()], None, content));
    }
    for server in &secure {
        secure_chains(context, output, server, port, &mut chains);
    }
    without_repeated_names(chains)
}

fn chain(
    server: &Server<'_>,
    names: Vec<String>,
    tls: Option<Arc<crate::snapshot::ServerTls>>,
    content: Content,
) -> Chain {
    Chain {
        names: names.into_iter().map(Into::into).collect(),
        tls,
        content,
        gateway: server.gateway.name().to_string().into(),
        place: place(&server.origin()),
    }
}

fn secure_chains<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    server: &Server<'s>,
    port: u16,
    chains: &mut Vec<Chain>,
) {
    let spec = server.spec();
    let settings = spec.tls.clone().unwrap_or_default();
    match settings.mode.unwrap_or(ServerTlsMode::Passthrough) {
        ServerTlsMode::Passthrough => {
            for (names, route) in sni_routes(context, output, server, port) {
                chains.push(chain(server, names, None, Content::Tcp(route)));
            }
        }
        ServerTlsMode::AutoPassthrough => {
            tls::auto_passthrough(context, &mut output.clusters, &server.names());
            chains.push(chain(server, server.names(), None, Content::AutoPassthrough));
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual | ServerTlsMode::IstioMutual => {
            let is_http = spec.port.as_ref().is_some_and(|port| port.protocol.eq_ignore_ascii_case("HTTPS"));
            let place = place(&server.gateway.origin(&format!("{}.tls", server.path())));
            let tls = Arc::new(tls::server(&settings, &context.identity.namespace, is_http, place));
            let content = if is_http {
                Some(Content::Http(gateway_hosts(context, output, &[*server], port)))
            } else {
                terminated_tcp(context, output, server, port).map(Content::Tcp)
            };
            match content {
                Some(content) => chains.push(chain(server, server.names(), Some(tls), content)),
                None => unrouted(output, server),
            }
        }
    }
}

/// The tcp route of a server that terminates TLS: chosen by port alone, as for a plain TCP server.
fn terminated_tcp<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    server: &Server<'s>,
    port: u16,
) -> Option<TcpRoute> {
    match tcp_action(context, output, server.gateway, server.index, port)? {
        Action::Tcp(rule) => {
            rule.destinations.iter().for_each(|one| super::upstream(context, &mut output.clusters, one));
            Some(tcp_route(context, tcp_source(&rule), &rule.destinations))
        }
        Action::Proxy(chains) => chains.into_iter().find_map(|chain| match chain.content {
            Content::Tcp(route) => Some(route),
            Content::Http(_) | Content::AutoPassthrough => None,
        }),
    }
}

fn unrouted(output: &mut Output<'_>, server: &Server<'_>) {
    let message = "no tcp route of any VirtualService fits this server: its names are not served";
    let remedy = format!("Bind a VirtualService with a `tcp` route to gateway {}.", server.gateway.name());
    let finding = server.gateway.finding(Severity::Info, code::GATEWAY_IDLE, server.path(), message, remedy);
    output.findings.push(finding);
}

fn without_repeated_names(chains: Vec<Chain>) -> Vec<Chain> {
    let mut seen = std::collections::BTreeSet::new();
    let mut kept = Vec::new();
    for mut chain in chains {
        chain.names.retain(|name| seen.insert(name.clone()));
        if !chain.names.is_empty() {
            kept.push(chain);
        }
    }
    kept
}
