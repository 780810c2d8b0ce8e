//! `meltemi status`: what the running agent has in force, and whether the weights are met.

use super::{CANNOT_ASK, ask};
use clap::{Args as ClapArgs, ValueEnum};
use serde_json::Value;
use std::{net::SocketAddr, process::ExitCode};

/// Shows what the running agent has in force: attachments, configured against observed shares, backends, counters.
///
/// Exit status: 0 fine, 1 the newest configuration is not in force or a share is skewed, 2 no agent answers.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The agent's admin endpoint.
    #[arg(long, default_value = "127.0.0.1:15014", value_name = "ADDR:PORT")]
    admin: SocketAddr,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

pub fn run(args: &Args) -> ExitCode {
    let body = match ask::get(args.admin, "/status") {
        Ok(body) => body,
        Err(error) => {
            eprintln!("meltemi: {error}");
            return ExitCode::from(CANNOT_ASK);
        }
    };
    let Ok(status) = serde_json::from_str::<Value>(&body) else {
        eprintln!("meltemi: the agent's answer is no JSON");
        return ExitCode::from(CANNOT_ASK);
    };
    match args.output {
        Output::Json => super::print(&body),
        Output::Text => super::print(text(&status).trim_end()),
    }
    let skewed = each(&status["rules"]).chain(each(&status["routes"])).any(|rule| rule["verdict"] == "skewed");
    ExitCode::from(u8::from(skewed || !status["stale"].is_null()))
}

fn text(status: &Value) -> String {
    let mut out =
        format!("revision {}  flows {} of {}\n", status["revision"], status["flows"]["live"], status["flows"]["max"]);
    if let Some(reason) = status["stale"].as_str() {
        out += &format!("STALE: {reason}\n");
    }
    for interface in each(&status["interfaces"]) {
        out += &format!(
            "interface {}  {}  {}\n",
            string(&interface["name"]),
            string(&interface["mode"]),
            string(&interface["program"])
        );
    }
    let proxy = &status["proxy"];
    if !proxy.is_null() {
        let pid = proxy["pid"].as_u64().map_or("not running".to_owned(), |pid| format!("pid {pid}"));
        out += &format!("proxy {pid}  revision {}  workers {}", proxy["revision"], proxy["workers"]);
        if let Some(death) = proxy["lastDeath"].as_str() {
            out += &format!("  restarts {}, last death {death}", proxy["restarts"]);
        }
        out.push('\n');
    }
    for rule in each(&status["rules"]) {
        rule_text(&mut out, rule);
    }
    for route in each(&status["routes"]) {
        route_text(&mut out, route);
    }
    for pool in each(&status["pools"]) {
        pool_text(&mut out, pool);
    }
    out += "\npackets\n";
    for (reason, count) in status["counters"].as_object().into_iter().flatten() {
        out += &format!("  {reason:<28} {count:>12}\n");
    }
    out
}

fn rule_text(out: &mut String, rule: &Value) {
    let p = rule["pValue"].as_f64().map(|p| format!("  p={p:.3}")).unwrap_or_default();
    *out += &format!("\n{}  {}{p}\n", string(&rule["rule"]), string(&rule["verdict"]));
    *out += &format!("  {} at {}:{}\n", string(&rule["virtualService"]), string(&rule["file"]), rule["line"]);
    *out += &format!("  {:<52} {:>10} {:>10} {:>10} {:>8}\n", "destination", "configured", "observed", "flows", "live");
    for destination in each(&rule["destinations"]) {
        let name = cluster(destination);
        let observed =
            destination["observed"].as_f64().map_or("-".to_owned(), |share| format!("{:.2}%", share * 100.0));
        let share = destination["share"].as_f64().unwrap_or(0.0) * 100.0;
        *out += &format!("  {name:<52} {share:>9.2}% {observed:>10} {:>10}\n", destination["flows"].to_string());
        for backend in each(&destination["backends"]) {
            let name = format!(
                "{} ({}, {})",
                string(&backend["address"]),
                string(&backend["state"]),
                string(&backend["forwarding"])
            );
            *out += &format!(
                "    {name:<50} {:>10} {:>10} {:>10} {:>8}\n",
                "",
                "",
                backend["flows"].to_string(),
                backend["live"].to_string()
            );
        }
    }
}

fn route_text(out: &mut String, route: &Value) {
    let p = route["pValue"].as_f64().map(|p| format!("  p={p:.3}")).unwrap_or_default();
    *out += &format!("\n{}  {}{p}\n", string(&route["rule"]), string(&route["verdict"]));
    *out += &format!("  at {}:{}\n", string(&route["file"]), route["line"]);
    *out += &format!("  {:<52} {:>10} {:>10} {:>10}\n", "destination", "configured", "observed", "requests");
    for destination in each(&route["destinations"]) {
        let observed =
            destination["observed"].as_f64().map_or("-".to_owned(), |share| format!("{:.2}%", share * 100.0));
        let share = destination["share"].as_f64().unwrap_or(0.0) * 100.0;
        let requests = destination["requests"].to_string();
        *out += &format!("  {:<52} {share:>9.2}% {observed:>10} {requests:>10}\n", cluster(destination));
    }
}

fn pool_text(out: &mut String, pool: &Value) {
    let counts = ["connections", "requests", "pending", "retries"].map(|name| format!("{name} {}", pool[name]));
    *out += &format!("\npool {}  {}\n", cluster(pool), counts.join("  "));
    for (endpoint, workers) in pool["ejected"].as_object().into_iter().flatten() {
        *out += &format!("  {endpoint} ejected by {workers} workers\n");
    }
}

/// `HOST:PORT/SUBSET`.
fn cluster(value: &Value) -> String {
    let subset = value["subset"].as_str().map(|subset| format!("/{subset}")).unwrap_or_default();
    format!("{}:{}{subset}", string(&value["host"]), value["port"])
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
