//! ICMP and ICMPv6 errors about our flows, translated by the packet they quote (RFC 5508 section 4.2, RFC 6146 section 3.5).
//!
//! A router or an end sends the error about a packet that we rewrote; it must reach the end that sent the original, and
//! quote what that end sent. Only so does path MTU discovery (RFC 1191, RFC 8201) work through the balancer.

use crate::{
    checksum::{self, Sum},
    flow::{Family as FamilyName, Tuple},
    frame::{Frame, TransportChange},
    packet::Packet,
    parse::{Fragment, Ip, Room},
    process::send,
    rewrite::Family,
    table::{Hop, Route, Tables},
    verdict::{Outcome, Reason},
    wire::{Be16, ipv4, protocol, tcp},
};

const HEADER: usize = 8;
const CHECKSUM: usize = 2;

/// Whether `kind` is an error that quotes a packet: RFC 792 types 3, 11, 12; RFC 4443 types 1 to 4.
#[inline(always)]
const fn is_error(family: FamilyName, kind: u8) -> bool {
    match family {
        FamilyName::V4 => matches!(kind, 3 | 11 | 12),
        FamilyName::V6 => matches!(kind, 1..=4),
    }
}

/// Uses the packet's `segment.tuple` for the quoted packet's ports and addresses, and `to` for where the message goes.
#[inline(never)]
pub fn process<A: Family, F: Frame, T: Tables<A>>(frame: &mut F, tables: &T, packet: &mut Packet<A>) -> Outcome {
    let ip = packet.ip;
    let Some(quoted) = quoted(frame, &ip, &mut packet.segment.tuple) else {
        return Outcome::pass(Reason::PassIcmp);
    };
    // The quoted packet is one that we sent, so the flow's entry is under the reverse of it.
    packet.reverse = packet.segment.tuple.reverse();
    packet.to = match tables.flow(&packet.reverse) {
        Some(entry) => entry.to,
        None => match tables.pending(&packet.reverse) {
            Some(pending) => pending.entry.to,
            None => return Outcome::pass(Reason::PassIcmp),
        },
    };
    packet.hop = match tables.route(&packet.to.src, &packet.to.dst) {
        Route::Hop(hop, _) => hop,
        Route::Unmet(ifindex) => Hop::unmet(ifindex),
        Route::Refused => return Outcome::drop(Reason::DropLookup),
        Route::None => return Outcome::drop(Reason::DropNoRoute),
    };
    match translate(frame, packet, quoted) {
        Ok(()) => send(frame, &packet.hop, Reason::ForwardIcmp),
        Err(reason) => Outcome::drop(reason),
    }
}

/// Where the quoted IP and TCP headers start.
#[derive(Clone, Copy)]
struct Quoted {
    at: usize,
    transport: usize,
}

/// The quoted packet, if the message is an error about a TCP segment.
#[inline(always)]
fn quoted<A: Family, F: Frame>(frame: &F, ip: &Ip<A>, tuple: &mut Tuple<A>) -> Option<Quoted> {
    if !is_error(A::FAMILY, frame.load(ip.transport)?) {
        return None;
    }
    let quoted = A::parse(frame, ip.transport + HEADER, Room::Quoted).ok()?;
    if quoted.protocol != protocol::TCP || matches!(quoted.fragment, Fragment::Later(_)) {
        return None;
    }
    let [sport, dport]: [Be16; 2] = frame.load(quoted.transport)?;
    *tuple = Tuple { src: quoted.src, dst: quoted.dst, sport, dport };
    Some(Quoted { at: quoted.at, transport: quoted.transport })
}

/// Rewrites the quoted packet to what the original sender sent, then the outer header towards that sender.
#[inline(never)]
fn translate<A: Family, F: Frame>(frame: &mut F, packet: &mut Packet<A>, quoted: Quoted) -> Result<(), Reason> {
    packet.reverse = packet.to.reverse();
    let (tuple, original) = (&packet.segment.tuple, &packet.reverse);
    let addresses = tuple.src.change(&original.src).plus(tuple.dst.change(&original.dst));
    let ports = Sum::default()
        .replace16(tuple.sport.raw(), original.sport.raw())
        .replace16(tuple.dport.raw(), original.dport.raw());
    let mut body = addresses.plus(ports);
    if A::FAMILY == FamilyName::V4 {
        let check: Be16 = frame.load(quoted.at + ipv4::CHECKSUM).ok_or(Reason::DropRewrite)?;
        let new = checksum::update(check, addresses);
        frame.store(quoted.at + ipv4::CHECKSUM, new).ok_or(Reason::DropRewrite)?;
        body = body.replace16(check.raw(), new);
    }
    frame.store(quoted.at + A::SRC, original.src).ok_or(Reason::DropRewrite)?;
    frame.store(quoted.at + A::DST, original.dst).ok_or(Reason::DropRewrite)?;
    frame.store(quoted.transport, [original.sport, original.dport]).ok_or(Reason::DropRewrite)?;
    let ip = &packet.ip;
    // Quotes may be as short as 8 bytes of TCP (RFC 792); only longer ones hold the checksum.
    if quoted.transport + tcp::CHECKSUM + 2 <= ip.transport + ip.transport_len
        && let Some(check) = frame.load::<Be16>(quoted.transport + tcp::CHECKSUM)
    {
        let new = checksum::update(check, addresses.plus(ports));
        frame.store(quoted.transport + tcp::CHECKSUM, new).ok_or(Reason::DropRewrite)?;
        body = body.replace16(check.raw(), new);
    }
    let outer = ip.src.change(&packet.to.src).plus(ip.dst.change(&packet.to.dst));
    A::rewrite(frame, ip.at, &packet.to.src, &packet.to.dst, outer)?;
    // RFC 4443 section 2.3: ICMPv6 sums a pseudo header, ICMP does not.
    let pseudo = if A::FAMILY == FamilyName::V6 { outer } else { Sum::default() };
    let change =
        TransportChange { pseudo, body, pseudo_before: 0, segment: ip.transport, segment_len: ip.transport_len };
    frame.patch_icmp(ip.transport + CHECKSUM, &change).ok_or(Reason::DropRewrite)
}
