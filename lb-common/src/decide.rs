//! The decision about one TCP segment: known flow, handshake, or new flow. Generic over the address family and over where
//! the tables live. The frame is not touched here; writes to the tables are the flow's own state only.

use crate::{
    conntrack::State,
    flow::{Address, Tuple},
    pick::{Outcome, Pick, pick},
    table::{Backend, FlowEntry, Forwarding, Hop, PendingEntry, Put, PutError, Route, Side, Tables},
    verdict::{Forward, Reason, Verdict},
    wire::{Be16, tcp},
};

/// What the decision needs to know of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<A> {
    pub tuple: Tuple<A>,
    /// TCP flags; 0 for a later fragment.
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// Bytes of the IP packet, for the route's MTU.
    pub ip_len: u16,
}

impl<A> Segment<A> {
    /// A SYN that opens a connection.
    #[inline(always)]
    const fn opens(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK_FLAG | tcp::RST | tcp::FIN) == tcp::SYN
    }

    const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// Source ports tried for a new flow before giving up.
pub const PORT_PROBES: u32 = 64;

/// How far behind the expected acknowledgement number a segment may be ahead and still complete a handshake: a
/// generous window, yet 1 in 4,096 for somebody who guesses.
const ACK_WINDOW: u32 = 1 << 20;

#[inline(always)]
pub fn decide<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>) -> Verdict<A> {
    if let Some(entry) = tables.flow(&segment.tuple)
        && !(segment.opens() && entry.state.closed())
    {
        return known(tables, segment, entry);
    }
    if let Some(pending) = tables.pending(&segment.tuple) {
        return handshake(tables, segment, pending);
    }
    new(tables, segment)
}

/// A segment of an established flow. The common case: nothing is written.
#[inline(always)]
fn known<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, entry: FlowEntry<A>) -> Verdict<A> {
    if entry.state.ended() {
        return Verdict::Reject(Reason::RejectEnded);
    }
    let now = tables.now();
    let mut hop = entry.hop;
    let state = entry.state.step(entry.side, segment.flags);
    if state != entry.state || now.wrapping_sub(entry.seen) >= tables.settings().refresh || hop.ifindex == 0 {
        match tables.route(&entry.to.src, &entry.to.dst, segment.ip_len) {
            Route::Hop(found) => hop = found,
            Route::NoNeighbour => hop = Hop::default(),
            Route::TooBig(_) | Route::None => return Verdict::Drop(Reason::DropNoRoute),
        }
        refresh(tables, segment, &FlowEntry { hop, state, seen: now, ..entry });
    }
    tables.count_backend(entry.backend_stats, entry.side, segment.ip_len as u64);
    forward(Reason::ForwardFlow, entry.to, hop)
}

/// Writes what changed to this direction's entry, and keeps the other direction alive: it may have been evicted, and this
/// entry knows all that it held.
#[inline(always)]
fn refresh<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, entry: &FlowEntry<A>) {
    tables.touch_flow(&segment.tuple, |old| {
        old.hop = entry.hop;
        old.state = entry.state;
        old.seen = entry.seen;
    });
    let other = entry.to.reverse();
    if tables.flow(&other).is_some() {
        tables.touch_flow(&other, |old| old.state = entry.state);
    } else {
        // A failed write leaves the flow as it is; the next refresh tries again.
        let _ = tables.put_flow(&other, &opposite(segment, entry), Put::New);
    }
}

/// The entry of a flow's other direction.
#[inline(always)]
fn opposite<A: Address>(segment: &Segment<A>, entry: &FlowEntry<A>) -> FlowEntry<A> {
    let side = match entry.side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    };
    FlowEntry { to: segment.tuple.reverse(), hop: Hop::default(), side, ..*entry }
}

/// A segment of a flow whose handshake is under way.
#[inline(always)]
fn handshake<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, pending: PendingEntry<A>) -> Verdict<A> {
    let entry = pending.entry;
    let other = entry.to.reverse();
    let hop = match tables.route(&entry.to.src, &entry.to.dst, segment.ip_len) {
        Route::Hop(found) => found,
        Route::NoNeighbour => Hop::default(),
        Route::TooBig(_) | Route::None => return Verdict::Drop(Reason::DropNoRoute),
    };
    match entry.side {
        _ if segment.has(tcp::RST) => {
            tables.drop_pending(&segment.tuple);
            tables.drop_pending(&other);
        }
        Side::Backend if segment.has(tcp::SYN) => tables.touch_pending(&other, |client| {
            client.expect = segment.seq.wrapping_add(1);
            client.answered = 1;
        }),
        Side::Client if completes(segment, &pending) => {
            let entry = FlowEntry { hop, seen: tables.now(), ..entry };
            if establish(tables, segment, &entry).is_err() {
                return Verdict::Reject(Reason::RejectTableFull);
            }
        }
        Side::Backend | Side::Client => {}
    }
    tables.count_backend(entry.backend_stats, entry.side, segment.ip_len as u64);
    forward(Reason::ForwardHandshake, entry.to, hop)
}

#[inline(always)]
fn completes<A>(segment: &Segment<A>, pending: &PendingEntry<A>) -> bool {
    segment.has(tcp::ACK_FLAG) && !segment.has(tcp::SYN) && pending.answered != 0 && segment.ack.wrapping_sub(pending.expect) < ACK_WINDOW
}

/// Moves a flow from the table of handshakes to the table of flows. Never the other order: a source port must be taken
/// in at least one of them at every moment.
#[inline(always)]
fn establish<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, entry: &FlowEntry<A>) -> Result<(), PutError> {
    let other = entry.to.reverse();
    tables.put_flow(&other, &opposite(segment, entry), Put::Replace)?;
    tables.put_flow(&segment.tuple, entry, Put::Replace)?;
    tables.drop_pending(&other);
    tables.drop_pending(&segment.tuple);
    Ok(())
}

/// A segment of no known flow: a SYN to a VIP starts one.
#[inline(always)]
fn new<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>) -> Verdict<A> {
    let Some(pick) = pick(tables, &segment.tuple) else {
        return Verdict::Pass(Reason::PassAddress);
    };
    if !segment.opens() {
        return match segment.has(tcp::RST) {
            true => Verdict::Drop(Reason::DropReset),
            false => Verdict::Reject(Reason::RejectNoFlow),
        };
    }
    match pick.outcome {
        Outcome::Broken => refused(tables, &pick, Reason::RejectBroken),
        Outcome::Empty => refused(tables, &pick, Reason::RejectNoEndpoint),
        Outcome::Backend { id, backend, .. } => open(tables, segment, &pick, id, &backend),
    }
}

#[inline(always)]
fn refused<A: Address, T: Tables<A>>(tables: &T, pick: &Pick<A>, reason: Reason) -> Verdict<A> {
    tables.count_new(pick.destination, None);
    Verdict::Reject(reason)
}

/// Starts a flow to `backend`: finds a free source port, remembers both directions.
#[inline(always)]
fn open<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, pick: &Pick<A>, id: u32, backend: &Backend<A>) -> Verdict<A> {
    if let Some(old) = tables.flow(&segment.tuple) {
        // A closed flow on the same tuple: its source port is free again.
        tables.drop_flow(&segment.tuple);
        tables.drop_flow(&old.to.reverse());
    }
    let source = match backend.forwarding {
        Forwarding::Snat => backend.source,
        Forwarding::Dnat => segment.tuple.src,
    };
    let hop = match tables.route(&source, &backend.address, segment.ip_len) {
        Route::Hop(found) => found,
        Route::NoNeighbour => Hop::default(),
        Route::TooBig(_) | Route::None => return Verdict::Drop(Reason::DropNoRoute),
    };
    let mut entry = FlowEntry {
        to: Tuple { src: source, dst: backend.address, sport: segment.tuple.sport, dport: backend.port },
        hop,
        seen: tables.now(),
        backend: id,
        backend_stats: backend.stats,
        destination: pick.destination,
        state: State::OPEN,
        side: Side::Client,
        reserved: 0,
    };
    if let Err(reason) = claim_port(tables, segment, pick, backend, &mut entry) {
        return Verdict::Reject(reason);
    }
    let pending = PendingEntry { entry, expect: 0, answered: 0 };
    if tables.put_pending(&segment.tuple, &pending, Put::Replace).is_err() {
        return Verdict::Reject(Reason::RejectTableFull);
    }
    tables.count_new(pick.destination, Some(backend.stats));
    tables.count_backend(backend.stats, Side::Client, segment.ip_len as u64);
    forward(Reason::ForwardNew, entry.to, hop)
}

/// Takes the reverse tuple for this flow and sets `entry.to.sport` to the port it got.
#[inline(always)]
fn claim_port<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, pick: &Pick<A>, backend: &Backend<A>, entry: &mut FlowEntry<A>) -> Result<(), Reason> {
    let settings = tables.settings();
    let count = settings.snat_count as u32;
    // A kept client address nearly always keeps its port too; it collides only where one client port reaches one backend
    // through two VIPs.
    if backend.forwarding == Forwarding::Dnat && claim(tables, segment, entry)? {
        return Ok(());
    }
    let mut offset = pick.hash.first_port(count);
    for probe in 0..PORT_PROBES {
        if probe >= count {
            break;
        }
        entry.to.sport = Be16::new(settings.snat_first.wrapping_add(offset as u16));
        if claim(tables, segment, entry)? {
            return Ok(());
        }
        offset += 1;
        if offset >= count {
            offset = 0;
        }
    }
    Err(Reason::RejectPorts)
}

/// Whether the reverse tuple was free. The claim is written before the established flows are asked, so that a flow that is
/// just moving from one table to the other is seen in one of them.
#[inline(always)]
fn claim<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, entry: &FlowEntry<A>) -> Result<bool, Reason> {
    let reverse = entry.to.reverse();
    let pending = PendingEntry { entry: opposite(segment, entry), expect: 0, answered: 0 };
    match tables.put_pending(&reverse, &pending, Put::New) {
        Ok(()) => {}
        Err(PutError::Exists) => return Ok(false),
        Err(PutError::Full) => return Err(Reason::RejectTableFull),
    }
    if tables.flow(&reverse).is_none() {
        return Ok(true);
    }
    tables.drop_pending(&reverse);
    Ok(false)
}

#[inline(always)]
fn forward<A: Address>(reason: Reason, to: Tuple<A>, hop: Hop) -> Verdict<A> {
    let hop = (hop.ifindex != 0).then_some(hop);
    Verdict::Forward(Forward { reason, to, hop })
}
