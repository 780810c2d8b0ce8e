//! `meltemi flows`: the live flow table.

use super::{CANNOT_ASK, ask};
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;
use std::{collections::BTreeMap, net::SocketAddr, process::ExitCode, time::Duration};

/// Lists the flows in the kernel's table: client, VIP, backend, state, and the rule and destination that sent them there.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent's admin endpoint.
    #[arg(long, default_value = "127.0.0.1:15014", value_name = "ADDR:PORT")]
    admin: SocketAddr,
    /// Go on, printing flows as they begin, close and go (looked up twice a second).
    #[arg(long)]
    follow: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    /// One object a line.
    Json,
}

const LOOK: Duration = Duration::from_millis(500);

/// Flows by client and VIP.
type Known = BTreeMap<(String, String), Value>;

/// What a flow that is not in the table any more is called, where it was not closed: it was idle for too long, or evicted.
const GONE: &str = "gone";

pub fn run(args: &Args) -> ExitCode {
    let mut known = Known::new();
    loop {
        let flows = match look(args.admin) {
            Ok(flows) => flows,
            Err(error) => {
                eprintln!("meltemi: {error}");
                return ExitCode::from(CANNOT_ASK);
            }
        };
        let now = flows.into_iter().map(|flow| (key(&flow), flow)).collect();
        news(&known, &now).iter().for_each(|flow| print(args.output, flow));
        if !args.follow {
            return ExitCode::SUCCESS;
        }
        known = now;
        std::thread::sleep(LOOK);
    }
}

fn key(flow: &Value) -> (String, String) {
    (text(&flow["client"]).to_owned(), text(&flow["vip"]).to_owned())
}

/// The flows that are new or other than before, and those that went away without having closed.
fn news(before: &Known, now: &Known) -> Vec<Value> {
    let same = |one: &Value, other: &Value| ["state", "backend", "source"].iter().all(|at| one[at] == other[at]);
    let changed = now.iter().filter(|(key, flow)| before.get(*key).is_none_or(|old| !same(old, flow)));
    let gone = before.iter().filter(|(key, flow)| flow["state"] != "closed" && !now.contains_key(*key));
    let gone = gone.map(|(_, flow)| {
        let mut flow = flow.clone();
        flow["state"] = GONE.into();
        flow
    });
    changed.map(|(_, flow)| flow.clone()).chain(gone).collect()
}

fn look(admin: SocketAddr) -> Result<Vec<Value>, ask::AskError> {
    let body = ask::get(admin, "/flows")?;
    serde_json::from_str(&body).map_err(|_| ask::AskError::Broken)
}

fn print(output: Output, flow: &Value) {
    match output {
        Output::Json => super::print(flow),
        Output::Text => super::print(format_args!(
            "{:<12} {} -> {} => {} as {}  idle {}s  {} ({})",
            text(&flow["state"]),
            text(&flow["client"]),
            text(&flow["vip"]),
            text(&flow["backend"]),
            text(&flow["source"]),
            flow["idle"],
            text(&flow["destination"]),
            text(&flow["rule"]),
        )),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(flows: &[(&str, &str, &str)]) -> Known {
        let flow = |(client, state, backend): &(&str, &str, &str)| {
            let flow =
                json!({ "client": client, "vip": "10.0.0.1:80", "state": state, "backend": backend, "source": "" });
            (key(&flow), flow)
        };
        flows.iter().map(flow).collect()
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = table(&[
            ("a", "established", "x"),
            ("b", "established", "x"),
            ("c", "closed", "x"),
            ("d", "closed", "x"),
            ("e", "half-closed", "x"),
        ]);
        let now =
            table(&[("a", "established", "x"), ("b", "closed", "x"), ("d", "closed", "y"), ("f", "established", "y")]);
        let told = news(&before, &now);
        let told: Vec<_> = told.iter().map(|flow| (text(&flow["client"]), text(&flow["state"]))).collect();
        assert_eq!(told, [("b", "closed"), ("d", "closed"), ("f", "established"), ("e", GONE)]);
    }
}
