//! Starts that must fail: a plain message, the right exit status, nothing half attached.

use std::fs;

use aya::maps::{Array, Map, MapData};
use lb_common::table::LAYOUT;
use meltemi::dataplane::kernel::Meta;
use meltemi_tests::agent::{Agent, Mode, Options, Signal};
use meltemi_tests::world::{CLIENT_SIDE, Family, World};

use super::{Setup, Stage, listener};

/// Starts an agent that ends with `status` and says all of `words` in one line without a Rust backtrace.
fn assert_refused(world: &World, options: &Options, status: i32, words: &[&str]) {
    let mut agent = Agent::start(world, options).unwrap();
    let ended = agent.wait_exit().unwrap();
    let log = agent.log();
    assert_eq!(ended.code(), Some(status), "{log}");
    let said = log.lines().rev().find(|line| line.starts_with("meltemi: ")).unwrap_or_else(|| panic!("{log}"));
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert!(!log.contains("panicked") && !log.contains("ready revision="), "{log}");
}

fn other(stage: &Stage, mode: Mode) -> Options {
    let mut options = stage.options.clone();
    options.mode = mode;
    options.admin = "127.0.0.1:15015".into();
    options.pin = Some(format!("{}-other", stage.world.pin_dir().display()).into());
    options
}

/// Removes a second agent's pins, also when the test fails.
struct Unpin(std::path::PathBuf);

impl Drop for Unpin {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_second_agent_on_one_pin_directory() {
    let stage = Setup::new(Mode::Tc).run();
    let mut options = other(&stage, Mode::Tc);
    options.pin = None;
    assert_refused(&stage.world, &options, 3, &["another agent"]);
    stage.assert_shares(listener(Family::V4), 50, &[("one", 20), ("two", 80)]);
}

#[test]
fn an_interface_that_does_not_exist() {
    let stage = Setup::new(Mode::Tc).run();
    let mut options = other(&stage, Mode::Tc);
    let unpin = Unpin(options.pin.clone().unwrap());
    options.interfaces.push("nope0".into());
    assert_refused(&stage.world, &options, 2, &["nope0", "does not exist"]);
    assert!(!unpin.0.join("links").exists() || fs::read_dir(unpin.0.join("links")).unwrap().count() == 0);
}

/// To the second agent the first one's program is a stranger's.
fn stranger(mode: Mode) {
    let stage = Setup::new(mode).run();
    let programs = || stage.world.lb.output("ip", &["-d", "link", "show", CLIENT_SIDE]).unwrap();
    let id = |text: &str| text.split("prog/xdp id ").nth(1).map(|rest| rest.split(' ').next().unwrap().to_owned());
    let before = id(&programs());
    assert!(before.is_some(), "{}", programs());
    let options = other(&stage, mode);
    let unpin = Unpin(options.pin.clone().unwrap());
    assert_refused(&stage.world, &options, 3, &["already has another XDP program", "0"]);
    assert_eq!(fs::read_dir(unpin.0.join("links")).map_or(0, Iterator::count), 0, "nothing half attached");
    assert_eq!(id(&programs()), before, "the stranger's program is still there");
    stage.assert_shares(listener(Family::V4), 50, &[("one", 20), ("two", 80)]);
}

#[test]
fn a_strangers_native_xdp_program() {
    stranger(Mode::Xdp);
}

#[test]
fn a_strangers_generic_xdp_program() {
    stranger(Mode::XdpGeneric);
}

/// What an agent of another version left: it must not be touched, and traffic goes on.
#[test]
fn tables_of_another_layout() {
    let mut stage = Setup::new(Mode::Tc).run();
    stage.agent.signal(Signal::Terminate).unwrap();
    stage.agent.wait_exit().unwrap();
    let pinned = || {
        let mut names: Vec<_> = ["maps", "links", "programs"]
            .iter()
            .flat_map(|kind| fs::read_dir(stage.world.pin_dir().join(kind)).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        names
    };
    let before = pinned();
    let put = |layout: u64| {
        let map = Map::Array(MapData::from_pin(stage.world.pin_dir().join("maps/META")).unwrap());
        let mut meta: Array<MapData, u64> = map.try_into().unwrap();
        meta.set(Meta::Layout as u32, layout, 0).unwrap();
    };
    put(u64::from(LAYOUT) + 1);
    let other = format!("layout {}", LAYOUT + 1);
    assert_refused(&stage.world, &stage.options, 3, &[&other, "meltemi detach"]);
    assert_eq!(pinned(), before, "nothing was made or removed");
    stage.assert_shares(listener(Family::V4), 50, &[("one", 20), ("two", 80)]);
    // What the message says helps.
    stage.agent.detach().unwrap();
    stage.start_again();
    stage.assert_shares(listener(Family::V4), 50, &[("one", 20), ("two", 80)]);
}

#[test]
fn without_capabilities() {
    let stage = Setup::new(Mode::Tc).run();
    let mut options = other(&stage, Mode::Tc);
    let _unpin = Unpin(options.pin.clone().unwrap());
    let words = "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all --no-new-privs";
    options.through = words.split(' ').map(str::to_owned).collect();
    assert_refused(&stage.world, &options, 3, &["root", "CAP_BPF"]);
    stage.assert_shares(listener(Family::V4), 50, &[("one", 20), ("two", 80)]);
}
