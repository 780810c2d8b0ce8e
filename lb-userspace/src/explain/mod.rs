//! What the data plane does with one flow, and why: answered by the data plane's own code on tables in ordinary memory.
//! Reads no files and asks no kernel; that is `cli`'s.

pub mod change;
pub mod frame;
pub mod live;
pub mod request;
pub mod running;
pub mod written;

mod done;
mod moved;
mod proxied;
mod steps;
#[cfg(test)]
mod tests;

use crate::{
    compile::{self, Host, ids::Ids},
    dataplane::{
        MapsError, apply,
        memory::{InMemory, MemoryTables},
    },
    finding::Finding,
    image::{Image, RuleId},
    model::{Action, Clients, Destination, Door, Identity, Listener, Model, ObjectName, Protocol, Rule},
    plan::diff,
    router::Unusable,
    slots::{maglev, shares},
    spec::Specs,
};
use lb_common::{
    flow::{V4, V6},
    frame::Bytes,
    packet::Packet,
    pick::{self, Outcome, Pick},
    process::process,
    table::{Forwarding, Tables, rule, subset},
    verdict::{Action as FrameAction, Reason},
};
use request::Sent;
use serde::Serialize;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use thiserror::Error;

/// A flow, and the configuration it meets.
pub struct Question<'a> {
    pub specs: &'a Specs,
    pub identity: &'a Identity,
    pub model: &'a Model,
    pub findings: &'a [Finding],
    pub host: &'a Host,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sent: &'a Sent,
}

/// What becomes of the flow. Serializes to the JSON of `meltemi explain`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub verdict: Verdict,
    /// Name of an `lb_common::verdict::Reason`, or of one of the proxy's.
    pub reason: &'static str,
    pub listener: Option<ListenerAnswer>,
    /// Where rules ask for something that the client has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientAnswer>,
    pub route: Option<RouteAnswer>,
    pub destinations: Vec<Share>,
    pub chosen: Option<Chosen>,
    /// Of an HTTP answer; TCP has none.
    pub status: Option<u16>,
    pub location: Option<String>,
    pub rewritten: Option<Rewritten>,
    pub steps: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Forward,
    /// Its bytes must be read.
    Proxy,
    /// The proxy itself answers.
    Respond,
    Reject,
    /// Not ours.
    Pass,
    Drop,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerAnswer {
    /// `namespace/name`, or `mesh`.
    pub gateway: String,
    pub port: u16,
    pub protocol: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientAnswer {
    /// Kind, namespace and name.
    pub workload: String,
    /// Those of its labels, and its namespace, that some rule asks for.
    pub class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAnswer {
    /// `None`: a Service that no VirtualService routes.
    pub virtual_service: Option<String>,
    pub kind: &'static str,
    pub index: usize,
    pub r#match: Option<usize>,
    pub name: Option<String>,
    pub file: String,
    pub line: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    pub host: String,
    pub subset: Option<String>,
    pub port: u16,
    pub weight: u32,
    /// Of all new flows of the rule, 0 to 1.
    pub share: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chosen {
    pub host: String,
    pub subset: Option<String>,
    pub port: u16,
    pub backend: SocketAddr,
    pub forwarding: &'static str,
}

/// An HTTP request as it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    pub method: String,
    pub authority: String,
    pub path: String,
}

/// What the data plane did with the flow's first packet.
pub struct Trace {
    pub action: FrameAction,
    pub reason: Reason,
    pub walk: Option<Walk>,
}

/// The way through the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    pub rule: RuleId,
    /// Level 1: slot and slots.
    pub slot: (u32, u32),
    /// Position in the rule's destinations.
    pub position: usize,
    pub outcome: Outcome,
    /// With [`Outcome::Backend`]: level 2's slot and slots, and where the flow goes.
    pub end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub slot: (u32, u32),
    pub id: u32,
    pub backend: SocketAddr,
    pub forwarding: Forwarding,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ExplainError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("{0}")]
    Routes(#[from] Unusable),
}

/// Answers. `Ok(None)`: `from` and `to` are of two families.
pub fn explain(question: &Question<'_>) -> Result<Option<Answer>, ExplainError> {
    let image = compile::compile(question.model, question.host, &mut Ids::default());
    let Some(trace) = trace(&image, question.from, question.to)? else {
        return Ok(None);
    };
    let listener = listener(question, &image, &trace);
    let verdict = match trace.action {
        _ if listener.is_some_and(|listener| matches!(listener.action, Action::Proxy(_))) => Verdict::Proxy,
        FrameAction::Send(_) | FrameAction::Meet(_) => Verdict::Forward,
        FrameAction::Reflect => Verdict::Reject,
        FrameAction::Drop => Verdict::Drop,
        FrameAction::Pass => Verdict::Pass,
    };
    let rule = listener.and_then(|listener| match &listener.action {
        Action::Tcp(rule) => Some(rule),
        Action::Proxy(_) => None,
    });
    let trace_chosen = trace.walk.and_then(|walk| Some((rule?.destinations.get(walk.position)?, walk.end?)));
    let mut answer = Answer {
        verdict,
        reason: trace.reason.name(),
        listener: listener.map(|listener| listener_answer(listener)),
        client: client_answer(&question.model.clients, question.from.ip()),
        route: rule.map(route_answer),
        destinations: rule.map(shares_of).unwrap_or_default(),
        chosen: trace_chosen.map(|(destination, end)| chosen_answer(destination, &end)),
        status: None,
        location: None,
        rewritten: None,
        steps: Vec::new(),
    };
    let way = listener.filter(|listener| matches!(listener.action, Action::Proxy(_)));
    let way = way.map(|listener| proxied::follow(question, listener)).transpose()?;
    let mut steps = steps::before(question, listener.map(|listener| &**listener));
    match way {
        Some(mut way) => {
            steps.append(&mut way.steps);
            way.into_answer(&mut answer);
        }
        None => steps.extend(steps::flow(question, rule, &trace)),
    }
    steps.extend(steps::after(question, listener.map(|listener| &**listener), &answer, &trace));
    answer.steps = steps;
    Ok(Some(answer))
}

/// Sends the flow's SYN through the data plane. `None`: `from` and `to` are of two families.
pub fn trace(image: &Image, from: SocketAddr, to: SocketAddr) -> Result<Option<Trace>, MapsError> {
    let Some(mut syn) = frame::syn(from, to) else {
        return Ok(None);
    };
    let tables = fill(image, to)?;
    let walk = match to.ip() {
        IpAddr::V4(_) => walk::<V4>(&tables, from, to),
        IpAddr::V6(_) => walk::<V6>(&tables, from, to),
    };
    let action = process(&mut Bytes::new(&mut syn), &tables);
    let reason = tables.counters.borrow().keys().next().copied().unwrap_or(Reason::PassMalformed);
    Ok(Some(Trace { action, reason, walk }))
}

/// Tables with everything that a flow to `to` can meet: all VIPs and backends, but only its own rule's slots, because to
/// fill those of ten thousand rules takes a while.
fn fill(image: &Image, to: SocketAddr) -> Result<MemoryTables, MapsError> {
    let own = image.vips.iter().filter(|(vip, _)| vip.socket() == to).map(|(_, to)| to.rule);
    let (vips, clients, backends) = (image.vips.clone(), image.clients.clone(), image.backends.clone());
    let mut part = Image { vips, clients, backends, ..Image::default() };
    part.rules.extend(own.filter_map(|id| Some((id, image.rules.get(&id)?.clone()))));
    for destination in part.rules.values().flat_map(|table| &table.destinations) {
        let subset = destination.subset.and_then(|id| Some((id, image.subsets.get(&id)?.clone())));
        part.subsets.extend(subset);
    }
    let mut tables = MemoryTables::new(words(&part));
    apply(&mut tables, &diff(&Image::default(), &part))?;
    Ok(tables)
}

/// Arena words that are enough for an image.
pub fn words(image: &Image) -> u32 {
    let line = lb_common::table::ARENA_LINE as u32;
    let rules = image.rules.values().map(|table| {
        let shares: Vec<_> =
            table.destinations.iter().map(|one| shares::Share { seed: 0, weight: one.weight }).collect();
        rule::DESTINATIONS + rule::DESTINATION_WORDS * shares.len() as u32 + shares::slots(&shares) / 4 + 2 * line
    });
    let subsets = image.subsets.values().map(|table| {
        let members = table.members.len();
        subset::BACKENDS + members as u32 + maglev::slots(members) / 2 + 2 * line
    });
    rules.chain(subsets).fold(2 * line, u32::saturating_add)
}

/// `None`: `to` is no VIP, or one of the proxy's.
pub fn walk<A: InMemory>(tables: &MemoryTables, from: SocketAddr, to: SocketAddr) -> Option<Walk> {
    let flow = frame::tuple::<A>(from, to)?;
    let mut found: Pick<A> = Packet::blank().pick;
    if !pick::pick(tables, &flow, &mut found) || found.outcome == Outcome::Proxy {
        return None;
    }
    let word = |at: u32| Tables::<A>::word(tables, at);
    let base = Tables::<A>::rule(tables, found.rule).offset();
    let destination = base + rule::DESTINATIONS + found.position * rule::DESTINATION_WORDS;
    let end = (found.outcome == Outcome::Backend).then(|| End {
        slot: (found.backend_slot, word(Tables::<A>::subset(tables, word(destination)).offset() + subset::SLOTS)),
        id: found.backend_id,
        backend: SocketAddr::new(found.backend.address.decode(), found.backend.port.get()),
        forwarding: found.backend.forwarding,
    });
    Some(Walk {
        rule: RuleId(found.rule),
        slot: (found.slot, word(base + rule::SLOTS)),
        position: found.position as usize,
        outcome: found.outcome,
        end,
    })
}

/// The listener that has the flow: the one whose VIP it is, else one whose traffic needs a proxy.
fn listener<'a>(question: &Question<'a>, image: &Image, trace: &Trace) -> Option<&'a Arc<Listener>> {
    let all = &question.model.listeners;
    let mut all = all.iter();
    match trace.walk.and_then(|walk| image.listeners.get(&walk.rule)) {
        Some(at) => all.nth(*at),
        None => all.find(|listener| {
            matches!(listener.action, Action::Proxy(_)) && accepts(&listener.door, question.host, question.to)
        }),
    }
}

/// Whether a door opens for an address and port.
pub fn accepts(door: &Door, host: &Host, to: SocketAddr) -> bool {
    match door {
        Door::Gateway { bind: Some(address), port, .. } => SocketAddr::new(*address, port.get()) == to,
        Door::Gateway { bind: None, port, .. } => host.addresses.contains(&to.ip()) && port.get() == to.port(),
        Door::Service { addresses, port, .. } => addresses.contains(&to.ip()) && port.get() == to.port(),
    }
}

fn listener_answer(listener: &Listener) -> ListenerAnswer {
    let (gateway, port) = match &listener.door {
        Door::Gateway { gateway, port, .. } => (gateway.to_string(), port),
        Door::Service { port, .. } => ("mesh".to_owned(), port),
    };
    let protocol = match listener.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Http => "HTTP",
        Protocol::Https => "HTTPS",
        Protocol::Udp => "UDP",
    };
    ListenerAnswer { gateway, port: port.get(), protocol }
}

fn client_answer(clients: &Clients, address: IpAddr) -> Option<ClientAnswer> {
    let (client, class) = (clients.get(address)?, clients.class(address)?);
    Some(ClientAnswer { workload: client.workload.to_string(), class: class.to_string() })
}

fn route_answer(rule: &Rule) -> RouteAnswer {
    RouteAnswer {
        virtual_service: rule.virtual_service.as_ref().map(ObjectName::to_string),
        kind: "tcp",
        index: rule.index,
        r#match: rule.match_index,
        name: None,
        file: rule.origin.file.to_string(),
        line: rule.origin.line,
    }
}

fn shares_of(rule: &Rule) -> Vec<Share> {
    let sum: u64 = rule.destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    let share = |destination: &Destination| Share {
        host: destination.host.to_string(),
        subset: destination.subset.as_deref().map(str::to_owned),
        port: destination.port,
        weight: destination.weight,
        share: f64::from(destination.weight) / sum.max(1) as f64,
    };
    rule.destinations.iter().map(share).collect()
}

fn chosen_answer(destination: &Destination, end: &End) -> Chosen {
    Chosen {
        host: destination.host.to_string(),
        subset: destination.subset.as_deref().map(str::to_owned),
        port: destination.port,
        backend: end.backend,
        forwarding: forwarding(end.forwarding),
    }
}

pub const fn forwarding(forwarding: Forwarding) -> &'static str {
    match forwarding {
        Forwarding::Snat => "snat",
        Forwarding::Dnat => "dnat",
    }
}
