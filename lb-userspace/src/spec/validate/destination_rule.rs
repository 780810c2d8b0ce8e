//! DestinationRules: host, subsets, and which policies may stand together.

use std::collections::BTreeSet;

use super::{
    Judgement, Subject,
    check::{Check, Nobody, step},
    client_tls::client_tls,
    hosts,
    load_balancer::load_balancer,
    pool::{connection_pool, outlier_detection},
};
use crate::spec::{
    istio::{ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, PortPolicy, TrafficPolicy, Tunnel},
    value::Duration,
};

pub fn destination_rule(subject: Subject<'_>, rule: &DestinationRule) -> Vec<Judgement> {
    let mut check = Check::istio(subject);
    match rule.host.as_str() {
        "" => check.refuse("spec", "a DestinationRule needs a host", "Add `host`."),
        host => {
            if let Err(fault) = hosts::wildcard_name(host) {
                check.refuse(
                    "spec.host",
                    format!("`{host}` {fault}"),
                    "Write a host name; `*` only as the first label.",
                );
            }
        }
    }
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy(&mut check, "spec.trafficPolicy", policy);
    }
    let mut names = BTreeSet::new();
    for (index, subset) in rule.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        subset_name(&mut check, &path, &subset.name);
        if !names.insert(subset.name.as_str()) {
            let message = format!("subset `{}` stands twice", subset.name);
            check.refuse(format!("{path}.name"), message, "Rename or remove one of the two.");
        }
        check.labels(&format!("{path}.labels"), &subset.labels);
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(&mut check, &format!("{path}.trafficPolicy"), policy);
        }
    }
    check.export_to(&rule.export_to, Nobody::Refused);
    if let Some(selector) = &rule.workload_selector {
        check.selector("spec.workloadSelector.matchLabels", &selector.match_labels);
        let own = |namespace: &String| namespace == "." || namespace == subject.namespace;
        if !rule.export_to.iter().all(own) {
            let message = "a rule with a workloadSelector cannot leave its own namespace";
            check.refuse("spec.exportTo", message, "Write `exportTo: [.]`, or remove the selector.");
        }
    }
    check.finish()
}

fn subset_name(check: &mut Check<'_>, path: &str, name: &str) {
    if name.is_empty() {
        check.refuse(path, "the subset has no name", "Add `name`.");
    } else if !hosts::is_label(name) {
        let message = format!("`{name}` is not a subset's name");
        check.refuse(step(path, "name"), message, "Use letters, digits and `-`, at most 63.");
    }
}

fn traffic_policy(check: &mut Check<'_>, path: &str, policy: &TrafficPolicy) {
    if *policy == TrafficPolicy::default() {
        return check.refuse(path, "the policy is empty", "Remove it, or say something in it.");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        let message = "proxyProtocol and tunnel exclude each other";
        return check.refuse(format!("{path}.proxyProtocol"), message, "Remove one of the two.");
    }
    blocks(
        check,
        path,
        policy.load_balancer.as_ref(),
        policy.connection_pool.as_ref(),
        policy.outlier_detection.as_ref(),
    );
    if let Some(tls) = &policy.tls {
        client_tls(check, &format!("{path}.tls"), tls);
    }
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        port_policy(check, &format!("{path}.portLevelSettings[{index}]"), port);
    }
    if let Some(settings) = &policy.tunnel {
        tunnel(check, &format!("{path}.tunnel"), settings);
    }
    if let Some(budget) = &policy.retry_budget {
        if let Some(percent) = budget.percent {
            check.percent(format!("{path}.retryBudget.percent"), percent);
        }
        if budget.budget_interval.is_some_and(|interval| interval < Duration::ZERO) {
            check.refuse(format!("{path}.retryBudget.budgetInterval"), "the interval is negative", "Write 0s or more.");
        }
    }
}

fn port_policy(check: &mut Check<'_>, path: &str, port: &PortPolicy) {
    if port.port.is_none() {
        check.refuse(path, "the entry has no port", "Add `port: {number: ...}`.");
    }
    let PortPolicy { load_balancer, connection_pool, outlier_detection, tls, .. } = port;
    if load_balancer.is_none() && connection_pool.is_none() && outlier_detection.is_none() && tls.is_none() {
        let remedy = "Add loadBalancer, connectionPool, outlierDetection or tls, or remove the entry.";
        return check.refuse(path, "the entry says nothing about its port", remedy);
    }
    if port.port.is_some_and(|port| !(1..=65_535).contains(&port.number)) {
        check.idle(format!("{path}.port.number"), "no port has this number", "Ports go from 1 to 65535.");
    }
    blocks(check, path, load_balancer.as_ref(), connection_pool.as_ref(), outlier_detection.as_ref());
    if let Some(tls) = tls {
        client_tls(check, &format!("{path}.tls"), tls);
    }
}

fn blocks(
    check: &mut Check<'_>,
    path: &str,
    balancer: Option<&LoadBalancer>,
    pool: Option<&ConnectionPool>,
    outlier: Option<&OutlierDetection>,
) {
    if let Some(balancer) = balancer {
        load_balancer(check, &format!("{path}.loadBalancer"), balancer, outlier);
    }
    if let Some(pool) = pool {
        connection_pool(check, &format!("{path}.connectionPool"), pool);
    }
    if let Some(outlier) = outlier {
        outlier_detection(check, &format!("{path}.outlierDetection"), outlier);
    }
}

fn tunnel(check: &mut Check<'_>, path: &str, tunnel: &Tunnel) {
    if let Some(protocol) = tunnel.protocol.as_deref().filter(|protocol| !matches!(*protocol, "CONNECT" | "POST")) {
        check.refuse(format!("{path}.protocol"), format!("`{protocol}` opens no tunnel"), "Use CONNECT or POST.");
    }
    let target = tunnel.target_host.as_str();
    if target.is_empty() {
        check.refuse(path, "the tunnel has no targetHost", "Add `targetHost`.");
    } else if target.parse::<std::net::IpAddr>().is_err()
        && let Err(fault) = hosts::full_name(target)
    {
        check.refuse(
            format!("{path}.targetHost"),
            format!("`{target}` {fault}"),
            "Write a host name or an IP address.",
        );
    }
    check.port(format!("{path}.targetPort"), tunnel.target_port);
}
