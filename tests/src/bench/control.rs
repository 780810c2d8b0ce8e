//! How long a change takes from the parsed model to its being in force, with many rules loaded: the agent's own functions on
//! real kernel tables that nobody else sees.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use lb_common::table::Forwarding;
use meltemi::compile::ids::Ids;
use meltemi::compile::{self, Compiler, Host, Path};
use meltemi::dataplane;
use meltemi::dataplane::limits::Limits;
use meltemi::image::Image;
use meltemi::model::{
    Action, Cluster, ClusterName, Destination, Door, Endpoint, HashKey, Listener, Model, ObjectName, Origin, Protocol,
    Rule, Target,
};
use meltemi::plan::{self, Plan};

use super::production::Production;
use super::report::{Report, Target as Aim, median};

/// Listeners, each with two destinations of its own weight.
const RULES: u16 = 10_000;
/// Services behind them, each with two subsets of two endpoints.
const SERVICES: u16 = 500;
const FIRST_PORT: u16 = 2_000;
const CHANGES: usize = 21;

/// Measures and prints.
///
/// # Errors
/// When a table is full or the kernel refuses.
pub fn run() -> Result<()> {
    let limits = Limits { flows: 16_384, table_memory: 256 << 20, ..Limits::default() };
    let sizes: Vec<(&str, u32)> = limits.sizes().iter().map(|size| (size.map, size.entries)).collect();
    let mut production = Production::load(&sizes)?;
    let mut model = Arc::new(model());
    let paths = compile::endpoint_addresses(&model).into_iter();
    let path = Path { source: Ipv4Addr::new(10, 1, 0, 1).into(), forwarding: Forwarding::Snat };
    let host = Arc::new(Host {
        addresses: [IpAddr::from(Ipv4Addr::new(10, 0, 0, 1))].into(),
        paths: paths.map(|address| (address, path)).collect(),
    });
    let (mut compiler, mut ids) = (Compiler::default(), Ids::default());
    let began = Instant::now();
    let mut image = compiler.compile(&model, &host, &mut ids);
    let compiled = began.elapsed();
    let plan = plan::diff(&Image::default(), &image);
    dataplane::apply(&mut production.maps, &plan)?;
    let cold = began.elapsed();
    let mut stages: [Vec<f64>; 4] = Default::default();
    for change in 0..CHANGES {
        shift(Arc::make_mut(&mut model), change)?;
        let (plan, times) = step(&mut production, (&model, &host), (&mut compiler, &mut ids), &mut image)?;
        ids.settle();
        ensure!(plan.ops().len() == 1, "a weight change made {} writes: {plan}", plan.ops().len());
        for (all, time) in stages.iter_mut().zip(times) {
            all.push(time);
        }
    }
    print((compiled.as_secs_f64(), cold.as_secs_f64()), plan.ops().len(), &stages);
    Ok(())
}

/// What the agent does for each new model. Milliseconds of compile, diff, apply, and their sum.
fn step(
    production: &mut Production,
    (model, host): (&Arc<Model>, &Arc<Host>),
    (compiler, ids): (&mut Compiler, &mut Ids),
    image: &mut Image,
) -> Result<(Plan, [f64; 4])> {
    let began = Instant::now();
    let since = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    let next = compiler.compile(model, host, ids);
    let compiled = since(began);
    let plan = plan::diff(image, &next);
    let diffed = since(began);
    dataplane::apply(&mut production.maps, &plan)?;
    let applied = since(began);
    *image = next;
    Ok((plan, [compiled, diffed - compiled, applied - diffed, applied]))
}

fn print((compiled, cold): (f64, f64), writes: usize, stages: &[Vec<f64>; 4]) {
    let ms = |value: f64| format!("{value:.2} ms");
    let [compile, diff, apply, whole] = stages.each_ref().map(|times| median(times));
    let mut report = Report::new(format!("Control plane, {RULES} rules of two destinations loaded"));
    report.plain("first time: compile", ms(compiled * 1e3));
    report.plain(format!("first time: all of it, {writes} writes"), format!("{cold:.2} s"));
    report.plain("weight change: compile", ms(compile));
    report.plain("weight change: diff", ms(diff));
    report.plain("weight change: apply (one table)", ms(apply));
    report.judged("weight change: model to in force", ms(whole), (whole, "ms"), Some(Aim::AtMost(5.0)));
    report.print();
}

fn shift(model: &mut Model, change: usize) -> Result<()> {
    let listener = change * 397 % usize::from(RULES);
    let Action::Tcp(rule) = &mut Arc::make_mut(&mut model.listeners[listener]).action else {
        return Ok(());
    };
    let first = rule.destinations.first_mut().context("no destination")?;
    first.weight += 10;
    Ok(())
}

fn model() -> Model {
    let mut clusters = BTreeMap::new();
    for service in 0..SERVICES {
        for (position, subset) in ["v1", "v2"].into_iter().enumerate() {
            let endpoint = |number: usize| Endpoint {
                address: Ipv4Addr::new(
                    10,
                    2 + position as u8,
                    (service >> 7) as u8,
                    ((service & 127) * 2) as u8 + number as u8,
                )
                .into(),
                port: NonZeroU16::MIN,
                weight: 1,
            };
            let cluster = Cluster { endpoints: vec![endpoint(0), endpoint(1)], origin: origin() };
            clusters.insert(cluster_name(service, subset), Arc::new(cluster));
        }
    }
    Model { listeners: (0..RULES).map(|number| Arc::new(listener(number))).collect(), clusters, ..Model::default() }
}

fn listener(number: u16) -> Listener {
    let destination = |subset: &str, weight| {
        let cluster = cluster_name(number % SERVICES, subset);
        Destination {
            host: cluster.host.clone(),
            subset: cluster.subset.clone(),
            port: cluster.port,
            weight,
            target: Target::Cluster(cluster),
            origin: origin(),
        }
    };
    let gateway = ObjectName { namespace: "default".into(), name: "gateway".into() };
    Listener {
        door: Door::Gateway { gateway, bind: None, port: NonZeroU16::MIN.saturating_add(FIRST_PORT + number) },
        protocol: Protocol::Tcp,
        action: Action::Tcp(Rule {
            virtual_service: None,
            index: 0,
            match_index: None,
            origin: origin(),
            hash: HashKey::Flow,
            destinations: vec![destination("v1", 20), destination("v2", 80)],
        }),
        origin: origin(),
    }
}

fn cluster_name(service: u16, subset: &str) -> ClusterName {
    let host: Arc<str> = format!("service-{service}.default.svc.cluster.local").into();
    ClusterName { host, subset: Some(subset.into()), port: 9_000 }
}

fn origin() -> Origin {
    Origin { file: "bench.yaml".into(), line: 1, column: 1 }
}
