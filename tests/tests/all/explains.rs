//! `explain` against the decision itself: the same flow through all tables of a configuration, not only those that `explain`
//! fills.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use lb_common::{
    decide::decide,
    flow::{Tuple, V4, V6},
    packet::Packet,
    table::Forwarding,
    verdict::Verdict as Decided,
    wire::{Be16, tcp},
};
use meltemi::{
    compile::{self, Host, compile, ids::Ids},
    dataplane::{
        apply,
        memory::{InMemory, MemoryTables},
    },
    explain::{self, Answer, Question, Verdict, request::Sent, running::Running},
    image::Image,
    model::{self, Identity, Model},
    plan::diff,
    source::file,
    spec::{Specs, Store},
};
use meltemi_tests::example;
use proptest::prelude::*;

struct Loaded {
    specs: Specs,
    model: Model,
    host: Host,
    image: Image,
    identity: Identity,
}

const EXAMPLES: [&str; 6] = ["tcp-echo", "three-way", "rejected-share", "source-ip", "mesh", "mesh-clients"];
/// Cases of `tests/golden/explain` with listeners that the kernel serves.
const CASES: [&str; 3] = ["kind-virtual-service-tcp", "kind-service-endpoints", "order-by-name"];

fn all() -> Vec<&'static str> {
    [&EXAMPLES[..], &CASES].concat()
}

fn paths(name: &str) -> Vec<PathBuf> {
    let golden = example::root().join("tests/golden/explain");
    match CASES.contains(&name) {
        true => vec![golden.join("base.yml"), golden.join(format!("{name}.yaml"))],
        false => vec![example::root().join("manifests/examples").join(name)],
    }
}

fn load(name: &str, forwarding: Forwarding) -> Loaded {
    let files = file::load(&paths(name));
    assert!(files.unreadable.is_empty());
    let mut store = Store::default();
    store.merge(&files.files, &[]);
    let (specs, identity) = (store.specs(), Identity::default());
    let (model, _) = model::parse(&specs, &identity);
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let path = |endpoint: IpAddr| {
        let source = if endpoint.is_ipv4() { ip("10.1.0.1") } else { ip("fd00:1::1") };
        (endpoint, compile::Path { source, forwarding })
    };
    let paths = compile::endpoint_addresses(&model).into_iter().map(path).collect();
    let host = Host { addresses: [ip("10.0.0.1"), ip("fd00::1")].into(), paths };
    let image = compile(&model, &host, &mut Ids::default());
    Loaded { specs, model, host, image, identity }
}

impl Loaded {
    fn explain(&self, from: SocketAddr, to: SocketAddr) -> Answer {
        let question = Question {
            specs: &self.specs,
            identity: &self.identity,
            model: &self.model,
            findings: &[],
            host: &self.host,
            from,
            to,
            sent: &Sent::default(),
        };
        explain::explain(&question).unwrap().unwrap()
    }

    fn tables(&self) -> MemoryTables {
        let mut tables = MemoryTables::new(explain::words(&self.image));
        apply(&mut tables, &diff(&Image::default(), &self.image)).unwrap();
        tables
    }
}

fn decided<A: InMemory>(tables: &MemoryTables, from: SocketAddr, to: SocketAddr) -> (Decided, SocketAddr) {
    let mut packet = Packet::<A>::blank();
    packet.segment.tuple = Tuple {
        src: A::encode(from.ip()).unwrap(),
        dst: A::encode(to.ip()).unwrap(),
        sport: Be16::new(from.port()),
        dport: Be16::new(to.port()),
    };
    packet.segment.flags = tcp::SYN;
    let verdict = decide(tables, &mut packet);
    (verdict, SocketAddr::new(packet.to.dst.decode(), packet.to.dport.get()))
}

fn target() -> impl Strategy<Value = (&'static str, u16)> {
    let address = prop_oneof![
        4 => Just("10.0.0.1"), 1 => Just("10.96.0.10"), 1 => Just("10.1.0.2"), 2 => Just("fd00::1"),
        1 => Just("10.96.0.9"), 1 => Just("10.96.0.5"), 1 => Just("fd00:96::5"),
    ];
    // What a listener of the proxy does is not the kernel's decision.
    let other = any::<u16>().prop_filter("the proxy's", |port| ![80, 443, 8_000].contains(port));
    (address, prop_oneof![4 => Just(31_400u16), 3 => Just(9_000), 1 => Just(9_001), 1 => other])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explain_says_what_decide_does(
        example in proptest::sample::select(all()),
        dnat in any::<bool>(),
        flows in proptest::collection::vec((any::<u32>(), any::<u16>(), target()), 64),
    ) {
        let forwarding = if dnat { Forwarding::Dnat } else { Forwarding::Snat };
        let loaded = load(example, forwarding);
        for (client, port, (address, to_port)) in flows {
            let to = SocketAddr::new(address.parse().unwrap(), to_port);
            let from: IpAddr = match to {
                SocketAddr::V4(_) => client.to_be_bytes().into(),
                SocketAddr::V6(_) => [0xfd02, 0, 0, 0, 0, 0, (client >> 16) as u16, client as u16].into(),
            };
            let from = SocketAddr::new(from, port);
            let tables = loaded.tables();
            let (decided, backend) = if to.is_ipv4() {
                decided::<V4>(&tables, from, to)
            } else {
                decided::<V6>(&tables, from, to)
            };
            let answer = loaded.explain(from, to);
            match decided {
                Decided::Forward(reason) => {
                    let chosen = answer.chosen.as_ref().unwrap();
                    prop_assert_eq!((answer.verdict, answer.reason, chosen.backend), (Verdict::Forward, reason.name(), backend));
                    prop_assert_eq!(chosen.forwarding, if dnat { "dnat" } else { "snat" });
                }
                Decided::Reject(reason) => {
                    prop_assert_eq!((answer.verdict, answer.reason), (Verdict::Reject, reason.name()));
                    prop_assert_eq!(&answer.chosen, &None);
                }
                Decided::Pass(_) => {
                    prop_assert_eq!(answer.verdict, Verdict::Pass);
                    prop_assert_eq!((&answer.listener, &answer.route, &answer.chosen), (&None, &None, &None));
                }
                Decided::Drop(_) | Decided::TooBig(_) | Decided::Expired => prop_assert!(false, "{decided:?}"),
            }
        }
    }
}

/// Of 2,000 flows as many as the weights say, within five standard deviations.
#[test]
fn chosen_is_spread_over_client_ports() {
    let loaded = load("rejected-share", Forwarding::Snat);
    let to = "10.0.0.1:31400".parse().unwrap();
    let rejected = (0..2_000u16)
        .filter(|port| {
            let from = SocketAddr::new("10.0.0.2".parse().unwrap(), 20_000 + port);
            let answer = loaded.explain(from, to);
            assert_eq!(answer.destinations.len(), 2);
            answer.verdict == Verdict::Reject
        })
        .count();
    assert!(rejected.abs_diff(400) < 90, "{rejected} of 2,000 rejected for a share of 20 %");
}

#[test]
fn refused_candidates_are_named() {
    let loaded = load("mesh", Forwarding::Snat);
    let answer = loaded.explain("10.0.0.2:40000".parse().unwrap(), "10.96.0.10:9001".parse().unwrap());
    assert!(
        answer.steps.iter().any(|step| step.contains("listener refused") && step.contains("its port is 9000")),
        "{answer:?}"
    );
}

/// The admin endpoint's text of the tables is read back whole.
#[test]
fn a_running_agents_tables_are_understood() {
    for name in all() {
        let loaded = load(name, Forwarding::Dnat);
        let text = format!("revision 7\n{}", loaded.image);
        let running = Running::parse(&text).unwrap();
        assert_eq!((running.revision, running.image.to_string()), (7, loaded.image.to_string()));
        let own = running.host();
        assert!(!own.paths.is_empty() && own.paths.iter().all(|(to, path)| loaded.host.paths.get(to) == Some(path)));
    }
    assert!(Running::parse("vip nowhere rule 1").is_err());
}
