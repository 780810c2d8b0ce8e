//! Stories of real traffic through an agent in namespaces. Each asserts numbers: answers, moved and broken connections,
//! counters, times. What a single packet must look like is tested elsewhere.

mod answers;
mod asked;
mod change;
mod life;
mod load;
mod matrix;
mod near;
mod path;
mod refusals;
mod served;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use meltemi_tests::agent::{self, Agent, Forwarding, Mode};
use meltemi_tests::example::Example;
use meltemi_tests::stats::chi_squared;
use meltemi_tests::world::helper::Helper;
use meltemi_tests::world::{self, Family, LB_V4, LB_V6, World};
use serde_json::Value;

/// The port of the examples' Gateways.
const PORT: u16 = 31400;

/// Right shares fall below this once in a thousand samples.
const LEAST_P: f64 = 0.001;

/// Longest wait for what should happen soon.
const SOON: Duration = Duration::from_secs(10);

/// A world with a ready agent. Fields are dropped in this order.
struct Stage {
    agent: Agent,
    options: agent::Options,
    example: Example,
    world: World,
    /// The revision in force when the agent was ready.
    revision: u64,
}

/// How a stage is set up.
struct Setup {
    example: &'static str,
    mode: Mode,
    forwarding: Forwarding,
    world: world::Options,
    more: Vec<String>,
}

impl Setup {
    fn new(mode: Mode) -> Self {
        Setup {
            example: "tcp-echo",
            mode,
            forwarding: Forwarding::Auto,
            world: world::Options::default(),
            more: Vec::new(),
        }
    }

    fn run(self) -> Stage {
        self.run_after(|_, _| ())
    }

    /// `prepare` works on the world and the configuration before the agent starts.
    fn run_after(self, prepare: impl FnOnce(&mut World, &Example)) -> Stage {
        let mut world = World::new(self.world).unwrap();
        let example = Example::copy(self.example, &world.dir()).unwrap();
        prepare(&mut world, &example);
        let mut options = agent::Options::new(example.dir());
        (options.mode, options.forwarding, options.more) = (self.mode, self.forwarding, self.more);
        let mut agent = Agent::start(&world, &options).unwrap();
        let revision = agent.wait_ready().unwrap();
        Stage { agent, options, example, world, revision }
    }
}

impl Stage {
    fn sequence(&self, to: SocketAddr, count: u32) -> Value {
        self.world.run_client(&["sequence", "--to", &to.to_string(), "--count", &count.to_string()]).unwrap()
    }

    fn bulk(&self, to: SocketAddr, bytes: u64, direction: &str) -> Value {
        let (to, bytes) = (to.to_string(), bytes.to_string());
        self.world.run_client(&["bulk", "--to", &to, "--bytes", &bytes, "--direction", direction]).unwrap()
    }

    /// Connections, none of which may fail, spread by weights (greeting, weight). A sample that is improbable is drawn
    /// once more: a thousandth is often among the many samples of a whole run, a millionth is not.
    fn assert_shares(&self, to: SocketAddr, count: u32, weights: &[(&str, u64)]) {
        for last in [false, true] {
            let told = self.sequence(to, count);
            assert_eq!((&told["failed"], &told["connections"]), (&0.into(), &count.into()), "{told}");
            let p = p_value(&told["greetings"], weights);
            if p >= LEAST_P {
                return;
            }
            assert!(!last, "{to}: p = {p:.2e}, {told}");
        }
    }

    /// Starts the agent once more with the same options.
    fn start_again(&mut self) -> u64 {
        self.agent = Agent::start(&self.world, &self.options).unwrap();
        self.agent.wait_ready().unwrap()
    }
}

fn p_value(greetings: &Value, weights: &[(&str, u64)]) -> f64 {
    let count = |greeting: &str| greetings[greeting].as_u64().unwrap_or(0);
    let observed: Vec<u64> = weights.iter().map(|(greeting, _)| count(greeting)).collect();
    let all: u64 = greetings.as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(all, observed.iter().sum::<u64>(), "answers of strangers: {greetings}");
    chi_squared(&observed, &weights.iter().map(|(_, weight)| *weight).collect::<Vec<_>>()).p_value
}

/// Where clients connect.
fn listener(family: Family) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::new(IpAddr::from(LB_V4), PORT),
        Family::V6 => SocketAddr::new(IpAddr::from(LB_V6), PORT),
    }
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// Waits until a running client has made `more` further connections.
fn wait_connections(churn: &mut Helper, more: u64) {
    let now = |churn: &mut Helper| {
        let told = churn.ask("report").unwrap();
        told["connections"].as_u64().unwrap() + told["failed"].as_u64().unwrap()
    };
    let goal = now(churn) + more;
    meltemi_tests::poll::until(Duration::from_secs(30), "connections", || Ok((now(churn) >= goal).then_some(())))
        .unwrap();
}

/// Ends a client and asserts that none of its connections failed or took as long as a lost SYN takes.
fn assert_unharmed(churn: Helper) -> Value {
    let told = churn.stop().unwrap();
    assert_eq!(told["failed"], 0, "{told}");
    assert!(told["slowestMs"].as_u64().unwrap() < 1_000, "{told}");
    told
}

/// Ends held connections and asserts that none broke or moved.
fn assert_held(held: Helper) -> Value {
    let told = held.stop().unwrap();
    assert_eq!((&told["broken"], &told["moved"]), (&0.into(), &0.into()), "{told}");
    told
}

/// Waits until every held connection has echoed `more` further times.
fn wait_echoes(held: &mut Helper, more: u64) {
    let fewest = |held: &mut Helper| held.ask("report").unwrap()["fewestEchoes"].as_u64().unwrap_or(0);
    let goal = fewest(held) + more;
    meltemi_tests::poll::until(Duration::from_secs(30), "echoes", || Ok((fewest(held) >= goal).then_some(()))).unwrap();
}
