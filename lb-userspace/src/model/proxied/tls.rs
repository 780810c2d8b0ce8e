//! Routes by server name, and TLS settings of both sides.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{hosts::mesh_owner, place, routes::Site, server::Server, tcp_route, texts, upstream::upstream_of, weight};
use crate::{
    finding::{Severity, code},
    model::{
        Destination,
        gateway::{bound, served},
        host, mesh,
        parse::{Context, Output},
        registry::{Port, Service},
        route::{self, Clusters, VirtualService},
    },
    snapshot::{
        Authorities, Certificate, Chain, ClientTls, ClientVerification, ClusterName, Content, Names, PeerCheck, Place,
        RouteKind, RuleSource, ServerTls, TcpRoute, TlsVersion,
    },
    spec::istio::{self, ClientTlsMode, ServerTlsMode, TlsMatch},
};

/// The tls routes that a passthrough server takes, each with the names it is for.
pub fn sni_routes<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    server: &Server<'s>,
    port: u16,
) -> Vec<(Vec<String>, TcpRoute)> {
    let mut found = Vec::new();
    for service in bound(context, output, server.gateway, server.index) {
        let hosts = served(context.identity, service, server.gateway, server.spec());
        let site = Site::Gateway(server.gateway.name(), port);
        for (index, item, sni) in items(service, site) {
            let narrower = |name: &String| {
                let name = name.to_ascii_lowercase();
                hosts.iter().find_map(|own| host::narrower(own, &name).map(str::to_owned))
            };
            let names: Vec<String> = sni.sni_hosts.iter().filter_map(narrower).collect();
            if !names.is_empty() {
                found.push((names, tls_route(context, output, service, (index, item), site)));
            }
        }
    }
    found
}

/// Match items for a place by port and gateways, with the positions of their route and their own.
fn items<'v>(service: &'v VirtualService, site: Site<'_>) -> Vec<(usize, usize, &'v TlsMatch)> {
    let here = |item: &TlsMatch| {
        let gateway = match item.gateways.is_empty() {
            true => site.is_default_of(service),
            false => site.is_in(&item.gateways, service.namespace()),
        };
        gateway && item.port.is_none_or(|port| port == 0 || port == u32::from(site.port()))
    };
    let routes = service.spec.tls.iter().enumerate();
    let all = routes.flat_map(|(at, route)| route.r#match.iter().enumerate().map(move |(item, sni)| (at, item, sni)));
    all.filter(|(_, _, item)| here(item)).collect()
}

fn tls_route<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &VirtualService,
    (index, item): (usize, usize),
    site: Site<'_>,
) -> TcpRoute {
    let written = &service.spec.tls[index].route;
    let mut destinations: Vec<Destination> = Vec::with_capacity(written.len());
    for (at, one) in written.iter().enumerate() {
        let Some(destination) = &one.destination else { continue };
        let path = format!("spec.tls[{index}].route[{at}]");
        let share = weight(written.len(), one.weight);
        let Output { clusters, findings, .. } = &mut *output;
        let found = route::resolve(context, clusters, findings, (service, &path), destination, share, site.port());
        super::upstream(context, clusters, &found.destination);
        destinations.push(found.destination);
    }
    let source = RuleSource {
        kind: RouteKind::Tls,
        virtual_service: Some(service.name().to_string().into()),
        index: index as u32,
        item: Some(item as u32),
        name: None,
        place: place(&service.origin(&format!("spec.tls[{index}]"))),
    };
    tcp_route(context, source, &destinations)
}

/// The chains of a Service port that carries TLS: tls routes by name, the service itself for every other name. Empty: no route
/// is for it.
pub fn mesh_chains<'s>(
    context: &Context<'s>,
    output: &mut Output<'s>,
    service: &Service,
    port: &Port,
    routed: &[&'s VirtualService],
) -> Vec<Chain> {
    let site = Site::Mesh(port.number);
    let mut chains = Vec::new();
    let chain = |names: Vec<Arc<str>>, route: TcpRoute| Chain {
        names,
        tls: None,
        gateway: super::super::binding::MESH.into(),
        place: route.source.place.clone(),
        content: Content::Tcp(route),
    };
    let mut seen = BTreeSet::new();
    let with_tls = routed.iter().copied().filter(|one| !one.spec.tls.is_empty());
    let Some(owner) = mesh_owner(context, service, with_tls) else {
        return chains;
    };
    for (index, item, sni) in items(owner, site) {
        if !is_for_all(output, service, owner, (index, item), sni) {
            continue;
        }
        let names = sni.sni_hosts.iter().map(|name| Arc::from(name.to_ascii_lowercase()));
        let names: Vec<Arc<str>> = names.filter(|name: &Arc<str>| seen.insert(name.clone())).collect();
        if !names.is_empty() {
            chains.push(chain(names, tls_route(context, output, owner, (index, item), site)));
        }
    }
    if !chains.is_empty() && !seen.contains("*") {
        let own = route::plain_destination(&mut output.clusters, service, port);
        super::upstream(context, &mut output.clusters, &own);
        let source = RuleSource {
            kind: RouteKind::Tls,
            virtual_service: None,
            index: 0,
            item: None,
            name: None,
            place: place(&own.origin),
        };
        chains.push(chain(vec!["*".into()], tcp_route(context, source, &[own])));
    }
    chains
}

/// Whether a match of the mesh holds for every client and every address of a service. Where it holds for some of them only, it
/// is left out, never widened.
fn is_for_all(
    output: &mut Output<'_>,
    service: &Service,
    owner: &VirtualService,
    (index, item): (usize, usize),
    sni: &TlsMatch,
) -> bool {
    let subnets = &sni.destination_subnets;
    let is_inside = |address: &&IpAddr| subnets.iter().any(|subnet| mesh::contains(subnet, **address));
    let inside = service.addresses.iter().filter(is_inside).count();
    if !subnets.is_empty() && inside == 0 {
        return false;
    }
    let host = &service.host;
    let on_client = |field| {
        let message = format!("matching on the client ({field}) is not carried out; this match is left out for {host}");
        (field, message, "Remove it to let the route hold for every client.")
    };
    let (field, message, remedy) = if !sni.source_labels.is_empty() {
        on_client("sourceLabels")
    } else if sni.source_namespace.is_some() {
        on_client("sourceNamespace")
    } else if !subnets.is_empty() && inside < service.addresses.len() {
        let message = format!(
            "of {host}'s {} addresses {inside} are meant, and tls routes are not led apart; this match is left out",
            service.addresses.len()
        );
        ("destinationSubnets", message, "Name all addresses of the service, or none.")
    } else {
        return true;
    };
    let path = format!("spec.tls[{index}].match[{item}].{field}");
    output.findings.push(owner.finding(Severity::Warning, code::UNSUPPORTED, path, message, remedy));
    false
}

/// With `AUTO_PASSTHROUGH` a client may name any cluster of the services that the server's hosts cover.
pub fn auto_passthrough<'s>(context: &Context<'s>, clusters: &mut Clusters<'s>, names: &[String]) {
    for service in context.registry.all() {
        if !names.iter().any(|name| host::covers(name, &service.host)) {
            continue;
        }
        let Some(found) = context.find(&service.host) else { continue };
        let subsets = found.policy.as_ref().map(|policy| policy.subset_names()).unwrap_or_default();
        for port in service.ports.iter().filter(|port| service.port(port.number).is_some()) {
            for subset in std::iter::once(None).chain(subsets.iter().copied().map(Some)) {
                let name =
                    ClusterName { host: service.host.clone(), subset: subset.map(Into::into), port: port.number };
                upstream_of(context, clusters, &name);
            }
        }
    }
}

/// Settings of a server that terminates TLS. Secrets are those of the agent's own namespace.
pub fn server(tls: &istio::ServerTls, namespace: &Arc<str>, is_http: bool, place: Place) -> ServerTls {
    let mode = tls.mode.unwrap_or(ServerTlsMode::Simple);
    let secret = |name: &str| Certificate::Secret { namespace: namespace.clone(), name: bare(name).into() };
    let files = |chain: &Option<String>, key: &Option<String>| {
        Some(Certificate::Files { chain: chain.as_deref()?.into(), key: key.as_deref()?.into() })
    };
    let mut certificates: Vec<Certificate> = files(&tls.server_certificate, &tls.private_key).into_iter().collect();
    certificates.extend(tls.credential_name.iter().map(|name| secret(name)));
    certificates.extend(tls.credential_names.iter().map(|name| secret(name)));
    certificates
        .extend(tls.tls_certificates.iter().take(2).filter_map(|one| files(&one.server_certificate, &one.private_key)));
    if mode == ServerTlsMode::IstioMutual {
        certificates = vec![Certificate::Workload];
    }
    let authorities = match (mode, &tls.ca_cert_credential_name, &tls.ca_certificates) {
        (ServerTlsMode::IstioMutual, _, _) => Authorities::Workload,
        (_, Some(name), _) => Authorities::Secrets { namespace: namespace.clone(), names: vec![bare(name).into()] },
        (_, None, Some(file)) => Authorities::File(file.as_str().into()),
        (_, None, None) => {
            let names = tls.credential_name.iter().chain(&tls.credential_names);
            let names = names.flat_map(|name| [format!("{}-cacert", bare(name)).into(), bare(name).into()]).collect();
            Authorities::Secrets { namespace: namespace.clone(), names }
        }
    };
    let check = PeerCheck {
        authorities,
        revocations: tls.ca_crl.as_deref().map(Into::into),
        names: listed(&tls.subject_alt_names, Names::Any),
        spki_pins: texts(&tls.verify_certificate_spki),
        certificate_pins: texts(&tls.verify_certificate_hash),
    };
    let client = match mode {
        ServerTlsMode::Mutual | ServerTlsMode::IstioMutual if tls.insecure_skip_verify == Some(true) => {
            ClientVerification::Noted(check)
        }
        ServerTlsMode::Mutual | ServerTlsMode::IstioMutual => ClientVerification::Required(check),
        ServerTlsMode::OptionalMutual => ClientVerification::IfSent(check),
        ServerTlsMode::Simple | ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => ClientVerification::None,
    };
    ServerTls {
        certificates,
        client,
        min_version: version(tls.min_protocol_version, TlsVersion::V1_2),
        max_version: version(tls.max_protocol_version, TlsVersion::V1_3),
        cipher_suites: texts(&tls.cipher_suites),
        alpn: if is_http { vec!["h2".into(), "http/1.1".into()] } else { Vec::new() },
        place,
    }
}

fn version(written: Option<istio::TlsVersion>, auto: TlsVersion) -> TlsVersion {
    match written {
        None | Some(istio::TlsVersion::Auto) => auto,
        Some(istio::TlsVersion::V1_0) => TlsVersion::V1_0,
        Some(istio::TlsVersion::V1_1) => TlsVersion::V1_1,
        Some(istio::TlsVersion::V1_2) => TlsVersion::V1_2,
        Some(istio::TlsVersion::V1_3) => TlsVersion::V1_3,
    }
}

/// `kubernetes://name` is the same as `name`.
fn bare(credential: &str) -> &str {
    credential.strip_prefix("kubernetes://").unwrap_or(credential)
}

fn listed(names: &[String], otherwise: Names) -> Names {
    if names.is_empty() { otherwise } else { Names::Listed(texts(names)) }
}

/// What a client's settings are applied to.
pub struct Peer<'p> {
    pub cluster: &'p ClusterName,
    /// SPIFFE ids of its endpoints, where they are known.
    pub identities: Vec<Arc<str>>,
    /// `subjectAltNames` of its ServiceEntry.
    pub service_names: &'p [String],
    pub namespace: &'p Arc<str>,
}

/// `None`: plain text.
pub fn client(tls: &istio::ClientTls, peer: &Peer<'_>, place: Place) -> Option<ClientTls> {
    let mode = tls.mode.unwrap_or_default();
    let name = match mode {
        ClientTlsMode::Disable => return None,
        ClientTlsMode::Simple => "SIMPLE",
        ClientTlsMode::Mutual => "MUTUAL",
        ClientTlsMode::IstioMutual => "ISTIO_MUTUAL",
    };
    let secret = tls.credential_name.as_deref().map(bare);
    let certificate = match (mode, secret) {
        (ClientTlsMode::IstioMutual, _) => Some(Certificate::Workload),
        (ClientTlsMode::Mutual, Some(name)) => {
            Some(Certificate::Secret { namespace: peer.namespace.clone(), name: name.into() })
        }
        (ClientTlsMode::Mutual, None) => tls
            .client_certificate
            .as_deref()
            .zip(tls.private_key.as_deref())
            .map(|(chain, key)| Certificate::Files { chain: chain.into(), key: key.into() }),
        (ClientTlsMode::Simple | ClientTlsMode::Disable, _) => None,
    };
    let authorities = match (mode, &tls.ca_certificates, secret) {
        (ClientTlsMode::IstioMutual, _, _) => Authorities::Workload,
        _ if tls.insecure_skip_verify == Some(true) => Authorities::Anyone,
        (_, Some(file), _) => Authorities::File(file.as_str().into()),
        (_, None, Some(name)) => Authorities::Secrets {
            namespace: peer.namespace.clone(),
            names: vec![format!("{name}-cacert").into(), name.into()],
        },
        (_, None, None) => Authorities::System,
    };
    let is_mesh = mode == ClientTlsMode::IstioMutual;
    let names = match (tls.subject_alt_names.as_slice(), peer.service_names) {
        _ if authorities == Authorities::Anyone => Names::Any,
        ([], []) if is_mesh && peer.identities.is_empty() => Names::Any,
        ([], []) if is_mesh => Names::Listed(peer.identities.clone()),
        ([], []) => Names::Sni,
        ([], of_service) => listed(of_service, Names::Any),
        (own, _) => listed(own, Names::Any),
    };
    let own_sni = tls.sni.as_deref().map(Into::into);
    let cluster = peer.cluster;
    let mesh_sni = || {
        let subset = cluster.subset.as_deref().unwrap_or_default();
        format!("outbound_.{}_.{subset}_.{}", cluster.port, cluster.host).into()
    };
    Some(ClientTls {
        mode: name.into(),
        certificate,
        server: PeerCheck {
            authorities,
            revocations: tls.ca_crl.as_deref().map(Into::into),
            names,
            spki_pins: Vec::new(),
            certificate_pins: Vec::new(),
        },
        sni: own_sni.or_else(|| is_mesh.then(mesh_sni)),
        place,
    })
}
