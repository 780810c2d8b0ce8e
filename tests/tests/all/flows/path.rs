//! The network around the balancer: small MTUs, lost neighbours, links that go and come.

use std::time::{Duration, Instant};

use meltemi_tests::agent::{Forwarding, Mode};
use meltemi_tests::poll;
use meltemi_tests::world::helper::Helper;
use meltemi_tests::world::{self, BACK_SIDE, CLIENT_SIDE, Family, Offload};

use super::{BOTH, SOON, Setup, listener, wait_echoes};

const BULK: u64 = 10 << 20;

fn replace_endpoints(text: String) -> String {
    text.replace("10.1.0.2]", "10.2.0.2]").replace("fd00:1::2\"", "fd00:2::2\"")
}

/// Generic XDP forwards no packet larger than the MTU, so hosts behind it must cut theirs themselves.
fn whole_packets(mode: Mode) -> world::Options {
    let offload = if mode == Mode::XdpGeneric { Offload::EndsOff } else { Offload::AsCreated };
    world::Options { offload, ..world::Options::default() }
}

/// A router behind the balancer takes less than both ends think: its ICMP errors must reach the client.
fn small_behind(mode: Mode, forwarding: Forwarding) {
    let stage = Setup { forwarding, world: whole_packets(mode), ..Setup::new(mode) }.run_after(|world, example| {
        world.add_backend_behind(0, 1280, "far").unwrap();
        example.edit("endpoint-slices.yaml", replace_endpoints).unwrap();
        example.set_weights(&[1, 0]).unwrap();
    });
    for family in BOTH {
        let before = stage.agent.counter("forward.icmp").unwrap();
        for direction in ["up", "down"] {
            let told = stage.bulk(listener(family), BULK, direction);
            assert_eq!(told["matches"], true, "{family:?} {direction}: {told}");
            assert!(told["seconds"].as_f64() < Some(10.0), "{family:?} {direction}: {told}");
        }
        let translated = stage.agent.counter("forward.icmp").unwrap() - before;
        assert!(translated >= 1, "{} {family:?}: no error was translated", mode.name());
    }
}

#[test]
fn pmtu_behind_the_balancer_in_tc() {
    small_behind(Mode::Tc, Forwarding::Snat);
    small_behind(Mode::Tc, Forwarding::Dnat);
}

#[test]
fn pmtu_behind_the_balancer_in_xdp() {
    small_behind(Mode::Xdp, Forwarding::Snat);
}

#[test]
fn pmtu_behind_the_balancer_in_generic_xdp() {
    small_behind(Mode::XdpGeneric, Forwarding::Snat);
}

/// The balancer's own ways out take less than what comes in: the program itself must tell the senders.
fn small_own(mode: Mode) {
    let stage = Setup { world: whole_packets(mode), ..Setup::new(mode) }.run_after(|world, _| {
        let small =
            |prefix: &str, device: &str| format!("route change {prefix} dev {device} proto kernel mtu lock 1300");
        world
            .lb
            .ip(&[
                small("10.0.0.0/24", CLIENT_SIDE),
                small("10.1.0.0/24", BACK_SIDE),
                format!("route replace fd00::/64 dev {CLIENT_SIDE} metric 64 mtu lock 1300"),
                format!("route replace fd00:1::/64 dev {BACK_SIDE} metric 64 mtu lock 1300"),
            ])
            .unwrap();
    });
    for family in BOTH {
        for direction in ["up", "down"] {
            let before = stage.agent.counter("reply.too-big").unwrap();
            let told = stage.bulk(listener(family), BULK, direction);
            assert_eq!(told["matches"], true, "{} {family:?} {direction}: {told}", mode.name());
            assert!(told["seconds"].as_f64() < Some(10.0), "{} {family:?} {direction}: {told}", mode.name());
            if direction == "up" {
                let told = stage.agent.counter("reply.too-big").unwrap() - before;
                assert!(told >= 1, "{} {family:?}: nobody was told", mode.name());
            }
        }
    }
}

#[test]
fn own_link_smaller_than_the_one_before_in_tc() {
    small_own(Mode::Tc);
}

#[test]
fn own_link_smaller_than_the_one_before_in_xdp() {
    small_own(Mode::Xdp);
}

#[test]
fn own_link_smaller_than_the_one_before_in_generic_xdp() {
    small_own(Mode::XdpGeneric);
}

/// Interfaces of the balancer host that take less than the senders' own: no route says so.
fn small_interface(mode: Mode, device: &str, direction: &str) {
    let stage = Setup::new(mode).run();
    stage.world.lb.ip(&[format!("link set {device} mtu 1300")]).unwrap();
    for family in BOTH {
        let before = stage.agent.counter("reply.too-big").unwrap();
        let told = stage.bulk(listener(family), BULK, direction);
        let what = format!("{} {device} {family:?} {direction}: {told}", mode.name());
        assert_eq!(told["matches"], true, "{what}");
        assert!(told["seconds"].as_f64() < Some(10.0), "{what}");
        assert!(stage.agent.counter("reply.too-big").unwrap() > before, "nobody was told: {what}");
    }
}

/// A world each: who was told once advertises smaller segments from then on.
#[test]
fn interfaces_smaller_than_the_senders_own() {
    for mode in [Mode::Tc, Mode::Xdp] {
        small_interface(mode, BACK_SIDE, "up");
        small_interface(mode, CLIENT_SIDE, "down");
    }
}

/// Milliseconds until every held connection has echoed again.
fn recovered(held: &mut Helper) -> u128 {
    let began = Instant::now();
    wait_echoes(held, 2);
    began.elapsed().as_millis()
}

#[test]
fn neighbours_forgotten_under_traffic_come_back() {
    for mode in [Mode::XdpGeneric, Mode::Xdp, Mode::Tc] {
        let stage = Setup { forwarding: Forwarding::Snat, ..Setup::new(mode) }.run();
        stage.world.lb.sysctl(&[("net.ipv4.ip_forward", "0"), ("net.ipv6.conf.all.forwarding", "0")]).unwrap();
        for family in BOTH {
            let mut held = stage.world.hold(listener(family), 50, Duration::from_millis(20)).unwrap();
            let churn = stage.world.churn(listener(family), Duration::from_millis(1)).unwrap();
            let mut slowest = 0;
            for _ in 0..3 {
                stage.world.lb.output("ip", &["neigh", "flush", "all"]).unwrap();
                // Long enough that every flow has looked its next hop up anew.
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(1_500) {
                    slowest = slowest.max(recovered(&mut held));
                }
            }
            let (held, churn) = (held.stop().unwrap(), churn.stop().unwrap());
            eprintln!("{} {family:?}: recovered in {slowest} ms; {held}; {churn}", mode.name());
            assert_eq!((&held["broken"], &held["moved"]), (&0.into(), &0.into()), "{held}");
            assert_eq!(churn["failed"], 0, "{churn}");
            assert!(slowest < 2_500, "{} {family:?}: {slowest} ms", mode.name());
            assert!(churn["slowestMs"].as_u64() < Some(3_500), "{churn}");
        }
    }
}

#[test]
fn a_link_that_flaps_breaks_nothing() {
    for mode in [Mode::Xdp, Mode::Tc] {
        let stage = Setup::new(mode).run();
        let mut held = stage.world.hold(listener(Family::V4), 50, Duration::from_millis(20)).unwrap();
        stage.world.net().ip(&["link set up0 down"]).unwrap();
        stage.world.net().ip(&["link set up0 up"]).unwrap();
        let took = recovered(&mut held);
        let told = stage.sequence(listener(Family::V4), 20);
        eprintln!("{}: {took} ms; {told}", mode.name());
        assert_eq!(told["failed"], 0, "{told}");
        assert!(told["slowestMs"].as_u64() < Some(3_500), "{told}");
        let held = held.stop().unwrap();
        assert_eq!((&held["broken"], &held["moved"]), (&0.into(), &0.into()), "{held}");
    }
}

#[test]
fn an_interface_made_anew_gets_its_program_back() {
    for mode in [Mode::Xdp, Mode::Tc] {
        let mut stage = Setup::new(mode).run();
        stage.world.remake_client_side().unwrap();
        let began = Instant::now();
        let to = listener(Family::V4).to_string();
        poll::until(SOON, "connections through the new interface", || {
            let told = stage.world.run_client(&["sequence", "--to", &to, "--count", "1", "--limit", "500"])?;
            Ok((told["connections"] == 1).then_some(()))
        })
        .unwrap();
        eprintln!("{}: re-attached after {} ms", mode.name(), began.elapsed().as_millis());
        stage.assert_shares(listener(Family::V4), 100, &[("one", 20), ("two", 80)]);
        stage.start_again_is_possible();
    }
}

impl super::Stage {
    /// Pins of the interface that is gone must not keep the next agent from starting.
    fn start_again_is_possible(&mut self) {
        self.agent.signal(meltemi_tests::agent::Signal::Terminate).unwrap();
        self.agent.wait_exit().unwrap();
        self.start_again();
        self.assert_shares(listener(Family::V6), 50, &[("one", 20), ("two", 80)]);
    }
}
