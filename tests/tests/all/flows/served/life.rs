//! The two processes' lives with requests under way, and what is left of them at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use meltemi_tests::agent::{Mode, Signal};
use meltemi_tests::poll;
use meltemi_tests::world::Family;

use super::{HTTP, SOON, Shop, assert_unharmed, door, go_on};

fn kill(pid: u64) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

/// One that has ended may stay in the list until somebody asks for its status.
fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Answered within this after its proxy was killed, with the tries of a client that does not wait.
const BACK: Duration = Duration::from_secs(1);

#[test]
fn a_killed_proxy_is_back_within_a_second() {
    for mode in [Mode::Tc, Mode::Xdp] {
        let shop = Shop::open(mode);
        let to = door(Family::V4, HTTP);
        for round in 1..=2 {
            let pid = shop.proxy_pid();
            kill(pid);
            let began = Instant::now();
            poll::until(SOON, "an answer of the next proxy", || {
                let told = shop.one(to, "any.example", "/shop", &["--limit", "1000"]);
                Ok((told["status"] == 200).then_some(()))
            })
            .unwrap();
            let took = began.elapsed();
            eprintln!("{}: answered again after {took:?}", mode.name());
            assert!(took < BACK, "{} round {round}: {took:?}", mode.name());
            poll::until(SOON, "the next proxy's number", || {
                let proxy = shop.stage.agent.status()?["proxy"].clone();
                Ok((proxy["restarts"] == round && proxy["pid"].as_u64().is_some_and(|now| now != pid)).then_some(()))
            })
            .unwrap();
        }
    }
}

fn killed(mode: Mode) {
    let mut shop = Shop::open(mode);
    let mut steady = shop.steadily();
    go_on(&mut steady, 50);
    let pid = shop.proxy_pid();
    for signal in [Signal::Kill, Signal::Terminate] {
        shop.stage.agent.signal(signal).unwrap();
        shop.stage.agent.wait_exit().unwrap();
        assert!(lives(pid), "the proxy outlives its agent");
        go_on(&mut steady, 50);
        shop.stage.start_again();
        assert_eq!(shop.proxy_pid(), pid, "the agent takes over the proxy that is there");
        go_on(&mut steady, 50);
    }
    assert_unharmed(steady);
}

#[test]
fn a_killed_agent_fails_no_request_in_tc() {
    killed(Mode::Tc);
}

#[test]
fn a_killed_agent_fails_no_request_in_xdp() {
    killed(Mode::Xdp);
}

/// The host as it was before the agent was started.
fn assert_nothing_left(shop: &Shop, pid: u64) {
    let world = &shop.stage.world;
    poll::until(SOON, "the proxy's end", || Ok((!lives(pid)).then_some(()))).unwrap();
    assert!(!world.run_dir().exists(), "{} is left", world.run_dir().display());
    assert!(!world.pin_dir().exists(), "pins are left");
    assert_eq!(local_routes(shop), "");
    let sockets = world.lb.output("ss", &["-Hltn"]).unwrap();
    assert_eq!(sockets.trim(), "", "sockets are left");
    let told = shop.many(door(Family::V4, HTTP), "any.example", "/shop", 5, &[]);
    assert_eq!(told["failed"], 5, "the host answers by itself again: {told}");
}

fn local_routes(shop: &Shop) -> String {
    let list =
        |family| shop.stage.world.lb.output("ip", &[family, "route", "show", "table", "local", "proto", "77"]).unwrap();
    list("-4") + &list("-6")
}

fn ends(mode: Mode) {
    let mut shop = Shop::open(mode);
    let routes = local_routes(&shop);
    assert!(routes.contains("10.96.0.10") && routes.contains("fd96::10"), "{routes}");
    let pid = shop.proxy_pid();
    shop.stage.agent.signal(Signal::Terminate).unwrap();
    assert!(shop.stage.agent.wait_exit().unwrap().success());
    let told = shop.many(door(Family::V4, HTTP), "any.example", "/shop", 20, &[]);
    assert_eq!(told["statuses"]["200"], 20, "SIGTERM leaves everything in force: {told}");
    let told = shop.stage.agent.detach().unwrap();
    assert!(told.contains("ended the proxy"), "{told}");
    assert_nothing_left(&shop, pid);
    assert!(shop.stage.agent.detach().is_ok(), "a second time is no error");
}

#[test]
fn detach_ends_the_proxy_in_tc() {
    ends(Mode::Tc);
}

#[test]
fn detach_ends_the_proxy_in_xdp() {
    ends(Mode::Xdp);
}

#[test]
fn detach_on_exit_ends_the_proxy() {
    let mut shop = Shop::open_with(Mode::Tc, &["--detach-on-exit"]);
    let pid = shop.proxy_pid();
    shop.stage.agent.signal(Signal::Terminate).unwrap();
    assert!(shop.stage.agent.wait_exit().unwrap().success());
    assert_nothing_left(&shop, pid);
}

/// What needed the proxy is configured no more: the last listener goes, its routes with it.
#[test]
fn routes_go_with_what_needed_them() {
    let mut shop = Shop::open(Mode::Tc);
    shop.stage.example.edit("web.yaml", |text| text.replace("hosts: [web]", "hosts: [elsewhere.example]")).unwrap();
    shop.stage.agent.wait_applied(shop.stage.revision + 1).unwrap();
    poll::until(SOON, "the end of the local routes", || Ok(local_routes(&shop).is_empty().then_some(()))).unwrap();
    let told = shop.many(door(Family::V4, HTTP), "any.example", "/shop", 5, &[]);
    assert_eq!(told["statuses"]["200"], 5, "{told}");
}
