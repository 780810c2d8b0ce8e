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
    /// Go on, printing flows as they begin and close (looked up twice a second).
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

pub fn run(args: &Args) -> ExitCode {
    let mut known: BTreeMap<(String, String), String> = BTreeMap::new();
    loop {
        let flows = match look(args.admin) {
            Ok(flows) => flows,
            Err(error) => {
                eprintln!("meltemi: {error}");
                return ExitCode::from(CANNOT_ASK);
            }
        };
        let mut seen = BTreeMap::new();
        for flow in &flows {
            let key = (text(&flow["client"]).to_owned(), text(&flow["vip"]).to_owned());
            let state = text(&flow["state"]).to_owned();
            if known.get(&key) != Some(&state) {
                print(args.output, flow);
            }
            seen.insert(key, state);
        }
        if !args.follow {
            return ExitCode::SUCCESS;
        }
        known = seen;
        std::thread::sleep(LOOK);
    }
}

fn look(admin: SocketAddr) -> Result<Vec<Value>, ask::AskError> {
    let body = ask::get(admin, "/flows")?;
    serde_json::from_str(&body).map_err(|_| ask::AskError::Broken)
}

fn print(output: Output, flow: &Value) {
    match output {
        Output::Json => println!("{flow}"),
        Output::Text => println!(
            "{:<12} {} -> {} => {} as {}  idle {}s  {} ({})",
            text(&flow["state"]),
            text(&flow["client"]),
            text(&flow["vip"]),
            text(&flow["backend"]),
            text(&flow["source"]),
            flow["idle"],
            text(&flow["destination"]),
            text(&flow["rule"]),
        ),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
