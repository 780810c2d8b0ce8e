//! Every mode with every family, forwarding and checksum offload: short connections, shares, bulk both ways, checksums.

use meltemi_tests::agent::{Forwarding, Mode};
use meltemi_tests::world::{self, CLIENT_V4, Offload};

use super::{BOTH, Setup, listener};

const MIB: u64 = 1 << 20;

fn one(mode: Mode, forwarding: Forwarding, offload: Offload, bulk: u64) {
    let name = format!("{} {} {offload:?}", mode.name(), forwarding.name());
    let world = world::Options { offload, ..world::Options::default() };
    let mut stage = Setup { forwarding, world, ..Setup::new(mode) }.run();
    let before = stage.world.checksum_errors().unwrap();
    for family in BOTH {
        stage.assert_shares(listener(family), 100, &[("one", 20), ("two", 80)]);
        for direction in ["up", "down"] {
            let told = stage.bulk(listener(family), bulk, direction);
            assert_eq!(told["matches"], true, "{name} {family:?} {direction}: {told}");
            eprintln!("{name} {family:?} {direction}: {:.2} Gbit/s", told["gbitPerSecond"].as_f64().unwrap());
        }
    }
    assert_eq!(stage.world.checksum_errors().unwrap() - before, 0, "{name}: wrong checksums arrived");
    let clients = stage.world.backends[1].report().unwrap()["clients"].clone();
    let kept = clients.as_object().unwrap().contains_key(&CLIENT_V4.to_string());
    assert_eq!(kept, forwarding == Forwarding::Dnat, "{name}: backends saw {clients}");
    let status = stage.agent.status().unwrap();
    for interface in status["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mode"], mode.name(), "{status}");
    }
    for (reason, count) in status["counters"].as_object().unwrap() {
        assert!(!reason.starts_with("drop.") || reason == "drop.reset", "{name}: {reason} {count}");
        assert!(!reason.starts_with("reject.") || reason == "reject.no-flow", "{name}: {reason} {count}");
    }
}

fn all(mode: Mode, offloads: &[(Offload, u64)]) {
    for forwarding in [Forwarding::Snat, Forwarding::Dnat] {
        for (offload, bulk) in offloads {
            one(mode, forwarding, *offload, *bulk);
        }
    }
}

#[test]
fn tc_carries_every_combination() {
    all(Mode::Tc, &[(Offload::AsCreated, 8 * MIB), (Offload::BalancerOff, 8 * MIB)]);
}

/// The program completes what a veth's sender left undone.
#[test]
fn xdp_carries_every_combination() {
    all(Mode::Xdp, &[(Offload::AsCreated, 8 * MIB), (Offload::EndsOff, 8 * MIB)]);
}

#[test]
fn generic_xdp_carries_every_combination() {
    all(Mode::XdpGeneric, &[(Offload::EndsOff, 8 * MIB)]);
}

/// Generic XDP drops what the sender has not cut into packets, so bulk from a host with offload is slow by nature; it
/// must arrive all the same.
#[test]
fn generic_xdp_carries_bulk_of_hosts_with_offload() {
    all(Mode::XdpGeneric, &[(Offload::AsCreated, 64 * 1024)]);
}

/// Large frames whose checksum the senders leave undone, in several buffers of native XDP.
#[test]
fn large_frames_with_offload_on_are_completed() {
    for mode in [Mode::Xdp, Mode::Tc] {
        let world = world::Options { mtu: 9000, ..world::Options::default() };
        let stage = Setup { world, forwarding: Forwarding::Snat, ..Setup::new(mode) }.run();
        let before = stage.world.checksum_errors().unwrap();
        for family in BOTH {
            for direction in ["up", "down"] {
                let told = stage.bulk(listener(family), 16 * MIB, direction);
                assert_eq!(told["matches"], true, "{} {family:?} {direction}: {told}", mode.name());
                eprintln!(
                    "{} {family:?} {direction}: {:.2} Gbit/s",
                    mode.name(),
                    told["gbitPerSecond"].as_f64().unwrap()
                );
            }
        }
        assert_eq!(stage.world.checksum_errors().unwrap() - before, 0, "{}: wrong checksums arrived", mode.name());
    }
}

fn large(mode: Mode, offload: Offload, bytes: u64) {
    let world = world::Options { offload, ..world::Options::default() };
    let stage = Setup { world, ..Setup::new(mode) }.run();
    for (family, direction) in BOTH.into_iter().zip(["up", "down"]).chain(BOTH.into_iter().zip(["down", "up"])) {
        let told = stage.bulk(listener(family), bytes, direction);
        assert_eq!((&told["matches"], &told["bytes"]), (&true.into(), &bytes.into()), "{family:?} {direction}: {told}");
        eprintln!("{} {family:?} {direction}: {told}", mode.name());
    }
}

#[test]
fn a_gib_each_way_in_tc() {
    large(Mode::Tc, Offload::AsCreated, 1 << 30);
}

/// Veth makes no large packets where a native program is attached, so each byte costs more.
#[test]
fn a_gib_each_way_in_native_xdp() {
    large(Mode::Xdp, Offload::AsCreated, 1 << 30);
}

#[test]
fn a_gib_each_way_in_generic_xdp() {
    large(Mode::XdpGeneric, Offload::EndsOff, 1 << 30);
}
