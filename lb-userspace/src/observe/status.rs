//! `status`: configured against observed shares, with a verdict. Keys are a contract for scripts.

use super::{
    served::{self, PoolStatus, RouteStatus},
    shared::State,
};
use crate::{
    dataplane::MapsError,
    image::{RuleDestination, RuleTable},
    model::{Action, Rule},
    process::{Report, Reporter},
    proxy::Figures,
};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub revision: u64,
    pub version: &'static str,
    pub ready: bool,
    pub stale: Option<String>,
    pub interfaces: Vec<Interface>,
    pub rules: Vec<RuleStatus>,
    pub flows: Flows,
    pub counters: BTreeMap<&'static str, u64>,
    pub findings: usize,
    /// `null` where nothing needs it.
    pub proxy: Option<Report>,
    /// Rules that the proxy carries out; empty while it does not tell what it has counted.
    pub routes: Vec<RouteStatus>,
    /// Clusters to which the proxy has something under way, or of which endpoints are ejected.
    pub pools: Vec<PoolStatus>,
}

#[derive(Debug, Serialize)]
pub struct Interface {
    pub name: String,
    pub mode: &'static str,
    pub program: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    pub rule: String,
    pub listener: String,
    pub virtual_service: Option<String>,
    pub file: String,
    pub line: u32,
    pub verdict: ShareVerdict,
    /// Chance of a deviation like the observed one or larger if flows are spread by the weights.
    pub p_value: Option<f64>,
    pub destinations: Vec<DestinationStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareVerdict {
    Ok,
    Skewed,
    TooFew,
}

#[derive(Debug, Serialize)]
pub struct DestinationStatus {
    pub host: String,
    pub subset: Option<String>,
    pub port: u16,
    pub weight: u32,
    pub share: f64,
    pub observed: Option<f64>,
    pub flows: u64,
    pub backends: Vec<BackendStatus>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    pub address: String,
    pub state: &'static str,
    pub forwarding: &'static str,
    pub flows: u64,
    pub live: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

#[derive(Debug, Serialize)]
pub struct Flows {
    pub live: u64,
    pub max: u32,
}

impl State {
    /// `figures`: what the proxy has counted, where there is one.
    pub fn status(&self, figures: Option<&Figures>) -> Result<Status, MapsError> {
        let interfaces = self.settled.attachments.iter().map(|attachment| Interface {
            name: attachment.interface.clone(),
            mode: attachment.mode.name(),
            program: attachment.mode.programs().0,
        });
        let counters = self
            .maps
            .counters()?
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name(), count));
        Ok(Status {
            revision: self.revision,
            version: env!("CARGO_PKG_VERSION"),
            ready: self.ready,
            stale: self.stale.clone(),
            interfaces: interfaces.collect(),
            rules: self.rules()?,
            flows: Flows { live: self.sweep.live, max: self.settled.max_flows },
            counters: counters.collect(),
            findings: self.findings.len(),
            proxy: self.proxy.as_ref().map(Reporter::report),
            routes: figures.map(|figures| served::routes(&self.served, figures)).unwrap_or_default(),
            pools: figures.map(served::pools).unwrap_or_default(),
        })
    }

    /// One entry a listener: its tables for IPv4 and IPv6 are one rule to the user.
    fn rules(&self) -> Result<Vec<RuleStatus>, MapsError> {
        let mut by_listener: BTreeMap<usize, Vec<&RuleTable>> = BTreeMap::new();
        for (id, listener) in &self.image.listeners {
            by_listener.entry(*listener).or_default().extend(self.image.rules.get(id).map(|table| &**table));
        }
        let mut rules = Vec::new();
        for (index, tables) in by_listener {
            let Some(listener) = self.model.listeners.get(index) else { continue };
            if let Action::Tcp(rule) = &listener.action {
                rules.push(self.rule(&listener.door.to_string(), rule, &tables)?);
            }
        }
        Ok(rules)
    }

    fn rule(&self, name: &str, rule: &Rule, tables: &[&RuleTable]) -> Result<RuleStatus, MapsError> {
        let weights: u64 = rule.destinations.iter().map(|destination| destination.weight as u64).sum();
        let mut destinations = Vec::new();
        for (position, written) in rule.destinations.iter().enumerate() {
            let compiled: Vec<&RuleDestination> =
                tables.iter().filter_map(|table| table.destinations.get(position)).collect();
            let mut backends = Vec::new();
            let mut flows = 0;
            for destination in compiled {
                flows += self.flows_since(destination)?;
                backends.extend(self.backends(destination)?);
            }
            destinations.push(DestinationStatus {
                host: written.host.to_string(),
                subset: written.subset.as_ref().map(ToString::to_string),
                port: written.port,
                weight: written.weight,
                share: if weights == 0 { 0.0 } else { written.weight as f64 / weights as f64 },
                observed: None,
                flows,
                backends,
            });
        }
        let total: u64 = destinations.iter().map(|destination| destination.flows).sum();
        for destination in destinations.iter_mut().filter(|_| total > 0) {
            destination.observed = Some(destination.flows as f64 / total as f64);
        }
        let (verdict, p_value) = judge(&destinations.iter().map(|one| (one.share, one.flows)).collect::<Vec<_>>());
        Ok(RuleStatus {
            rule: name.to_owned(),
            listener: name.to_owned(),
            virtual_service: rule.virtual_service.as_ref().map(ToString::to_string),
            file: rule.origin.file.to_string(),
            line: rule.origin.line,
            verdict,
            p_value,
            destinations,
        })
    }

    /// New flows of a destination since its rule's weights last changed.
    pub fn flows_since(&self, destination: &RuleDestination) -> Result<u64, MapsError> {
        self.maps.destination_flows(destination.stats.0)
    }

    fn backends(&self, destination: &RuleDestination) -> Result<Vec<BackendStatus>, MapsError> {
        let Some(subset) = destination.subset.and_then(|id| self.image.subsets.get(&id)) else {
            return Ok(Vec::new());
        };
        let mut backends = Vec::new();
        for member in &subset.members {
            let Some(backend) = self.image.backends.get(&member.backend) else {
                continue;
            };
            let stats = self.maps.backend_stats(backend.stats.0)?;
            backends.push(BackendStatus {
                address: backend.address.to_string(),
                state: "ready",
                forwarding: forwarding_name(backend.forwarding),
                flows: stats.flows,
                live: self.sweep.by_backend.get(&member.backend.0).copied().unwrap_or(0),
                bytes_in: stats.bytes_in,
                bytes_out: stats.bytes_out,
            });
        }
        Ok(backends)
    }
}

pub const fn forwarding_name(forwarding: lb_common::table::Forwarding) -> &'static str {
    match forwarding {
        lb_common::table::Forwarding::Snat => "snat",
        lb_common::table::Forwarding::Dnat => "dnat",
    }
}

/// Fewest flows expected of each destination for the test to mean anything (Cochran's rule of thumb).
const EXPECTED: f64 = 5.0;
/// Below this a deviation is called skew.
const SKEWED: f64 = 0.001;

/// Pearson's chi-squared test of observed flows against configured shares.
pub(super) fn judge(counts: &[(f64, u64)]) -> (ShareVerdict, Option<f64>) {
    let total: u64 = counts.iter().map(|(_, flows)| flows).sum();
    if counts.iter().any(|(share, flows)| *share == 0.0 && *flows > 0) {
        return (ShareVerdict::Skewed, Some(0.0));
    }
    let live: Vec<(f64, f64)> = counts
        .iter()
        .filter(|(share, _)| *share > 0.0)
        .map(|(share, flows)| (share * total as f64, *flows as f64))
        .collect();
    if live.is_empty() || live.iter().any(|(expected, _)| *expected < EXPECTED) {
        return (ShareVerdict::TooFew, None);
    }
    if live.len() == 1 {
        return (ShareVerdict::Ok, Some(1.0));
    }
    let statistic: f64 = live.iter().map(|(expected, observed)| (observed - expected).powi(2) / expected).sum();
    let p = upper_gamma((live.len() - 1) as f64 / 2.0, statistic / 2.0);
    (if p < SKEWED { ShareVerdict::Skewed } else { ShareVerdict::Ok }, Some(p))
}

/// Regularised upper incomplete gamma function Q(a, x) for a = k/2: by its recurrence from Q(1/2) or Q(1).
fn upper_gamma(a: f64, x: f64) -> f64 {
    let whole = (a.fract()).abs() < 1e-9;
    let (mut term, mut sum, mut at) = if whole {
        ((-x).exp(), (-x).exp(), 1.0)
    } else {
        ((-x).exp() * (x / std::f64::consts::PI).sqrt() * 2.0, erfc(x.sqrt()), 0.5)
    };
    if !whole && a > 0.5 {
        sum += term;
        at = 1.5;
    }
    while at < a - 1e-9 {
        term *= x / at;
        sum += term;
        at += 1.0;
    }
    sum.clamp(0.0, 1.0)
}

/// Complementary error function; fractional error below 1.2e-7 (the rational Chebyshev fit in Numerical Recipes, 6.2).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.5 * x);
    let poly = [
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let series = poly.iter().rev().fold(0.0, |sum, c| sum * t + c) * t;
    t * (-x * x - 1.265_512_23 + series).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_agrees_with_tables_of_chi_squared() {
        for (degrees, statistic, p) in [
            (1, 3.841, 0.05),
            (1, 10.828, 0.001),
            (2, 5.991, 0.05),
            (3, 7.815, 0.05),
            (4, 13.277, 0.01),
            (5, 20.515, 0.001),
        ] {
            let found = upper_gamma(f64::from(degrees) / 2.0, statistic / 2.0);
            assert!((found - p).abs() < p * 0.01, "{degrees} degrees, {statistic}: {found}");
        }
    }

    #[test]
    fn verdicts() {
        assert_eq!(judge(&[(0.2, 200), (0.8, 800)]).0, ShareVerdict::Ok);
        assert_eq!(judge(&[(0.2, 500), (0.8, 500)]).0, ShareVerdict::Skewed);
        assert_eq!(judge(&[(0.2, 1), (0.8, 3)]).0, ShareVerdict::TooFew);
        assert_eq!(judge(&[(0.0, 1), (1.0, 99)]).0, ShareVerdict::Skewed, "zero is zero");
    }
}
