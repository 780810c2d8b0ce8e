//! A cluster as one worker knows it: its endpoints, what is under way to them, and which of them may be used now.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    Options,
    balance::{Candidate, Picker},
    locality,
    outlier::{self, Ending},
    record::KnownSeries,
    splits::PoolReading,
    tls::Origination,
    upstream::Endpoint,
};
use crate::{
    router::Draw,
    snapshot::{self, Balancer, EndpointAddress, Health, Locality},
};

pub(super) struct Cluster {
    policy: Arc<snapshot::Cluster>,
    /// `None`: plain text. An error: nothing may be sent.
    pub origination: Encryption,
    members: Vec<Member>,
    /// When outlier detection looks at its endpoints again.
    next_interval: Cell<Instant>,
    /// When a failure was last told to people.
    pub told: Cell<Option<Instant>>,
    options: Arc<Options>,
    /// By locality, with the sum of the shares up to each.
    groups: RefCell<Vec<(u32, Picker)>>,
    /// Endpoints of `PASSTHROUGH`.
    originals: RefCell<HashMap<SocketAddr, Rc<Endpoint>>>,
    series: KnownSeries,
    pub load: Rc<Load>,
}

/// For how long after its warming up an endpoint's weight is still looked at.
const WARM: Duration = Duration::from_secs(1);

/// How a cluster is spoken to: see `Prepared::origination`.
pub(super) type Encryption = Option<Result<Arc<Origination>, String>>;

struct Member {
    endpoint: Rc<Endpoint>,
    weight: u32,
    health: Health,
}

/// What the limits of the pool are about.
#[derive(Default)]
pub(super) struct Load {
    pub connections: Cell<u32>,
    pub requests: Cell<u32>,
    pub pending: Cell<u32>,
    pub retries: Cell<u32>,
    /// A connection has become free, or its place.
    pub freed: Notify,
}

/// One of something that is counted, as long as it lives.
pub(super) struct Counted {
    pub load: Rc<Load>,
    which: fn(&Load) -> &Cell<u32>,
}

impl Counted {
    /// `None`: there are `limit` already.
    pub fn take(load: &Rc<Load>, which: fn(&Load) -> &Cell<u32>, limit: Option<u32>) -> Option<Counted> {
        let count = which(load);
        if limit.is_some_and(|limit| count.get() >= limit) {
            return None;
        }
        count.set(count.get() + 1);
        Some(Counted { load: load.clone(), which })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let count = (self.which)(&self.load);
        count.set(count.get() - 1);
        self.load.freed.notify_one();
    }
}

impl Cluster {
    pub fn new(policy: Arc<snapshot::Cluster>, origination: Encryption, options: Arc<Options>) -> Cluster {
        Cluster::with(policy, origination, options, Rc::default(), |_| None)
    }

    /// Whether nothing has to change for a new revision.
    pub fn is(&self, policy: &snapshot::Cluster, origination: &Encryption) -> bool {
        *self.policy == *policy && self.is_encrypted_as(origination)
    }

    fn is_encrypted_as(&self, other: &Encryption) -> bool {
        match (&self.origination, other) {
            (None, None) => true,
            (Some(Ok(one)), Some(Ok(other))) => Arc::ptr_eq(one, other),
            (Some(Err(one)), Some(Err(other))) => one == other,
            _ => false,
        }
    }

    /// The next revision's. Endpoints stay, with their connections, unless it is the way to them that changes.
    pub fn after(old: &Cluster, policy: Arc<snapshot::Cluster>, origination: Encryption) -> Cluster {
        let is_same_way = old.is_encrypted_as(&origination)
            && old.policy.proxy_protocol == policy.proxy_protocol
            && old.policy.protocol == policy.protocol
            && old.policy.pool == policy.pool;
        Cluster::with(policy, origination, old.options.clone(), old.load.clone(), |new| {
            let known = old.members.iter().map(|member| &member.endpoint);
            let fits = |one: &&Rc<Endpoint>| one.address == new.address && one.identity == new.identity;
            known.filter(|_| is_same_way).find(fits).cloned()
        })
    }

    fn with(
        policy: Arc<snapshot::Cluster>,
        origination: Encryption,
        options: Arc<Options>,
        load: Rc<Load>,
        known: impl Fn(&snapshot::Endpoint) -> Option<Rc<Endpoint>>,
    ) -> Cluster {
        let member = |endpoint: &snapshot::Endpoint| Member {
            endpoint: known(endpoint).unwrap_or_else(|| Rc::new(Endpoint::new(endpoint))),
            weight: endpoint.weight,
            health: endpoint.health,
        };
        let members = policy.endpoints.iter().map(member).collect();
        let next_interval = Cell::new(Instant::now());
        let cluster = Cluster {
            policy,
            origination,
            members,
            next_interval,
            told: Cell::new(None),
            options,
            groups: RefCell::default(),
            originals: RefCell::default(),
            series: KnownSeries::default(),
            load,
        };
        cluster.choose_usable();
        cluster
    }

    /// What is under way to it.
    pub fn reading(&self) -> PoolReading {
        let ejected = self.members.iter().filter(|member| member.endpoint.outlier.is_ejected());
        PoolReading {
            connections: self.load.connections.get(),
            requests: self.load.requests.get(),
            pending: self.load.pending.get(),
            retries: self.load.retries.get(),
            ejected: ejected.map(|member| (member.endpoint.text.clone(), 1)).collect(),
        }
    }

    pub fn series(&self) -> &KnownSeries {
        &self.series
    }

    pub fn policy(&self) -> &Arc<snapshot::Cluster> {
        &self.policy
    }

    /// The endpoint for a request, none of `avoided` if there is another. `None`: none may be used. `original`: what the
    /// client connected to, which is the endpoint where no balancing is wanted.
    pub fn pick(
        &self,
        hash: Option<u64>,
        mut draw: impl FnMut() -> Draw,
        avoided: &[Rc<Endpoint>],
        original: SocketAddr,
    ) -> Option<Rc<Endpoint>> {
        /// Picks before a host is taken although it has failed before (Envoy's `host_selection_retry_max_attempts` in Istio).
        const PICKS: usize = 5;
        if self.policy.balancer == Balancer::Passthrough {
            return Some(self.passthrough(original));
        }
        let groups = self.groups.borrow();
        let mut picked = None;
        for _ in 0..PICKS {
            let picker = match &groups[..] {
                [(_, only)] => only,
                several => {
                    let total = several.last()?.0;
                    let point = ((u128::from(draw().0) * u128::from(total)) >> 64) as u32;
                    &several.iter().find(|(upto, _)| point < *upto)?.1
                }
            };
            let active = |at: usize| self.members[at].endpoint.active.get();
            let endpoint = &self.members[picker.pick(&self.policy.balancer, hash, draw(), active)?].endpoint;
            picked = Some(endpoint);
            if hash.is_some() || !avoided.iter().any(|one| Rc::ptr_eq(one, endpoint)) {
                break;
            }
        }
        picked.cloned()
    }

    fn passthrough(&self, original: SocketAddr) -> Rc<Endpoint> {
        let new = || {
            Rc::new(Endpoint::new(&snapshot::Endpoint {
                address: EndpointAddress::Ip(original),
                weight: 1,
                locality: Locality::default(),
                health: Health::Ready,
                identity: None,
                labels: BTreeMap::new(),
            }))
        };
        self.originals.borrow_mut().entry(original).or_insert_with(new).clone()
    }

    /// To be called when an endpoint is ejected, comes back, or is warmer than it was.
    fn choose_usable(&self) {
        let now = Instant::now();
        let is_ready = |member: &Member| member.health == Health::Ready;
        let mut usable: Vec<bool> =
            self.members.iter().map(|member| is_ready(member) && !member.endpoint.outlier.is_ejected()).collect();
        // With too few healthy ones detection is ignored; by default that never is.
        let least = self.policy.outlier_detection.as_ref().map_or(0, |policy| policy.min_health_percent as usize);
        if usable.iter().filter(|usable| **usable).count() * 100 < least * self.members.len() {
            usable = self.members.iter().map(is_ready).collect();
        }
        let own = locality::Own { locality: &self.options.locality, labels: &self.options.labels };
        let mut upto = 0;
        let mut groups = Vec::new();
        for group in locality::groups(&self.policy.locality, own, &self.policy.endpoints, &usable) {
            upto += group.share;
            let candidate = |at: usize| {
                let member = &self.members[at];
                Candidate { at, weight: self.warmed(member, now), seed: member.endpoint.seed }
            };
            groups.push((upto, Picker::new(group.members.into_iter().map(candidate).collect())));
        }
        *self.groups.borrow_mut() = groups;
    }

    /// An endpoint's weight, which grows while it is new: `(elapsed / duration) ^ (1 / aggression)`, in hundredths where
    /// there is warming up at all.
    fn warmed(&self, member: &Member, now: Instant) -> u32 {
        let Some(warmup) = &self.policy.warmup else {
            return member.weight;
        };
        let elapsed = now.saturating_duration_since(member.endpoint.born);
        let factor = match elapsed < warmup.duration {
            true => (elapsed.as_secs_f64() / warmup.duration.as_secs_f64()).powf(1.0 / warmup.aggression),
            false => 1.0,
        };
        let percent = (factor * 100.0).max(warmup.minimum_percent).clamp(1.0, 100.0);
        (f64::from(member.weight) * percent).min(f64::from(u32::MAX)) as u32
    }

    /// Remembers how a request ended, and ejects the endpoint if that was once too often.
    pub fn note(&self, endpoint: &Endpoint, ending: Ending) {
        let Some(policy) = &self.policy.outlier_detection else {
            return;
        };
        if !endpoint.outlier.note(policy, ending) || endpoint.outlier.is_ejected() {
            return;
        }
        let ejected = self.members.iter().filter(|member| member.endpoint.outlier.is_ejected()).count();
        if outlier::has_room(policy, ejected, self.members.len()) {
            endpoint.outlier.eject(Instant::now());
            tracing::info!(cluster = %self.policy.name, endpoint = %endpoint.text, "ejected: it failed too often");
            self.choose_usable();
        }
    }

    pub fn tick(&self) {
        let now = Instant::now();
        for member in &self.members {
            member.endpoint.close_idle(now, &self.policy.pool);
        }
        for endpoint in self.originals.borrow().values() {
            endpoint.close_idle(now, &self.policy.pool);
        }
        let is_new = |member: &Member| {
            let warmup = self.policy.warmup.as_ref();
            warmup.is_some_and(|warmup| now.duration_since(member.endpoint.born) < warmup.duration + WARM)
        };
        if self.members.iter().any(is_new) {
            self.choose_usable();
        }
        if let Some(policy) = &self.policy.outlier_detection
            && now >= self.next_interval.get()
        {
            self.next_interval.set(now + policy.interval);
            let back = self.members.iter().filter(|member| member.endpoint.outlier.interval(policy, now)).count();
            if back > 0 {
                self.choose_usable();
            }
        }
    }
}
