//! Every state between two configurations is legal: random revisions, applied operation by operation to tables in memory,
//! asked by the kernel's own decision after each; with writes that fail, and with agents that start anew in between.

use lb_common::{
    decide::decide,
    flow::{HashKey as KernelHash, Tuple, V4, V6},
    packet::Packet,
    pick::{Outcome, Pick, pick},
    table::{Forwarding, Tables, VipKey, rule, subset},
    verdict::Verdict,
    wire::{Be16, protocol, tcp},
};
use meltemi::{
    agent::adopt,
    compile::{Compiler, Host, Path, compile, ids::Ids},
    dataplane::{
        Maps, MapsError, advance,
        kernel::Left,
        memory::{InMemory, MemoryTables},
    },
    image::{Backend, BackendId, Image, RuleId, RuleTable, StatsId, SubsetId, Vip, VipRule},
    model::{
        Action, BrokenReason, Cluster, ClusterName, Destination, Door, Endpoint, HashKey, Listener, Model, ObjectName,
        Origin, Protocol, Rule, Share, Target,
    },
    plan::{Op, diff},
};
use proptest::{prelude::*, test_runner::TestRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

/// What a VIP should do: the rule as written, the endpoints of each destination with their weights, and how they are reached.
type Meaning = (Written, Vec<BTreeMap<IpAddr, u32>>, Forwarding);

const OWN: [&str; 2] = ["10.0.0.1", "fd00::1"];
const SERVICE: &str = "10.96.0.1";
const ENDPOINTS: [&str; 8] =
    ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "fd00:1::1", "fd00:1::2", "fd00:1::3"];
const PORTS: [u16; 3] = [8_001, 8_002, 8_003];
const BACKEND_PORT: u16 = 9_000;
const ARENA: u32 = 1 << 20;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn origin() -> Origin {
    Origin { file: "test.yaml".into(), line: 1, column: 1 }
}

fn object(name: &str) -> ObjectName {
    ObjectName { namespace: "default".into(), name: name.into() }
}

/// One listener's rule: weight, host and subset, or a broken destination.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    hash: HashKey,
    destinations: Vec<(u32, Option<usize>)>,
}

/// A configuration: a rule for each listener that is there, and the endpoints of each cluster.
#[derive(Clone, Debug)]
struct Config {
    rules: Vec<Option<Written>>,
    clusters: Vec<BTreeMap<IpAddr, u32>>,
    forwarding: Forwarding,
}

const LISTENERS: usize = PORTS.len() + 1;
const CLUSTERS: usize = 4;

fn config() -> impl Strategy<Value = Config> {
    let destination = (0u32..6, prop_oneof![9 => (0..CLUSTERS).prop_map(Some), 1 => Just(None)]);
    let hash = prop_oneof![Just(HashKey::Flow), Just(HashKey::SourceIp)];
    let written = (hash, proptest::collection::vec(destination, 1..4))
        .prop_map(|(hash, destinations)| Written { hash, destinations });
    let rules = proptest::collection::vec(proptest::option::weighted(0.7, written), LISTENERS);
    let endpoints =
        proptest::collection::btree_map((0..ENDPOINTS.len()).prop_map(|at| ip(ENDPOINTS[at])), 1u32..3, 0..5);
    let forwarding = prop_oneof![Just(Forwarding::Snat), Just(Forwarding::Dnat)];
    (rules, proptest::collection::vec(endpoints, CLUSTERS), forwarding)
        .prop_map(|(rules, clusters, forwarding)| Config { rules, clusters, forwarding })
}

/// A revision: a new configuration, or a part of the one before.
#[derive(Clone, Debug)]
struct Step {
    config: Config,
    /// Listeners and clusters that stay as they were.
    keep_rules: Vec<bool>,
    keep_clusters: Vec<bool>,
    restart: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keep = |count| proptest::collection::vec(proptest::bool::weighted(0.6), count);
    let step = (config(), keep(LISTENERS), keep(CLUSTERS), proptest::bool::weighted(0.15))
        .prop_map(|(config, keep_rules, keep_clusters, restart)| Step { config, keep_rules, keep_clusters, restart });
    proptest::collection::vec(step, 2..10)
}

impl Step {
    fn after(&self, former: &Config) -> Config {
        let mut next = self.config.clone();
        for (at, _) in self.keep_rules.iter().enumerate().filter(|(_, keep)| **keep) {
            next.rules[at] = former.rules[at].clone();
        }
        for (at, _) in self.keep_clusters.iter().enumerate().filter(|(_, keep)| **keep) {
            next.clusters[at] = former.clusters[at].clone();
        }
        next
    }
}

fn cluster_name(at: usize) -> ClusterName {
    let subset = (at % 2 == 1).then(|| Arc::from(format!("v{at}")));
    ClusterName { host: format!("h{}.default.svc.cluster.local", at / 2).into(), subset, port: BACKEND_PORT }
}

impl Config {
    fn empty() -> Config {
        Config { rules: vec![None; LISTENERS], clusters: vec![BTreeMap::new(); CLUSTERS], forwarding: Forwarding::Snat }
    }

    fn model(&self) -> Model {
        let mut model = Model::default();
        for (at, written) in self.rules.iter().enumerate() {
            let Some(written) = written else { continue };
            let door = match PORTS.get(at).and_then(|port| NonZeroU16::new(*port)) {
                Some(port) => Door::Gateway { gateway: object(&format!("g{at}")), bind: None, port },
                None => Door::Service {
                    service: object("s"),
                    addresses: vec![ip(SERVICE)],
                    port: NonZeroU16::new(BACKEND_PORT).unwrap(),
                    share: Share::default(),
                },
            };
            let destinations = written.destinations.iter().map(|(weight, cluster)| match cluster {
                Some(cluster) => {
                    let name = cluster_name(*cluster);
                    let cluster = Target::Cluster(name.clone());
                    destination(name, *weight, cluster)
                }
                None => {
                    let name = ClusterName { host: "nobody".into(), subset: None, port: BACKEND_PORT };
                    destination(name, *weight, Target::Broken(BrokenReason::HostNotFound))
                }
            });
            let rule = Rule {
                virtual_service: Some(object("v")),
                index: 0,
                match_index: None,
                origin: origin(),
                hash: written.hash,
                destinations: destinations.collect(),
            };
            let (protocol, action) = (Protocol::Tcp, Action::Tcp(rule));
            model.listeners.push(Arc::new(Listener { door, protocol, action, origin: origin() }));
        }
        for (at, members) in self.clusters.iter().enumerate() {
            let endpoint = |(address, weight): (&IpAddr, &u32)| Endpoint {
                address: *address,
                port: NonZeroU16::new(BACKEND_PORT).unwrap(),
                weight: *weight,
            };
            let endpoints = members.iter().map(endpoint).collect();
            model.clusters.insert(cluster_name(at), Arc::new(Cluster { endpoints, origin: origin() }));
        }
        model
    }

    fn host(&self) -> Host {
        let source = |endpoint: IpAddr| if endpoint.is_ipv4() { ip("10.1.0.100") } else { ip("fd00:1::100") };
        let path = |text: &&str| (ip(text), Path { source: source(ip(text)), forwarding: self.forwarding });
        Host { addresses: OWN.map(ip).into(), paths: ENDPOINTS.iter().map(path).collect() }
    }

    fn written(&self, vip: SocketAddr) -> Option<&Written> {
        let own = OWN.iter().any(|own| ip(own) == vip.ip());
        let at = match PORTS.iter().position(|port| *port == vip.port()) {
            Some(at) if own => at,
            None if vip == SocketAddr::new(ip(SERVICE), BACKEND_PORT) => LISTENERS - 1,
            _ => return None,
        };
        self.rules[at].as_ref()
    }

    fn members(&self, cluster: usize, like: IpAddr) -> BTreeMap<IpAddr, u32> {
        let own = self.clusters[cluster].iter().filter(|(address, _)| address.is_ipv4() == like.is_ipv4());
        own.map(|(address, weight)| (*address, *weight)).collect()
    }

    /// All that a VIP's answers depend on.
    fn meaning(&self, vip: SocketAddr) -> Option<Meaning> {
        let written = self.written(vip)?.clone();
        let clusters = written.destinations.iter().filter_map(|(_, cluster)| *cluster);
        let members = clusters.map(|cluster| self.members(cluster, vip.ip())).collect();
        Some((written, members, self.forwarding))
    }
}

fn destination(name: ClusterName, weight: u32, target: Target) -> Destination {
    Destination { host: name.host, subset: name.subset, port: name.port, weight, target, origin: origin() }
}

fn vips() -> Vec<SocketAddr> {
    let gateways = OWN.iter().flat_map(|own| PORTS.iter().map(|port| SocketAddr::new(ip(own), *port)));
    gateways.chain([SocketAddr::new(ip(SERVICE), BACKEND_PORT)]).collect()
}

/// What may be in force while an agent goes from the first of these configurations to the last: a VIP's rule as any of them
/// says, and the endpoints of its destinations as any of them says.
struct Legal<'a> {
    configs: &'a [Config],
}

impl Legal<'_> {
    fn check(&self, vip: SocketAddr, got: Option<(Outcome, IpAddr)>) -> Result<(), String> {
        let rules: Vec<Option<&Written>> = self.configs.iter().map(|config| config.written(vip)).collect();
        let Some((outcome, backend)) = got else {
            return if rules.contains(&None) { Ok(()) } else { Err(format!("{vip} is no VIP any more")) };
        };
        let live = |written: &Written| {
            let live: Vec<_> =
                written.destinations.iter().filter(|(weight, _)| *weight > 0).map(|(_, to)| *to).collect();
            live
        };
        let members = |cluster: usize| self.configs.iter().map(move |config| config.members(cluster, vip.ip()));
        let fits = rules.iter().flatten().any(|written| {
            let to = live(written);
            let mut clusters = to.iter().flatten();
            match outcome {
                Outcome::Broken => to.contains(&None),
                Outcome::Empty => to.is_empty() || clusters.any(|to| members(*to).any(|all| all.is_empty())),
                Outcome::Backend => clusters.any(|to| members(*to).any(|all| all.contains_key(&backend))),
                Outcome::Proxy => false,
            }
        });
        if fits { Ok(()) } else { Err(format!("{vip} answered {outcome:?} {backend}")) }
    }
}

fn tuple<A: InMemory>(from: SocketAddr, to: SocketAddr) -> Tuple<A> {
    Tuple {
        src: A::encode(from.ip()).unwrap(),
        dst: A::encode(to.ip()).unwrap(),
        sport: Be16::new(from.port()),
        dport: Be16::new(to.port()),
    }
}

/// `None`: no VIP.
fn ask<A: InMemory>(tables: &MemoryTables, from: SocketAddr, to: SocketAddr) -> Option<(Outcome, IpAddr)> {
    let mut found: Pick<A> = Packet::blank().pick;
    pick(tables, &tuple(from, to), &mut found).then(|| (found.outcome, found.backend.address.decode()))
}

fn ask_any(tables: &MemoryTables, from: SocketAddr, to: SocketAddr) -> Option<(Outcome, IpAddr)> {
    if to.is_ipv4() { ask::<V4>(tables, from, to) } else { ask::<V6>(tables, from, to) }
}

/// A SYN through the whole decision, which must say what the table walk says; what it wrote is removed again.
fn syn<A: InMemory>(tables: &MemoryTables, from: SocketAddr, to: SocketAddr) -> Result<(), String> {
    let mut packet = Packet::<A>::blank();
    packet.segment.tuple = tuple(from, to);
    packet.segment.flags = tcp::SYN;
    let verdict = decide(tables, &mut packet);
    let walked = ask::<A>(tables, from, to);
    let fits = match (verdict, walked) {
        (Verdict::Pass(_), None) => true,
        (Verdict::Reject(_), Some((Outcome::Broken | Outcome::Empty, _))) => true,
        (Verdict::Forward(_), Some((Outcome::Backend, backend))) => packet.to.dst.decode() == backend,
        _ => false,
    };
    if matches!(verdict, Verdict::Forward(_)) {
        Tables::<A>::drop_pending(tables, &packet.segment.tuple);
        Tables::<A>::drop_pending(tables, &packet.to.reverse());
    }
    if fits { Ok(()) } else { Err(format!("{from} to {to}: {verdict:?}, but the tables say {walked:?}")) }
}

/// Which writes fail.
struct Failing<'a> {
    tables: &'a mut MemoryTables,
    rng: &'a mut TestRng,
    /// Out of a hundred.
    percent: u32,
    /// Called after each write that succeeded.
    look: &'a mut dyn FnMut(&MemoryTables),
}

impl Maps for Failing<'_> {
    fn apply(&mut self, op: &Op) -> Result<(), MapsError> {
        if self.rng.next_u32() % 100 < self.percent {
            return Err(MapsError::Injected("failed"));
        }
        self.tables.apply(op)?;
        (self.look)(self.tables);
        Ok(())
    }
}

/// What an agent that starts anew finds: the same that `KernelMaps::left` reads from the kernel.
fn left(tables: &MemoryTables) -> Left {
    const MOST: u32 = 512;
    let word = |at: u32| Tables::<V4>::word(tables, at);
    let name = |at: u32| u64::from(word(at)) | u64::from(word(at + 1)) << 32;
    let mut left = Left::default();
    for id in 0..MOST {
        let region = Tables::<V4>::rule(tables, id);
        if region.words() > 0 {
            left.rules.push((name(region.offset() + rule::NAME), RuleId(id)));
            for position in 0..word(region.offset() + rule::SHAPE) >> 8 {
                let at = region.offset() + rule::DESTINATIONS + position * rule::DESTINATION_WORDS;
                left.destination_stats.push((name(at + 2), word(at + 1)));
            }
        }
        let region = Tables::<V4>::subset(tables, id);
        if region.words() > 0 {
            left.subsets.push((name(region.offset() + subset::NAME), SubsetId(id)));
        }
        left_backend::<V4>(tables, id, &mut left);
        left_backend::<V6>(tables, id, &mut left);
    }
    for vip in vips() {
        let id = if vip.is_ipv4() { left_vip::<V4>(tables, vip) } else { left_vip::<V6>(tables, vip) };
        let vip = Vip::any(vip.ip(), NonZeroU16::new(vip.port()).unwrap());
        left.vips.extend(id.map(|id| (vip, meltemi::slots::encode::vip_rule(id))));
    }
    left
}

fn left_backend<A: InMemory>(tables: &MemoryTables, id: u32, left: &mut Left) {
    if let Some(backend) = Tables::<A>::backend(tables, id) {
        let address = SocketAddr::new(backend.address.decode(), backend.port.get());
        let (forwarding, source, stats) = (backend.forwarding, backend.source.decode(), StatsId(backend.stats));
        left.backends.push((BackendId(id), Backend { address, forwarding, source, stats }));
    }
}

fn left_vip<A: InMemory>(tables: &MemoryTables, vip: SocketAddr) -> Option<u32> {
    let address = A::encode(vip.ip())?;
    tables.vip(&VipKey { address, port: Be16::new(vip.port()), protocol: protocol::TCP, class: 0 })
}

/// The agent without its kernel: what `Agent::put` does, step by step.
struct Agent {
    tables: MemoryTables,
    compiler: Compiler,
    ids: Ids,
    image: Image,
    next_backend: u32,
    /// Configurations since one was in force, that one first.
    configs: Vec<Config>,
    fresh: u32,
    states: u64,
}

impl Agent {
    fn new() -> Agent {
        Agent {
            tables: MemoryTables::new(ARENA),
            compiler: Compiler::default(),
            ids: Ids::default(),
            image: Image::default(),
            next_backend: 1,
            configs: vec![Config::empty()],
            fresh: 0,
            states: 0,
        }
    }

    /// Tries until `config` is in force, at most `tries` times. True: it is.
    fn put(&mut self, config: &Config, rng: &mut TestRng, percent: u32, tries: u32) -> Result<bool, String> {
        self.configs.push(config.clone());
        for _ in 0..tries {
            let image = self.compiler.compile(&Arc::new(config.model()), &Arc::new(config.host()), &mut self.ids);
            self.next_backend = self.ids.backends.next();
            let plan = diff(&self.image, &image);
            let mut wrong = None;
            let (mut fresh, mut states) = (self.fresh, self.states);
            let legal = Legal { configs: &self.configs };
            let steady: Vec<(SocketAddr, SocketAddr, _)> = vips()
                .into_iter()
                .filter(|vip| self.configs.windows(2).all(|pair| pair[0].meaning(*vip) == pair[1].meaning(*vip)))
                .flat_map(|vip| (0..8).map(move |at| (client(vip, at * 7_919), vip)))
                .map(|(from, vip)| (from, vip, ask_any(&self.tables, from, vip)))
                .collect();
            let mut look = |tables: &MemoryTables| {
                states += 1;
                let result = inspect(tables, &legal, &mut fresh, &steady);
                wrong = wrong.take().or(result.err());
            };
            let mut maps = Failing { tables: &mut self.tables, rng, percent, look: &mut look };
            let done = advance(&mut maps, &mut self.image, &plan).is_ok();
            (self.fresh, self.states) = (fresh, states);
            if let Some(wrong) = wrong {
                return Err(format!("{wrong}\n{plan}"));
            }
            if done {
                self.image = image;
                self.ids.settle();
                self.configs = vec![config.clone()];
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn restart(&mut self) {
        self.compiler = Compiler::default();
        (self.ids, self.image) = adopt(&left(&self.tables), self.next_backend);
    }
}

fn client(vip: SocketAddr, number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    let port = 1_024 + (number % 60_000) as u16;
    match vip {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::from([172, a, b, c]), port),
        SocketAddr::V6(_) => {
            SocketAddr::new(IpAddr::from([0xfd01, 0, 0, 0, 0, 0, u16::from(a), u16::from_be_bytes([b, c])]), port)
        }
    }
}

type Steady = [(SocketAddr, SocketAddr, Option<(Outcome, IpAddr)>)];

/// Eight flows to each VIP: legal each, and where nothing concerns the VIP, as before.
fn inspect(tables: &MemoryTables, legal: &Legal<'_>, fresh: &mut u32, steady: &Steady) -> Result<(), String> {
    for vip in vips() {
        for _ in 0..8 {
            *fresh += 1;
            let from = client(vip, *fresh);
            let got = ask_any(tables, from, vip);
            legal.check(vip, got)?;
            if vip.is_ipv4() { syn::<V4>(tables, from, vip)? } else { syn::<V6>(tables, from, vip)? }
        }
    }
    for (from, vip, before) in steady {
        let now = ask_any(tables, *from, *vip);
        if now != *before {
            return Err(format!("{vip} is untouched, but {from} went from {before:?} to {now:?}"));
        }
    }
    Ok(())
}

fn run(steps: &[Step], percent: u32, rng: &mut TestRng) -> Result<u64, String> {
    let mut agent = Agent::new();
    let mut config = Config::empty();
    for step in steps {
        if step.restart {
            agent.restart();
        }
        config = step.after(&config);
        // Now and then the user changes the files again before the agent was through.
        let tries = 1 + rng.next_u32() % 4;
        agent.put(&config, rng, percent, tries)?;
    }
    // In the end everything is as the last configuration says, and nothing else is left.
    while !agent.put(&config, rng, percent, 100)? {}
    let mut steady = 0;
    inspect(&agent.tables, &Legal { configs: &[config.clone()] }, &mut steady, &[])?;
    let left = left(&agent.tables);
    let vips: BTreeMap<Vip, VipRule> = left.vips.iter().copied().collect();
    let backends: BTreeMap<BackendId, Backend> = left.backends.iter().copied().collect();
    let rules: BTreeSet<RuleId> = left.rules.iter().map(|(_, id)| *id).collect();
    let subsets: BTreeSet<SubsetId> = left.subsets.iter().map(|(_, id)| *id).collect();
    let image = &agent.image;
    let same = vips.iter().eq(&image.vips)
        && backends.iter().eq(&image.backends)
        && rules == image.rules.keys().copied().collect()
        && subsets == image.subsets.keys().copied().collect();
    if same { Ok(agent.states) } else { Err(format!("left over: {left:?}\nwanted:\n{image}")) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_state_between_is_legal(steps in steps(), seed in any::<[u8; 32]>()) {
        let mut rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        if let Err(wrong) = run(&steps, 0, &mut rng) {
            return Err(TestCaseError::fail(wrong));
        }
    }

    #[test]
    fn every_state_between_is_legal_when_writes_fail(steps in steps(), seed in any::<[u8; 32]>()) {
        let mut rng = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed);
        if let Err(wrong) = run(&steps, 10, &mut rng) {
            return Err(TestCaseError::fail(wrong));
        }
    }

    /// The slots of filled tables against shares computed by exact fractions here.
    #[test]
    fn slots_are_exactly_the_shares(config in config()) {
        let image = compile(&config.model(), &config.host(), &mut Ids::default());
        let mut tables = MemoryTables::new(ARENA);
        meltemi::dataplane::apply(&mut tables, &diff(&Image::default(), &image)).unwrap();
        for (id, table) in &image.rules {
            let counts = slot_counts(&tables, *id);
            check_shares(table, &counts)?;
        }
    }
}

/// Slots by position of the destination, read from the arena.
fn slot_counts(tables: &MemoryTables, id: RuleId) -> Vec<u64> {
    let word = |at: u32| Tables::<V4>::word(tables, at);
    let base = Tables::<V4>::rule(tables, id.0).offset();
    let destinations = word(base + rule::SHAPE) >> 8;
    let mut counts = vec![0; destinations as usize];
    for slot in 0..word(base + rule::SLOTS) {
        let at = base + rule::DESTINATIONS + destinations * rule::DESTINATION_WORDS + slot / 4;
        counts[(word(at) >> (8 * (slot % 4)) & 0xff) as usize] += 1;
    }
    counts
}

fn check_shares(table: &RuleTable, counts: &[u64]) -> Result<(), TestCaseError> {
    prop_assert!(matches!(table.hash, KernelHash::Flow | KernelHash::SourceIp));
    let weights: Vec<u64> = table.destinations.iter().map(|one| u64::from(one.weight)).collect();
    let (sum, slots): (u64, u64) = (weights.iter().sum(), counts.iter().sum());
    prop_assert_eq!(sum == 0, slots == 0);
    let several = weights.iter().filter(|weight| **weight > 0).count() > 1;
    prop_assert!(!several || slots >= 10_000);
    for (weight, count) in weights.iter().zip(counts) {
        let (floor, exact) = ((slots * weight).checked_div(sum).unwrap_or(0), sum == 0 || slots * weight % sum == 0);
        prop_assert!(*count == floor || (!exact && *count == floor + 1), "{count} of {slots} for {weight} of {sum}");
    }
    Ok(())
}
