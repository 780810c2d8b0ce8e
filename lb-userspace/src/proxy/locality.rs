//! Which localities get how much: Istio's `localityLbSetting`, with Envoy's priorities. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::snapshot::{Endpoint, Failover, Locality, LocalityPolicy};

/// Where this proxy is, and its labels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'o> {
    pub locality: &'o Locality,
    pub labels: &'o BTreeMap<Arc<str>, Arc<str>>,
}

/// Endpoints that are balanced among themselves, and their share of all requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Of 10,000.
    pub share: u32,
    /// Positions in the cluster, only those that may be used.
    pub members: Vec<usize>,
}

const WHOLE: u32 = 10_000;

/// Envoy's overprovisioning factor: a level has all of its requests as long as five sevenths of it are healthy.
const FACTOR: u32 = 140;

/// `usable` tells of each endpoint whether it may be used. Groups without any are left out, and so the shares of those that
/// remain may sum to less than the whole.
pub(super) fn groups(policy: &LocalityPolicy, own: Own<'_>, endpoints: &[Endpoint], usable: &[bool]) -> Vec<Group> {
    let everybody = || {
        let members: Vec<_> = (0..endpoints.len()).filter(|at| usable[*at]).collect();
        vec![Group { share: WHOLE, members }]
    };
    match policy {
        LocalityPolicy::Off => everybody(),
        LocalityPolicy::Failover(failover) => {
            levels(endpoints, usable, |endpoint| distance(own.locality, &endpoint.locality, failover))
        }
        LocalityPolicy::Priority(labels) => levels(endpoints, usable, |endpoint| {
            let fits = |label: &&Arc<str>| match label.split_once('=') {
                Some((key, value)) => endpoint.labels.get(key).is_some_and(|own| **own == *value),
                None => own.labels.get(&**label).is_some_and(|own| endpoint.labels.get(&**label) == Some(own)),
            };
            labels.len() - labels.iter().take_while(fits).count()
        }),
        LocalityPolicy::Distribute(all) => {
            let Some(ours) = all.iter().find(|one| fits(&one.from, own.locality)) else {
                return everybody();
            };
            let mut groups: Vec<Group> =
                ours.to.iter().map(|(_, share)| Group { share: share * WHOLE / 100, members: Vec::new() }).collect();
            for (at, endpoint) in endpoints.iter().enumerate().filter(|(at, _)| usable[*at]) {
                if let Some(to) = ours.to.iter().position(|(to, _)| fits(to, &endpoint.locality)) {
                    groups[to].members.push(at);
                }
            }
            groups.retain(|group| !group.members.is_empty());
            groups
        }
    }
}

/// How far a locality is: the same subzone, zone, region, the region to fail over to, any other.
fn distance(own: &Locality, other: &Locality, failover: &[Failover]) -> usize {
    if own.region == other.region {
        return match (own.zone == other.zone, own.subzone == other.subzone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
    }
    match failover.iter().any(|one| one.from == own.region && one.to == other.region) {
        true => 3,
        false => 4,
    }
}

/// Levels by rising distance; each takes what its health allows of what is left.
fn levels(endpoints: &[Endpoint], usable: &[bool], distance: impl Fn(&Endpoint) -> usize) -> Vec<Group> {
    let mut levels: BTreeMap<usize, (usize, Vec<usize>)> = BTreeMap::new();
    for (at, endpoint) in endpoints.iter().enumerate() {
        let (all, members) = levels.entry(distance(endpoint)).or_default();
        *all += 1;
        members.extend(usable[at].then_some(at));
    }
    let health =
        |all: usize, members: &[usize]| (members.len() as u32 * FACTOR * (WHOLE / 100) / all as u32).min(WHOLE);
    let total = levels.values().map(|(all, members)| health(*all, members)).sum::<u32>().min(WHOLE);
    let mut left = WHOLE;
    let mut groups = Vec::new();
    for (all, members) in levels.into_values() {
        // Where all together are not healthy enough, what is there is shared out.
        let share = match total {
            0 => 0,
            total => (u64::from(health(all, &members)) * u64::from(WHOLE) / u64::from(total)) as u32,
        };
        let share = share.min(left);
        left -= share;
        if share > 0 {
            groups.push(Group { share, members });
        }
    }
    groups
}

/// `region/zone/subzone` with `*` for any rest.
fn fits(pattern: &str, locality: &Locality) -> bool {
    let parts = [&locality.region, &locality.zone, &locality.subzone];
    let mut asked = pattern.split('/');
    for part in parts {
        match asked.next() {
            None | Some("*") => return true,
            Some(text) if **part == *text => {}
            Some(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Distribution, EndpointAddress, Health};

    fn locality(text: &str) -> Locality {
        let mut parts = text.split('/').map(Arc::from);
        let mut next = || parts.next().unwrap_or_default();
        Locality { region: next(), zone: next(), subzone: next() }
    }

    fn endpoints(localities: &[&str]) -> Vec<Endpoint> {
        let endpoint = |text: &&str| Endpoint {
            address: EndpointAddress::Ip("10.0.0.1:80".parse().unwrap()),
            weight: 1,
            locality: locality(text),
            health: Health::Ready,
            identity: None,
            labels: [("version".into(), Arc::from(*text))].into(),
        };
        localities.iter().map(endpoint).collect()
    }

    fn shares(policy: &LocalityPolicy, all: &[Endpoint], usable: &[bool]) -> Vec<(u32, Vec<usize>)> {
        let labels = [("version".into(), "r/z/s".into())].into();
        let own = locality("r/z/s");
        let groups = groups(policy, Own { locality: &own, labels: &labels }, all, usable);
        groups.into_iter().map(|group| (group.share, group.members)).collect()
    }

    #[test]
    fn the_nearest_take_all_until_they_are_not_healthy_enough() {
        let all = endpoints(&["x/z/s", "r/z/s", "r/z/s", "r/z/t", "r/y/s", "q/z/s"]);
        let policy = LocalityPolicy::Failover(vec![Failover { from: "r".into(), to: "q".into() }]);
        let of = |usable: [u8; 6]| shares(&policy, &all, &usable.map(|one| one == 1));
        assert_eq!(of([1; 6]), [(10_000, vec![1, 2])]);
        assert_eq!(of([1, 1, 0, 1, 1, 1]), [(7_000, vec![1]), (3_000, vec![3])]);
        assert_eq!(of([1, 0, 0, 0, 1, 1]), [(10_000, vec![4])]);
        assert_eq!(of([1, 0, 0, 0, 0, 1]), [(10_000, vec![5])]);
        assert_eq!(of([1, 0, 0, 0, 0, 0]), [(10_000, vec![0])]);
        assert_eq!(of([0; 6]), []);
        assert_eq!(shares(&policy, &all[1..3], &[true, false]), [(10_000, vec![0])]);
    }

    #[test]
    fn labels_count_in_order() {
        let all = endpoints(&["r/z/s", "other"]);
        let policy = LocalityPolicy::Priority(vec!["version".into()]);
        assert_eq!(shares(&policy, &all, &[true; 2]), [(10_000, vec![0])]);
        let policy = LocalityPolicy::Priority(vec!["version=other".into(), "none".into()]);
        assert_eq!(shares(&policy, &all, &[true; 2]), [(10_000, vec![1])]);
    }

    #[test]
    fn distribution() {
        let all = endpoints(&["r/z/s", "r/z/t", "r/y/s", "q/z/s"]);
        let to = vec![("r/z/*".into(), 80), ("r/y".into(), 20)];
        let policy = LocalityPolicy::Distribute(vec![Distribution { from: "r/*".into(), to }]);
        assert_eq!(shares(&policy, &all, &[true; 4]), [(8_000, vec![0, 1]), (2_000, vec![2])]);
        assert_eq!(shares(&policy, &all, &[false, false, true, true]), [(2_000, vec![2])]);
    }
}
