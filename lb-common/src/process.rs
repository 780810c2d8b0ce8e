//! The whole way of one frame: parse, decide, rewrite. What the kernel entry points call, and the tests.
//!
//! The fast path serves packets of settled flows and traffic that is none of ours; it writes nothing but counters. All else
//! takes the slow path, which would give the same answer for every packet.

use crate::{
    decide::{LEAST_HOPS, decide, settled},
    error,
    flow::{Address, Tuple, V4, V6},
    frame::Frame,
    icmp,
    packet::{Packet, Segment},
    parse::{self, Fragment, Ip, Network, Room},
    pick::proxied,
    reject::{self, Answer},
    rewrite::{Family, rewrite},
    table::{FragmentKey, FragmentPorts, Hop, PortUse, Tables, Way},
    verdict::{Action, Outcome, Reason, Verdict},
    wire::{Be16, Be32, Mac, TcpHeader, protocol, tcp},
};

/// Tables of both families.
pub trait Host: Tables<V4> + Tables<V6> {}
impl<T: Tables<V4> + Tables<V6>> Host for T {}

/// Decides what happens to the frame, rewrites it, and counts the one reason.
pub fn process<F: Frame, T: Host>(frame: &mut F, host: &T) -> Action {
    match fast(frame, host) {
        Some(action) => action,
        None => slow(frame, host),
    }
}

/// `None`: nothing was touched or counted, the slow path must decide.
#[inline(always)]
pub fn fast<F: Frame, T: Host>(frame: &mut F, host: &T) -> Option<Action> {
    let outcome = match parse::network(frame) {
        Some(Network::Ipv4(at)) => fast_ip::<V4, F, T>(frame, host, at)?,
        Some(Network::Ipv6(at)) => fast_ip::<V6, F, T>(frame, host, at)?,
        Some(Network::Other) => Outcome::pass(Reason::PassNotIp),
        None => return None,
    };
    Tables::<V4>::count(host, outcome.reason());
    Some(outcome.action())
}

#[inline(always)]
fn fast_ip<A: Family, F: Frame, T: Tables<A>>(frame: &mut F, tables: &T, at: usize) -> Option<Outcome> {
    let ip = A::base(frame, at, Room::Whole).ok()?;
    if ip.protocol != protocol::TCP {
        let ours = ip.protocol == A::ICMP || A::extends(ip.protocol);
        return (!ours).then_some(Outcome::pass(Reason::PassNotTcp));
    }
    if ip.fragment != Fragment::Whole {
        return None;
    }
    let segment = whole(frame, &ip)?;
    // The look-up takes its address; what is not in this copy stays in registers.
    let key = segment.tuple;
    if let Some(reason) = foreign(tables, &segment.tuple) {
        return Some(Outcome::pass(reason));
    }
    // These change a flow's state, or begin one: looking it up here would only be done again there.
    if segment.has(tcp::SYN | tcp::FIN | tcp::RST) {
        return None;
    }
    let Some(entry) = tables.flow(&key) else {
        return served(tables, &key);
    };
    if !settled(tables, &segment, &entry) || ip.hops < LEAST_HOPS {
        return None;
    }
    tables.count_backend(entry.backend_stats, entry.side, segment.ip_len as u64);
    Some(match rewrite(frame, &ip, &segment.tuple, &entry.to) {
        Ok(()) => launch(frame, &entry.hop, Reason::ForwardFlow),
        Err(reason) => Outcome::drop(reason),
    })
}

/// Why a segment whose endpoints concern nobody is passed on; `None` for all others.
#[inline(always)]
fn foreign<A: Address, T: Tables<A>>(tables: &T, tuple: &Tuple<A>) -> Option<Reason> {
    let Tuple { src, dst, sport, dport } = tuple;
    if tables.endpoint_in_use(PortUse::Listen, dst, *dport) || tables.endpoint_in_use(PortUse::Backend, src, *sport) {
        return None;
    }
    let port = tables.port_in_use(PortUse::Listen, *dport) || tables.port_in_use(PortUse::Backend, *sport);
    Some(if port { Reason::PassAddress } else { Reason::PassPort })
}

/// Reads a segment that is no fragment, in one go; `None` where its header is cut short or contradicts itself.
#[inline(always)]
fn whole<A: Address, F: Frame>(frame: &F, ip: &Ip<A>) -> Option<Segment<A>> {
    let header: TcpHeader = frame.load(ip.transport)?;
    let offset_flags = header.offset_flags.get();
    let len = (offset_flags >> 12) as usize * 4;
    if len < tcp::MIN_LEN || len > ip.transport_len {
        return None;
    }
    let tuple = Tuple { src: ip.src, dst: ip.dst, sport: header.sport, dport: header.dport };
    let (seq, ack) = (header.seq.get(), header.ack.get());
    let (ip_len, wire_len) = lengths(frame, ip);
    Some(Segment { tuple, flags: offset_flags as u8, seq, ack, ip_len, wire_len })
}

/// Bytes of the IP packet, and of the largest packet that it will be on the wire.
#[inline(always)]
fn lengths<A, F: Frame>(frame: &F, ip: &Ip<A>) -> (u32, u16) {
    let header = ip.transport - ip.at;
    let ip_len = (header + ip.transport_len) as u32;
    match frame.gso_size() {
        0 => (ip_len, ip_len as u16),
        payload => (ip_len, (header + tcp::MIN_LEN + payload) as u16),
    }
}

/// Passes a segment of a connection to the proxy on; `None` for all others.
#[inline(always)]
fn served<A: Address, T: Tables<A>>(tables: &T, tuple: &Tuple<A>) -> Option<Outcome> {
    let ours = proxied(tables, tuple) && tables.pending(tuple).is_none();
    ours.then_some(Outcome::pass(Reason::PassProxy))
}

/// Decides about any frame.
#[inline(always)]
pub fn slow<F: Frame, T: Host>(frame: &mut F, host: &T) -> Action {
    let outcome = match parse::network(frame) {
        Some(Network::Ipv4(at)) => slow_ip::<V4, F, T>(frame, host, at),
        Some(Network::Ipv6(at)) => slow_ip::<V6, F, T>(frame, host, at),
        Some(Network::Other) => Outcome::pass(Reason::PassNotIp),
        None => Outcome::pass(Reason::PassMalformed),
    };
    Tables::<V4>::count(host, outcome.reason());
    outcome.action()
}

/// Each stage is a function of its own, so that their stack frames do not add up.
#[inline(always)]
fn slow_ip<A: Family + Answer + error::Errors, F: Frame, T: Tables<A>>(
    frame: &mut F,
    tables: &T,
    at: usize,
) -> Outcome {
    let Some(mut packet) = tables.scratch() else {
        return Outcome::drop(Reason::DropRewrite);
    };
    match read(frame, tables, &mut packet, at) {
        Err(reason) => Outcome::pass(reason),
        Ok(Kind::Icmp) => icmp::process(frame, tables, &mut packet),
        Ok(Kind::Tcp) => match decide(tables, &mut packet) {
            Verdict::Pass(reason) => Outcome::pass(reason),
            Verdict::Drop(reason) => Outcome::drop(reason),
            Verdict::Reject(reason) => reflect(reject::reset(frame, &packet.ip, &packet.segment), reason),
            Verdict::TooBig(mtu) if error::possible(&packet.ip) => {
                reflect(error::answer(frame, &packet.ip, A::TOO_BIG, mtu as u32), Reason::ReplyTooBig)
            }
            Verdict::TooBig(_) => Outcome::drop(Reason::DropTooBig),
            Verdict::Expired if error::possible(&packet.ip) && tables.may_answer() => {
                reflect(error::answer(frame, &packet.ip, A::EXPIRED, 0), Reason::ReplyExpired)
            }
            Verdict::Expired => Outcome::drop(Reason::DropTtl),
            Verdict::Forward(reason) => deliver(frame, &packet, reason),
        },
    }
}

enum Kind {
    Tcp,
    Icmp,
}

#[inline(never)]
fn read<A: Family, F: Frame, T: Tables<A>>(
    frame: &F,
    tables: &T,
    packet: &mut Packet<A>,
    at: usize,
) -> Result<Kind, Reason> {
    packet.ip = A::parse(frame, at, Room::Whole)?;
    if packet.ip.protocol == A::ICMP && packet.ip.fragment == Fragment::Whole {
        return Ok(Kind::Icmp);
    }
    if packet.ip.protocol != protocol::TCP {
        return Err(Reason::PassNotTcp);
    }
    packet.segment = segment(frame, tables, &packet.ip)?;
    Ok(Kind::Tcp)
}

#[inline(never)]
fn deliver<A: Family, F: Frame>(frame: &mut F, packet: &Packet<A>, reason: Reason) -> Outcome {
    match rewrite(frame, &packet.ip, &packet.segment.tuple, &packet.to) {
        Ok(()) => send(frame, &packet.hop, reason),
        Err(reason) => Outcome::drop(reason),
    }
}

#[inline(always)]
fn reflect(written: Option<()>, reason: Reason) -> Outcome {
    match written {
        Some(()) => Outcome::reflect(reason),
        None => Outcome::drop(Reason::DropRewrite),
    }
}

/// Sends as far as the way is known. A packet from an address of the host's own would be refused by the host's routing, so
/// it must never be left to it for want of a link address.
#[inline(always)]
pub(crate) fn send<F: Frame>(frame: &mut F, hop: &Hop, reason: Reason) -> Outcome {
    match hop.way() {
        Way::Unknown => Outcome::drop(Reason::DropNoRoute),
        Way::Unmet(ifindex) => match frame.hand_over(ifindex) {
            Some(()) => Outcome::meet(ifindex, Reason::ForwardNeighbour),
            None => Outcome::drop(Reason::DropNeighbour),
        },
        Way::Ready(_) => launch(frame, hop, reason),
    }
}

/// Sets the link addresses of a hop that is ready, and sends.
#[inline(always)]
fn launch<F: Frame>(frame: &mut F, hop: &Hop, reason: Reason) -> Outcome {
    match frame.store::<[Mac; 2]>(0, [hop.destination, hop.source]) {
        Some(()) => Outcome::send(hop.ifindex, reason),
        None => Outcome::drop(Reason::DropRewrite),
    }
}

/// Reads ports and flags, or, for a later fragment, looks its ports up. Packets whose ports concern nobody leave here.
#[inline(always)]
fn segment<A: Family, F: Frame, T: Tables<A>>(frame: &F, tables: &T, ip: &Ip<A>) -> Result<Segment<A>, Reason> {
    let at = ip.transport;
    let (ip_len, wire_len) = lengths(frame, ip);
    if let Fragment::Later(id) = ip.fragment {
        let ports = tables.fragment(&FragmentKey { src: ip.src, dst: ip.dst, id }).ok_or(Reason::PassFragment)?;
        let tuple = Tuple { src: ip.src, dst: ip.dst, sport: ports.sport, dport: ports.dport };
        return Ok(Segment { tuple, flags: 0, seq: 0, ack: 0, ip_len, wire_len });
    }
    let [sport, dport]: [Be16; 2] = frame.load(at).ok_or(Reason::PassMalformed)?;
    if !tables.port_in_use(PortUse::Listen, dport) && !tables.port_in_use(PortUse::Backend, sport) {
        return Err(Reason::PassPort);
    }
    if ip.transport_len < tcp::MIN_LEN {
        return Err(Reason::PassMalformed);
    }
    let [seq, ack]: [Be32; 2] = frame.load(at + tcp::SEQ).ok_or(Reason::PassMalformed)?;
    let offset_flags = frame.load::<Be16>(at + tcp::OFFSET_FLAGS).ok_or(Reason::PassMalformed)?.get();
    let header = (offset_flags >> 12) as usize * 4;
    if header < tcp::MIN_LEN || header > ip.transport_len {
        return Err(Reason::PassMalformed);
    }
    let flags = offset_flags as u8;
    if let Fragment::First(id) = ip.fragment {
        tables.put_fragment(&FragmentKey { src: ip.src, dst: ip.dst, id }, &FragmentPorts { sport, dport });
    }
    let tuple = Tuple { src: ip.src, dst: ip.dst, sport, dport };
    Ok(Segment { tuple, flags, seq: seq.get(), ack: ack.get(), ip_len, wire_len })
}
