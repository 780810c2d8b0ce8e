//! Changes of the configuration under traffic.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use meltemi_tests::agent::{Agent, Forwarding, Mode};
use meltemi_tests::example::Example;
use meltemi_tests::poll;
use meltemi_tests::world::{self, Family, World};

use super::{BOTH, SOON, Setup, assert_held, listener, p_value, wait_echoes};

/// A third backend, of version v2, in a file of its own.
const MORE: &str = "apiVersion: v1
kind: Pod
metadata:
  name: tcp-echo-v2-b
  namespace: default
  labels:
    app: tcp-echo
    version: v2
status:
  phase: Running
  podIP: 10.1.0.4
  conditions:
    - type: Ready
      status: \"True\"
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: tcp-echo-more
  namespace: default
  labels:
    kubernetes.io/service-name: tcp-echo
addressType: IPv4
ports:
  - name: tcp
    port: 9000
    protocol: TCP
endpoints:
  - addresses: [10.1.0.4]
    conditions:
      ready: true
    targetRef:
      kind: Pod
      name: tcp-echo-v2-b
      namespace: default
";

#[test]
fn a_weight_change_moves_and_breaks_nothing() {
    let mut stage = Setup::new(Mode::Tc).run();
    let mut held: Vec<_> = BOTH
        .into_iter()
        .map(|family| stage.world.hold(listener(family), 100, Duration::from_millis(50)).unwrap())
        .collect();
    let mut revision = stage.revision;
    for (one, two) in [(50, 50), (99, 1), (0, 7), (1, 3)] {
        stage.example.set_weights(&[one, two]).unwrap();
        revision = stage.agent.wait_applied(revision + 1).unwrap();
        for family in BOTH {
            stage.assert_shares(listener(family), 300, &[("one", one), ("two", two)]);
        }
        let rule = stage.agent.status().unwrap()["rules"][0].clone();
        let flows: u64 = (0..2).map(|at| rule["destinations"][at]["flows"].as_u64().unwrap()).sum();
        assert!(flows == 600 || flows == 900 || flows == 1200, "counts start anew with the weights: {rule}");
        assert_ne!(rule["verdict"], "skewed", "{rule}");
    }
    for held in &mut held {
        wait_echoes(held, 2);
    }
    for held in held {
        assert_eq!(assert_held(held)["connections"], 100);
    }
}

fn with_third(world: &mut World, example: &Example) {
    world.add_backend("three").unwrap();
    example.replace("more.yaml", MORE).unwrap();
}

#[test]
fn flows_of_a_removed_backend_go_on_by_default() {
    let mut stage = Setup::new(Mode::Tc).run_after(with_third);
    let mut held = stage.world.hold(listener(Family::V4), 100, Duration::from_millis(50)).unwrap();
    let third = held.first["greetings"]["three"].as_u64().unwrap();
    assert!((15..=65).contains(&third), "{}", held.first);
    fs::remove_file(stage.example.dir().join("more.yaml")).unwrap();
    stage.agent.wait_applied(stage.revision + 1).unwrap();
    let told = stage.sequence(listener(Family::V4), 200);
    assert_eq!((&told["failed"], told["greetings"].get("three")), (&0.into(), None), "{told}");
    // Two rounds of upkeep, in which the flow table is looked through.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(11) {
        wait_echoes(&mut held, 1);
    }
    assert_eq!(assert_held(held)["greetings"]["three"], third);
}

#[test]
fn flows_of_a_removed_backend_are_reset_on_request() {
    let mut setup = Setup::new(Mode::Tc);
    setup.more = vec!["--removed-backends".into(), "reset".into()];
    let mut stage = setup.run_after(with_third);
    let mut held = stage.world.hold(listener(Family::V4), 100, Duration::from_millis(50)).unwrap();
    let third = held.first["greetings"]["three"].as_u64().unwrap();
    assert!(third > 0, "{}", held.first);
    fs::remove_file(stage.example.dir().join("more.yaml")).unwrap();
    stage.agent.wait_applied(stage.revision + 1).unwrap();
    poll::until(SOON, "the removed backend's flows to end", || {
        Ok((held.ask("report")?["broken"].as_u64() >= Some(third)).then_some(()))
    })
    .unwrap();
    wait_echoes(&mut held, 20);
    let told = held.stop().unwrap();
    assert_eq!((&told["broken"], &told["errors"]["reset"]), (&third.into(), &third.into()), "only those: {told}");
    assert_eq!(told["moved"], 0, "{told}");
    assert!(stage.agent.counter("reject.ended").unwrap() >= third);
}

/// Which clients each greeting has met, by the servers' own books.
fn clients_of(world: &mut World, greetings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for backend in world.backends.iter_mut().filter(|backend| greetings.contains(&backend.greeting.as_str())) {
        found.extend(backend.report().unwrap()["clients"].as_object().unwrap().keys().cloned());
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn scaling_a_subset_moves_no_client_between_versions() {
    let setup = Setup { example: "source-ip", forwarding: Forwarding::Dnat, ..Setup::new(Mode::Tc) };
    let mut stage = setup.run_after(|world, _| {
        world.many_clients(200).unwrap();
        // None of these clients has asked for the balancer's link address, so its host must ask for theirs.
        world.forward_by_kernel().unwrap();
    });
    let told = stage.sequence(listener(Family::V4), 400);
    assert_eq!(told["failed"], 0, "{told}");
    let p = p_value(&told["greetings"], &[("one", 20), ("two", 80)]);
    assert!(p > 1e-6, "a client met two versions, or the shares are wrong: {told}");
    let (ones, twos) = (clients_of(&mut stage.world, &["one"]), clients_of(&mut stage.world, &["two"]));
    assert_eq!(ones.len() + twos.len(), 200, "every client meets one version only: {ones:?} {twos:?}");
    stage.world.add_backend("three").unwrap();
    stage.example.replace("more.yaml", MORE).unwrap();
    stage.agent.wait_applied(stage.revision + 1).unwrap();
    let told = stage.sequence(listener(Family::V4), 400);
    assert_eq!(told["failed"], 0, "{told}");
    assert!(told["greetings"]["three"].as_u64() > Some(0), "{told}");
    assert_eq!(clients_of(&mut stage.world, &["one"]), ones);
    assert_eq!(clients_of(&mut stage.world, &["two", "three"]), twos);
}

#[test]
fn a_broken_file_leaves_the_last_good_in_force() {
    let mut stage = Setup::new(Mode::Tc).run();
    let good = stage.example.read("virtual-service.yaml").unwrap();
    stage.example.replace("virtual-service.yaml", &good.replace("weight: 20", "weight: [20")).unwrap();
    stage.agent.wait_log(SOON, "virtual-service.yaml:").unwrap();
    let log = stage.agent.log();
    let line = log.lines().find(|line| line.contains("virtual-service.yaml:")).unwrap();
    let place = line.split("virtual-service.yaml:").nth(1).unwrap();
    assert!(place.split(':').next().unwrap().parse::<u32>().is_ok_and(|line| line >= 20), "a line number in: {line}");
    stage.assert_shares(listener(Family::V4), 300, &[("one", 20), ("two", 80)]);
    assert_eq!(stage.agent.status().unwrap()["revision"], stage.revision);
    stage.example.replace("virtual-service.yaml", &good.replace("weight: 20", "weight: 80")).unwrap();
    stage.agent.wait_applied(stage.revision + 1).unwrap();
    stage.assert_shares(listener(Family::V4), 300, &[("one", 80), ("two", 80)]);
}

/// A kubelet writes a new directory and swaps the link `..data`; the files in sight are links through it.
#[test]
fn a_configmap_swap_takes_effect() {
    let world = World::new(world::Options::default()).unwrap();
    let source = Example::copy("tcp-echo", &world.dir()).unwrap();
    let mount = world.dir().join("mounted");
    fs::create_dir(&mount).unwrap();
    let write = |version: &str, change: &dyn Fn(String) -> String| {
        let dir = mount.join(version);
        fs::create_dir(&dir).unwrap();
        for name in source.files().unwrap() {
            fs::write(dir.join(&name), change(source.read(&name).unwrap())).unwrap();
        }
        symlink(version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    write("..2026_1", &|text| text);
    for name in source.files().unwrap() {
        symlink(format!("..data/{name}"), mount.join(&name)).unwrap();
    }
    let mut options = meltemi_tests::agent::Options::new(&mount);
    options.mode = Mode::Tc;
    let mut agent = Agent::start(&world, &options).unwrap();
    let revision = agent.wait_ready().unwrap();
    write("..2026_2", &|text| text.replace("weight: 80", "weight: 0"));
    fs::remove_dir_all(mount.join("..2026_1")).unwrap();
    agent.wait_applied(revision + 1).unwrap();
    let told = world.run_client(&["sequence", "--to", &listener(Family::V4).to_string(), "--count", "100"]).unwrap();
    assert_eq!((&told["greetings"]["one"], &told["failed"]), (&100.into(), &0.into()), "{told}");
}

#[test]
fn a_broken_destination_keeps_its_share_and_answers_reset() {
    // In native XDP on veth an answer must not leave by XDP_TX: nobody would wake the far end up for it.
    for mode in [Mode::Tc, Mode::Xdp, Mode::XdpGeneric] {
        broken(mode);
    }
}

fn broken(mode: Mode) {
    let stage = Setup { example: "rejected-share", ..Setup::new(mode) }.run();
    for family in BOTH {
        for last in [false, true] {
            let told = stage.sequence(listener(family), 500);
            let (greeted, refused) = (told["greetings"]["one"].as_u64().unwrap(), told["errors"]["refused"].as_u64());
            assert_eq!(greeted + refused.unwrap(), 500, "answered or refused, nothing else: {told}");
            assert!(told["slowestMs"].as_u64() < Some(1_000), "refused at once: {told}");
            let greetings = serde_json::json!({ "one": greeted, "refused": refused });
            if p_value(&greetings, &[("one", 80), ("refused", 20)]) >= super::LEAST_P {
                break;
            }
            assert!(!last, "{told}");
        }
    }
    assert!(stage.agent.counter("reject.broken-destination").unwrap() >= 150);
}
