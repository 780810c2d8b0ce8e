//! Clients that are told apart by class: in every state between two configurations each goes where the one or the other says;
//! a client whose class changes with the rules may for a moment be what it was to the new rules, or what it is to the old, and one whose class
//! gets its first rule while that for all others changes may for a moment be taken for one of those.

use lb_common::{flow::V4, table::Forwarding};
use meltemi::{
    compile::{Compiler, Host, Path, ids::Ids},
    dataplane::{Maps, memory::MemoryTables},
    explain::walk,
    image::Image,
    model::{
        Action, ClientClass, Cluster, ClusterName, Destination, Door, Endpoint, HashKey, Listener, Model, ObjectName,
        Origin, Protocol, Rule, Share, Target,
    },
    plan::diff,
    snapshot::{Client, Clients},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

const SERVICES: u8 = 2;
const CLIENTS: u8 = 5;
const CLASSES: u8 = 4;
const PORT: NonZeroU16 = NonZeroU16::new(80).unwrap();

/// For each service where clients of a class go, `None` being all others; and the class of each client that has one.
#[derive(Clone, Debug, Default)]
struct Config {
    services: BTreeMap<u8, BTreeMap<Option<u8>, u8>>,
    clients: BTreeMap<u8, u8>,
}

fn config() -> impl Strategy<Value = Config> {
    use proptest::collection::btree_map;
    let services = btree_map(0..SERVICES, btree_map(proptest::option::of(0..CLASSES), 0u8..4, 0..4), 0..3);
    (services, btree_map(0..CLIENTS, 0..CLASSES, 0..6)).prop_map(|(services, clients)| Config { services, clients })
}

fn address(network: u8, last: u8) -> IpAddr {
    Ipv4Addr::new(10, network, 0, last).into()
}

fn class(number: u8) -> ClientClass {
    ClientClass { namespace: Some(format!("n{number}").into()), ..ClientClass::default() }
}

fn cluster(number: u8) -> ClusterName {
    ClusterName { host: format!("h{number}").into(), subset: None, port: 80 }
}

fn listener(service: u8, of: Option<u8>, to: u8) -> Listener {
    let origin = Origin { file: "a.yaml".into(), line: 1, column: 1 };
    let name = cluster(to);
    let destination = Destination {
        host: name.host.clone(),
        subset: None,
        port: 80,
        weight: 1,
        target: Target::Cluster(name),
        origin: origin.clone(),
    };
    let rule = Rule {
        virtual_service: None,
        index: 0,
        match_index: None,
        origin: origin.clone(),
        hash: HashKey::Flow,
        destinations: vec![destination],
    };
    let service_name = ObjectName { namespace: "a".into(), name: format!("s{service}").into() };
    let share = Share { at: None, class: of.map(|of| Arc::new(class(of))) };
    let door = Door::Service { service: service_name, addresses: vec![address(9, service)], port: PORT, share };
    Listener { door, protocol: Protocol::Tcp, action: Action::Tcp(rule), origin }
}

impl Config {
    fn model(&self) -> Model {
        let led =
            self.services.iter().flat_map(|(service, led)| led.iter().map(|(of, to)| listener(*service, *of, *to)));
        let mut listeners: Vec<Arc<Listener>> = led.map(Arc::new).collect();
        listeners.sort_by(|a, b| a.door.cmp(&b.door));
        let endpoint = |number| Endpoint { address: address(1, number), port: PORT, weight: 1 };
        let origin = Origin { file: "a.yaml".into(), line: 1, column: 1 };
        let filled = |number| Arc::new(Cluster { endpoints: vec![endpoint(number)], origin: origin.clone() });
        let classes: Vec<u8> = self.clients.values().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let member = |(client, of): (&u8, &u8)| Client {
            address: address(2, *client),
            class: classes.binary_search(of).unwrap() as u16,
            workload: "Pod a/b".into(),
        };
        let clients = Clients {
            members: self.clients.iter().map(member).collect(),
            classes: classes.iter().map(|of| Arc::new(class(*of))).collect(),
        };
        Model {
            listeners,
            clusters: (0..4).map(|number| (cluster(number), filled(number))).collect(),
            clients: clients.into(),
            ..Model::default()
        }
    }

    /// Where a client's new flow goes.
    fn leads(&self, client: u8, service: u8) -> Option<IpAddr> {
        self.leads_class(self.clients.get(&client), service)
    }

    fn leads_class(&self, class: Option<&u8>, service: u8) -> Option<IpAddr> {
        let led = self.services.get(&service)?;
        let own = class.and_then(|of| led.get(&Some(*of)));
        own.or_else(|| led.get(&None)).map(|to| address(1, *to))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_client_goes_where_the_old_or_the_new_configuration_says(configs in proptest::collection::vec(config(), 1..8)) {
        let path = |last| (address(1, last), Path { source: address(3, 1), forwarding: Forwarding::Snat });
        let host = Arc::new(Host { addresses: [address(3, 1)].into(), paths: (0..4).map(path).collect() });
        let (mut compiler, mut ids, mut image) = (Compiler::default(), Ids::default(), Image::default());
        let mut tables = MemoryTables::new(1 << 20);
        let mut before = Config::default();
        for config in configs {
            let next = compiler.compile(&Arc::new(config.model()), &host, &mut ids);
            let plan = diff(&image, &next);
            let led = |tables: &MemoryTables, client, service| {
                let (from, to) = (SocketAddr::new(address(2, client), 4_000), SocketAddr::new(address(9, service), 80));
                walk::<V4>(tables, from, to).and_then(|walk| walk.end).map(|end| end.backend.ip())
            };
            for op in plan.ops() {
                tables.apply(op).unwrap();
                for (client, service) in (0..CLIENTS).flat_map(|client| (0..SERVICES).map(move |service| (client, service))) {
                    let (now, was, is) = (led(&tables, client, service), before.leads(client, service), config.leads(client, service));
                    let of = |config: &Config| config.clients.get(&client).copied();
                    let begins = config.services.get(&service).zip(before.services.get(&service)).is_some_and(|(is, was)| is.keys().any(|class| class.is_some() && !was.contains_key(class)));
                    // Who a client is and what is said of its class are written one after the other.
                    let changes = of(&before) != of(&config) && (now == config.leads_class(of(&before).as_ref(), service) || now == before.leads_class(of(&config).as_ref(), service));
                    let mixed = changes || begins && now == config.leads_class(None, service);
                    prop_assert!(now == was || now == is || mixed, "client {} of service {}: {:?} after {:?}\nwas {:?}\nis {:?}\n{}", client, service, now, op, was, is, plan);
                }
            }
            for (client, service) in (0..CLIENTS).flat_map(|client| (0..SERVICES).map(move |service| (client, service))) {
                prop_assert_eq!(led(&tables, client, service), config.leads(client, service));
            }
            ids.settle();
            (image, before) = (next, config);
        }
    }
}
