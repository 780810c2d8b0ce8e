//! Clusters as the proxy uses them: endpoints with what is known of them, and the DestinationRule's policy with its defaults.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    place,
    tls::{self, Peer},
};
use crate::{
    model::{
        Target,
        parse::Context,
        policy::Blocks,
        registry::{Definition, Port, Service},
        route::Clusters,
        workloads::{Instance, matches},
    },
    snapshot::{
        Balancer, Cluster, ClusterName, Distribution, Endpoint, EndpointAddress, Failover, HashAlgorithm, HashOn,
        Health, KeepAlive, Locality, LocalityPolicy, OutlierDetection, Pool, ProxyProtocol, RetryBudget, Tunnel,
        TunnelMethod, UpstreamProtocol, Warmup,
    },
    spec::{
        istio::{self, Labels, ProxyProtocolVersion, Resolution, SimpleBalancer},
        value,
    },
};

/// Adds the cluster of a destination to those that the proxy uses, unless it is broken.
pub fn upstream<'s>(context: &Context<'s>, clusters: &mut Clusters<'s>, destination: &crate::model::Destination) {
    if let Target::Cluster(name) = &destination.target {
        upstream_of(context, clusters, name);
    }
}

pub fn upstream_of<'s>(context: &Context<'s>, clusters: &mut Clusters<'s>, name: &ClusterName) {
    if clusters.has_upstream(name) {
        return;
    }
    let Some(found) = context.find(&name.host) else { return };
    let Some(port) = found.service.port(name.port) else { return };
    let policy = found.policy.as_ref();
    let subset = name.subset.as_deref().and_then(|subset| policy?.subset(subset));
    let labels = subset.map(|(_, _, subset)| &subset.labels);
    let instances = clusters.instances(found.service, port);
    let endpoints = endpoints(found.service, port, &instances, labels, &context.identity.cluster_domain);
    let blocks = policy.map(|policy| policy.blocks(name.subset.as_deref(), name.port)).unwrap_or_default();
    let service_names: &[String] = match &found.service.definition {
        Definition::Entry(entry) => &entry.spec.subject_alt_names,
        Definition::Service(_) => &[],
    };
    let tls = blocks.tls.and_then(|tls| {
        let mut identities: Vec<Arc<str>> = endpoints.iter().filter_map(|one| one.identity.clone()).collect();
        identities.sort();
        identities.dedup();
        let peer = Peer { cluster: name, identities, service_names, namespace: &context.identity.namespace };
        tls::client(tls, &peer, policy.map(|policy| place(&policy.rule().origin("spec"))).unwrap_or_default())
    });
    let origin = match subset {
        Some((rule, at, _)) => rule.origin(&format!("spec.subsets[{at}]")),
        None => found.service.origin(""),
    };
    let balancing = blocks.load_balancer;
    let cluster = Cluster {
        name: name.clone(),
        endpoints,
        protocol: protocol(port, &blocks),
        balancer: balancer(balancing, found.service),
        locality: locality(balancing, &blocks),
        warmup: balancing.and_then(warmup),
        pool: pool(Some(&blocks)),
        outlier_detection: blocks.outlier_detection.map(outlier_detection),
        tls,
        proxy_protocol: blocks.proxy_protocol.map(|written| match written.version {
            ProxyProtocolVersion::V1 => ProxyProtocol::V1,
            ProxyProtocolVersion::V2 => ProxyProtocol::V2,
        }),
        tunnel: blocks.tunnel.map(tunnel),
        place: place(&origin),
        policy: policy.map(|policy| {
            let rule = policy.rule();
            (rule.name().to_string().into(), place(&rule.origin("")))
        }),
    };
    clusters.add_upstream(cluster);
}

fn endpoints(
    service: &Service,
    port: &Port,
    instances: &[Instance],
    labels: Option<&Labels>,
    trust_domain: &str,
) -> Vec<Endpoint> {
    let fits = |own: &Labels| labels.is_none_or(|labels| matches(labels, own));
    let ip = |instance: &Instance| Endpoint {
        address: EndpointAddress::Ip(SocketAddr::new(instance.address, instance.port)),
        weight: instance.weight,
        locality: parse_locality(&instance.locality),
        health: Health::Ready,
        identity: instance
            .account
            .as_ref()
            .map(|account| format!("spiffe://{trust_domain}/ns/{}/sa/{}", account.namespace, account.name).into()),
        labels: shared(&instance.labels),
    };
    let found = instances.iter().filter(|instance| instance.port != 0 && fits(&instance.labels)).map(ip);
    let target = match &port.target {
        crate::spec::kubernetes::TargetPort::Number(number) => *number,
        crate::spec::kubernetes::TargetPort::Name(_) => port.number,
    };
    let entry = match &service.definition {
        Definition::Entry(entry) => entry,
        Definition::Service(object) => {
            let name =
                object.spec.external_name.as_deref().filter(|_| object.spec.r#type.as_deref() == Some("ExternalName"));
            return found.chain(name.map(|name| named(name, target))).collect();
        }
    };
    let is_dns = matches!(entry.spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    let written = |endpoint: &istio::WorkloadEntry| {
        let mapped = endpoint.ports.get(&port.name).and_then(|number| u16::try_from(*number).ok());
        let number = mapped.unwrap_or(target);
        let address = match endpoint.address.strip_prefix("unix://") {
            Some(path) => EndpointAddress::Unix(path.into()),
            None => match endpoint.address.parse() {
                Ok(ip) if is_dns => EndpointAddress::Ip(SocketAddr::new(ip, number)),
                Err(_) if is_dns => EndpointAddress::Name(endpoint.address.as_str().into(), number),
                Ok(_) | Err(_) => return None,
            },
        };
        Some(Endpoint {
            address,
            weight: endpoint.weight.unwrap_or(1).max(1),
            locality: parse_locality(endpoint.locality.as_deref().unwrap_or_default()),
            health: Health::Ready,
            identity: None,
            labels: shared(&endpoint.labels),
        })
    };
    let more = entry.spec.endpoints.iter().filter(|one| fits(&one.labels)).filter_map(written);
    let mut all: Vec<Endpoint> = found.chain(more).collect();
    if is_dns && entry.spec.endpoints.is_empty() && entry.spec.workload_selector.is_none() {
        all.push(named(&service.host, target));
    }
    all.sort_by(|a, b| a.address.cmp(&b.address));
    all.dedup_by(|a, b| a.address == b.address);
    all
}

/// An endpoint that is to be resolved.
fn named(name: &str, port: u16) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Name(name.trim_end_matches('.').into(), port),
        weight: 1,
        locality: Locality::default(),
        health: Health::Ready,
        identity: None,
        labels: Default::default(),
    }
}

fn shared(labels: &Labels) -> std::collections::BTreeMap<Arc<str>, Arc<str>> {
    labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

fn parse_locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(Arc::from);
    let mut next = || parts.next().unwrap_or_default();
    Locality { region: next(), zone: next(), subzone: next() }
}

/// `h2UpgradePolicy` and `useClientProtocol` over what the port says.
fn protocol(port: &Port, blocks: &Blocks<'_>) -> UpstreamProtocol {
    let http = blocks.connection_pool.and_then(|pool| pool.http);
    match http {
        Some(http) if http.use_client_protocol => UpstreamProtocol::OfClient,
        Some(http) if http.h2_upgrade_policy == Some(istio::H2UpgradePolicy::Upgrade) => UpstreamProtocol::Http2,
        Some(_) | None => port.upstream,
    }
}

fn balancer(written: Option<&istio::LoadBalancer>, service: &Service) -> Balancer {
    if let Some(hash) = written.and_then(|written| written.consistent_hash.as_ref()) {
        return Balancer::ConsistentHash { on: hash_on(hash), algorithm: algorithm(hash) };
    }
    // Without endpoints of its own a service is reached where the client meant to go.
    if let Definition::Entry(entry) = &service.definition
        && entry.spec.resolution == Resolution::None
    {
        return Balancer::Passthrough;
    }
    match written.and_then(|written| written.simple) {
        Some(SimpleBalancer::RoundRobin) => Balancer::RoundRobin,
        Some(SimpleBalancer::Random) => Balancer::Random,
        Some(SimpleBalancer::Passthrough) => Balancer::Passthrough,
        None | Some(SimpleBalancer::Unspecified | SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn) => {
            Balancer::LeastRequest
        }
    }
}

fn hash_on(hash: &istio::ConsistentHash) -> HashOn {
    if let Some(name) = &hash.http_header_name {
        return HashOn::Header(name.to_ascii_lowercase().into());
    }
    if let Some(cookie) = &hash.http_cookie {
        let attribute =
            |one: &istio::CookieAttribute| (one.name.as_str().into(), one.value.as_deref().unwrap_or_default().into());
        return HashOn::Cookie {
            name: cookie.name.as_str().into(),
            path: cookie.path.as_deref().unwrap_or_default().into(),
            ttl: cookie.ttl.map(value::Duration::to_std),
            attributes: cookie.attributes.iter().map(attribute).collect(),
        };
    }
    match &hash.http_query_parameter_name {
        Some(name) => HashOn::QueryParameter(name.as_str().into()),
        None if hash.use_source_ip == Some(true) => HashOn::SourceIp,
        None => HashOn::Nothing,
    }
}

fn algorithm(hash: &istio::ConsistentHash) -> HashAlgorithm {
    match (&hash.maglev, &hash.ring_hash) {
        (Some(maglev), _) => {
            HashAlgorithm::Maglev { table_size: maglev.table_size.filter(|size| *size > 0).unwrap_or(65_537) }
        }
        (None, ring) => {
            let size = ring.and_then(|ring| ring.minimum_ring_size).or(hash.minimum_ring_size);
            HashAlgorithm::Ring { minimum_size: size.filter(|size| *size > 0).unwrap_or(1_024) }
        }
    }
}

/// Failover acts only beside outlier detection; distribution always.
fn locality(written: Option<&istio::LoadBalancer>, blocks: &Blocks<'_>) -> LocalityPolicy {
    let setting = written.and_then(|written| written.locality_lb_setting.as_ref());
    let failover = |one: &istio::Failover| Failover { from: one.from.as_str().into(), to: one.to.as_str().into() };
    match setting {
        Some(setting) if setting.enabled == Some(false) => LocalityPolicy::Off,
        Some(setting) if !setting.distribute.is_empty() => {
            let distribution = |one: &istio::Distribute| Distribution {
                from: one.from.as_str().into(),
                to: one.to.iter().map(|(to, share)| (to.as_str().into(), *share)).collect(),
            };
            LocalityPolicy::Distribute(setting.distribute.iter().map(distribution).collect())
        }
        _ if blocks.outlier_detection.is_none() => LocalityPolicy::Off,
        Some(setting) if !setting.failover_priority.is_empty() => {
            LocalityPolicy::Priority(super::texts(&setting.failover_priority))
        }
        Some(setting) => LocalityPolicy::Failover(setting.failover.iter().map(failover).collect()),
        None => LocalityPolicy::Failover(Vec::new()),
    }
}

fn warmup(written: &istio::LoadBalancer) -> Option<Warmup> {
    let block = written.warmup.unwrap_or_default();
    let duration = block.duration.or(written.warmup_duration_secs)?;
    Some(Warmup {
        duration: duration.to_std(),
        minimum_percent: block.minimum_percent.unwrap_or(10.0),
        aggression: block.aggression.unwrap_or(1.0),
    })
}

/// A number of 0 counts as left out.
fn count(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number > 0)
}

pub(super) fn pool(blocks: Option<&Blocks<'_>>) -> Pool {
    let written = blocks.and_then(|blocks| blocks.connection_pool);
    let tcp = written.and_then(|pool| pool.tcp).unwrap_or_default();
    let http = written.and_then(|pool| pool.http).unwrap_or_default();
    let standard = Pool::default();
    // 0s switches an idle time-out off.
    let idle = |written: Option<value::Duration>, standard: Option<Duration>| match written {
        Some(time) => Some(time.to_std()).filter(|time| !time.is_zero()),
        None => standard,
    };
    Pool {
        max_connections: count(tcp.max_connections),
        connect_timeout: tcp.connect_timeout.map_or(standard.connect_timeout, value::Duration::to_std),
        keep_alive: tcp.tcp_keepalive.map(|keep| KeepAlive {
            probes: Some(keep.probes).filter(|probes| *probes > 0),
            time: keep.time.map(value::Duration::to_std),
            interval: keep.interval.map(value::Duration::to_std),
        }),
        max_connection_duration: tcp.max_connection_duration.map(value::Duration::to_std),
        tcp_idle_timeout: idle(tcp.idle_timeout, standard.tcp_idle_timeout),
        max_pending_requests: count(http.http1_max_pending_requests),
        max_requests: count(http.http2_max_requests),
        max_requests_per_connection: count(http.max_requests_per_connection),
        max_retries: count(http.max_retries),
        retry_budget: blocks.and_then(|blocks| blocks.retry_budget).map(|budget| RetryBudget {
            percent: budget.percent.unwrap_or(20.0),
            min_concurrency: budget.min_retry_concurrency.filter(|least| *least > 0).unwrap_or(3),
            interval: budget.budget_interval.map_or(Duration::ZERO, value::Duration::to_std),
        }),
        http_idle_timeout: idle(http.idle_timeout, standard.http_idle_timeout),
        max_concurrent_streams: count(http.max_concurrent_streams),
        http2_keep_alive: http.http2_keep_alive.and_then(|keep| {
            Some((keep.interval?.to_std(), keep.timeout.map_or(Duration::from_secs(20), value::Duration::to_std)))
        }),
    }
}

fn outlier_detection(written: &istio::OutlierDetection) -> OutlierDetection {
    let standard = OutlierDetection::default();
    let time = |written: Option<value::Duration>, standard: Duration| written.map_or(standard, value::Duration::to_std);
    OutlierDetection {
        consecutive_5xx: written.consecutive_5xx_errors.unwrap_or(standard.consecutive_5xx),
        consecutive_gateway_errors: written.consecutive_gateway_errors.unwrap_or(0),
        consecutive_local_errors: written
            .split_external_local_origin_errors
            .then(|| written.consecutive_local_origin_failures.unwrap_or(5)),
        interval: time(written.interval, standard.interval),
        base_ejection_time: time(written.base_ejection_time, standard.base_ejection_time),
        max_ejection_percent: count(written.max_ejection_percent).unwrap_or(standard.max_ejection_percent),
        min_health_percent: count(written.min_health_percent).unwrap_or(0),
        error_codes: written
            .outlier_detection_http_error_codes
            .iter()
            .filter_map(|code| u16::try_from(*code).ok())
            .collect(),
    }
}

fn tunnel(written: &istio::Tunnel) -> Tunnel {
    Tunnel {
        method: match written.protocol.as_deref() {
            Some("POST") => TunnelMethod::Post,
            Some(_) | None => TunnelMethod::Connect,
        },
        target_host: written.target_host.as_str().into(),
        target_port: u16::try_from(written.target_port).unwrap_or(0),
    }
}
