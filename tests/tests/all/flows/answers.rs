//! What the agent tells, what it costs, and traffic to a Service's own address.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use meltemi_tests::agent::{ADMIN, Mode};
use meltemi_tests::poll;
use meltemi_tests::world::{Family, LB_V4, helper_program};
use serde_json::Value;

use super::{BOTH, SOON, Setup, Stage, listener};

impl Stage {
    fn http(&self, method: &str, path: &str) -> (u64, String) {
        let program = helper_program().unwrap();
        let text = self.world.lb.output(program.to_str().unwrap(), &["world-http", method, ADMIN, path]).unwrap();
        let told: Value = serde_json::from_str(text.trim()).unwrap();
        (told["status"].as_u64().unwrap(), told["body"].as_str().unwrap().to_owned())
    }
}

fn assert_keys(value: &Value, keys: &str) {
    for key in keys.split(' ') {
        assert!(value.get(key).is_some(), "no {key} in {value}");
    }
}

#[test]
fn status_flows_and_metrics_hold_to_the_contract() {
    let stage = Setup::new(Mode::Tc).run();
    let held = stage.world.hold(listener(Family::V4), 10, Duration::from_millis(50)).unwrap();
    for family in BOTH {
        stage.assert_shares(listener(family), 100, &[("one", 20), ("two", 80)]);
    }
    let status = poll::until(SOON, "the sweep to count live flows", || {
        let status = stage.agent.status()?;
        Ok((status["flows"]["live"] == 10).then_some(status))
    })
    .unwrap();
    assert_keys(&status, "revision version stale interfaces rules flows counters");
    assert_keys(&status["interfaces"][0], "name mode program");
    let rule = &status["rules"][0];
    assert_keys(rule, "rule listener virtualService verdict pValue destinations");
    assert_eq!((&rule["virtualService"], &rule["verdict"]), (&"default/tcp-echo".into(), &"ok".into()), "{rule}");
    let destinations = rule["destinations"].as_array().unwrap();
    let sum = |key: &str| destinations.iter().filter_map(|one| one[key].as_u64()).sum::<u64>();
    assert!(sum("flows") >= 210 && sum("flows") % 100 == 10, "{rule}");
    for destination in destinations {
        assert_keys(destination, "host subset weight share observed flows backends");
        let backends = destination["backends"].as_array().unwrap();
        assert_eq!(backends.len(), 2, "one address a family: {destination}");
        for backend in backends {
            assert_keys(backend, "address state flows live bytesIn bytesOut");
        }
        let flows: u64 = backends.iter().filter_map(|one| one["flows"].as_u64()).sum();
        assert_eq!(destination["flows"], flows, "{destination}");
    }
    assert_eq!(status["flows"]["max"], 262_144);
    assert!(status["counters"].as_object().unwrap().values().all(|count| count.as_u64() > Some(0)));
    flows(&stage);
    metrics(&stage, sum("flows"));
    super::assert_held(held);
}

fn flows(stage: &Stage) {
    let text = stage.agent.command(&["flows", "-o", "json"]).unwrap();
    let flows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let live = flows.iter().filter(|flow| flow["state"] == "established").count();
    assert_eq!(live, 10, "{text}");
    for flow in &flows {
        for key in ["client", "vip", "backend", "source"] {
            flow[key].as_str().unwrap().parse::<SocketAddr>().unwrap();
        }
        assert!(flow["destination"].as_str().is_some_and(|name| name.contains("tcp-echo")), "{flow}");
    }
}

fn metrics(stage: &Stage, flows: u64) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(stage.http("GET", path), (200, "ok\n".into()));
    }
    for (method, path) in [("POST", "/status"), ("DELETE", "/config"), ("PUT", "/metrics")] {
        assert_eq!(stage.http(method, path).0, 405, "{method} {path}");
    }
    assert_eq!(stage.http("GET", "/nothing").0, 404);
    let (code, text) = stage.http("GET", "/metrics");
    assert_eq!(code, 200);
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends with EOF");
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        assert!(name.starts_with("meltemi_"), "{line}");
        assert!(values.insert(name, value.parse::<f64>().unwrap()).is_none(), "twice: {line}");
    }
    let sum = |prefix: &str| values.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum();
    let (seen, revision): (f64, f64) = (sum("meltemi_destination_flows"), sum("meltemi_revision"));
    assert_eq!((seen as u64, revision as u64), (flows, stage.revision), "{text}");
}

/// Nanoseconds that all threads of a process have run.
fn ran(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let one = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.map(one).sum()
}

fn number_in(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

/// What the kernel charges for the maps that a process has open.
fn charged(pid: u32) -> u64 {
    let mut maps = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        if let (Some(id), Some(bytes)) = (number_in(&text, "map_id:"), number_in(&text, "memlock:")) {
            maps.insert(id, bytes);
        }
    }
    assert!(maps.len() >= 16, "{maps:?}");
    maps.values().sum()
}

#[test]
fn an_idle_agent_costs_next_to_nothing() {
    let stage = Setup::new(Mode::Tc).run();
    let pid = stage.agent.pid();
    let log = stage.agent.log();
    let printed: f64 = log.split("memory=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    let charged = charged(pid) as f64 / f64::from(1 << 20);
    eprintln!("maps: printed {printed} MiB, charged {charged:.1} MiB");
    assert!((printed / charged - 1.0).abs() < 0.1 && charged < 96.0, "printed {printed}, charged {charged}");
    // The start is over with the first upkeep.
    let (began, before) = (Instant::now(), ran(pid));
    std::thread::sleep(Duration::from_secs(20));
    let share = (ran(pid) - before) as f64 / began.elapsed().as_nanos() as f64;
    let memory = number_in(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap(), "VmRSS:").unwrap();
    eprintln!("idle: {:.4} % of a core, {} KiB", share * 100.0, memory);
    assert!(share < 0.001, "{:.3} % of a core", share * 100.0);
    assert!(memory < 40 << 10, "{memory} KiB");
}

/// Two client Pods of differing labels, on one host here, reach differing versions; when a label changes, so does the version.
#[test]
fn clients_of_differing_labels_reach_differing_versions() {
    for mode in [Mode::Tc, Mode::Xdp] {
        let mut stage = Setup { example: "mesh-clients", ..Setup::new(mode) }.run();
        let to: SocketAddr = "10.96.0.10:9000".parse().unwrap();
        let (canary, stable) = ("10.0.0.2", "10.0.0.3");
        stage.world.client.ip(&["address add 10.0.0.3/24 dev eth0"]).unwrap();
        let reach = |stage: &Stage, from: &str, version: &str| {
            let route = format!("route replace 10.96.0.10/32 via {LB_V4} src {from}");
            stage.world.client.ip(&[route]).unwrap();
            let told = stage.sequence(to, 40);
            assert_eq!((&told["failed"], &told["greetings"][version]), (&0.into(), &40.into()), "{from}: {told}");
        };
        reach(&stage, canary, "two");
        reach(&stage, stable, "one");
        let clients = std::fs::read_to_string(stage.example.dir().join("clients.yaml")).unwrap();
        let swapped = clients.replace("canary\nspec", "other\nspec").replace("tier: stable", "tier: canary");
        stage.example.replace("clients.yaml", &swapped).unwrap();
        stage.agent.wait_applied(stage.revision + 1).unwrap();
        reach(&stage, canary, "one");
        reach(&stage, stable, "two");
    }
}

#[test]
fn mesh_rules_hold_for_the_services_own_address() {
    let stage = Setup { example: "mesh", ..Setup::new(Mode::Tc) }.run();
    let to: SocketAddr = "10.96.0.10:9000".parse().unwrap();
    stage.assert_shares(to, 500, &[("one", 20), ("two", 80)]);
    // No rule fits this port: it is the host's, which has no such address and does not forward.
    let text = to.ip().to_string() + ":9001";
    let told = stage.world.run_client(&["sequence", "--to", &text, "--count", "1", "--limit", "300"]).unwrap();
    assert_eq!(told["connections"], 0, "{told}");
    let status = stage.agent.status().unwrap();
    assert!(status["counters"].get("reject.no-flow").is_none(), "{status}");
}
