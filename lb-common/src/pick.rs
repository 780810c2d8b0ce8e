//! The table walk: VIP to rule, rule to subset, subset to backend. Used once per flow.

use crate::{
    flow::{Address, FlowHash, HashKey, Tuple},
    table::{Backend, Tables, VipKey, rule, subset},
    wire::protocol,
};

/// What the tables say of a flow. The slots are there for `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick<A> {
    pub rule: u32,
    pub hash: FlowHash,
    pub slot: u32,
    /// Position in the rule's list of destinations, and the destination's statistics.
    pub position: u32,
    pub destination: u32,
    pub outcome: Outcome,
    /// With [`Outcome::Backend`] only.
    pub backend_id: u32,
    pub backend_slot: u32,
    pub backend: Backend<A>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination does not exist.
    Broken,
    /// The subset has no ready endpoint.
    Empty,
    Backend,
    /// The proxy serves it. Of the rest only `rule` is filled in.
    Proxy,
}

/// False: the destination of `flow` is no VIP.
#[inline(always)]
pub fn pick<A: Address, T: Tables<A>>(tables: &T, flow: &Tuple<A>, pick: &mut Pick<A>) -> bool {
    let Some(id) = vip(tables, flow) else {
        return false;
    };
    if id == rule::PROXY {
        pick.rule = id;
        pick.outcome = Outcome::Proxy;
        return true;
    }
    let base = tables.rule(id).offset();
    let slots = tables.word(base + rule::SLOTS);
    let shape = tables.word(base + rule::SHAPE);
    pick.rule = id;
    pick.hash =
        FlowHash::of(flow, if shape & 0xff == HashKey::SourceIp as u32 { HashKey::SourceIp } else { HashKey::Flow });
    pick.slot = pick.hash.subset_slot(slots);
    let table = base + rule::DESTINATIONS + (shape >> 8) * rule::DESTINATION_WORDS;
    pick.position = tables.word(table + pick.slot / 4) >> (8 * (pick.slot % 4)) & 0xff;
    let destination = base + rule::DESTINATIONS + pick.position * rule::DESTINATION_WORDS;
    pick.destination = tables.word(destination + 1);
    pick.outcome = match tables.word(destination) {
        _ if slots == 0 => Outcome::Empty,
        rule::BROKEN => Outcome::Broken,
        id => endpoint(tables, id, pick),
    };
    true
}

/// Whether the destination of `flow` is a VIP that the proxy serves.
#[inline(always)]
pub fn proxied<A: Address, T: Tables<A>>(tables: &T, flow: &Tuple<A>) -> bool {
    vip(tables, flow) == Some(rule::PROXY)
}

/// The rule for a flow: that of its client's class, where there is one, else the one for all.
#[inline(always)]
pub fn vip<A: Address, T: Tables<A>>(tables: &T, flow: &Tuple<A>) -> Option<u32> {
    let rule = tables.vip(&VipKey { address: flow.dst, port: flow.dport, protocol: protocol::TCP, class: 0 })?;
    if rule & rule::CLASSES == 0 {
        return Some(rule);
    }
    match of_class(tables, flow, rule & !rule::CLASSES) {
        rule::NONE => None,
        rule => Some(rule),
    }
}

/// The rule of the client's class, where there is one, else `all`. A function of its own: the stack is short.
#[inline(never)]
fn of_class<A: Address, T: Tables<A>>(tables: &T, flow: &Tuple<A>, all: u32) -> u32 {
    let class = tables.class(&flow.src);
    let own = VipKey { address: flow.dst, port: flow.dport, protocol: protocol::TCP, class };
    if class == 0 { all } else { tables.vip(&own).unwrap_or(all) }
}

#[inline(always)]
fn endpoint<A: Address, T: Tables<A>>(tables: &T, id: u32, pick: &mut Pick<A>) -> Outcome {
    let base = tables.subset(id).offset();
    let slots = tables.word(base + subset::SLOTS);
    if slots == 0 {
        return Outcome::Empty;
    }
    pick.backend_slot = pick.hash.backend_slot(slots);
    let table = base + subset::BACKENDS + tables.word(base + subset::COUNT);
    let position = tables.word(table + pick.backend_slot / 2) >> (16 * (pick.backend_slot % 2)) & 0xffff;
    pick.backend_id = tables.word(base + subset::BACKENDS + position);
    match tables.backend(pick.backend_id) {
        Some(backend) => {
            pick.backend = backend;
            Outcome::Backend
        }
        None => Outcome::Empty,
    }
}
