//! What it costs to find a request's route among a thousand of one host: from YAML to the router by the agent's own functions,
//! then one thread that asks.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use http::{HeaderMap, HeaderValue};
use meltemi::compile;
use meltemi::model::{Identity, parse};
use meltemi::router::{Request, Router};
use meltemi::spec::{Store, read};

use super::report::{Report, Target, median};

const RULES: usize = 1_000;
const TIMES: u32 = 50_000;
const ROUNDS: usize = 9;
const HOST: &str = "shop.example.com";

/// How the rules of a host are told apart.
#[derive(Clone, Copy)]
enum Kind {
    /// A quarter each: exact paths, prefixes, regexes, prefixes with a header.
    Mixed,
    /// One path and a header each: no path leaves anything out.
    Headers,
}

/// Measures and prints.
///
/// # Errors
/// When a request is not routed as it should be.
pub fn run() -> Result<()> {
    let mut report = Report::new(format!("Router: {RULES} rules on one host, listener and host looked up too"));
    let mixed = router(Kind::Mixed)?;
    for (what, path, rule) in [
        ("exact path", "/shop/item/996", 996),
        ("prefix", "/api/v1/team997/a/b", 997),
        ("regex", "/users/998/17/orders", 998),
        ("prefix and header", "/canary/999/x", 999),
        ("the last rule, which takes all", "/none/of/them", RULES),
    ] {
        measure(&mut report, what, &mixed, path, rule)?;
    }
    let headers = router(Kind::Headers)?;
    measure(&mut report, "all rules differ by a header only, the last but one", &headers, "/", 999)?;
    report.print();
    Ok(())
}

fn measure(report: &mut Report, what: &str, router: &Router, path: &str, rule: usize) -> Result<()> {
    let to: SocketAddr = "10.0.0.1:80".parse()?;
    let mut headers = HeaderMap::new();
    for (name, value) in [("end-user", "u999"), ("accept", "*/*"), ("user-agent", "x")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let request =
        Request { scheme: "http", method: "GET", authority: HOST, path, query: None, headers: &headers, client: None };
    let find = || router.door(to)?.chain(None)?.host(HOST)?.route(black_box(&request)).map(|rule| rule.at);
    ensure!(find() == Some(rule), "{what}: {:?} in place of rule {rule}", find());
    let round = || {
        let begin = Instant::now();
        (0..TIMES).for_each(|_| _ = black_box(find()));
        begin.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
    };
    let time = median(&(0..ROUNDS).map(|_| round()).collect::<Vec<_>>());
    report.judged(what, format!("{time:.2} us"), (time, "us"), Some(Target::AtMost(2.0)));
    Ok(())
}

fn router(kind: Kind) -> Result<Router> {
    let mut store = Store::default();
    let findings = store.merge(&[read(&"router.yaml".into(), &manifests(kind)?)], &[]);
    ensure!(findings.is_empty(), "unexpected: {}", findings[0]);
    let (model, _) = parse(&store.specs(), &Identity::default());
    Router::new(Arc::new(compile::snapshot(&model, 1))).context("the router is not usable")
}

fn manifests(kind: Kind) -> Result<String> {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gate, namespace: shop}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{HOST}']}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web, namespace: shop}}
spec: {{hosts: [web.example.com], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 10.1.0.1}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: ['{HOST}']
  gateways: [gate]
  http:
"
    );
    for rule in 0..RULES {
        let header = format!("headers: {{end-user: {{exact: u{rule}}}}}");
        let condition = match (kind, rule % 4) {
            (Kind::Headers, _) => format!("uri: {{prefix: /}}, {header}"),
            (Kind::Mixed, 0) => format!("uri: {{exact: /shop/item/{rule}}}"),
            (Kind::Mixed, 1) => format!("uri: {{prefix: /api/v1/team{rule}/}}"),
            (Kind::Mixed, 2) => format!("uri: {{regex: '/users/{rule}/[0-9]+/orders'}}"),
            (Kind::Mixed, _) => format!("uri: {{prefix: /canary/{rule}}}, {header}"),
        };
        writeln!(text, "  - match: [{{{condition}}}]\n    route: [{{destination: {{host: web.example.com}}}}]")?;
    }
    writeln!(text, "  - route: [{{destination: {{host: web.example.com}}}}]")?;
    Ok(text)
}
