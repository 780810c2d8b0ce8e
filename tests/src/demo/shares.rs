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
        let destinations = rule["destinations"].as_array().context("a rule has no destinations")?;
        let mut destinations = destinations.iter().map(destination).collect::<Result<Vec<_>>>()?;
        let v6 = destinations.iter().flat_map(|it| &it.backends).all(SocketAddr::is_ipv6);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let listener = text(&rule["listener"]);
        let address = reachable(listener, family).with_context(|| format!("no port in the listener `{listener}`"))?;
        // One server answers on both addresses of a host; it is counted once, by the family the client uses.
        for destination in &mut destinations {
            if destination.backends.iter().any(|it| it.is_ipv4() == address.is_ipv4()) {
                destination.backends.retain(|it| it.is_ipv4() == address.is_ipv4());
            }
        }
        if rules.iter().all(|known| known.address != address) {
            rules.push(Rule { address, destinations });
        }
    }
    ensure!(!rules.is_empty(), "the example has no rule that is in force");
    Ok(rules)
}

fn destination(value: &Value) -> Result<Destination> {
    let (host, subset) = (text(&value["host"]), value["subset"].as_str());
    let service = host.split('.').next().unwrap_or(host);
    let backends = value["backends"].as_array().into_iter().flatten();
    let backends = backends.map(|it| text(&it["address"]).parse().context("not an address")).collect::<Result<_>>()?;
    Ok(Destination {
        name: subset.map_or_else(|| service.to_owned(), |subset| format!("{service} {subset}")),
        greeting: greeting(service, subset),
        weight: value["weight"].as_u64().context("a destination has no weight")?,
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
            let host = host(*address).with_context(|| format!("{address} is not a backend's address of this world"))?;
            found.insert(host, (destination.greeting.clone(), *address));
        }
    }
    ensure!(!found.is_empty(), "the example has no backends");
    Ok(found.into_iter().map(|(host, (greeting, address))| (host, greeting, address)).collect())
}

/// N of 10.1.0.N or fd00:1::N.
fn host(address: SocketAddr) -> Option<u8> {
    let host = match address {
        SocketAddr::V4(v4) => v4.ip().octets().strip_prefix(&[10, 1, 0])?.first().copied()?,
        SocketAddr::V6(v6) => {
            u8::try_from(v6.ip().segments().strip_prefix(&[0xfd00, 1, 0, 0, 0, 0, 0])?.first().copied()?).ok()?
        }
    };
    (host >= 2).then_some(host)
}

/// Shares of one rule.
pub(super) struct Shares {
    rows: Vec<Row>,
    test: stats::Test,
    /// Answers of servers that no destination has.
    strangers: u64,
    /// Connections that failed though no broken destination explains it.
    failed: u64,
    errors: String,
}

struct Row {
    name: String,
    weight: u64,
    /// Answered ones and, for a destination without backends, refused ones.
    connections: u64,
    greeted: u64,
    backends: Vec<(SocketAddr, u64)>,
}

impl Shares {
    /// `told` is the client's report; `accepted` gives what the backend with that last byte has accepted.
    pub fn new(rule: &Rule, told: &Value, accepted: impl Fn(usize) -> u64) -> Shares {
        let greetings = &told["greetings"];
        let refused = told["errors"]["refused"].as_u64().unwrap_or(0);
        let failed = told["failed"].as_u64().unwrap_or(0) - refused;
        let mut left = refused;
        let mut rows = Vec::new();
        for destination in &rule.destinations {
            let greeted = greetings[&destination.greeting].as_u64().unwrap_or(0);
            // A destination without backends keeps its weight and answers RST, so what is refused is its share.
            let broken = destination.backends.is_empty() && destination.weight > 0;
            let refused = if broken { std::mem::take(&mut left) } else { 0 };
            rows.push(Row {
                name: if broken { format!("{} (refused)", destination.name) } else { destination.name.clone() },
                weight: destination.weight,
                connections: greeted + refused,
                greeted,
                backends: destination
                    .backends
                    .iter()
                    .map(|it| (*it, host(*it).map_or(0, |host| accepted(host.into()))))
                    .collect(),
            });
        }
        let answers = greetings.as_object().into_iter().flatten();
        let all: u64 = answers.filter_map(|(_, count)| count.as_u64()).sum();
        let strangers = all.saturating_sub(rows.iter().map(|row| row.greeted).sum());
        let observed: Vec<u64> = rows.iter().map(|row| row.connections).collect();
        let weights: Vec<u64> = rows.iter().map(|row| row.weight).collect();
        let test = stats::chi_squared(&observed, &weights);
        Shares { test, rows, strangers, failed: failed + left, errors: told["errors"].to_string() }
    }

    pub fn print(&self) {
        let whole: u64 = self.rows.iter().map(|row| row.weight).sum();
        let all: u64 = self.rows.iter().map(|row| row.connections).sum();
        let percent = |part: u64, whole: u64| {
            if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
        };
        println!(
            "\n    {:<28}{:>17}{:>16}{:>13}",
            "subset and backend", "configured share", "observed share", "connections"
        );
        for row in &self.rows {
            let (configured, observed) = (percent(row.weight, whole), percent(row.connections, all));
            println!("    {:<28}{configured:>15.1} %{observed:>14.1} %{:>13}", row.name, row.connections);
            for (address, connections) in &row.backends {
                println!(
                    "      {:<26}{:>17}{:>14.1} %{connections:>13}",
                    address.to_string(),
                    "",
                    percent(*connections, all)
                );
            }
        }
        println!("    chi-squared {:.2}, p = {:.3}", self.test.statistic, self.test.p_value);
    }

    /// Fails where chance does not explain the difference, or client and servers disagree.
    pub fn judge(&self, least_p: f64) -> Result<()> {
        ensure!(self.failed == 0, "{} connections failed: {}", self.failed, self.errors);
        ensure!(self.strangers == 0, "{} answers came from a server of no destination", self.strangers);
        for row in &self.rows {
            let accepted: u64 = row.backends.iter().map(|(_, connections)| connections).sum();
            ensure!(
                accepted == row.greeted,
                "{}: servers accepted {accepted}, the client counted {}",
                row.name,
                row.greeted
            );
        }
        if self.test.p_value < least_p {
            bail!("the observed shares are not the configured ones: p = {:.2e}", self.test.p_value);
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
            let backends: Vec<Value> = backends.iter().map(|address| json!({ "address": address })).collect();
            json!({ "host": "tcp-echo.default.svc.cluster.local", "subset": subset, "weight": weight, "backends": backends })
        };
        let destinations = [
            destination("v1", 20, &["10.1.0.2:9000", "[fd00:1::2]:9000"]),
            destination("v2", 80, &["10.1.0.3:9000", "10.1.0.4:9000"]),
        ];
        json!({ "rules": [{ "listener": "10.0.0.1:31400", "destinations": destinations }] })
    }

    #[test]
    fn rules_and_backends_are_read_from_status() {
        let rules = rules(&status()).unwrap();
        assert_eq!(rules[0].address.to_string(), "10.0.0.1:31400");
        let backends: Vec<_> =
            backends(&rules).unwrap().into_iter().map(|(host, greeting, _)| (host, greeting)).collect();
        assert_eq!(backends, [(2, "one".into()), (3, "two".into()), (4, "two".into())]);
    }

    #[test]
    fn right_shares_pass_wrong_shares_and_strangers_fail() {
        let rule = &rules(&status()).unwrap()[0];
        let judge = |greetings: Value, accepted: [u64; 5]| {
            Shares::new(rule, &json!({ "greetings": greetings, "failed": 0, "errors": {} }), |host| accepted[host])
                .judge(0.001)
        };
        judge(json!({ "one": 197, "two": 803 }), [0, 0, 197, 400, 403]).unwrap();
        assert!(
            judge(json!({ "one": 500, "two": 500 }), [0, 0, 500, 250, 250]).unwrap_err().to_string().contains("p =")
        );
        assert!(judge(json!({ "one": 200, "two": 799, "who": 1 }), [0, 0, 200, 400, 399]).is_err());
        assert!(judge(json!({ "one": 200, "two": 800 }), [0, 0, 200, 400, 399]).is_err());
    }

    #[test]
    fn refused_connections_are_the_share_of_a_destination_without_backends_only() {
        let mut status = status();
        let told = json!({ "greetings": { "two": 800 }, "failed": 200, "errors": { "refused": 200 } });
        let accepted = |host: usize| [0, 0, 0, 400, 400][host];
        let judge = |status: &Value| Shares::new(&rules(status).unwrap()[0], &told, accepted).judge(0.001);
        assert!(judge(&status).unwrap_err().to_string().contains("failed"));
        status["rules"][0]["destinations"][0]["backends"] = json!([]);
        judge(&status).unwrap();
    }
}
