//! `explain` against `explain --live`: the configuration's answer and the running program's, for flows of all kinds.

use std::net::{IpAddr, SocketAddr};

use meltemi_tests::agent::{Forwarding, Mode};
use meltemi_tests::world::Family;
use serde_json::Value;

use super::{PORT, Setup, Stage, listener};

/// Clients that differ in address and port, from a fixed seed (constants of Numerical Recipes).
fn clients(family: Family, count: u32) -> impl Iterator<Item = SocketAddr> {
    let mut state = 42u32;
    (0..count).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (host, port) = ((state >> 24) as u8 | 2, (state >> 8) as u16 | 1_024);
        let address = match family {
            Family::V4 => IpAddr::from([10, 0, 0, host]),
            Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host.into()]),
        };
        SocketAddr::new(address, port)
    })
}

impl Stage {
    fn explain(&self, from: SocketAddr, to: SocketAddr, live: &[&str]) -> Value {
        let (config, pin) = (self.options.config.display().to_string(), self.world.pin_dir().display().to_string());
        let (from, to) = (from.to_string(), to.to_string());
        let mut args = vec!["explain", &config, "--from", &from, "--to", &to, "--pin", &pin, "-o", "json"];
        args.extend(live);
        serde_json::from_str(&self.agent.command(&args).unwrap()).unwrap()
    }
}

fn agree(mode: Mode, example: &'static str, forwarding: Forwarding) {
    let stage = Setup { example, forwarding, ..Setup::new(mode) }.run();
    for family in [Family::V4, Family::V6] {
        let mut verdicts = std::collections::BTreeMap::new();
        let ours = listener(family);
        for (number, from) in clients(family, 24).enumerate() {
            // Some to a port that is no listener's.
            let to = SocketAddr::new(ours.ip(), if number % 8 == 7 { PORT + 1 } else { PORT });
            let told = stage.explain(from, to, &["--live"]);
            let live = &told["live"];
            let what = format!("{} {example} {from} to {to}: {told}", mode.name());
            assert_eq!((&live["agrees"], &live["mode"]), (&true.into(), &mode.name().into()), "{what}");
            assert_eq!(live["verdict"], told["verdict"], "{what}");
            assert_eq!(live["backend"], told["chosen"]["backend"], "{what}");
            *verdicts.entry(told["verdict"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        assert_eq!(verdicts["pass"], 3, "{verdicts:?}");
        assert!(verdicts["forward"] >= 10, "{verdicts:?}");
        // What was asked about left nothing behind.
        assert!(stage.sequence(ours, 10)["connections"].as_u64() > Some(0));
    }
    assert_eq!(
        stage
            .agent
            .command(&["flows", "-o", "json"])
            .unwrap()
            .lines()
            .filter(|line| line.contains("established"))
            .count(),
        0
    );
}

#[test]
fn explain_and_the_running_program_agree() {
    for mode in [Mode::Tc, Mode::Xdp, Mode::XdpGeneric] {
        agree(mode, "tcp-echo", Forwarding::Snat);
    }
    agree(Mode::Tc, "rejected-share", Forwarding::Dnat);
    agree(Mode::Xdp, "source-ip", Forwarding::Dnat);
}
