//! What the proxy serves: HTTP by path and weight, TLS at the door, TLS passed on by name, and requests of one service to another.
//! Every story counts by the servers' answers, never by what the agent says of itself.

mod change;
mod door;
mod life;

use std::net::{IpAddr, SocketAddr};

use meltemi_tests::agent::{self, Agent, Mode};
use meltemi_tests::example::Example;
use meltemi_tests::poll;
use meltemi_tests::web::certificates::Authority;
use meltemi_tests::world::helper::Helper;
use meltemi_tests::world::{self, Family, LB_V4, LB_V6, World};
use serde_json::{Value, json};

use super::{BOTH, LEAST_P, SOON, Stage, p_value};

const HTTP: u16 = 8080;
const HTTPS: u16 = 8443;
/// Its certificate is in a Secret.
const BY_SECRET: u16 = 8444;
const PASSED_ON: u16 = 9443;

/// Two versions of a shop behind every kind of door; see web.yaml.
struct Shop {
    stage: Stage,
    authority: Authority,
}

impl Shop {
    fn open(mode: Mode) -> Shop {
        Shop::open_with(mode, &[])
    }

    fn open_with(mode: Mode, more: &[&str]) -> Shop {
        let mut world = World::new(world::Options::default()).unwrap();
        let certificates = world.dir().join("certificates");
        let authority = Authority::new(&certificates).unwrap();
        authority.issue("shop", "shop.example").unwrap();
        for (index, file) in ["one", "two"].into_iter().enumerate() {
            let own = authority.issue(file, "secret.example").unwrap();
            world.serve_web(index, 8000, &[]).unwrap();
            world.serve_web(index, 8443, &["--certificate", &own.chain, "--key", &own.key]).unwrap();
        }
        let text = include_str!("web.yaml").replace("CERTIFICATES", certificates.to_str().unwrap());
        let secret = secret(&authority);
        let example = Example::write(&[("web.yaml", &text), ("secret.yaml", &secret)], &world.dir()).unwrap();
        let mut options = agent::Options::new(example.dir());
        options.mode = mode;
        options.more = more.iter().map(|&word| word.to_owned()).collect();
        let mut agent = Agent::start(&world, &options).unwrap();
        let revision = agent.wait_ready().unwrap();
        Shop { stage: Stage { agent, options, example, world, revision }, authority }
    }

    /// One request, with all of its answer.
    fn one(&self, to: SocketAddr, host: &str, path: &str, more: &[&str]) -> Value {
        let to = to.to_string();
        let args = ["one", "--to", &to, "--host", host, "--path", path];
        self.stage.world.web(&[&args, more].concat()).unwrap()
    }

    /// Many requests, the counts of their answers.
    fn many(&self, to: SocketAddr, host: &str, path: &str, count: u32, more: &[&str]) -> Value {
        let (to, count) = (to.to_string(), count.to_string());
        let args = ["many", "--to", &to, "--host", host, "--path", path, "--count", &count];
        self.stage.world.web(&[&args, more].concat()).unwrap()
    }

    /// Requests all of which are answered with 200, spread by weights (greeting, weight). As with connections, a sample that
    /// is improbable is drawn once more.
    fn assert_shares(&self, to: SocketAddr, (host, path): (&str, &str), weights: &[(&str, u64)], more: &[&str]) {
        const COUNT: u32 = 300;
        for last in [false, true] {
            let told = self.many(to, host, path, COUNT, more);
            assert_eq!(told["statuses"], json!({ "200": COUNT }), "{to} {path}: {told}");
            let p = p_value(&told["greetings"], weights);
            if p >= LEAST_P {
                return;
            }
            assert!(!last, "{to} {path}: p = {p:.2e}, {told}");
        }
    }

    /// Requests to the plain door that go on: on one connection and on many, of both families.
    fn steadily(&self) -> Vec<Helper> {
        let kinds = BOTH.into_iter().flat_map(|family| ["kept", "new"].map(|connections| (family, connections)));
        let start = |(family, connections): (Family, &str)| {
            let to = door(family, HTTP).to_string();
            let args =
                ["--to", &to, "--host", "any.example", "--path", "/shop", "--connections", connections, "--every", "2"];
            self.stage.world.web_steadily(&args).unwrap()
        };
        kinds.map(start).collect()
    }

    fn proxy_pid(&self) -> u64 {
        let status = self.stage.agent.status().unwrap();
        status["proxy"]["pid"].as_u64().unwrap_or_else(|| panic!("no proxy runs: {status}"))
    }
}

/// A Secret `vault` with a new certificate, where the gateway looks for it.
fn secret(authority: &Authority) -> String {
    let issued = authority.issue("vault", "vault.example").unwrap();
    let indented = |file| std::fs::read_to_string(file).unwrap().replace('\n', "\n    ");
    let (chain, key) = (indented(issued.chain), indented(issued.key));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: vault\n  namespace: istio-system\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {chain}\n  tls.key: |\n    {key}\n"
    )
}

/// Waits until each has had `more` further answers.
fn go_on(steady: &mut [Helper], more: u64) {
    for client in steady {
        let mut now = || client.ask("report").unwrap()["requests"].as_u64().unwrap();
        let goal = now() + more;
        poll::until(SOON, "requests", || Ok((now() >= goal).then_some(()))).unwrap();
    }
}

/// Ends them; none may have failed, been answered by anything but 200, or taken as long as a lost SYN takes.
fn assert_unharmed(steady: Vec<Helper>) {
    for client in steady {
        let told = client.stop().unwrap();
        let fine = told["failed"] == 0 && told["statuses"]["200"] == told["requests"];
        assert!(fine && told["requests"].as_u64() > Some(0), "{told}");
        assert!(told["slowestMs"].as_u64() < Some(1_000), "{told}");
    }
}

fn door(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::new(IpAddr::from(LB_V4), port),
        Family::V6 => SocketAddr::new(IpAddr::from(LB_V6), port),
    }
}
