//! Prometheus metrics, in OpenMetrics text. Names and labels are a contract; docs/metrics.md lists them.

use super::{
    shared::State,
    status::{ShareVerdict, Status},
};
use crate::proxy::Figures;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Destination {
    rule: String,
    host: String,
    subset: String,
    port: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cluster {
    host: String,
    subset: String,
    port: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rule {
    rule: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Backend {
    address: String,
}

type Ratio = Gauge<f64, AtomicU64>;

/// All metrics as they stand now.
pub fn render(state: &State, figures: Option<&Figures>) -> Result<String, String> {
    let status = state.status(figures).map_err(|error| error.to_string())?;
    let mut registry = Registry::with_prefix("meltemi");
    packets(&mut registry, &status);
    shares(&mut registry, &status);
    pools(&mut registry, &status);
    backends(&mut registry, &status);
    number(&mut registry, "revision", "Revision in force", status.revision);
    number(&mut registry, "ready", "1 once the first revision is in force", u64::from(status.ready));
    number(
        &mut registry,
        "stale",
        "1 while the newest configuration could not be put in force",
        u64::from(status.stale.is_some()),
    );
    number(&mut registry, "findings", "Findings in the configuration", status.findings as u64);
    number(&mut registry, "flows_live", "Flows that are not closed, at the last sweep", status.flows.live);
    number(&mut registry, "flows_max", "Flows there is room for", u64::from(status.flows.max));
    if let Some(proxy) = &status.proxy {
        number(&mut registry, "proxy_up", "1 while the proxy runs", u64::from(proxy.pid.is_some()));
        number(&mut registry, "proxy_revision", "Revision that the proxy acknowledged last", proxy.revision);
        number(&mut registry, "proxy_restarts", "Times that the proxy died and was started again", proxy.restarts);
    }
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| error.to_string())?;
    if let Some(figures) = figures {
        // Nothing may follow the mark of the end.
        text.truncate(text.trim_end().trim_end_matches("# EOF").len());
        text += &figures.prometheus(&state.settled.namespace);
        text += "# EOF\n";
    }
    Ok(text)
}

fn number(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value as i64);
    registry.register(name, help, gauge);
}

fn packets(registry: &mut Registry, status: &Status) {
    let packets = Family::<Reason, Counter>::default();
    for (reason, count) in &status.counters {
        set(&packets.get_or_create(&Reason { reason: (*reason).to_owned() }), *count);
    }
    registry.register("packets", "Packets by what became of them and why", packets);
}

fn shares(registry: &mut Registry, status: &Status) {
    let flows = Family::<Destination, Gauge>::default();
    let expected = Family::<Destination, Ratio>::default();
    let observed = Family::<Destination, Ratio>::default();
    let p = Family::<Rule, Ratio>::default();
    let skewed = Family::<Rule, Gauge>::default();
    let requests = Family::<Destination, Gauge>::default();
    let judged = |rule: &str, verdict, p_value: Option<f64>| {
        let label = Rule { rule: rule.to_owned() };
        skewed.get_or_create(&label).set(i64::from(verdict == ShareVerdict::Skewed));
        if let Some(value) = p_value {
            p.get_or_create(&label).set(value);
        }
    };
    for route in &status.routes {
        judged(&route.rule, route.verdict, route.p_value);
        for destination in &route.destinations {
            let label = Destination {
                rule: route.rule.clone(),
                host: destination.host.clone(),
                subset: destination.subset.clone().unwrap_or_default(),
                port: u32::from(destination.port),
            };
            requests.get_or_create(&label).set(destination.requests as i64);
            expected.get_or_create(&label).set(destination.share);
            if let Some(share) = destination.observed {
                observed.get_or_create(&label).set(share);
            }
        }
    }
    for rule in &status.rules {
        judged(&rule.rule, rule.verdict, rule.p_value);
        for destination in &rule.destinations {
            let label = Destination {
                rule: rule.rule.clone(),
                host: destination.host.clone(),
                subset: destination.subset.clone().unwrap_or_default(),
                port: u32::from(destination.port),
            };
            flows.get_or_create(&label).set(destination.flows as i64);
            expected.get_or_create(&label).set(destination.share);
            if let Some(share) = destination.observed {
                observed.get_or_create(&label).set(share);
            }
        }
    }
    registry.register("destination_flows", "New flows since the rule's weights last changed", flows);
    let help =
        "Requests (connections, of tls and tcp routes) that the proxy sent there since the rule's weights last changed";
    registry.register("destination_requests", help, requests);
    registry.register("weight_expected_ratio", "Configured share of new flows or requests", expected);
    registry.register(
        "weight_observed_ratio",
        "Observed share of new flows or requests since the rule's weights last changed",
        observed,
    );
    registry.register("weight_chi2_p", "Chance of a deviation from the weights like the observed one or larger", p);
    registry.register("weight_skewed", "1 while observed shares contradict the weights", skewed);
}

/// Only what is not zero; a proxy may know thousands of clusters.
fn pools(registry: &mut Registry, status: &Status) {
    let gauges = [
        ("pool_connections", "Connections from the proxy to a cluster"),
        ("pool_requests", "Requests under way to a cluster"),
        ("pool_pending", "Requests that wait for a connection to a cluster"),
        ("pool_ejected", "Endpoints of a cluster that outlier detection ejected, in one worker at least"),
    ];
    let families = gauges.map(|_| Family::<Cluster, Gauge>::default());
    for pool in &status.pools {
        let label = Cluster {
            host: pool.host.clone(),
            subset: pool.subset.clone().unwrap_or_default(),
            port: pool.port.into(),
        };
        let values = [pool.connections, pool.requests, pool.pending, pool.ejected.len() as u32];
        for (family, value) in families.iter().zip(values) {
            family.get_or_create(&label).set(value.into());
        }
    }
    for ((name, help), family) in gauges.into_iter().zip(families) {
        registry.register(name, help, family);
    }
}

fn backends(registry: &mut Registry, status: &Status) {
    let flows = Family::<Backend, Counter>::default();
    let live = Family::<Backend, Gauge>::default();
    let bytes_in = Family::<Backend, Counter>::default();
    let bytes_out = Family::<Backend, Counter>::default();
    for backend in status.rules.iter().flat_map(|rule| &rule.destinations).flat_map(|destination| &destination.backends)
    {
        let label = Backend { address: backend.address.clone() };
        set(&flows.get_or_create(&label), backend.flows);
        live.get_or_create(&label).set(backend.live as i64);
        set(&bytes_in.get_or_create(&label), backend.bytes_in);
        set(&bytes_out.get_or_create(&label), backend.bytes_out);
    }
    registry.register("backend_flows", "Flows sent to a backend", flows);
    registry.register("backend_flows_live", "Flows of a backend that are not closed, at the last sweep", live);
    registry.register("backend_received_bytes", "Bytes of IP sent to a backend", bytes_in);
    registry.register("backend_sent_bytes", "Bytes of IP that a backend answered", bytes_out);
}

/// The kernel counts; this only shows its number. One backend may be shown by several rules.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
