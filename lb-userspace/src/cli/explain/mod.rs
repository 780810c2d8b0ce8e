//! `meltemi explain PATH... --from A:P --to A:P`: what the data plane does with one flow, and why.

#[cfg(test)]
mod tests;
mod text;

use super::{
    CANNOT_ASK, NOT_PERMITTED, ask,
    client::From,
    configuration::Configuration,
    run::{ForwardingArg, IdentityArgs},
};
use crate::{
    compile::Host,
    dataplane::{pins::Pins, probe::ProbeError},
    explain::{
        self, Answer, Question,
        live::{self, Live},
        request::{HttpRequest, Sent},
        running::Running,
    },
    model::{Identity, Proxy, Services},
};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    io::{self, IsTerminal},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

/// Says what the data plane does with a new flow, and why: listener, route, weights, slots, backend. Needs no root and no
/// running agent; the data plane's own code answers.
///
/// Exit status: 0 answered, 1 the running kernel disagrees (--live), 2 bad arguments or unreadable files, 3 not permitted.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Files or directories of manifests.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The client: its address and port, or a Pod of the files: [NAMESPACE/]POD[:PORT].
    #[arg(long, value_name = "ADDR:PORT|POD")]
    from: From,
    /// The address and port it connects to.
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// The client begins with TLS for this server name; '' for one that sends none. Without it the host of an https URL.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The client's HTTP request: 'METHOD URL', such as 'GET http://example.com/path?x=1'.
    #[arg(long, value_name = "METHOD URL")]
    http: Option<String>,
    /// A header of the request, 'name: value'; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", requires = "http")]
    header: Vec<String>,
    /// Address of an interface that the agent is attached to; may be repeated.
    #[arg(long, value_name = "ADDR")]
    interface_address: Vec<IpAddr>,
    /// Address that Gateways listen on besides those; may be repeated. Without any address --to stands for one.
    #[arg(long, value_name = "ADDR")]
    vip: Vec<IpAddr>,
    /// As for `run`; auto cannot look at routes here and means snat.
    #[arg(long, value_enum, default_value_t = ForwardingArg::Auto)]
    forwarding: ForwardingArg,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Also balance Services' ClusterIPs that no VirtualService routes.
    #[arg(long)]
    services: bool,
    /// Ask the running kernel program too, and say whether it agrees. Run it where the agent runs. The flow counts once in
    /// the statistics.
    #[arg(long)]
    live: bool,
    /// With --live: the directory that `run` was given.
    #[arg(long, default_value = "/sys/fs/bpf/meltemi", value_name = "DIR")]
    pin: PathBuf,
    /// With --live: the agent's admin endpoint, which tells its addresses.
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

/// The JSON: the answer, and the kernel's where it was asked.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    answer: Answer,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Live>,
}

pub fn run(args: &Args) -> ExitCode {
    match report(args) {
        Ok(report) => {
            match args.output {
                Output::Json => match serde_json::to_string(&report) {
                    Ok(text) => super::print(text),
                    Err(error) => return fail(CANNOT_ASK, &error.to_string()),
                },
                Output::Text => super::print(text::text(&report, colour()).trim_end()),
            }
            ExitCode::from(u8::from(report.live.is_some_and(|live| !live.agrees)))
        }
        Err((status, message)) => fail(status, &message),
    }
}

fn fail(status: u8, message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("meltemi: {line}");
    }
    ExitCode::from(status)
}

fn report(args: &Args) -> Result<Report, (u8, String)> {
    let cannot = |message: String| (CANNOT_ASK, message);
    let identity = args.identity.identity(if args.services { Services::All } else { Services::OnlyRouted }, Proxy::On);
    let configuration = Configuration::load(&args.paths, &identity).map_err(|lines| cannot(lines.join("\n")))?;
    let (host, assumed) = host(args, &configuration);
    let http = args.http.as_deref().map(|line| HttpRequest::parse(line, &args.header)).transpose();
    let sent = Sent { sni: args.sni.clone(), http: http.map_err(|bad| cannot(bad.to_string()))? };
    let from = args.from.resolve(&configuration.specs, args.to.ip()).map_err(cannot)?;
    let mut answer = answer((from, args.to), &configuration, &identity, &host, &sent).map_err(cannot)?;
    if let Some(step) = assumed {
        answer.steps.insert(0, step);
    }
    let live = match args.live {
        false => None,
        true => live::ask(&Pins::new(&args.pin), from, args.to, &answer).map_err(|error| {
            let status = match error {
                ProbeError::Known => CANNOT_ASK,
                _ => NOT_PERMITTED,
            };
            (status, error.to_string())
        })?,
    };
    if let Some(live) = &live {
        answer.steps.push(match live.agrees {
            true => "the running kernel program gives the same answer".to_owned(),
            false => {
                "the running kernel program gives ANOTHER answer: is this configuration the one in force?".to_owned()
            }
        });
    }
    Ok(Report { answer, live })
}

fn answer(
    (from, to): (SocketAddr, SocketAddr),
    configuration: &Configuration,
    identity: &Identity,
    host: &Host,
    sent: &Sent,
) -> Result<Answer, String> {
    let question = Question {
        specs: &configuration.specs,
        identity,
        model: &configuration.model,
        findings: &configuration.findings,
        host,
        from,
        to,
        sent,
    };
    explain::explain(&question)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("--from {from} and --to {to} are not of one address family"))
}

/// The host to answer for, and a step that says what was assumed about it.
fn host(args: &Args, configuration: &Configuration) -> (Host, Option<String>) {
    let told: BTreeSet<IpAddr> = args.interface_address.iter().chain(&args.vip).copied().collect();
    if args.live
        && told.is_empty()
        && let Ok(running) =
            ask::get(args.admin, "/config").map_err(drop).and_then(|text| Running::parse(&text).map_err(drop))
    {
        let own = running.host();
        let addresses = own.addresses.iter().copied().filter(|address| !configuration.names(*address)).collect();
        let mut host = configuration.host(addresses, args.forwarding.choice());
        // An endpoint that the agent has no route to is in no table; so that the answers can agree, it is in none here.
        host.paths = own.paths;
        let step = format!("addresses and forwarding are those of the running agent, revision {}", running.revision);
        return (host, Some(step));
    }
    let to = args.to.ip();
    if told.is_empty() && !configuration.names(to) {
        let step = format!("no --interface-address or --vip is given: {to} is taken for one of the agent's own");
        return (configuration.host([to].into(), args.forwarding.choice()), Some(step));
    }
    (configuration.host(told, args.forwarding.choice()), None)
}

fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none() && io::stdout().is_terminal()
}
