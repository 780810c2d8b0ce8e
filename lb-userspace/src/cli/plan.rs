//! `meltemi plan OLD NEW` and `meltemi plan NEW --live`: what a change of configuration changes, before it is made.

use super::{
    CANNOT_ASK, ask,
    configuration::Configuration,
    run::{ForwardingArg, IdentityArgs},
};
use crate::{
    compile::{self, ids::Ids},
    explain::{
        change::{self, Change, RuleChange, Side},
        running::Running,
        written,
    },
    finding::Severity,
    image::Image,
    model::{Proxy, Services},
};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

/// Says what changes from one configuration to another: weights, routes, listeners, backends, and the exact share of new
/// flows of each rule that go elsewhere. Changes nothing.
///
/// Exit status: 0 no change, 1 changes, 2 errors in NEW or it could not be asked.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// OLD and NEW, each a file or a directory; with --live NEW alone.
    #[arg(required = true, num_args = 1..=2, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Compare with what the running agent has in force, and count what becomes of its flows.
    #[arg(long)]
    live: bool,
    /// With --live: the agent's admin endpoint.
    #[arg(long, default_value = "127.0.0.1:15014", value_name = "ADDR:PORT")]
    admin: SocketAddr,
    /// As the agent was given it: what happens to flows of backends that are gone.
    #[arg(long, value_enum, default_value_t = RemovedBackends::Drain)]
    removed_backends: RemovedBackends,
    /// Address of an interface that the agent is attached to; may be repeated. Without any, one of each family is assumed.
    #[arg(long, value_name = "ADDR")]
    interface_address: Vec<IpAddr>,
    /// Address that Gateways listen on besides those; may be repeated.
    #[arg(long, value_name = "ADDR")]
    vip: Vec<IpAddr>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Also balance Services' ClusterIPs that no VirtualService routes.
    #[arg(long)]
    services: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RemovedBackends {
    /// They go on until they end.
    Drain,
    /// They are ended.
    Reset,
}

#[derive(Debug, Serialize)]
struct Report {
    revision: Revisions,
    changes: Vec<Change>,
    rules: Vec<RuleChange>,
    live: Option<Live>,
}

/// The revision in force and the one the change makes; the same where nothing changes. Two files count as 1 and 2.
#[derive(Debug, Serialize)]
struct Revisions {
    from: u64,
    to: u64,
}

/// What becomes of the flows there are.
#[derive(Debug, Default, Serialize)]
struct Live {
    kept: u64,
    /// Their backend is gone; they go on until they end.
    drained: u64,
    ended: u64,
}

/// Addresses that stand for the agent's own: documentation ranges (RFC 5737, RFC 3849).
const STAND_IN: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

pub fn run(args: &Args) -> ExitCode {
    let (report, errors) = match report(args) {
        Ok(done) => done,
        Err(message) => {
            message.lines().for_each(|line| eprintln!("meltemi: {line}"));
            return ExitCode::from(CANNOT_ASK);
        }
    };
    match args.output {
        Output::Json => match serde_json::to_string(&report) {
            Ok(text) => super::print(text),
            Err(error) => {
                eprintln!("meltemi: {error}");
                return ExitCode::from(CANNOT_ASK);
            }
        },
        Output::Text => super::print(text(&report).trim_end()),
    }
    errors.iter().for_each(|error| eprintln!("{error}"));
    match errors.is_empty() {
        true => ExitCode::from(u8::from(!report.changes.is_empty())),
        false => ExitCode::from(CANNOT_ASK),
    }
}

/// The report, and the errors in NEW.
fn report(args: &Args) -> Result<(Report, Vec<String>), String> {
    let identity = args.identity.identity(if args.services { Services::All } else { Services::OnlyRouted }, Proxy::On);
    let load =
        |path: &PathBuf| Configuration::load(std::slice::from_ref(path), &identity).map_err(|lines| lines.join("\n"));
    let told: BTreeSet<IpAddr> = args.interface_address.iter().chain(&args.vip).copied().collect();
    let assumed = if told.is_empty() { STAND_IN.into() } else { told.clone() };
    let forwarding = ForwardingArg::Auto.choice();
    let (report, new) = match (&args.paths[..], args.live) {
        ([old, new], false) => {
            let (old, new) = (load(old)?, load(new)?);
            let compile = |side: &Configuration| {
                compile::compile(&side.model, &side.host(assumed.clone(), forwarding), &mut Ids::default())
            };
            let (before, after) = (compile(&old), compile(&new));
            let sides =
                (Side { image: &before, model: Some(&old.model) }, Side { image: &after, model: Some(&new.model) });
            (compare(sides, written(&old, &new), 1, None), new)
        }
        ([new], true) => {
            let new = load(new)?;
            let get = |path| ask::get(args.admin, path).map_err(|error| error.to_string());
            let running = Running::parse(&get("/config")?).map_err(|error| error.to_string())?;
            let own = running.host();
            let addresses: BTreeSet<IpAddr> = match told.is_empty() {
                true => own.addresses.iter().copied().filter(|address| !new.names(*address)).collect(),
                false => told,
            };
            let mut host = new.host(addresses, forwarding);
            host.paths.extend(own.paths.iter().map(|(address, path)| (*address, *path)));
            let after = compile::compile(&new.model, &host, &mut Ids::default());
            let flows: Vec<Value> = serde_json::from_str(&get("/flows")?).map_err(|error| error.to_string())?;
            let live = live(&flows, &after, args.removed_backends);
            let sides = (Side { image: &running.image, model: None }, Side { image: &after, model: Some(&new.model) });
            // A running agent tells its tables only.
            (compare(sides, Default::default(), running.revision, Some(live)), new)
        }
        _ => return Err("give OLD and NEW, or NEW alone with --live".to_owned()),
    };
    let errors = new.findings.iter().filter(|finding| finding.severity == Severity::Error);
    Ok((report, errors.map(ToString::to_string).collect()))
}

type Written = (Vec<Change>, Vec<RuleChange>);

/// What is written for a proxy, and no table holds.
fn written(old: &Configuration, new: &Configuration) -> Written {
    let side = |model, specs| written::Side { specs, model };
    written::changes(side(&old.model, &old.specs), side(&new.model, &new.specs))
}

fn compare((old, new): (Side<'_>, Side<'_>), written: Written, from: u64, live: Option<Live>) -> Report {
    let mut changes = change::changes(old, new);
    let mut rules = change::rules(old.image, new.image);
    changes.extend(written.0);
    rules.extend(written.1);
    Report { revision: Revisions { from, to: from + u64::from(!changes.is_empty()) }, changes, rules, live }
}

/// A flow stays where it is as long as its backend is configured, whatever the weights.
fn live(flows: &[Value], new: &Image, removed: RemovedBackends) -> Live {
    let backends: BTreeSet<String> = new.backends.values().map(|backend| backend.address.to_string()).collect();
    let mut live = Live::default();
    for flow in flows.iter().filter(|flow| flow["state"] != "closed") {
        match flow["backend"].as_str().is_some_and(|backend| backends.contains(backend)) {
            true => live.kept += 1,
            false if removed == RemovedBackends::Drain => live.drained += 1,
            false => live.ended += 1,
        }
    }
    live
}

fn text(report: &Report) -> String {
    let Revisions { from, to } = report.revision;
    if report.changes.is_empty() {
        return format!("revision {from}: no change\n");
    }
    let mut out = format!("revision {from} -> {to}\n");
    let show = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let width = report.changes.iter().map(|change| change.object.chars().count()).max().unwrap_or(0);
    for change in &report.changes {
        let place = change.file.as_ref().map(|file| format!("  {file}:{}", change.line.unwrap_or(1)));
        let what = if change.what.is_empty() { String::new() } else { format!("{}: ", change.what) };
        out += &format!(
            "  {:<11} {:<width$}  {what}{} -> {}{}\n",
            change.kind.name(),
            change.object,
            show(&change.before),
            show(&change.after),
            place.unwrap_or_default(),
        );
    }
    for rule in &report.rules {
        out += &format!("  {:.2}% of the new flows of {} go elsewhere\n", rule.new_flows_moved * 100.0, rule.rule);
    }
    if let Some(live) = &report.live {
        out += &format!("  live flows: {} kept, {} drained, {} ended\n", live.kept, live.drained, live.ended);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::{fs, path::Path};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn manifests() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples")
    }

    /// An example with some files of a variant in place of its own, in a directory that is removed at the end.
    struct Copy(PathBuf);

    impl Copy {
        fn new(example: &str, variant: Option<&str>, name: &str) -> Copy {
            let to = std::env::temp_dir().join(format!("meltemi-plan-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&to);
            fs::create_dir_all(&to).unwrap();
            let from = manifests().join(example);
            for directory in std::iter::once(from.clone()).chain(variant.map(|variant| from.join(variant))) {
                for file in
                    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
                {
                    fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
                }
            }
            Copy(to)
        }

        fn edit(self, file: &str, from: &str, to: &str) -> Copy {
            let path = self.0.join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(path, text.replace(from, to)).unwrap();
            self
        }
    }

    impl Drop for Copy {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The plan in text, without the directory's name, and the number of errors in NEW.
    fn plan(old: &Copy, new: &Copy) -> (String, usize) {
        let paths = [&old.0, &new.0].map(|path| path.to_string_lossy().into_owned());
        let args = Command::try_parse_from(["plan", &paths[0], &paths[1]]).unwrap().args;
        let (report, errors) = report(&args).unwrap();
        (text(&report).replace(&paths[0], "OLD").replace(&paths[1], "NEW"), errors.len())
    }

    #[test]
    fn nothing_changes() {
        let (a, b) = (Copy::new("tcp-echo", None, "same-a"), Copy::new("tcp-echo", None, "same-b"));
        assert_eq!(plan(&a, &b), ("revision 1: no change\n".to_owned(), 0));
    }

    #[test]
    fn weights_of_connections() {
        let a = Copy::new("tcp-echo", None, "weights-a");
        let b = Copy::new("tcp-echo", None, "weights-b").edit("virtual-service.yaml", "weight: 20", "weight: 50").edit(
            "virtual-service.yaml",
            "weight: 80",
            "weight: 50",
        );
        assert_eq!(plan(&a, &b), (WEIGHTS.join("\n") + "\n", 0));
    }

    const WEIGHTS: [&str; 4] = [
        "revision 1 -> 2",
        "  weight      VirtualService default/tcp-echo  tcp-echo.default.svc.cluster.local:9000/v1: 20 -> 50  NEW/virtual-service.yaml:14",
        "  weight      VirtualService default/tcp-echo  tcp-echo.default.svc.cluster.local:9000/v2: 80 -> 50  NEW/virtual-service.yaml:20",
        "  30.00% of the new flows of gateway default/tcp-echo-gateway :31400 go elsewhere",
    ];

    #[test]
    fn weights_of_requests() {
        let a = Copy::new("reviews-canary", Some("90-10"), "requests-a");
        let b = Copy::new("reviews-canary", Some("80-20"), "requests-b");
        assert_eq!(plan(&a, &b), (REQUESTS.join("\n") + "\n", 0));
    }

    const REQUESTS: [&str; 4] = [
        "revision 1 -> 2",
        "  weight      VirtualService default/reviews spec.http[0]  reviews/v1: 90 -> 80  NEW/virtual-service.yaml:11",
        "  weight      VirtualService default/reviews spec.http[0]  reviews/v2: 10 -> 20  NEW/virtual-service.yaml:11",
        "  10.00% of the new flows of VirtualService default/reviews spec.http[0] go elsewhere",
    ];

    #[test]
    fn routes_that_come_and_go() {
        let a = Copy::new("reviews-canary", Some("jason-v2"), "routes-a");
        let b = Copy::new("reviews-canary", Some("all-v1"), "routes-b");
        assert_eq!(plan(&a, &b), (ROUTES.join("\n") + "\n", 0));
    }

    const ROUTES: [&str; 2] = [
        "revision 1 -> 2",
        "  route       VirtualService default/reviews spec.http[0]  100 reviews/v2 -> -  OLD/virtual-service.yaml:11",
    ];

    #[test]
    fn a_route_that_comes_first_moves_no_other() {
        let a = Copy::new("reviews-canary", Some("all-v1"), "first-a");
        let b = Copy::new("reviews-canary", Some("jason-v2"), "first-b");
        let expected = "revision 1 -> 2\n  route       VirtualService default/reviews spec.http[0]  - -> 100 reviews/v2  NEW/virtual-service.yaml:11\n";
        assert_eq!(plan(&a, &b), (expected.to_owned(), 0));
    }

    #[test]
    fn listeners_that_come_and_errors() {
        let a = Copy::new("tcp-echo", None, "listeners-a");
        let b = Copy::new("tcp-echo", None, "listeners-b")
            .edit("gateway.yaml", "protocol: TCP", "protocol: HTTP")
            .edit("virtual-service.yaml", "subset: v2", "subset: v3");
        assert_eq!(plan(&a, &b), (LISTENERS.join("\n") + "\n", 1));
    }

    const LISTENERS: [&str; 5] = [
        "revision 1 -> 2",
        "  listener    gateway default/tcp-echo-gateway :31400     20 tcp-echo.default.svc.cluster.local:9000/v1, 80 tcp-echo.default.svc.cluster.local:9000/v2 -> -  OLD/gateway.yaml:13",
        "  subset      tcp-echo.default.svc.cluster.local:9000/v1  2 -> -  OLD/destination-rule.yaml:10",
        "  subset      tcp-echo.default.svc.cluster.local:9000/v2  2 -> -  OLD/destination-rule.yaml:13",
        "  listener    gateway default/tcp-echo-gateway :31400     proxy: - -> HTTP  NEW/gateway.yaml:13",
    ];
}
