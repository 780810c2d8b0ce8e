//! What the proxy does, for `status`: shares of each rule, configured beside observed; pools; ejected endpoints.

use super::status::{ShareVerdict, judge};
use crate::{
    proxy::{Figures, PoolReading, SplitName},
    snapshot::{RouteKind, Snapshot},
};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// `VirtualService default/reviews spec.http[0]`.
    pub rule: String,
    pub file: String,
    pub line: u32,
    pub verdict: ShareVerdict,
    /// Chance of a deviation like the observed one or larger if requests are spread by the weights.
    pub p_value: Option<f64>,
    pub destinations: Vec<RouteDestination>,
}

#[derive(Debug, Serialize)]
pub struct RouteDestination {
    pub host: String,
    pub subset: Option<String>,
    pub port: u16,
    pub weight: u32,
    pub share: f64,
    pub observed: Option<f64>,
    /// Requests, or connections of `tls` and `tcp` routes, since the rule's weights last changed or the proxy was started.
    pub requests: u64,
}

#[derive(Debug, Serialize)]
pub struct PoolStatus {
    pub host: String,
    pub subset: Option<String>,
    pub port: u16,
    pub connections: u32,
    pub requests: u32,
    pub pending: u32,
    pub retries: u32,
    /// By address, with the number of workers that ejected it.
    pub ejected: BTreeMap<String, u32>,
}

/// Every rule of a VirtualService that the proxy carries out.
pub fn routes(served: &Snapshot, figures: &Figures) -> Vec<RouteStatus> {
    let counted: BTreeMap<&SplitName, &Vec<u64>> = figures.splits.iter().map(|(name, counts)| (name, counts)).collect();
    let route = |(name, source): (SplitName, &crate::snapshot::RuleSource)| {
        let whole: u64 = name.destinations.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let count = |at: usize| counted.get(&name).and_then(|counts| counts.get(at)).copied().unwrap_or(0);
        let total: u64 = (0..name.destinations.len()).map(count).sum();
        let part = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        let destinations = name.destinations.iter().enumerate().map(|(at, (cluster, weight))| RouteDestination {
            host: cluster.host.to_string(),
            subset: cluster.subset.as_ref().map(ToString::to_string),
            port: cluster.port,
            weight: *weight,
            share: part(u64::from(*weight), whole).unwrap_or(0.0),
            observed: part(count(at), total),
            requests: count(at),
        });
        let destinations: Vec<_> = destinations.collect();
        let (verdict, p_value) = judge(&destinations.iter().map(|one| (one.share, one.requests)).collect::<Vec<_>>());
        let kind = match name.kind {
            RouteKind::Http => "http",
            RouteKind::Tls => "tls",
            RouteKind::Tcp => "tcp",
        };
        RouteStatus {
            rule: format!("VirtualService {} spec.{kind}[{}]", name.virtual_service, name.index),
            file: source.place.file.to_string(),
            line: source.place.line,
            verdict,
            p_value,
            destinations,
        }
    };
    SplitName::all(served).into_iter().map(route).collect()
}

pub fn pools(figures: &Figures) -> Vec<PoolStatus> {
    let pool = |(name, pool): &(crate::snapshot::ClusterName, PoolReading)| PoolStatus {
        host: name.host.to_string(),
        subset: name.subset.as_ref().map(ToString::to_string),
        port: name.port,
        connections: pool.connections,
        requests: pool.requests,
        pending: pool.pending,
        retries: pool.retries,
        ejected: pool.ejected.clone(),
    };
    figures.pools.iter().map(pool).collect()
}
