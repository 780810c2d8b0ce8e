//! The table walk: VIP to rule, rule to subset, subset to backend. Used once per flow.

use crate::{
    flow::{Address, FlowHash, HashKey, Tuple},
    table::{Backend, Tables, VipKey, rule, subset},
    wire::protocol,
};

/// What the tables say of a flow. `slot` and `subset_slot` are reported by `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick<A> {
    pub rule: u32,
    pub hash: FlowHash,
    pub slot: u32,
    /// Position in the rule's list of destinations, and the destination's statistics.
    pub position: u32,
    pub destination: u32,
    pub outcome: Outcome<A>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// The destination does not exist.
    Broken,
    /// The subset has no ready endpoint.
    Empty,
    Backend { id: u32, slot: u32, backend: Backend<A> },
}

/// `None`: the destination of `flow` is no VIP.
#[inline(always)]
pub fn pick<A: Address, T: Tables<A>>(tables: &T, flow: &Tuple<A>) -> Option<Pick<A>> {
    let key = VipKey { address: flow.dst, port: flow.dport, protocol: protocol::TCP, class: 0 };
    let rule = tables.vip(&key)?;
    let base = tables.rule(rule).offset();
    let slots = tables.word(base + rule::SLOTS);
    let shape = tables.word(base + rule::SHAPE);
    let hash = FlowHash::of(flow, if shape & 0xff == HashKey::SourceIp as u32 { HashKey::SourceIp } else { HashKey::Flow });
    let slot = hash.subset_slot(slots);
    let table = base + rule::DESTINATIONS + (shape >> 8) * rule::DESTINATION_WORDS;
    let position = tables.word(table + slot / 4) >> (8 * (slot % 4)) & 0xff;
    let destination = base + rule::DESTINATIONS + position * rule::DESTINATION_WORDS;
    let outcome = match tables.word(destination) {
        _ if slots == 0 => Outcome::Empty,
        rule::BROKEN => Outcome::Broken,
        id => endpoint(tables, id, hash),
    };
    Some(Pick { rule, hash, slot, position, destination: tables.word(destination + 1), outcome })
}

#[inline(always)]
fn endpoint<A: Address, T: Tables<A>>(tables: &T, id: u32, hash: FlowHash) -> Outcome<A> {
    let base = tables.subset(id).offset();
    let slots = tables.word(base + subset::SLOTS);
    if slots == 0 {
        return Outcome::Empty;
    }
    let slot = hash.backend_slot(slots);
    let table = base + subset::BACKENDS + tables.word(base + subset::COUNT);
    let position = tables.word(table + slot / 2) >> (16 * (slot % 2)) & 0xffff;
    let id = tables.word(base + subset::BACKENDS + position);
    match tables.backend(id) {
        Some(backend) => Outcome::Backend { id, slot, backend },
        None => Outcome::Empty,
    }
}
