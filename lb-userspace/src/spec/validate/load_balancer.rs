//! How an endpoint is chosen: hashes, localities, warm-up.

use std::collections::BTreeSet;

use super::check::{Check, step};
use crate::{
    finding::code,
    spec::istio::{
        ConsistentHash, Distribute, Failover, HttpCookie, LoadBalancer, LocalityLbSetting, OutlierDetection,
        SimpleBalancer, Warmup, ZoneAwareLbSetting,
    },
};

/// Envoy's largest Maglev table, and one.
const MAGLEV_LIMIT: u64 = 5_000_011;
const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

pub fn load_balancer(check: &mut Check<'_>, path: &str, balancer: &LoadBalancer, outlier: Option<&OutlierDetection>) {
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        check.refuse(path, "simple and consistentHash exclude each other", "Keep one of the two.");
    }
    if balancer.simple == Some(SimpleBalancer::LeastConn) {
        let message = "LEAST_CONN is the deprecated name of LEAST_REQUEST";
        check.warn_as(code::DEPRECATED, format!("{path}.simple"), message, "Write LEAST_REQUEST.");
    }
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(check, &format!("{path}.consistentHash"), hash);
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        let message = "localityLbSetting and zoneAwareLbSetting exclude each other";
        check.refuse(format!("{path}.zoneAwareLbSetting"), message, "Keep one of the two.");
    }
    if let Some(locality) = &balancer.locality_lb_setting {
        self::locality(check, &format!("{path}.localityLbSetting"), locality, outlier);
    }
    if let Some(zone) = &balancer.zone_aware_lb_setting {
        zone_aware(check, &format!("{path}.zoneAwareLbSetting"), zone, outlier);
    }
    if let Some(warmup) = &balancer.warmup {
        self::warmup(check, &format!("{path}.warmup"), warmup);
    }
    if balancer.warmup_duration_secs.is_some() {
        let at = format!("{path}.warmupDurationSecs");
        check.duration(&at, balancer.warmup_duration_secs);
        check.warn_as(code::DEPRECATED, at, "warmupDurationSecs is deprecated", "Use `warmup: {duration: ...}`.");
    }
    let steady = matches!(balancer.simple, Some(SimpleBalancer::Random | SimpleBalancer::Passthrough))
        || balancer.consistent_hash.is_some();
    if steady && (balancer.warmup.is_some() || balancer.warmup_duration_secs.is_some()) {
        let field = if balancer.warmup.is_some() { "warmup" } else { "warmupDurationSecs" };
        let message = "warm-up acts with ROUND_ROBIN and LEAST_REQUEST only";
        check.idle(format!("{path}.{field}"), message, "Remove it, or change the algorithm.");
    }
}

fn consistent_hash(check: &mut Check<'_>, path: &str, hash: &ConsistentHash) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip.is_some(),
        hash.http_query_parameter_name.is_some(),
    ];
    match keys.into_iter().filter(|there| *there).count() {
        0 => {
            let message = "without a key nothing is hashed and the choice is random";
            check.idle(path, message, "Add httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName.");
        }
        1 => {}
        _ => check.refuse(path, "more than one key to hash", "Keep one."),
    }
    if hash.use_source_ip == Some(false) {
        let message = "without a key nothing is hashed and the choice is random";
        check.idle(format!("{path}.useSourceIp"), message, "Set it to true, or remove it.");
    }
    if let Some(cookie) = &hash.http_cookie {
        self::cookie(check, &format!("{path}.httpCookie"), cookie);
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        check.refuse(path, "ringHash and maglev exclude each other", "Keep one of the two.");
    }
    if hash.minimum_ring_size.is_some_and(|size| size != 0) {
        let at = format!("{path}.minimumRingSize");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            let message = "minimumRingSize stands beside ringHash or maglev";
            check.refuse(&at, message, "Write it inside ringHash.");
        }
        check.warn_as(code::DEPRECATED, at, "minimumRingSize is deprecated here", "Write it inside ringHash.");
    }
    if let Some(maglev) = &hash.maglev {
        let size = maglev.table_size.unwrap_or(0);
        let fault = match size {
            0 => Some("maglev needs a tableSize"),
            MAGLEV_LIMIT.. => Some("the tableSize must be less than 5000011"),
            size if !is_prime(size) => Some("the tableSize must be a prime number"),
            _ => None,
        };
        if let Some(fault) = fault {
            let at = if size == 0 { format!("{path}.maglev") } else { format!("{path}.maglev.tableSize") };
            check.refuse(at, fault, "Write 65537, which is Envoy's own.");
        }
    }
}

fn cookie(check: &mut Check<'_>, path: &str, cookie: &HttpCookie) {
    if cookie.name.is_empty() {
        check.refuse(path, "the cookie has no name", "Add `name`.");
    }
    let mut names = BTreeSet::new();
    for (at, attribute) in cookie.attributes.iter().enumerate() {
        let path = format!("{path}.attributes[{at}]");
        if attribute.name.is_empty() {
            check.refuse(path, "the attribute has no name", "Add `name`.");
        } else if !names.insert(attribute.name.as_str()) {
            check.refuse(path, format!("attribute `{}` stands twice", attribute.name), "Remove one of the two.");
        }
    }
    if cookie.ttl.is_none() && (cookie.path.is_some() || !cookie.attributes.is_empty()) {
        let message = "without a ttl no cookie is made, so its path and attributes are not used";
        check.idle(path, message, "Add `ttl`; 0s makes a cookie of the session.");
    }
}

fn is_prime(number: u64) -> bool {
    match number {
        0 => false,
        // As Envoy counts: 1 passes.
        1..=3 => true,
        number if number % 2 == 0 => false,
        number => (3..).step_by(2).take_while(|factor| factor * factor <= number).all(|factor| number % factor != 0),
    }
}

fn locality(check: &mut Check<'_>, path: &str, setting: &LocalityLbSetting, outlier: Option<&OutlierDetection>) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        return check.refuse(path, "distribute and failover exclude each other", "Keep one of the two.");
    }
    let topology = setting.failover_priority.iter().position(|label| TOPOLOGY.contains(&label.as_str()));
    if let Some(at) = topology.filter(|_| !setting.failover.is_empty()) {
        let message = "a label of the topology in failoverPriority excludes failover";
        return check.refuse(format!("{path}.failoverPriority[{at}]"), message, "Keep one of the two.");
    }
    for (at, distribute) in setting.distribute.iter().enumerate() {
        self::distribute(check, &format!("{path}.distribute[{at}]"), distribute);
    }
    let from = setting.distribute.iter().map(|distribute| distribute.from.as_str());
    localities(check, &format!("{path}.distribute"), from);
    failover(check, path, &setting.failover, &setting.failover_priority, outlier);
}

fn zone_aware(check: &mut Check<'_>, path: &str, setting: &ZoneAwareLbSetting, outlier: Option<&OutlierDetection>) {
    for (at, label) in setting.failover_priority.iter().enumerate() {
        if TOPOLOGY.contains(&label.as_str()) {
            let message = format!("`{label}` is taken care of already");
            check.refuse(format!("{path}.failoverPriority[{at}]"), message, "Remove it.");
        }
    }
    if setting.min_cluster_size == Some(0) {
        check.refuse(format!("{path}.minClusterSize"), "minClusterSize is 0", "Write 1 or more.");
    }
    failover(check, path, &setting.failover, &setting.failover_priority, outlier);
}

fn distribute(check: &mut Check<'_>, path: &str, distribute: &Distribute) {
    for (locality, share) in &distribute.to {
        if !(1..=100).contains(share) {
            let path = step(&format!("{path}.to"), locality);
            return check.refuse(path, format!("{share} is not a share"), "Shares go from 1 to 100.");
        }
    }
    let sum: u64 = distribute.to.values().map(|share| u64::from(*share)).sum();
    if sum != 100 {
        return check.refuse(format!("{path}.to"), format!("the shares sum to {sum}"), "They must sum to 100.");
    }
    localities(check, &format!("{path}.to"), distribute.to.keys().map(String::as_str));
}

/// `region/zone/subzone`, `region/*`, `*`: none empty, none inside another.
fn localities<'l>(check: &mut Check<'_>, path: &str, localities: impl Iterator<Item = &'l str>) {
    let mut seen: Vec<Vec<&str>> = Vec::new();
    for locality in localities {
        let stars = locality.matches('*').count();
        if stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            let message = format!("`{locality}` has a wildcard elsewhere than at its end");
            return check.refuse(path, message, "Write it like region/zone/*.");
        }
        let parts: Vec<&str> = locality.splitn(3, '/').collect();
        if parts.contains(&"") {
            return check.refuse(path, format!("`{locality}` has an empty part"), "Write it like region/zone/subzone.");
        }
        if seen.iter().any(|other| same_place(other, &parts)) {
            let message = format!("`{locality}` overlaps with another locality here");
            return check.refuse(path, message, "Let each place be in one entry only.");
        }
        seen.push(parts);
    }
}

/// Whether one of the two lies inside the other: an earlier `*` or a shorter path takes in all below it. A `*` that comes
/// later is a name like any, as Istio reads it.
fn same_place(earlier: &[&str], later: &[&str]) -> bool {
    if earlier.first() == Some(&"*") {
        return true;
    }
    let shared = earlier.len().min(later.len());
    let wide = |parts: &[&str]| parts.iter().position(|part| *part == "*");
    match wide(earlier) {
        Some(at) if at < later.len() => earlier[..at] == later[..at],
        _ => earlier[..shared] == later[..shared],
    }
}

fn failover(
    check: &mut Check<'_>,
    path: &str,
    failover: &[Failover],
    priority: &[String],
    outlier: Option<&OutlierDetection>,
) {
    if outlier.is_none() && !(failover.is_empty() && priority.is_empty()) {
        let field = if failover.is_empty() { "failoverPriority" } else { "failover" };
        let message = "failover acts only where outlierDetection says which endpoints have failed";
        check.warn(format!("{path}.{field}"), message, "Add `outlierDetection` to the same policy.");
    }
    for (at, failover) in failover.iter().enumerate() {
        let path = format!("{path}.failover[{at}]");
        let Failover { from, to } = failover;
        if from == to {
            check.refuse(&path, format!("`{from}` fails over to itself"), "Name two regions.");
        }
        if from.contains(['/', '*']) || to.contains(['/', '*']) {
            check.refuse(path, "failover is between whole regions", "Name regions, without zones and wildcards.");
        }
    }
}

fn warmup(check: &mut Check<'_>, path: &str, warmup: &Warmup) {
    match warmup.duration {
        None => check.refuse(path, "the warm-up has no duration", "Add `duration`."),
        duration => check.duration(format!("{path}.duration"), duration),
    }
    if let Some(percent) = warmup.minimum_percent {
        check.percent(format!("{path}.minimumPercent"), percent);
    }
    if warmup.aggression.is_some_and(|aggression| aggression <= 0.0) {
        check.refuse(format!("{path}.aggression"), "aggression must be above 0", "Write 1.0 for steady growth.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes() {
        let primes: Vec<u64> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && !is_prime(65_536) && !is_prime(65_533 * 65_521));
    }

    #[test]
    fn places_inside_places() {
        let same = |a: &str, b: &str| same_place(&a.split('/').collect::<Vec<_>>(), &b.split('/').collect::<Vec<_>>());
        assert!(same("r", "r") && same("r", "r/z") && same("r/z", "r") && same("r/z/*", "r/z/s") && same("*", "r"));
        assert!(same("r/z/s", "r/z/s") && same("r/*", "r/z"));
        assert!(!same("r", "q") && !same("r/z", "r/y") && !same("r/z/s", "r/z/t"));
    }
}
