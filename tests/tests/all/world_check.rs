//! The world itself, without the agent: plain routing works, traffic that breaks is reported as broken, and nothing
//! stays behind. Tests of the agent stand on this.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use meltemi_tests::poll;
use meltemi_tests::world::{Family, Gro, Offload, Options, World, helper_program};

/// 8 MiB: enough to show a stall that small requests hide.
const BULK: &str = "8388608";

fn routed(options: Options) -> World {
    let world = World::new(options).unwrap();
    world.forward_by_kernel().unwrap();
    world
}

fn echo_and_bulk(options: Options) {
    let world = routed(options);
    let before = world.checksum_errors().unwrap();
    for family in [Family::V4, Family::V6] {
        for (index, greeting) in ["one", "two"].into_iter().enumerate() {
            let to = world.backend_addr(index, family).to_string();
            let told = world.run_client(&["sequence", "--to", &to, "--count", "10"]).unwrap();
            assert_eq!((&told["greetings"][greeting], &told["failed"]), (&10.into(), &0.into()), "{told}");
            for direction in ["up", "down"] {
                let told = world.run_client(&["bulk", "--to", &to, "--bytes", BULK, "--direction", direction]).unwrap();
                assert_eq!(told["matches"], true, "{direction} {to}: {told}");
            }
        }
    }
    assert_eq!(world.checksum_errors().unwrap(), before);
}

#[test]
fn routing_with_offloads_as_created() {
    echo_and_bulk(Options { gro: Gro::AsCreated, ..Options::default() });
}

#[test]
fn routing_with_ends_offload_off() {
    echo_and_bulk(Options { offload: Offload::EndsOff, ..Options::default() });
}

#[test]
fn routing_with_balancer_offload_off_and_a_large_mtu() {
    echo_and_bulk(Options { offload: Offload::BalancerOff, mtu: 3000, ..Options::default() });
}

#[test]
fn without_a_router_nothing_arrives() {
    let world = World::new(Options::default()).unwrap();
    world.lb.sysctl(&[("net.ipv4.ip_forward", "0")]).unwrap();
    let to = world.backend_addr(0, Family::V4).to_string();
    let told = world.run_client(&["sequence", "--to", &to, "--count", "1", "--limit", "300"]).unwrap();
    assert_eq!((&told["connections"], &told["errors"]["timeout"]), (&0.into(), &1.into()), "{told}");
}

#[test]
fn a_thousand_connections_at_once() {
    let mut world = routed(Options::default());
    let to = world.backend_addr(1, Family::V4).to_string();
    let told = world.run_client(&["at-once", "--to", &to, "--count", "1000", "--ports", "reported"]).unwrap();
    assert_eq!(told["greetings"]["two"], 1000, "{told}");
    assert_eq!(told["ports"].as_object().unwrap().len(), 1000);
    let report = world.backends[1].report().unwrap();
    assert_eq!(report["accepted"], 1000);
    assert_eq!(report["clients"]["10.0.0.2"], 1000, "{report}");
}

#[test]
fn held_connections_live_and_their_end_is_noticed() {
    let mut world = routed(Options::default());
    let to = world.backend_addr(0, Family::V6);
    let mut held = world.hold(to, 20, Duration::from_millis(5)).unwrap();
    assert_eq!((&held.first["greetings"]["one"], &held.first["broken"]), (&20.into(), &0.into()));
    let limit = Duration::from_secs(10);
    poll::until(limit, "ten echoes of each", || {
        Ok((held.ask("report")?["fewestEchoes"].as_u64() >= Some(10)).then_some(()))
    })
    .unwrap();
    world.backends[0].stop().unwrap();
    poll::until(limit, "all to break", || Ok((held.ask("report")?["broken"] == 20).then_some(()))).unwrap();
    let refused = world.run_client(&["sequence", "--to", &to.to_string()]).unwrap();
    assert_eq!(refused["errors"]["refused"], 1, "{refused}");
    world.restart_backend(0).unwrap();
    assert_eq!(world.run_client(&["sequence", "--to", &to.to_string()]).unwrap()["connections"], 1);
    let last = held.stop().unwrap();
    assert_eq!((&last["broken"], &last["moved"]), (&20.into(), &0.into()), "{last}");
}

fn traces(id: &str) -> Vec<String> {
    let netns = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = netns.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut left: Vec<String> = names.filter(|name| name.starts_with(&format!("mlt-{id}-"))).collect();
    let dir = std::env::temp_dir().join(format!("mlt-{id}"));
    left.extend(Path::new(&dir).exists().then(|| dir.display().to_string()));
    left
}

#[test]
fn a_dropped_world_leaves_nothing() {
    let world = World::new(Options::default()).unwrap();
    let id = world.id().to_owned();
    assert_eq!(traces(&id).len(), 6, "five namespaces and a directory: {:?}", traces(&id));
    drop(world);
    assert_eq!(traces(&id), Vec::<String>::new());
}

#[test]
fn a_killed_maker_leaves_nothing() {
    let mut command = Command::new(helper_program().unwrap());
    let mut maker = command.arg("world-idle").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut id = String::new();
    BufReader::new(maker.stdout.take().unwrap()).read_line(&mut id).unwrap();
    let id = id.trim();
    assert!(!id.is_empty() && !traces(id).is_empty());
    maker.kill().unwrap();
    maker.wait().unwrap();
    poll::until(Duration::from_secs(10), "the janitor", || Ok(traces(id).is_empty().then_some(()))).unwrap();
}

#[test]
fn many_clients_come_from_as_many_addresses() {
    let mut world = routed(Options::default());
    world.many_clients(40).unwrap();
    let to = world.backend_addr(0, Family::V4).to_string();
    let told = world.run_client(&["sequence", "--to", &to, "--count", "80"]).unwrap();
    assert_eq!(told["connections"], 80, "{told}");
    let report = world.backends[0].report().unwrap();
    let clients = report["clients"].as_object().unwrap();
    assert_eq!(clients.len(), 40, "{report}");
    assert!(clients.values().all(|count| *count == 2), "{report}");
}
