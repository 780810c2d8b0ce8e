//! Configured against observed shares: which destinations a rule has, the table, the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{reachable, text};
use crate::stats;
use crate::world::Family;

/// One rule of the agent's status.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Where a client of the world reaches it.
    pub address: SocketAddr,
    pub destinations: Vec<Destination>,
}

#[derive(Clone, Debug)]
pub(super) struct Destination {
    name: String,
    /// What its servers say before the echo.
    greeting: String,
    pub weight: u64,
    pub backends: Vec<SocketAddr>,
}

/// The rules of `meltemi status -o json`, each address once.
pub(super) fn rules(status: &Value) -> Result<Vec<Rule>> {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in status["rules"].as_array().context("status has no rules")? {
        let destinations = rule["destinations"]
            .as_array()
            .context("a rule has no destinations")?;
        let destinations = destinations
            .iter()
            .map(destination)
            .collect::<Result<Vec<_>>>()?;
        let v6 = destinations
            .iter()
            .flat_map(|it| &it.backends)
            .all(SocketAddr::is_ipv6);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let listener = text(&rule["listener"]);
        let address = reachable(listener, family)
            .with_context(|| format!("no port in the listener `{listener}`"))?;
        if rules.iter().all(|known| known.address != address) {
            rules.push(Rule {
                address,
                destinations,
            });
        }
    }
    ensure!(
        !rules.is_empty(),
        "the example has no rule that is in force"
    );
    Ok(rules)
}

fn destination(value: &Value) -> Result<Destination> {
    let (host, subset) = (text(&value["host"]), value["subset"].as_str());
    let service = host.split('.').next().unwrap_or(host);
    let backends = value["backends"].as_array().into_iter().flatten();
    let backends = backends
        .map(|it| text(&it["address"]).parse().context("not an address"))
        .collect::<Result<_>>()?;
    Ok(Destination {
        name: subset.map_or_else(
            || service.to_owned(),
            |subset| format!("{service} {subset}"),
        ),
        greeting: greeting(service, subset),
        weight: value["weight"]
            .as_u64()
            .context("a destination has no weight")?,
        backends,
    })
}

/// `one`, `two`, ... for the subsets v1, v2, ..., as Istio's sample has it; else the subset or the service itself.
fn greeting(service: &str, subset: Option<&str>) -> String {
    match subset {
        Some("v1") => "one".into(),
        Some("v2") => "two".into(),
        Some("v3") => "three".into(),
        Some(subset) => subset.into(),
        None => service.into(),
    }
}

/// (last byte of the address, greeting, address) of every backend of all rules.
pub(super) fn backends(rules: &[Rule]) -> Result<Vec<(u8, String, SocketAddr)>> {
    let mut found = BTreeMap::new();
    for destination in rules.iter().flat_map(|rule| &rule.destinations) {
        for address in &destination.backends {
            let host = host(*address)
                .with_context(|| format!("{address} is not a backend's address of this world"))?;
            found.insert(host, (destination.greeting.clone(), *address));
        }
    }
    ensure!(!found.is_empty(), "the example has no backends");
    Ok(found
        .into_iter()
        .map(|(host, (greeting, address))| (host, greeting, address))
        .collect())
}

/// N of 10.1.0.N or fd00:1::N.
fn host(address: SocketAddr) -> Option<u8> {
    let host = match address {
        SocketAddr::V4(v4) => v4
            .ip()
            .octets()
            .strip_prefix(&[10, 1, 0])?
            .first()
            .copied()?,
        SocketAddr::V6(v6) => u8::try_from(
            v6.ip()
                .segments()
                .strip_prefix(&[0xfd00, 1, 0, 0, 0, 0, 0])?
                .first()
                .copied()?,
        )
        .ok()?,
    };
    (host >= 2).then_some(host)
}

/// Shares of one rule.
pub(super) struct Shares {
    rows: Vec<Row>,
    test: stats::Test,
    /// Answers of servers that no destination has.
    strangers: u64,
}

struct Row {
    name: String,
    weight: u64,
    connections: u64,
    backends: Vec<(SocketAddr, u64)>,
}

impl Shares {
    /// `greetings` as the client tells them; `accepted` gives what the backend with that last byte has accepted.
    pub fn new(rule: &Rule, greetings: &Value, accepted: impl Fn(usize) -> u64) -> Shares {
        let row = |destination: &Destination| Row {
            name: destination.name.clone(),
            weight: destination.weight,
            connections: greetings[&destination.greeting].as_u64().unwrap_or(0),
            backends: destination
                .backends
                .iter()
                .map(|it| (*it, host(*it).map_or(0, |host| accepted(host.into()))))
                .collect(),
        };
        let rows: Vec<Row> = rule.destinations.iter().map(row).collect();
        let all: u64 = greetings
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(_, count)| count.as_u64())
            .sum();
        let strangers = all.saturating_sub(rows.iter().map(|row| row.connections).sum());
        // A destination without backends answers RST: nobody greets, so it is not a class of the test.
        let classes = || rows.iter().filter(|row| !row.backends.is_empty());
        let observed: Vec<u64> = classes().map(|row| row.connections).collect();
        let weights: Vec<u64> = classes().map(|row| row.weight).collect();
        Shares {
            test: stats::chi_squared(&observed, &weights),
            rows,
            strangers,
        }
    }

    pub fn print(&self) {
        let whole: u64 = self.rows.iter().map(|row| row.weight).sum();
        let all: u64 = self.rows.iter().map(|row| row.connections).sum();
        let percent = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                part as f64 * 100.0 / whole as f64
            }
        };
        println!(
            "\n    {:<28}{:>17}{:>16}{:>13}",
            "subset and backend", "configured share", "observed share", "connections"
        );
        for row in &self.rows {
            let (configured, observed) =
                (percent(row.weight, whole), percent(row.connections, all));
            println!(
                "    {:<28}{configured:>15.1} %{observed:>14.1} %{:>13}",
                row.name, row.connections
            );
            for (address, connections) in &row.backends {
                println!(
                    "      {:<26}{:>17}{:>14.1} %{connections:>13}",
                    address.to_string(),
                    "",
                    percent(*connections, all)
                );
            }
        }
        println!(
            "    chi-squared {:.2}, p = {:.3}",
            self.test.statistic, self.test.p_value
        );
    }

    /// Fails where chance does not explain the difference, or client and servers disagree.
    pub fn judge(&self, least_p: f64) -> Result<()> {
        ensure!(
            self.strangers == 0,
            "{} answers came from a server of no destination",
            self.strangers
        );
        for row in &self.rows {
            let accepted: u64 = row
                .backends
                .iter()
                .map(|(_, connections)| connections)
                .sum();
            ensure!(
                accepted == row.connections,
                "{}: servers accepted {accepted}, the client counted {}",
                row.name,
                row.connections
            );
        }
        if self.test.p_value < least_p {
            bail!(
                "the observed shares are not the configured ones: p = {:.2e}",
                self.test.p_value
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Value {
        let destination = |subset: &str, weight: u64, backends: &[&str]| {
            let backends: Vec<Value> = backends
                .iter()
                .map(|address| json!({ "address": address }))
                .collect();
            json!({ "host": "tcp-echo.default.svc.cluster.local", "subset": subset, "weight": weight, "backends": backends })
        };
        let destinations = [
            destination("v1", 20, &["10.1.0.2:9000"]),
            destination("v2", 80, &["10.1.0.3:9000", "10.1.0.4:9000"]),
        ];
        json!({ "rules": [{ "listener": "10.0.0.1:31400", "destinations": destinations }] })
    }

    #[test]
    fn rules_and_backends_are_read_from_status() {
        let rules = rules(&status()).unwrap();
        assert_eq!(rules[0].address.to_string(), "10.0.0.1:31400");
        let backends: Vec<_> = backends(&rules)
            .unwrap()
            .into_iter()
            .map(|(host, greeting, _)| (host, greeting))
            .collect();
        assert_eq!(
            backends,
            [(2, "one".into()), (3, "two".into()), (4, "two".into())]
        );
    }

    #[test]
    fn right_shares_pass_wrong_shares_and_strangers_fail() {
        let rule = &rules(&status()).unwrap()[0];
        let judge = |greetings: Value, accepted: [u64; 5]| {
            Shares::new(rule, &greetings, |host| accepted[host]).judge(0.001)
        };
        judge(json!({ "one": 197, "two": 803 }), [0, 0, 197, 400, 403]).unwrap();
        assert!(
            judge(json!({ "one": 500, "two": 500 }), [0, 0, 500, 250, 250])
                .unwrap_err()
                .to_string()
                .contains("p =")
        );
        assert!(
            judge(
                json!({ "one": 200, "two": 799, "who": 1 }),
                [0, 0, 200, 400, 399]
            )
            .is_err()
        );
        assert!(judge(json!({ "one": 200, "two": 800 }), [0, 0, 200, 400, 399]).is_err());
    }
}
