//! Fields that are valid but change nothing here: not carried out, or without effect where they stand.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Action, Listener, binding, host,
    parse::{Context, Proxy},
    registry::PortProtocol,
    route::VirtualService,
};
use crate::{
    finding::{Finding, Severity, code},
    spec::{
        Object,
        istio::{
            ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, Labels, LoadBalancer, Resolution,
            SimpleBalancer, TrafficPolicy,
        },
    },
};

/// Annotation of a Kubernetes Service: the namespaces that see it.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// Reports every such field of every object.
pub fn fields(context: &Context<'_>, listeners: &[Listener], findings: &mut Vec<Finding>) {
    for service in &context.virtual_services {
        virtual_service(service, context.identity.proxy, findings);
    }
    let kernel = in_kernel(listeners);
    for rule in &context.specs.destination_rules {
        let proxy = context.identity.proxy;
        let carrier =
            if proxy == Proxy::Off || reaches(context, rule, &kernel) { Carrier::Kernel } else { Carrier::Proxy };
        let ruled = Ruled { rule, carrier, proxy };
        destination_rule(&ruled, findings);
        hash_keys(context, &ruled, findings);
    }
    for service in context.specs.services.iter().filter(|service| service.annotations.contains_key(EXPORT_TO)) {
        let message =
            "the annotation networking.istio.io/exportTo is not carried out: the Service is seen by all namespaces";
        let path = format!("metadata.annotations[\"{EXPORT_TO}\"]");
        findings.push(service.finding(Severity::Warning, code::UNSUPPORTED, path, message, "Remove it."));
    }
    for service in context.specs.services.iter().filter(|service| service.spec.external_name.is_some()) {
        let message = "names are not resolved to endpoints";
        let remedy = "Use a ServiceEntry with `resolution: STATIC` and addresses.";
        findings.push(service.finding(Severity::Warning, code::UNSUPPORTED, "spec.externalName", message, remedy));
    }
    for entry in context.specs.workload_entries.iter().filter(|entry| entry.spec.network.is_some()) {
        let message =
            "networks are not told apart: the workload is reached by its own address, not by a gateway of its network";
        findings.push(entry.finding(
            Severity::Warning,
            code::UNSUPPORTED,
            "spec.network",
            message,
            "Use an address that can be reached from here.",
        ));
    }
    for entry in &context.specs.service_entries {
        let dynamic =
            matches!(entry.spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns);
        if dynamic {
            let message = "names are not resolved to endpoints";
            let remedy = "Use `resolution: STATIC` with addresses.";
            findings.push(entry.finding(Severity::Warning, code::UNSUPPORTED, "spec.resolution", message, remedy));
        }
        for (at, address) in entry.spec.addresses.iter().enumerate() {
            let subnet = address.parse::<ipnet::IpNet>().is_ok_and(|net| net.prefix_len() < net.max_prefix_len());
            if subnet {
                let path = format!("spec.addresses[{at}]");
                let message = "a subnet of addresses is not carried out";
                findings.push(entry.finding(
                    Severity::Warning,
                    code::UNSUPPORTED,
                    path,
                    message,
                    "List single addresses.",
                ));
            }
        }
        for (at, endpoint) in
            entry.spec.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.address.starts_with("unix:"))
        {
            let _ = endpoint;
            let path = format!("spec.endpoints[{at}].address");
            let message = "a unix socket cannot be reached by packets";
            findings.push(entry.finding(Severity::Warning, code::UNSUPPORTED, path, message, "Use an IP address."));
        }
    }
}

/// Hosts to which the kernel balances flows, by `tcp` routes or as bare Services.
fn in_kernel(listeners: &[Listener]) -> BTreeSet<Arc<str>> {
    let rules = listeners.iter().filter_map(|listener| match &listener.action {
        Action::Tcp(rule) => Some(rule),
        Action::Proxy(_) => None,
    });
    rules.flat_map(|rule| &rule.destinations).map(|destination| destination.host.clone()).collect()
}

fn reaches(context: &Context<'_>, rule: &Object<DestinationRule>, hosts: &BTreeSet<Arc<str>>) -> bool {
    let own = context.full_host(&rule.spec.host, rule.namespace());
    hosts.contains(own.as_str()) || hosts.iter().any(|host| host::wildcards(host).any(|name| name == own))
}

/// What carries flows to a rule's host, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// The kernel, also where the proxy carries others.
    Kernel,
    Proxy,
}

/// A DestinationRule, and by what it is carried out.
struct Ruled<'r> {
    rule: &'r Object<DestinationRule>,
    carrier: Carrier,
    proxy: Proxy,
}

fn virtual_service(service: &VirtualService, proxy: Proxy, findings: &mut Vec<Finding>) {
    let lists = [("http", !service.spec.http.is_empty()), ("tls", !service.spec.tls.is_empty())];
    for (name, _) in lists.iter().filter(|(_, there)| *there && proxy == Proxy::Off) {
        let message = format!("{name} routes need the proxy, which is off (`run --proxy off`)");
        let path = format!("spec.{name}");
        findings.push(service.finding(
            Severity::Warning,
            code::UNSUPPORTED,
            path,
            message,
            "Without it only `tcp` routes are carried out.",
        ));
    }
    for (at, route) in service.spec.tls.iter().enumerate() {
        for (index, item) in route.r#match.iter().enumerate() {
            let of_mesh = OfMesh {
                subnets: &item.destination_subnets,
                labels: &item.source_labels,
                namespace: item.source_namespace.as_deref(),
            };
            let path = format!("spec.tls[{at}].match[{index}]");
            at_gateway(service, (&path, &item.gateways), &of_mesh, "`sniHosts`, `port`", findings);
        }
    }
    for (at, route) in service.spec.tcp.iter().enumerate() {
        for (index, item) in route.r#match.iter().enumerate() {
            let Some(item) = item else { continue };
            let of_mesh = OfMesh {
                subnets: &item.destination_subnets,
                labels: &item.source_labels,
                namespace: item.source_namespace.as_deref(),
            };
            let path = format!("spec.tcp[{at}].match[{index}]");
            at_gateway(service, (&path, &item.gateways), &of_mesh, "`port`", findings);
            if item.source_subnet.is_some() {
                let message = "sourceSubnet has no effect, in Istio as here";
                findings.push(service.finding(
                    Severity::Warning,
                    code::NO_EFFECT,
                    format!("{path}.sourceSubnet"),
                    message,
                    "Remove it.",
                ));
            }
        }
    }
}

/// What of a tls or tcp match only the mesh looks at.
struct OfMesh<'s> {
    subnets: &'s [String],
    labels: &'s Labels,
    namespace: Option<&'s str>,
}

/// Reports these fields in a match that a gateway takes. `looked_at`: what a gateway does look at, besides `gateways`.
fn at_gateway(
    service: &VirtualService,
    (path, gateways): (&str, &[String]),
    of_mesh: &OfMesh<'_>,
    looked_at: &str,
    findings: &mut Vec<Finding>,
) {
    let gateways = if gateways.is_empty() { &service.spec.gateways } else { gateways };
    if gateways.iter().all(|gateway| gateway == binding::MESH) {
        return;
    }
    let fields = [
        ("destinationSubnets", !of_mesh.subnets.is_empty()),
        ("sourceLabels", !of_mesh.labels.is_empty()),
        ("sourceNamespace", of_mesh.namespace.is_some_and(|text| !text.is_empty())),
    ];
    for (field, _) in fields.iter().filter(|(_, there)| *there) {
        let message = format!(
            "{field} has no effect at a gateway, in Istio as here: only {looked_at} and `gateways` are looked at"
        );
        let remedy =
            if binding::for_mesh(&service.spec) { "Set `gateways: [mesh]` in this match." } else { "Remove it." };
        let path = format!("{path}.{field}");
        findings.push(service.finding(Severity::Warning, code::NO_EFFECT, path, message, remedy));
    }
}

fn destination_rule(ruled: &Ruled<'_>, findings: &mut Vec<Finding>) {
    let rule = ruled.rule;
    if rule.spec.workload_selector.is_some() {
        let message = "the rule is used for every client, not only for the selected ones";
        findings.push(rule.finding(
            Severity::Warning,
            code::UNSUPPORTED,
            "spec.workloadSelector",
            message,
            "Remove it.",
        ));
    }
    if let Some(policy) = &rule.spec.traffic_policy {
        traffic_policy(ruled, "spec.trafficPolicy", policy, findings);
    }
    for (at, subset) in rule.spec.subsets.iter().enumerate() {
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(ruled, &format!("spec.subsets[{at}].trafficPolicy"), policy, findings);
        }
    }
}

/// What becomes of connections that the kernel balances.
const NOT_EJECTED: &str = "failing endpoints are not ejected";

fn traffic_policy(ruled: &Ruled<'_>, path: &str, policy: &TrafficPolicy, findings: &mut Vec<Finding>) {
    let off = |there: bool| there && ruled.proxy == Proxy::Off;
    let fields = [
        ("outlierDetection", ruled.in_kernel(policy.outlier_detection.is_some()), NOT_EJECTED),
        ("retryBudget", off(policy.retry_budget.is_some()), "requests are not retried: the proxy is off"),
        ("tunnel", off(policy.tunnel.is_some()), "tunnels need the proxy, which is off"),
        ("proxyProtocol", off(policy.proxy_protocol.is_some()), "the PROXY header needs the proxy, which is off"),
    ];
    for (field, _, message) in fields.iter().filter(|(_, there, _)| *there) {
        findings.push(ruled.unsupported(format!("{path}.{field}"), message));
    }
    if let Some(pool) = &policy.connection_pool {
        connection_pool(ruled, &format!("{path}.connectionPool"), pool, findings);
    }
    blocks(ruled, path, policy.load_balancer.as_ref(), policy.tls.as_ref(), findings);
    for (at, port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{at}]");
        if let Some(pool) = &port.connection_pool {
            connection_pool(ruled, &format!("{path}.connectionPool"), pool, findings);
        }
        if ruled.in_kernel(port.outlier_detection.is_some()) {
            findings.push(ruled.unsupported(format!("{path}.outlierDetection"), NOT_EJECTED));
        }
        blocks(ruled, &path, port.load_balancer.as_ref(), port.tls.as_ref(), findings);
    }
}

fn connection_pool(ruled: &Ruled<'_>, path: &str, pool: &ConnectionPool, findings: &mut Vec<Finding>) {
    let tcp = pool.tcp.unwrap_or_default();
    let tcp_fields = [
        ("maxConnections", tcp.max_connections != 0, "connections are not limited"),
        (
            "connectTimeout",
            tcp.connect_timeout.is_some(),
            "the client's own connection attempt is passed on and not timed",
        ),
        (
            "tcpKeepalive",
            tcp.tcp_keepalive.is_some(),
            "no keep-alive is sent: client and endpoint speak to each other directly",
        ),
        ("maxConnectionDuration", tcp.max_connection_duration.is_some(), "connections are not ended for their age"),
        ("idleTimeout", tcp.idle_timeout.is_some(), "idle flows are forgotten after the agent's --idle-timeout"),
    ];
    for (field, _, message) in tcp_fields.iter().filter(|(_, there, _)| ruled.in_kernel(*there)) {
        findings.push(ruled.unsupported(format!("{path}.tcp.{field}"), message));
    }
    let http = pool.http.unwrap_or_default();
    let http_fields = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests != 0),
        ("http2MaxRequests", http.http2_max_requests != 0),
        ("maxRequestsPerConnection", http.max_requests_per_connection != 0),
        ("maxRetries", http.max_retries != 0),
        ("idleTimeout", http.idle_timeout.is_some()),
        ("h2UpgradePolicy", http.h2_upgrade_policy.is_some()),
        ("useClientProtocol", http.use_client_protocol),
        ("maxConcurrentStreams", http.max_concurrent_streams != 0),
        ("http2KeepAlive", http.http2_keep_alive.is_some()),
    ];
    for (field, _) in http_fields.iter().filter(|(_, there)| *there && ruled.proxy == Proxy::Off) {
        let message = "HTTP needs the proxy, which is off";
        findings.push(ruled.unsupported(format!("{path}.http.{field}"), message));
    }
}

fn blocks(
    ruled: &Ruled<'_>,
    path: &str,
    balancer: Option<&LoadBalancer>,
    tls: Option<&ClientTls>,
    findings: &mut Vec<Finding>,
) {
    match (tls.map(|tls| tls.mode.unwrap_or_default()), ruled.proxy) {
        (Some(ClientTlsMode::IstioMutual), _) => {
            let message = "ISTIO_MUTUAL needs certificates of the mesh, which Meltemi does not have: what is routed here is not served";
            let remedy =
                "Use `mode: MUTUAL` with certificates of your own, or DISABLE where the endpoints take plain text.";
            findings.push(ruled.rule.finding(
                Severity::Warning,
                code::UNSUPPORTED,
                format!("{path}.tls"),
                message,
                remedy,
            ));
        }
        (None | Some(ClientTlsMode::Disable), _) | (Some(_), Proxy::On) => {}
        (Some(_), Proxy::Off) => {
            let message = "TLS to endpoints needs the proxy, which is off: listeners that route here are not served";
            findings.push(ruled.unsupported(format!("{path}.tls"), message));
        }
    }
    if balancer.is_some_and(|balancer| balancer.zone_aware_lb_setting.is_some()) {
        let path = format!("{path}.loadBalancer.zoneAwareLbSetting");
        let remedy = "Use localityLbSetting.";
        let message = "zones are not told apart";
        findings.push(ruled.rule.finding(Severity::Warning, code::UNSUPPORTED, path, message, remedy));
    }
    if let Some(balancer) = balancer.filter(|_| ruled.in_kernel(true)) {
        load_balancer(ruled, &format!("{path}.loadBalancer"), balancer, findings);
    }
}

/// What of it the kernel does not do.
fn load_balancer(ruled: &Ruled<'_>, path: &str, balancer: &LoadBalancer, findings: &mut Vec<Finding>) {
    let simple = match balancer.simple {
        Some(SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn) => {
            Some("endpoints are chosen by a hash of the connection, not by the fewest connections")
        }
        Some(SimpleBalancer::Passthrough) => Some("the client's own choice of endpoint is not followed"),
        Some(SimpleBalancer::RoundRobin | SimpleBalancer::Random | SimpleBalancer::Unspecified) | None => None,
    };
    if let Some(message) = simple {
        findings.push(ruled.unsupported(format!("{path}.simple"), message));
    }
    let fields = [
        ("localityLbSetting", balancer.locality_lb_setting.is_some(), "localities are not told apart"),
        ("warmup", balancer.warmup.is_some(), "new endpoints get their full share at once"),
        ("warmupDurationSecs", balancer.warmup_duration_secs.is_some(), "new endpoints get their full share at once"),
    ];
    for (field, _, message) in fields.iter().filter(|(_, there, _)| *there) {
        findings.push(ruled.unsupported(format!("{path}.{field}"), message));
    }
    if balancer.consistent_hash.as_ref().is_some_and(|hash| hash.ring_hash.is_some()) {
        let message = "the hash is Maglev's; a ring is not built";
        findings.push(ruled.rule.finding(
            Severity::Info,
            code::UNSUPPORTED,
            format!("{path}.consistentHash.ringHash"),
            message,
            "Nothing is to be done: both keep most flows where they are when endpoints change.",
        ));
    }
}

/// Keys of hashes that are read from requests: of no use to services that speak nothing but TCP.
fn hash_keys(context: &Context<'_>, ruled: &Ruled<'_>, findings: &mut Vec<Finding>) {
    let rule = ruled.rule;
    let host = context.full_host(&rule.spec.host, rule.namespace());
    let services = context.registry.covered(&host);
    let mut ports = services.iter().flat_map(|service| &service.ports).peekable();
    let is_tcp = ports.peek().is_some()
        && ports.all(|port| matches!(port.protocol, PortProtocol::Tcp | PortProtocol::Tls | PortProtocol::Udp));
    for (path, balancer) in balancers(&rule.spec) {
        let Some(hash) = &balancer.consistent_hash else { continue };
        let keys = [
            ("httpHeaderName", hash.http_header_name.is_some()),
            ("httpCookie", hash.http_cookie.is_some()),
            ("httpQueryParameterName", hash.http_query_parameter_name.is_some()),
        ];
        for (field, _) in keys.iter().filter(|(_, there)| *there) {
            let path = format!("{path}.loadBalancer.consistentHash.{field}");
            if !is_tcp {
                if ruled.proxy == Proxy::Off {
                    findings.push(ruled.unsupported(path, "HTTP needs the proxy, which is off"));
                }
                continue;
            }
            let message = "the key is read from HTTP requests and has no effect on TCP connections";
            let remedy = "Use useSourceIp for TCP.";
            findings.push(rule.finding(Severity::Warning, code::NO_EFFECT, path, message, remedy));
        }
    }
}

/// Every balancer of a rule, by the path of its policy.
fn balancers(rule: &DestinationRule) -> Vec<(String, &LoadBalancer)> {
    let top = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.subsets.iter().enumerate().filter_map(|(at, subset)| {
        subset.traffic_policy.as_ref().map(|policy| (format!("spec.subsets[{at}].trafficPolicy"), policy))
    });
    let mut all = Vec::new();
    for (path, policy) in top.chain(subsets) {
        all.extend(policy.load_balancer.iter().map(|balancer| (path.clone(), balancer)));
        let ports = policy.port_level_settings.iter().enumerate();
        all.extend(
            ports.filter_map(|(at, port)| {
                Some((format!("{path}.portLevelSettings[{at}]"), port.load_balancer.as_ref()?))
            }),
        );
    }
    all
}

impl Ruled<'_> {
    /// Whether a field that is `there` concerns connections that the kernel balances.
    fn in_kernel(&self, there: bool) -> bool {
        there && self.carrier == Carrier::Kernel
    }

    fn unsupported(&self, path: String, message: &str) -> Finding {
        let remedy = match self.proxy {
            Proxy::Off => "Remove it, or accept that it is not carried out.",
            Proxy::On => "Remove it, or accept that it is not carried out for `tcp` routes.",
        };
        self.rule.finding(Severity::Warning, code::UNSUPPORTED, path, message, remedy)
    }
}
