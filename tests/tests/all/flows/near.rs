//! Clients where one does not expect them: a backend that calls its own service. And whether every packet is accounted for.

use std::time::Duration;

use meltemi_tests::agent::{Forwarding, Mode};
use meltemi_tests::poll;
use meltemi_tests::world::{BACK_SIDE, CLIENT_SIDE, helper_program};
use serde_json::Value;

use super::{BOTH, SOON, Setup, Stage, listener};

/// A backend connects to the service that it is itself part of, and gets itself or its neighbour. Either would answer a kept
/// address without passing the balancer.
#[test]
fn a_backend_reaches_its_own_service() {
    let program = helper_program().unwrap();
    for (mode, forwarding) in
        [(Mode::Tc, Forwarding::Auto), (Mode::Xdp, Forwarding::Dnat), (Mode::Tc, Forwarding::Snat)]
    {
        let stage = Setup { forwarding, ..Setup::new(mode) }.run();
        for family in BOTH {
            let to = listener(family).to_string();
            let args = ["world-client", "sequence", "--to", &to, "--count", "60", "--limit", "2000"];
            let text = stage.world.backends[0].netns.output(program.to_str().unwrap(), &args).unwrap();
            let told: Value = serde_json::from_str(text.trim()).unwrap();
            let what = format!("{} {} {family:?}: {told}", mode.name(), forwarding.name());
            assert_eq!((&told["failed"], &told["connections"]), (&0.into(), &60.into()), "{what}");
            assert!(told["slowestMs"].as_u64() < Some(1_000), "{what}");
            assert!(["one", "two"].iter().all(|name| told["greetings"][name].as_u64() > Some(0)), "{what}");
        }
    }
}

impl Stage {
    /// Frames that native XDP programs of the balancer host were run on.
    fn frames(&self) -> u64 {
        let count = |device: &str| -> u64 {
            let text = self.world.lb.output("ethtool", &["-S", device]).unwrap();
            let lines = text.lines().filter(|line| line.contains("rx_queue_") && line.contains("_xdp_packets:"));
            lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        count(CLIENT_SIDE) + count(BACK_SIDE)
    }

    fn counted(&self) -> u64 {
        let status = self.agent.status().unwrap();
        status["counters"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
    }
}

/// What went in is what the reasons add up to: nothing is lost in silence, nothing counted twice.
#[test]
fn every_packet_ends_in_exactly_one_reason() {
    let stage = Setup { example: "rejected-share", ..Setup::new(Mode::Xdp) }.run();
    let missing = || stage.frames() as i64 - stage.counted() as i64;
    // Frames of the time before the program was there.
    let early = missing();
    for family in BOTH {
        stage.sequence(listener(family), 200);
        stage.bulk(listener(family), 1 << 20, "up");
        let unused = std::net::SocketAddr::new(listener(family).ip(), 9);
        stage.sequence(unused, 10);
    }
    let held = stage.world.hold(listener(BOTH[0]), 5, Duration::from_millis(10)).unwrap();
    drop(held);
    // A frame may come between the two counts, but not every time.
    poll::until(SOON, "reasons that add up to the frames", || Ok((missing() == early).then_some(()))).unwrap();
}
