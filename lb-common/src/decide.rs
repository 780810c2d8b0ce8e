//! The decision about one TCP segment: known flow, handshake, or new flow. Generic over the address family and over where
//! the tables live. The frame is not touched here; writes to the tables are the flow's own state only.

use crate::{
    conntrack::State,
    flow::{Address, Tuple},
    packet::{Packet, Segment},
    pick::{Outcome, pick, vip},
    table::{FlowEntry, Forwarding, Hop, PendingEntry, Put, PutError, Route, Side, Tables, rule},
    verdict::{Reason, Verdict},
    wire::{Be16, tcp},
};

/// Source ports tried for a new flow before giving up.
pub const PORT_PROBES: u32 = 28;

/// How many of these only take a port that no flow holds, not even a closed one.
const FRESH_PROBES: u32 = 16;

/// A packet with less time to live than this is not forwarded (RFC 1812 section 5.3.1, RFC 8200 section 3).
pub const LEAST_HOPS: u8 = 2;

/// How far ahead of the expected acknowledgement number a segment may be and still complete a handshake: a generous
/// window, yet 1 in 4,096 for somebody who guesses.
const ACK_WINDOW: u32 = 1 << 20;

/// Judges `packet.segment`. A verdict to forward leaves `to`, `hop` and `mtu` in the packet.
#[inline(never)]
pub fn decide<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Verdict {
    let closed = match tables.flow(&packet.segment.tuple) {
        Some(entry) if packet.segment.opens() && entry.state.closed() => Some(entry.to.reverse()),
        Some(entry) => {
            packet.here.entry = *entry;
            // It may be a guard, and what follows writes to the table.
            drop(entry);
            return known(tables, packet);
        }
        None => None,
    };
    // A closed flow on the same tuple makes way: its source port is free again.
    if let Some(reverse) = closed {
        tables.drop_flow(&packet.segment.tuple);
        tables.drop_flow(&reverse);
    }
    // Most SYNs are the first of their flow: whether a handshake is under way shows when the flow is written.
    if packet.segment.opens()
        && let Some(verdict) = new(tables, packet)
    {
        return verdict;
    }
    if let Some(pending) = tables.pending(&packet.segment.tuple) {
        packet.here = *pending;
        drop(pending);
        return handshake(tables, packet);
    }
    if let Some(entry) = tables.flow(&packet.segment.tuple) {
        // Another CPU moved it from one table to the other between the two look-ups.
        packet.here.entry = *entry;
        drop(entry);
        return known(tables, packet);
    }
    stray(tables, packet)
}

/// Whether `entry` already holds everything to forward a segment: nothing to write, nothing to look up.
#[inline(always)]
pub fn settled<A: Address, T: Tables<A>>(tables: &T, segment: &Segment<A>, entry: &FlowEntry<A>) -> bool {
    !segment.has(tcp::SYN | tcp::FIN | tcp::RST)
        && entry.state.steady()
        && fresh(tables, entry)
        && segment.wire_len <= entry.mtu
}

/// Whether the way that `entry` remembers is young enough to be taken.
#[inline(always)]
fn fresh<A: Address, T: Tables<A>>(tables: &T, entry: &FlowEntry<A>) -> bool {
    tables.now().wrapping_sub(entry.seen) < tables.settings().refresh && entry.hop.ready()
}

/// A segment of an established flow that changes its state, or the first one in about a second.
#[inline(never)]
fn known<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Verdict {
    if packet.here.entry.state.ended() {
        // RFC 9293 section 3.10.7.1: a RST is never answered.
        return match packet.segment.has(tcp::RST) {
            true => Verdict::Drop(Reason::DropReset),
            false => Verdict::Reject(Reason::RejectEnded),
        };
    }
    packet.to = packet.here.entry.to;
    let (young, last) = (fresh(tables, &packet.here.entry), (packet.here.entry.hop, packet.here.entry.mtu));
    if young {
        (packet.hop, packet.mtu) = last;
    } else if let Err(reason) = next_hop(tables, packet, last) {
        return Verdict::Drop(reason);
    }
    if packet.ip.hops < LEAST_HOPS {
        return Verdict::Expired;
    }
    match young {
        true => note_state(tables, packet),
        false => refresh(tables, packet),
    }
    if packet.segment.wire_len > packet.mtu {
        return Verdict::TooBig(packet.mtu);
    }
    tables.count_backend(packet.here.entry.backend_stats, packet.here.entry.side, packet.segment.ip_len as u64);
    Verdict::Forward(Reason::ForwardFlow)
}

/// A segment that ends a flow comes soon after others: the way is known, and only the state is written.
#[inline(always)]
fn note_state<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) {
    let entry = &packet.here.entry;
    let state = entry.state.step(entry.side, packet.segment.flags);
    if state == entry.state {
        return;
    }
    packet.reverse = packet.to.reverse();
    tables.touch_flow(&packet.segment.tuple, |entry| entry.state = state);
    tables.touch_flow(&packet.reverse, |entry| entry.state = state);
}

/// Writes what changed to this direction's entry, and keeps the other direction alive: it may have been evicted, and this
/// entry knows all that it held.
#[inline(always)]
fn refresh<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) {
    let state = packet.here.entry.state.step(packet.here.entry.side, packet.segment.flags);
    let (hop, mtu, seen) = (packet.hop, packet.mtu, tables.now());
    packet.here.entry.state = state;
    packet.here.entry.seen = seen;
    tables.touch_flow(&packet.segment.tuple, |entry| {
        entry.hop = hop;
        entry.mtu = mtu;
        entry.state = state;
        entry.seen = seen;
    });
    packet.mirror();
    if tables.flow(&packet.reverse).is_some() {
        tables.touch_flow(&packet.reverse, |entry| entry.state = state);
    } else {
        // A failed write leaves the flow as it is; the next refresh tries again.
        let _ = tables.put_flow(&packet.reverse, &packet.there.entry, Put::New);
    }
}

/// A segment of a flow whose handshake is under way.
#[inline(never)]
fn handshake<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Verdict {
    packet.to = packet.here.entry.to;
    let last = (packet.here.entry.hop, packet.here.entry.mtu);
    if fresh(tables, &packet.here.entry) {
        (packet.hop, packet.mtu) = last;
    } else if let Err(reason) = next_hop(tables, packet, last) {
        return Verdict::Drop(reason);
    }
    if packet.ip.hops < LEAST_HOPS {
        return Verdict::Expired;
    }
    let reverse = packet.to.reverse();
    let expect = packet.segment.seq.wrapping_add(1);
    match packet.here.entry.side {
        _ if packet.segment.has(tcp::RST) => {
            tables.drop_pending(&packet.segment.tuple);
            tables.drop_pending(&reverse);
        }
        Side::Backend if packet.segment.has(tcp::SYN) => {
            tables.touch_pending(&reverse, |client| {
                client.expect = expect;
                client.answered = 1;
            });
            // For the established flow.
            let (hop, mtu, seen) = (packet.hop, packet.mtu, tables.now());
            tables.touch_pending(&packet.segment.tuple, |backend| {
                backend.entry.hop = hop;
                backend.entry.mtu = mtu;
                backend.entry.seen = seen;
            });
        }
        Side::Client if completes(&packet.segment, &packet.here) => {
            if establish(tables, packet).is_err() {
                return Verdict::Reject(Reason::RejectTableFull);
            }
        }
        Side::Backend | Side::Client => {}
    }
    if packet.segment.wire_len > packet.mtu {
        return Verdict::TooBig(packet.mtu);
    }
    tables.count_backend(packet.here.entry.backend_stats, packet.here.entry.side, packet.segment.ip_len as u64);
    Verdict::Forward(Reason::ForwardHandshake)
}

#[inline(always)]
fn completes<A>(segment: &Segment<A>, pending: &PendingEntry<A>) -> bool {
    segment.has(tcp::ACK_FLAG)
        && !segment.has(tcp::SYN)
        && pending.answered != 0
        && segment.ack.wrapping_sub(pending.expect) < ACK_WINDOW
}

/// Moves a flow from the table of handshakes to the table of flows. Never the other order: a source port must be taken
/// in at least one of them at every moment.
#[inline(always)]
fn establish<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Result<(), PutError> {
    packet.here.entry.hop = packet.hop;
    packet.here.entry.mtu = packet.mtu;
    packet.here.entry.seen = tables.now();
    packet.here.entry.state = State::OPEN.step(Side::Client, packet.segment.flags);
    packet.mirror();
    if let Some(backend) = tables.pending(&packet.reverse) {
        packet.there.entry.hop = backend.entry.hop;
        packet.there.entry.mtu = backend.entry.mtu;
        packet.there.entry.seen = backend.entry.seen;
    }
    tables.put_flow(&packet.reverse, &packet.there.entry, Put::Replace)?;
    tables.put_flow(&packet.segment.tuple, &packet.here.entry, Put::Replace)?;
    tables.drop_pending(&packet.reverse);
    tables.drop_pending(&packet.segment.tuple);
    Ok(())
}

/// A segment inside no known flow.
#[inline(always)]
fn stray<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Verdict {
    match vip(tables, &packet.segment.tuple) {
        None => Verdict::Pass(Reason::PassAddress),
        // The host's stack knows its connections.
        Some(rule::PROXY) => Verdict::Pass(Reason::PassProxy),
        // Its handshake was evicted just now.
        Some(_) if packet.segment.opens() => Verdict::Reject(Reason::RejectTableFull),
        Some(_) if packet.segment.has(tcp::RST) => Verdict::Drop(Reason::DropReset),
        Some(_) => Verdict::Reject(Reason::RejectNoFlow),
    }
}

/// A SYN to a VIP starts a flow. `None`: it started one before, whose handshake is under way.
#[inline(never)]
fn new<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Option<Verdict> {
    let found = pick(tables, &packet.segment.tuple, &mut packet.pick);
    if found && packet.pick.outcome == Outcome::Backend {
        return open(tables, packet);
    }
    // The configuration has changed since.
    if tables.pending(&packet.segment.tuple).is_some() {
        return None;
    }
    let refusal = match packet.pick.outcome {
        _ if !found => return Some(Verdict::Pass(Reason::PassAddress)),
        Outcome::Proxy => return Some(Verdict::Pass(Reason::PassProxy)),
        Outcome::Broken => Reason::RejectBroken,
        Outcome::Empty | Outcome::Backend => Reason::RejectNoEndpoint,
    };
    tables.count_new(packet.pick.destination, None);
    Some(Verdict::Reject(refusal))
}

/// Starts a flow to the picked backend: finds a free source port, remembers both directions. `None` as for [`new`].
#[inline(never)]
fn open<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Option<Verdict> {
    let source = match packet.pick.backend.forwarding {
        Forwarding::Snat => packet.pick.backend.source,
        Forwarding::Dnat => packet.segment.tuple.src,
    };
    packet.to = Tuple {
        src: source,
        dst: packet.pick.backend.address,
        sport: packet.segment.tuple.sport,
        dport: packet.pick.backend.port,
    };
    // With our own address as the source many flows ask for the same way; a client's is its own.
    let route = match packet.pick.backend.forwarding {
        Forwarding::Snat => tables.recent_route(&packet.to.src, &packet.to.dst),
        Forwarding::Dnat => tables.route(&packet.to.src, &packet.to.dst),
    };
    if let Err(reason) = take(packet, route, (Hop::default(), 0)) {
        return Some(Verdict::Drop(reason));
    }
    if packet.ip.hops < LEAST_HOPS {
        return Some(Verdict::Expired);
    }
    if packet.pick.backend.forwarding == Forwarding::Dnat && beside(tables, packet) {
        packet.pick.backend.forwarding = Forwarding::Snat;
        packet.to.src = packet.pick.backend.source;
    }
    // A SYN may carry data (RFC 7413).
    if packet.segment.wire_len > packet.mtu {
        return Some(Verdict::TooBig(packet.mtu));
    }
    packet.here = PendingEntry {
        entry: FlowEntry {
            to: packet.to,
            hop: packet.hop,
            seen: tables.now(),
            backend: packet.pick.backend_id,
            backend_stats: packet.pick.backend.stats,
            destination: packet.pick.destination,
            state: State::OPEN,
            side: Side::Client,
            mtu: packet.mtu,
        },
        expect: 0,
        answered: 0,
    };
    match claim_port(tables, packet) {
        Ok(Claim::Taken) => {}
        Ok(Claim::Busy) => return Some(Verdict::Reject(Reason::RejectPorts)),
        Ok(Claim::Own) => return None,
        Err(_) => return Some(Verdict::Reject(Reason::RejectTableFull)),
    }
    packet.to = packet.here.entry.to;
    if let Err(error) = tables.put_pending(&packet.segment.tuple, &packet.here, Put::New) {
        // Repeated. An earlier port of the search became free meanwhile, or the backend is another by now.
        tables.drop_pending(&packet.reverse);
        return if error == PutError::Exists { None } else { Some(Verdict::Reject(Reason::RejectTableFull)) };
    }
    tables.count_new(packet.pick.destination, Some(packet.pick.backend.stats));
    tables.count_backend(packet.pick.backend.stats, Side::Client, packet.segment.ip_len as u64);
    Some(Verdict::Forward(Reason::ForwardNew))
}

/// Whether client and backend are neighbours on one link, or one and the same: the backend would answer a kept client address
/// without passing here.
#[inline(never)]
fn beside<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> bool {
    packet.hop.leaves_by(tables.came_by()) && tables.is_neighbour(&packet.segment.tuple.src)
}

/// What became of the search for a source port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    Taken,
    Busy,
    /// This very flow has taken it before: its SYN is repeated.
    Own,
}

/// Takes a reverse tuple for this flow and leaves the source port it got in `here`.
#[inline(always)]
fn claim_port<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Result<Claim, PutError> {
    let settings = tables.settings();
    let count = settings.snat_count as u32;
    let first = packet.pick.hash.first_port(count);
    // A kept client address nearly always keeps its port too; it collides only where one client port reaches one backend
    // through two VIPs.
    if packet.pick.backend.forwarding == Forwarding::Snat {
        packet.here.entry.to.sport = Be16::new(settings.snat_first.wrapping_add(first as u16));
    }
    if claim(tables, packet)? {
        return Ok(Claim::Taken);
    }
    if tables.pending(&packet.segment.tuple).is_some() {
        return Ok(Claim::Own);
    }
    if packet.pick.backend.forwarding == Forwarding::Dnat
        && is_free(tables, packet, Former::Yields)
        && claim(tables, packet)?
    {
        return Ok(Claim::Taken);
    }
    for probe in 0..PORT_PROBES {
        if probe >= count {
            break;
        }
        // Computed from `first` each time: a running offset would be a new state to the verifier in every round.
        let at = first + distance(probe, count);
        let offset = if at < count { at } else { at % count };
        packet.here.entry.to.sport = Be16::new(settings.snat_first.wrapping_add(offset as u16));
        packet.reverse = packet.here.entry.to.reverse();
        let former = if probe < FRESH_PROBES { Former::Keeps } else { Former::Yields };
        // A look is cheaper than a claim in vain, and most of those come in a row.
        if is_free(tables, packet, former) && claim(tables, packet)? {
            return Ok(Claim::Taken);
        }
    }
    Ok(Claim::Busy)
}

/// How far from the first port a probe looks. One port after the other would gather the flows in long rows, which the next
/// ones have to pass; growing steps do not. Where there are fewer ports than probes each of them is looked at.
#[inline(always)]
const fn distance(probe: u32, count: u32) -> u32 {
    if count <= PORT_PROBES { probe } else { probe * (probe + 1) / 2 }
}

/// Whether the reverse tuple was free. The claim is written before the established flows are asked, so that a flow that is
/// just moving from one table to the other is seen in one of them.
#[inline(never)]
fn claim<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>) -> Result<bool, PutError> {
    packet.mirror();
    match tables.put_pending(&packet.reverse, &packet.there, Put::New) {
        Ok(()) => {}
        Err(PutError::Exists) => return Ok(false),
        Err(PutError::Full) => return Err(PutError::Full),
    }
    if tables.flow(&packet.reverse).is_some() {
        tables.drop_pending(&packet.reverse);
        return Ok(false);
    }
    Ok(true)
}

/// What becomes of a source port whose flow both ends have closed, or whose handshake has not got on, for about a second or
/// longer. The backend may still remember that flow (TIME_WAIT), so other ports come first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Former {
    Keeps,
    Yields,
}

/// Whether the reverse tuple can be claimed, if need be by giving up the flow that holds it. Two that give up the same flow at
/// the same moment may take its port one after the other: then neither's handshake completes, and both try again.
#[inline(never)]
fn is_free<A: Address, T: Tables<A>>(tables: &T, packet: &Packet<A>, former: Former) -> bool {
    if let Some(entry) = tables.flow(&packet.reverse) {
        let yields = former == Former::Yields && entry.state.finished() && quiet(tables, &entry);
        let forward = entry.to.reverse();
        drop(entry);
        if yields {
            tables.drop_flow(&packet.reverse);
            tables.drop_flow(&forward);
        }
        return yields;
    }
    if former == Former::Yields
        && let Some(pending) = tables.pending(&packet.reverse)
    {
        let yields = quiet(tables, &pending.entry);
        let forward = pending.entry.to.reverse();
        drop(pending);
        if yields {
            tables.drop_pending(&packet.reverse);
            tables.drop_pending(&forward);
        }
        return yields;
    }
    true
}

/// Whether a flow that does not get on may be given up.
#[inline(always)]
fn quiet<A: Address, T: Tables<A>>(tables: &T, entry: &FlowEntry<A>) -> bool {
    tables.now().wrapping_sub(entry.seen) >= tables.settings().refresh
}

/// Finds the way towards `packet.to`; `last` is the one taken so far, with its MTU.
#[inline(always)]
fn next_hop<A: Address, T: Tables<A>>(tables: &T, packet: &mut Packet<A>, last: (Hop, u16)) -> Result<(), Reason> {
    take(packet, tables.route(&packet.to.src, &packet.to.dst), last)
}

#[inline(always)]
fn take<A: Address>(packet: &mut Packet<A>, route: Route, last: (Hop, u16)) -> Result<(), Reason> {
    (packet.hop, packet.mtu) = match route {
        Route::Hop(hop, mtu) => (hop, mtu),
        Route::Unmet(ifindex) => (Hop::unmet(ifindex), u16::MAX),
        Route::Refused if last.0.ready() => last,
        Route::Refused => return Err(Reason::DropLookup),
        Route::None => return Err(Reason::DropNoRoute),
    };
    Ok(())
}
