//! Which DestinationRule speaks for a service, and what of it applies to one subset and port.

use std::{collections::HashMap, sync::Arc};

use super::{host, parse::Identity};
use crate::spec::{
    Object, Specs,
    istio::{
        ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, ProxyProtocol,
        RetryBudget, Subset, TrafficPolicy, Tunnel,
    },
};

type Rule = Arc<Object<DestinationRule>>;

/// All DestinationRules by namespace and host, those of one host oldest first.
pub struct Policies<'s> {
    by_host: HashMap<(&'s str, String), Vec<&'s Rule>>,
    client: &'s str,
    root: &'s str,
}

/// The DestinationRules of one host in one namespace, read as one. Never empty.
#[derive(Clone)]
pub struct Policy<'s> {
    rules: Vec<&'s Rule>,
}

/// What the chosen policy asks of one subset and port, as far as it changes what the kernel does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    pub source_ip: bool,
    pub needs_proxy: Option<ProxyNeed>,
}

/// Why a destination's bytes must pass a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyNeed {
    Tls(ClientTlsMode),
    Tunnel,
    ProxyProtocol,
}

impl ProxyNeed {
    pub fn field(self) -> &'static str {
        match self {
            ProxyNeed::Tls(_) => "trafficPolicy.tls",
            ProxyNeed::Tunnel => "trafficPolicy.tunnel",
            ProxyNeed::ProxyProtocol => "trafficPolicy.proxyProtocol",
        }
    }
}

impl<'s> Policies<'s> {
    pub fn new(specs: &'s Specs, identity: &'s Identity) -> Policies<'s> {
        let mut rules: Vec<&Rule> = specs.destination_rules.iter().collect();
        rules.sort_by_key(|rule| (rule.created, rule.name().clone()));
        let mut by_host: HashMap<_, Vec<&Rule>> = HashMap::new();
        for rule in rules {
            let host = host::expand(&rule.spec.host, rule.namespace(), &identity.cluster_domain);
            by_host.entry((rule.namespace(), host)).or_default().push(rule);
        }
        Policies { by_host, client: &identity.namespace, root: &identity.root_namespace }
    }

    /// The client's namespace first, then the service's, then the root namespace; the first that has any rule wins.
    pub fn choose(&self, host: &str, service_namespace: &str) -> Option<Policy<'s>> {
        let own = |rule: &Rule| self.client != self.root || is_private(rule);
        self.find(self.client, host, own)
            .or_else(|| self.find(service_namespace, host, |rule| self.is_exported(rule)))
            .or_else(|| self.find(self.root, host, |rule| self.is_exported(rule)))
    }

    fn is_exported(&self, rule: &Rule) -> bool {
        host::exported(&rule.spec.export_to, rule.namespace(), self.client)
    }

    /// The exact host, else the longest wildcard that covers it.
    fn find(&self, namespace: &str, host: &str, visible: impl Fn(&Rule) -> bool) -> Option<Policy<'s>> {
        let names = std::iter::once(host.to_owned()).chain(host::wildcards(host));
        names.filter_map(|name| self.by_host.get(&(namespace, name))).find_map(|rules| {
            let rules: Vec<&Rule> = rules.iter().copied().filter(|rule| visible(rule)).collect();
            (!rules.is_empty()).then_some(Policy { rules })
        })
    }
}

/// Exported to its own namespace only. Where the client lives in the root namespace only such rules are its own: the
/// others are meant for the whole mesh and come last.
fn is_private(rule: &Rule) -> bool {
    !rule.spec.export_to.is_empty()
        && rule.spec.export_to.iter().all(|namespace| namespace == "." || namespace == rule.namespace())
}

impl<'s> Policy<'s> {
    /// A subset, with the rule that defines it and its index there. A repeated name: the oldest rule's counts.
    pub fn subset(&self, name: &str) -> Option<(&'s Rule, usize, &'s Subset)> {
        self.rules.iter().find_map(|rule| {
            let at = rule.spec.subsets.iter().position(|subset| subset.name == name)?;
            Some((*rule, at, &rule.spec.subsets[at]))
        })
    }

    pub fn subset_names(&self) -> Vec<&'s str> {
        self.rules.iter().flat_map(|rule| &rule.spec.subsets).map(|subset| subset.name.as_str()).collect()
    }

    /// The oldest of the rules.
    pub fn rule(&self) -> &'s Rule {
        self.rules[0]
    }

    /// What applies to connections sent to a subset (or, without one, to the host) on a port.
    pub fn effect(&self, subset: Option<&str>, port: u16) -> Effect {
        self.blocks(subset, port).effect()
    }

    /// The parts of the policy that apply to a subset and port.
    pub fn blocks(&self, subset: Option<&str>, port: u16) -> Blocks<'s> {
        let top = self.rules.iter().find_map(|rule| rule.spec.traffic_policy.as_ref());
        let mut blocks = Blocks::default();
        let subset =
            subset.and_then(|name| self.subset(name)).and_then(|(_, _, subset)| subset.traffic_policy.as_ref());
        for policy in top.into_iter().chain(subset) {
            blocks.replace(policy);
        }
        for policy in top.into_iter().chain(subset) {
            blocks.replace_for_port(policy, port);
        }
        blocks
    }
}

/// Parts of a traffic policy, as written.
#[derive(Clone, Copy, Default)]
pub struct Blocks<'s> {
    pub load_balancer: Option<&'s LoadBalancer>,
    pub connection_pool: Option<&'s ConnectionPool>,
    pub outlier_detection: Option<&'s OutlierDetection>,
    pub tls: Option<&'s ClientTls>,
    pub tunnel: Option<&'s Tunnel>,
    pub proxy_protocol: Option<&'s ProxyProtocol>,
    pub retry_budget: Option<&'s RetryBudget>,
}

impl<'s> Blocks<'s> {
    /// A block that is there replaces the whole block, one that is left out is inherited.
    fn replace(&mut self, policy: &'s TrafficPolicy) {
        self.load_balancer = policy.load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = policy.connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = policy.outlier_detection.as_ref().or(self.outlier_detection);
        self.tls = policy.tls.as_ref().or(self.tls);
        self.tunnel = policy.tunnel.as_ref().or(self.tunnel);
        self.proxy_protocol = policy.proxy_protocol.as_ref().or(self.proxy_protocol);
        self.retry_budget = policy.retry_budget.as_ref().or(self.retry_budget);
    }

    /// An entry for the port replaces every block; what it leaves out goes back to the default.
    fn replace_for_port(&mut self, policy: &'s TrafficPolicy, port: u16) {
        let entry = policy
            .port_level_settings
            .iter()
            .find(|entry| entry.port.is_some_and(|selector| selector.number == u32::from(port)));
        if let Some(entry) = entry {
            self.load_balancer = entry.load_balancer.as_ref();
            self.connection_pool = entry.connection_pool.as_ref();
            self.outlier_detection = entry.outlier_detection.as_ref();
            self.tls = entry.tls.as_ref();
        }
    }

    fn effect(&self) -> Effect {
        let hash = self.load_balancer.and_then(|balancer| balancer.consistent_hash.as_ref());
        let tls = self.tls.map(|tls| tls.mode.unwrap_or_default()).filter(|mode| *mode != ClientTlsMode::Disable);
        let needs_proxy = match tls {
            Some(mode) => Some(ProxyNeed::Tls(mode)),
            None if self.tunnel.is_some() => Some(ProxyNeed::Tunnel),
            None if self.proxy_protocol.is_some() => Some(ProxyNeed::ProxyProtocol),
            None => None,
        };
        Effect { source_ip: hash.is_some_and(|hash| hash.use_source_ip == Some(true)), needs_proxy }
    }
}
