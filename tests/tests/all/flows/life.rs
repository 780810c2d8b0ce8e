//! The agent's life under traffic: killed, started again, replaced, stopped, detached.

use std::fs;
use std::time::Duration;

use meltemi_tests::agent::{self, Agent, Mode, Signal};
use meltemi_tests::world::{CLIENT_SIDE, Family};

use super::{BOTH, Setup, Stage, assert_held, assert_unharmed, listener, wait_connections, wait_echoes};

const PACE: Duration = Duration::from_millis(20);

/// Runs `story` under held connections of both families and new ones all the time; nothing may break.
fn under_traffic(stage: &mut Stage, story: impl FnOnce(&mut Stage, &mut dyn FnMut())) {
    let mut held: Vec<_> =
        BOTH.into_iter().map(|family| stage.world.hold(listener(family), 50, PACE).unwrap()).collect();
    let mut churn: Vec<_> =
        BOTH.into_iter().map(|family| stage.world.churn(listener(family), Duration::from_millis(1)).unwrap()).collect();
    let mut go_on = || {
        churn.iter_mut().for_each(|churn| wait_connections(churn, 100));
        held.iter_mut().for_each(|held| wait_echoes(held, 5));
    };
    go_on();
    story(stage, &mut go_on);
    go_on();
    for held in held {
        assert_held(held);
    }
    for churn in churn {
        let told = assert_unharmed(churn);
        assert!(told["connections"].as_u64() >= Some(200), "{told}");
    }
}

/// Flows of each destination since the weights last changed.
fn flows_of(stage: &Stage) -> Vec<u64> {
    let status = stage.agent.status().unwrap();
    let destinations = status["rules"][0]["destinations"].as_array().unwrap();
    destinations.iter().map(|one| one["flows"].as_u64().unwrap()).collect()
}

fn killed(mode: Mode) {
    let mut stage = Setup::new(mode).run();
    under_traffic(&mut stage, |stage, go_on| {
        let counted = flows_of(stage);
        stage.agent.signal(Signal::Kill).unwrap();
        stage.agent.wait_exit().unwrap();
        go_on();
        go_on();
        let before = stage.revision;
        let revision = stage.start_again();
        assert!(revision >= before, "revisions go on: {revision} after {before}");
        go_on();
        let after = flows_of(stage);
        assert!(
            after.iter().zip(&counted).all(|(after, before)| after > before),
            "shares continue: {after:?} after {counted:?}"
        );
    });
    stage.assert_shares(listener(Family::V4), 300, &[("one", 20), ("two", 80)]);
}

#[test]
fn a_killed_agent_is_not_missed_in_tc() {
    killed(Mode::Tc);
}

#[test]
fn a_killed_agent_is_not_missed_in_xdp() {
    killed(Mode::Xdp);
}

#[test]
fn a_killed_agent_is_not_missed_in_generic_xdp() {
    killed(Mode::XdpGeneric);
}

#[test]
fn an_upgrade_breaks_nothing() {
    let mut stage = Setup::new(Mode::Tc).run();
    let copy = stage.world.dir().join("meltemi-new");
    fs::copy(agent::program().unwrap(), &copy).unwrap();
    under_traffic(&mut stage, |stage, go_on| {
        stage.agent.signal(Signal::Terminate).unwrap();
        assert!(stage.agent.wait_exit().unwrap().success());
        go_on();
        stage.agent = Agent::start_program(&stage.world, &stage.options, &copy).unwrap();
        assert!(stage.agent.wait_ready().unwrap() >= stage.revision);
    });
}

#[test]
fn ten_restarts_break_nothing() {
    let mut stage = Setup::new(Mode::Tc).run();
    under_traffic(&mut stage, |stage, go_on| {
        let mut last = stage.revision;
        for round in 0..10 {
            stage.agent.signal(if round % 2 == 0 { Signal::Kill } else { Signal::Terminate }).unwrap();
            stage.agent.wait_exit().unwrap();
            let revision = stage.start_again();
            assert!(revision >= last, "{revision} after {last}");
            last = revision;
        }
        go_on();
    });
}

/// What is on the interface, as `ip` tells.
fn xdp_programs(stage: &Stage) -> usize {
    let links = stage.world.lb.output("ip", &["-d", "link", "show"]).unwrap();
    links.lines().filter(|line| line.contains("prog/xdp")).count()
}

/// The switches that lookups by the data path need.
fn switches(stage: &Stage) -> Vec<String> {
    ["ipv4", "ipv6"]
        .map(|family| {
            let path = format!("/proc/sys/net/{family}/conf/lo/forwarding");
            stage.world.lb.output("cat", &[&path]).unwrap().trim().to_owned()
        })
        .to_vec()
}

fn assert_gone(stage: &Stage) {
    assert!(!stage.world.pin_dir().exists(), "pins are left");
    assert_eq!(xdp_programs(stage), 0);
    assert_eq!(switches(stage), ["0", "0"]);
    for family in BOTH {
        let told = stage.sequence(listener(family), 5);
        assert_eq!(told["errors"]["refused"], 5, "the host answers again by itself: {told}");
    }
}

fn stops(mode: Mode) {
    let mut stage = Setup::new(mode).run();
    assert_eq!(xdp_programs(&stage), if mode == Mode::Tc { 0 } else { 2 });
    let held = stage.world.hold(listener(Family::V6), 20, PACE).unwrap();
    stage.agent.signal(Signal::Terminate).unwrap();
    assert!(stage.agent.wait_exit().unwrap().success());
    stage.assert_shares(listener(Family::V4), 100, &[("one", 20), ("two", 80)]);
    assert_held(held);
    assert_eq!(switches(&stage), ["1", "1"], "the data plane needs them");
    let told = stage.agent.detach().unwrap();
    assert!(told.contains(CLIENT_SIDE), "{told}");
    assert_gone(&stage);
    assert!(stage.agent.detach().is_ok(), "a second time is no error");
}

#[test]
fn sigterm_leaves_and_detach_removes_in_tc() {
    stops(Mode::Tc);
}

#[test]
fn sigterm_leaves_and_detach_removes_in_xdp() {
    stops(Mode::Xdp);
}

#[test]
fn detach_on_exit_removes() {
    let mut setup = Setup::new(Mode::Tc);
    setup.more = vec!["--detach-on-exit".into()];
    let mut stage = setup.run();
    stage.assert_shares(listener(Family::V4), 50, &[("one", 20), ("two", 80)]);
    stage.agent.signal(Signal::Interrupt).unwrap();
    assert!(stage.agent.wait_exit().unwrap().success());
    assert_gone(&stage);
}
