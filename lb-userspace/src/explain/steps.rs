//! The answer in words: each candidate taken or refused, each choice with its numbers.

use super::{Answer, Question, Trace, Verdict, accepts, forwarding, proxied::why, request::Sent};
use crate::{
    finding::Severity,
    model::{self, Action, Door, Fate, Listener, Origin, Rule, Share, Target},
};
use lb_common::pick::Outcome;
use std::num::NonZeroU16;

/// Refused candidates and other listeners that are named one by one.
const NAMED: usize = 20;

/// How the listener was found, and which routes it could have.
pub(super) fn before(question: &Question<'_>, listener: Option<&Listener>) -> Vec<String> {
    let mut steps = Vec::new();
    steps.extend(client(question));
    class(question, &mut steps);
    listeners(question, listener, &mut steps);
    if listener.is_none() {
        service(question, &mut steps);
    }
    if let Some(listener) = listener {
        candidates(question, listener, &mut steps);
        if matches!(listener.action, Action::Proxy(_)) {
            steps.push(format!("{} reads bytes: that is the userspace proxy's work, not the kernel's", listener.door));
        }
    }
    steps
}

/// The kernel's choice.
pub(super) fn flow(question: &Question<'_>, rule: Option<&Rule>, trace: &Trace) -> Vec<String> {
    let mut steps = Vec::new();
    if let Some(rule) = rule {
        weights(rule, &mut steps);
        walk(rule, trace, &mut steps);
        if *question.sent != Sent::default() {
            steps.push("what the client sends is not looked at: the listener is TCP".to_owned());
        }
    }
    steps
}

/// What is wrong with what it met, and how it ends.
pub(super) fn after(
    question: &Question<'_>,
    listener: Option<&Listener>,
    answer: &Answer,
    trace: &Trace,
) -> Vec<String> {
    let mut steps = Vec::new();
    findings(question, listener, answer, &mut steps);
    let proxied = listener.is_some_and(|listener| matches!(listener.action, Action::Proxy(_)));
    let what = match answer.verdict {
        Verdict::Forward => "forwarded",
        Verdict::Proxy => "left to the proxy",
        Verdict::Respond => "answered by the proxy",
        Verdict::Reject if proxied => "closed by the proxy",
        Verdict::Reject => "answered with a TCP reset",
        Verdict::Pass => "passed to the host untouched",
        Verdict::Drop => "dropped",
    };
    steps.push(match proxied {
        true => format!("{what}: {}", answer.reason),
        false => format!("{what}: {} ({})", trace.reason.name(), trace.reason.meaning()),
    });
    steps
}

fn at(origin: &Origin) -> String {
    format!("{}:{}", origin.file, origin.line)
}

/// What of that counts, where some rule asks.
fn class(question: &Question<'_>, steps: &mut Vec<String>) {
    let (clients, from) = (&question.model.clients, question.from.ip());
    if clients.classes.is_empty() {
        return;
    }
    steps.push(match (clients.get(from), clients.class(from)) {
        (Some(client), Some(class)) => {
            format!("{from} is {}, and of what rules ask of clients it has {class}", client.workload)
        }
        _ => format!("{from} is no Pod or WorkloadEntry that has something some rule asks of clients"),
    });
}

/// The listener taken, and why others that come near are not it.
fn listeners(question: &Question<'_>, taken: Option<&Listener>, steps: &mut Vec<String>) {
    let to = question.to;
    match taken {
        Some(listener) => {
            steps.push(format!("{to} is {} ({})", listener.door, at(&listener.origin)));
        }
        None => steps.push(format!("nothing listens on {to}")),
    }
    let others: Vec<&Listener> = question
        .model
        .listeners
        .iter()
        .map(|listener| &**listener)
        .filter(|listener| taken.is_none_or(|taken| !std::ptr::eq(*listener, taken)))
        .collect();
    for listener in others.iter().take(NAMED) {
        let why = match port(&listener.door) {
            _ if accepts(&listener.door, question.host, to) && is_for_some(listener) => {
                "the client is not one of those".to_owned()
            }
            _ if accepts(&listener.door, question.host, to) => "another listener has this address first".to_owned(),
            port if port != to.port() => format!("its port is {port}"),
            _ => format!("{} is none of its addresses", to.ip()),
        };
        steps.push(format!("listener refused: {} ({}): {why}", listener.door, at(&listener.origin)));
    }
    rest(others.len(), "listeners", steps);
}

/// Which workload the client is, if it is one.
fn client(question: &Question<'_>) -> Option<String> {
    let from = question.from.ip();
    let has = |text: &str| text.parse() == Ok(from);
    let pods = question.specs.pods.iter();
    let mut pods = pods.filter(|pod| {
        let status = &pod.spec.status;
        status.pod_ip.iter().any(|ip| has(ip)) || status.pod_ips.iter().any(|one| has(&one.ip))
    });
    let mut entries = question.specs.workload_entries.iter().filter(|entry| has(&entry.spec.address));
    let pod = pods.next().map(|pod| (pod.key.to_string(), pod.origin("")));
    let (name, origin) = pod.or_else(|| entries.next().map(|entry| (entry.key.to_string(), entry.origin(""))))?;
    Some(format!("the client {from} is {name} ({})", at(&origin)))
}

/// What is said of traffic to a Service or ServiceEntry that has no listener: whose address it is, and which routes of the mesh do not
/// fit.
fn service(question: &Question<'_>, steps: &mut Vec<String>) {
    let to = question.to;
    let Some(number) = NonZeroU16::new(to.port()) else { return };
    let has = |text: &String| text.parse() == Ok(to.ip());
    let services = question
        .specs
        .services
        .iter()
        .filter(|service| service.spec.cluster_ip.iter().any(has) || service.spec.cluster_ips.iter().any(has));
    let services = services.map(|service| (service.name(), service.key.to_string(), service.origin("")));
    let entries = question.specs.service_entries.iter().filter(|entry| entry.spec.addresses.iter().any(has));
    let entries = entries.map(|entry| (entry.name(), entry.key.to_string(), entry.origin("")));
    let Some((name, key, origin)) = services.chain(entries).next() else { return };
    let door = Door::Service { service: name.clone(), addresses: vec![to.ip()], port: number, share: Share::default() };
    let routes = model::unfit(question.specs, question.identity, &door);
    let how = if routes.is_empty() { ": no VirtualService of the mesh speaks for it" } else { "" };
    steps.push(format!("{} is an address of {key} ({}){how}", to.ip(), at(&origin)));
    for candidate in routes.iter().take(NAMED) {
        let name = format!("VirtualService {} spec.{}", candidate.virtual_service, candidate.path);
        steps.push(format!("{name} ({}) {}", at(&candidate.origin), candidate.fate));
    }
    rest(routes.len(), "routes", steps);
}

fn is_for_some(listener: &Listener) -> bool {
    matches!(&listener.door, Door::Service { share, .. } if share.class.is_some())
}

fn rest(count: usize, what: &str, steps: &mut Vec<String>) {
    if count > NAMED {
        steps.push(format!("and {} more {what}", count - NAMED));
    }
}

const fn port(door: &Door) -> u16 {
    match door {
        Door::Gateway { port, .. } | Door::Service { port, .. } => port.get(),
    }
}

fn candidates(question: &Question<'_>, listener: &Listener, steps: &mut Vec<String>) {
    let all = model::candidates(question.specs, question.identity, listener);
    for candidate in all.iter().take(NAMED) {
        let name = format!("VirtualService {} spec.{}", candidate.virtual_service, candidate.path);
        let how = match (&listener.action, candidate.fate) {
            (Action::Tcp(Rule { match_index: Some(item), .. }), Fate::Taken) => format!(", by match[{item}]"),
            (_, Fate::Taken) => ", without a match".to_owned(),
            _ => String::new(),
        };
        steps.push(format!("{name} ({}) {}{how}", at(&candidate.origin), candidate.fate));
    }
    rest(all.len(), "routes", steps);
    if let Action::Tcp(Rule { virtual_service: None, origin, .. }) = &listener.action {
        steps.push(format!("no VirtualService routes it: all endpoints of the Service ({})", at(origin)));
    }
}

fn weights(rule: &Rule, steps: &mut Vec<String>) {
    let sum: u64 = rule.destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    for destination in &rule.destinations {
        let subset = destination.subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
        let broken = match destination.target {
            Target::Cluster(_) => String::new(),
            Target::Broken(reason) => format!(": broken, {}", why(reason)),
        };
        steps.push(format!(
            "weight {} of {sum}: {}:{}{subset} ({}){broken}",
            destination.weight,
            destination.host,
            destination.port,
            at(&destination.origin),
        ));
    }
}

fn walk(rule: &Rule, trace: &Trace, steps: &mut Vec<String>) {
    let Some(walk) = trace.walk else { return };
    let key = match rule.hash {
        model::HashKey::Flow => "addresses and ports",
        model::HashKey::SourceIp => "the client's address alone",
    };
    let (slot, slots) = walk.slot;
    let destination = rule.destinations.get(walk.position);
    let name = |one: &model::Destination| match &one.subset {
        Some(subset) => format!("subset {subset} of {}", one.host),
        None => one.host.to_string(),
    };
    let chosen = destination.filter(|_| slots > 0).map_or_else(|| "nothing: all weights are zero".to_owned(), name);
    steps.push(format!("the hash of {key} falls on slot {slot} of {slots} of the rule: {chosen}"));
    match (walk.outcome, walk.end) {
        (Outcome::Backend, Some(end)) => {
            let (slot, slots) = end.slot;
            steps.push(format!("and on slot {slot} of {slots} of the subset: backend {}", end.backend));
            let how = match end.forwarding {
                lb_common::table::Forwarding::Snat => "the backend sees this host's address",
                lb_common::table::Forwarding::Dnat => "the backend sees the client's address",
            };
            steps.push(format!("forwarding {}: {how}", forwarding(end.forwarding)));
        }
        // A listener of the proxy has no rule.
        (Outcome::Proxy, _) => {}
        (Outcome::Broken, _) => steps.push("this destination is broken; its share is refused".to_owned()),
        (Outcome::Empty, _) | (Outcome::Backend, None) => {
            steps
                .push("this destination has no ready endpoint of this address family; its share is refused".to_owned());
        }
    }
}

/// Errors of the objects that the flow meets.
fn findings(question: &Question<'_>, listener: Option<&Listener>, answer: &Answer, steps: &mut Vec<String>) {
    let mut objects: Vec<String> = Vec::new();
    match listener.map(|listener| &listener.door) {
        Some(Door::Gateway { gateway, .. }) => objects.push(format!("Gateway {gateway}")),
        Some(Door::Service { service, .. }) => objects.push(format!("Service {service}")),
        // Whatever keeps a listener from being there may be any object.
        None => objects.extend(question.findings.iter().map(|finding| finding.object.clone())),
    }
    let service = answer.route.as_ref().and_then(|route| route.virtual_service.as_ref());
    objects.extend(service.map(|name| format!("VirtualService {name}")));
    let hosts: Vec<&str> = answer.destinations.iter().map(|one| one.host.as_str()).collect();
    let concerns = |object: &str, message: &str| {
        objects.iter().any(|own| own == object) || hosts.iter().any(|host| message.contains(host))
    };
    let errors = question.findings.iter().filter(|finding| finding.severity == Severity::Error);
    let errors: Vec<_> = errors.filter(|finding| concerns(&finding.object, &finding.message)).collect();
    for finding in errors.iter().take(NAMED) {
        steps.push(finding.to_string().lines().next().unwrap_or_default().to_owned());
    }
    rest(errors.len(), "errors", steps);
}
