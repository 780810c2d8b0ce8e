//! Many connections, a SYN flood, source ports that come back at once.

use std::time::Duration;

use meltemi_tests::agent::{Forwarding, Mode};
use meltemi_tests::world::{CLIENT_V4, Family};

use super::{BOTH, Setup, listener, wait_echoes};

#[test]
fn ten_thousand_in_sequence_and_a_thousand_at_once() {
    let stage = Setup::new(Mode::Tc).run();
    stage.assert_shares(listener(Family::V4), 10_000, &[("one", 20), ("two", 80)]);
    for family in BOTH {
        let to = listener(family).to_string();
        let told = stage.world.run_client(&["at-once", "--to", &to, "--count", "1000"]).unwrap();
        assert_eq!((&told["connections"], &told["failed"]), (&1000.into(), &0.into()), "{told}");
    }
}

fn flooded(mode: Mode, forwarding: Forwarding) {
    let stage = Setup { forwarding, ..Setup::new(mode) }.run();
    // Somewhere for the answers to go, as any host with a way to the outside has.
    stage.world.lb.ip(&[format!("route add 198.18.0.0/15 via {CLIENT_V4}")]).unwrap();
    let to = listener(Family::V4);
    let mut held = stage.world.hold(to, 100, Duration::from_millis(100)).unwrap();
    let churn = stage.world.churn(to, Duration::from_millis(5)).unwrap();
    let told = stage.world.run_client(&["flood", "--to", &to.to_string(), "--count", "1000000"]).unwrap();
    assert_eq!(told["sent"], 1_000_000, "{told}");
    eprintln!("{} {} flood: {told}", mode.name(), forwarding.name());
    wait_echoes(&mut held, 2);
    let after = stage.sequence(to, 300);
    assert!(after["connections"].as_u64() >= Some(297), "new connections after the flood: {after}");
    let held = held.stop().unwrap();
    assert_eq!((&held["broken"], &held["moved"]), (&0.into(), &0.into()), "{held}");
    let during = churn.stop().unwrap();
    eprintln!("during: {during}\nheld: {held}\nafter: {after}");
    let (good, bad) = (during["connections"].as_u64().unwrap(), during["failed"].as_u64().unwrap());
    // So few get through on a small machine that one or two refused (no free source port) say nothing of a percentage.
    assert!(bad <= 2 + good / 99 && good >= 5, "new connections during the flood: {during}");
    eprintln!("{}", stage.agent.status().unwrap()["counters"]);
}

#[test]
fn a_million_syns_harm_nobody_in_xdp_with_snat() {
    flooded(Mode::Xdp, Forwarding::Snat);
}

#[test]
fn a_million_syns_harm_nobody_in_tc_with_dnat() {
    flooded(Mode::Tc, Forwarding::Dnat);
}

/// Eight source ports in turns, without TIME_WAIT at the client: each tuple comes back within milliseconds.
#[test]
#[ignore = "known bug: seen once that a connection on a tuple used again within milliseconds took a second or more; not understood yet"]
fn tuples_that_come_back_at_once_start_new_flows() {
    for forwarding in [Forwarding::Snat, Forwarding::Dnat] {
        let stage = Setup { forwarding, ..Setup::new(Mode::Tc) }.run();
        let few = [("net.ipv4.ip_local_port_range", "40000 40007"), ("net.ipv4.tcp_max_tw_buckets", "0")];
        stage.world.client.sysctl(&few).unwrap();
        for family in BOTH {
            let told = stage.sequence(listener(family), 2_000);
            eprintln!("{} {family:?}: {told}", forwarding.name());
            assert_eq!((&told["connections"], &told["failed"]), (&2_000.into(), &0.into()), "{told}");
            assert!(told["slowestMs"].as_u64() < Some(1_000), "{told}");
        }
    }
}
