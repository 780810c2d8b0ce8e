//! Compiling a change gives what compiling everything gives.

use super::*;
use crate::{
    model::{Action, Destination, Endpoint, HashKey, Listener, ObjectName, Origin, Protocol, Rule, Target},
    snapshot,
};
use proptest::prelude::*;
use std::{net::Ipv4Addr, num::NonZeroU16};

/// A listener by its port, with the weight, cluster and presence of each destination.
type Said = BTreeMap<u16, Vec<(u32, u8)>>;
/// Endpoints of each cluster by their last byte.
type Endpoints = BTreeMap<u8, BTreeSet<u8>>;

#[derive(Clone, Debug)]
struct Case {
    listeners: Said,
    clusters: Endpoints,
    own: u8,
    /// Endpoints without a route, and those behind another address.
    lost: BTreeSet<u8>,
    moved: BTreeSet<u8>,
    /// Classes of clients that a Service leads elsewhere, and the class of each client.
    led: BTreeMap<u8, u8>,
    clients: BTreeMap<u8, u8>,
}

fn case() -> impl Strategy<Value = Case> {
    use proptest::collection::{btree_map, btree_set, vec};
    let listeners = btree_map(1u16..6, vec((0u32..3, 0u8..5), 1..4), 0..6);
    let clusters = btree_map(0u8..5, btree_set(0u8..8, 0..4), 0..6);
    let clients = (btree_map(0u8..4, 0u8..5, 0..3), btree_map(0u8..6, 0u8..4, 0..4));
    (listeners, clusters, 1u8..3, btree_set(0u8..8, 0..2), btree_set(0u8..8, 0..2), clients).prop_map(
        |(listeners, clusters, own, lost, moved, (led, clients))| Case {
            listeners,
            clusters,
            own,
            lost,
            moved,
            led,
            clients,
        },
    )
}

fn client_class(number: u8) -> ClientClass {
    ClientClass { namespace: Some(format!("n{number}").into()), ..ClientClass::default() }
}

fn origin() -> Origin {
    Origin { file: "test.yaml".into(), line: 1, column: 1 }
}

fn cluster(number: u8) -> ClusterName {
    ClusterName { host: format!("host-{number}").into(), subset: None, port: 80 }
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, 0, last).into()
}

impl Case {
    fn model(&self) -> Model {
        let listener = |(port, said): (&u16, &Vec<(u32, u8)>)| {
            let destinations = said.iter().map(|(weight, number)| {
                let name = cluster(*number);
                Destination {
                    host: name.host.clone(),
                    subset: None,
                    port: 80,
                    weight: *weight,
                    target: Target::Cluster(name),
                    origin: origin(),
                }
            });
            let gateway = ObjectName { namespace: "a".into(), name: "b".into() };
            Arc::new(Listener {
                door: Door::Gateway { gateway, bind: None, port: NonZeroU16::new(*port).unwrap() },
                protocol: Protocol::Tcp,
                action: Action::Tcp(Rule {
                    virtual_service: None,
                    index: 0,
                    match_index: None,
                    origin: origin(),
                    hash: HashKey::Flow,
                    destinations: destinations.collect(),
                }),
                origin: origin(),
            })
        };
        let endpoint = |last: &u8| Endpoint { address: address(*last), port: NonZeroU16::MIN, weight: 1 };
        let filled = |(number, endpoints): (&u8, &BTreeSet<u8>)| {
            let endpoints = endpoints.iter().map(endpoint).collect();
            (cluster(*number), Arc::new(Cluster { endpoints, origin: origin() }))
        };
        let of_class = |(class, number): (&u8, &u8)| {
            let Listener { protocol, action, origin, .. } = Arc::unwrap_or_clone(listener((&1, &vec![(1, *number)])));
            let share = Share { at: None, class: Some(Arc::new(client_class(*class))) };
            let service = ObjectName { namespace: "a".into(), name: "s".into() };
            let addresses = vec![Ipv4Addr::new(10, 9, 0, 1).into()];
            Arc::new(Listener {
                door: Door::Service { service, addresses, port: NonZeroU16::MIN, share },
                protocol,
                action,
                origin,
            })
        };
        let mut listeners: Vec<_> = self.listeners.iter().map(listener).chain(self.led.iter().map(of_class)).collect();
        listeners.sort_by(|a, b| a.door.cmp(&b.door));
        let classes: BTreeSet<u8> = self.clients.values().copied().collect();
        let member = |(client, class): (&u8, &u8)| snapshot::Client {
            address: Ipv4Addr::new(10, 2, 0, *client).into(),
            class: classes.iter().position(|one| one == class).unwrap() as u16,
            workload: "Pod a/b".into(),
        };
        let clients = Clients {
            members: self.clients.iter().map(member).collect(),
            classes: classes.iter().map(|class| Arc::new(client_class(*class))).collect(),
        };
        Model {
            listeners,
            clusters: self.clusters.iter().map(filled).collect(),
            clients: clients.into(),
            ..Model::default()
        }
    }

    fn host(&self) -> Host {
        let reached = (0..8).filter(|last| !self.lost.contains(last));
        let path = |last: u8| {
            let source = Ipv4Addr::new(10, 1, 1, u8::from(self.moved.contains(&last))).into();
            (address(last), Path { source, forwarding: Forwarding::Snat })
        };
        let own = (1..=self.own).map(|last| Ipv4Addr::new(10, 0, 0, last).into());
        Host { addresses: own.collect(), paths: reached.map(path).collect() }
    }
}

/// `new` with everything of `old` shared that is the same, as a parser that keeps its results would.
fn shared(new: Model, old: &Model) -> Model {
    let listener = |new: Arc<Listener>| old.listeners.iter().find(|old| **old == new).cloned().unwrap_or(new);
    let cluster = |(name, new): (ClusterName, Arc<Cluster>)| {
        let old = old.clusters.get(&name).filter(|old| **old == new).cloned();
        (name, old.unwrap_or(new))
    };
    Model {
        listeners: new.listeners.into_iter().map(listener).collect(),
        clusters: new.clusters.into_iter().map(cluster).collect(),
        upstreams: new.upstreams,
        clients: new.clients,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_kept_compiler_gives_what_a_blank_one_gives(cases in proptest::collection::vec((case(), any::<[bool; 4]>()), 1..8)) {
        let (mut compiler, mut ids) = (Compiler::default(), Ids::default());
        let (mut model, mut host) = (Arc::new(Model::default()), Arc::new(Host::default()));
        let mut last: Option<Case> = None;
        for (mut case, [listeners, clusters, places, share]) in cases {
            // Most steps change one thing only.
            if let Some(last) = &last {
                if listeners { case.listeners = last.listeners.clone() }
                if listeners { (case.led, case.clients) = (last.led.clone(), last.clients.clone()) }
                if clusters { case.clusters = last.clusters.clone() }
                if places { (case.own, case.lost, case.moved) = (last.own, last.lost.clone(), last.moved.clone()) }
            }
            let next = case.model();
            model = Arc::new(if share { shared(next, &model) } else { next });
            if *host != case.host() {
                host = Arc::new(case.host());
            }
            let mut blank = ids.clone();
            let whole = compile(&model, &host, &mut blank);
            let image = compiler.compile(&model, &host, &mut ids);
            prop_assert_eq!(&image, &whole);
            prop_assert_eq!(&ids, &blank);
            ids.settle();
            last = Some(case);
        }
    }
}
