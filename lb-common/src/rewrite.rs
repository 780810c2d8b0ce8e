//! The whole way of one frame: parse, decide, rewrite in place. What the kernel entry points and `explain` both call.

use crate::{
    checksum::{self, Sum},
    decide::{Segment, decide},
    flow::{Address, Tuple, V4, V6},
    frame::{Frame, TransportChange},
    icmp,
    parse::{self, Fragment, Header, Ip, Network, Room},
    reject::{self, Answer},
    table::{FragmentKey, FragmentPorts, Hop, PortUse, Tables},
    verdict::{Action, Reason, Verdict},
    wire::{Be16, Be32, Mac, ether, ipv4, ipv6, protocol, tcp},
};

/// Tables of both families.
pub trait Host: Tables<V4> + Tables<V6> {}
impl<T: Tables<V4> + Tables<V6>> Host for T {}

/// Decides what happens to the frame, rewrites it, and counts the one reason.
#[inline(always)]
pub fn process<F: Frame, T: Host>(frame: &mut F, host: &T) -> Action {
    let (action, reason) = match parse::network(frame) {
        Some(Network::Ipv4(at)) => process_ip::<V4, F, T>(frame, host, at),
        Some(Network::Ipv6(at)) => process_ip::<V6, F, T>(frame, host, at),
        Some(Network::Other) => (Action::Pass, Reason::PassNotIp),
        None => (Action::Pass, Reason::PassMalformed),
    };
    Tables::<V4>::count(host, reason);
    action
}

#[inline(always)]
fn process_ip<A: Family + Answer, F: Frame, T: Tables<A>>(frame: &mut F, tables: &T, at: usize) -> (Action, Reason) {
    let ip = match A::parse(frame, at, Room::Whole) {
        Ok(ip) => ip,
        Err(reason) => return (Action::Pass, reason),
    };
    if ip.protocol == protocol::TCP {
        process_tcp(frame, tables, &ip)
    } else if ip.protocol == A::ICMP && ip.fragment == Fragment::Whole {
        icmp::process(frame, tables, &ip)
    } else {
        (Action::Pass, Reason::PassNotTcp)
    }
}

#[inline(always)]
fn process_tcp<A: Family + Answer, F: Frame, T: Tables<A>>(frame: &mut F, tables: &T, ip: &Ip<A>) -> (Action, Reason) {
    let segment = match segment(frame, tables, ip) {
        Ok(segment) => segment,
        Err(reason) => return (Action::Pass, reason),
    };
    match decide(tables, &segment) {
        Verdict::Pass(reason) => (Action::Pass, reason),
        Verdict::Drop(reason) => (Action::Drop, reason),
        Verdict::Reject(reason) => match reject::reset(frame, ip, &segment) {
            Some(()) => (Action::Reflect, reason),
            None => (Action::Drop, Reason::DropRewrite),
        },
        Verdict::Forward(forward) => match rewrite(frame, ip, &segment.tuple, &forward.to) {
            Ok(()) => send(frame, forward.hop, forward.reason),
            Err(reason) => (Action::Drop, reason),
        },
    }
}

/// Sets the link addresses and sends, or leaves the rewritten packet to the host where the neighbour is not known.
#[inline(always)]
pub(crate) fn send<F: Frame>(frame: &mut F, hop: Option<Hop>, reason: Reason) -> (Action, Reason) {
    let Some(hop) = hop else {
        return (Action::Pass, Reason::PassNoNeighbour);
    };
    match frame.store::<[Mac; 2]>(0, [hop.destination, hop.source]) {
        Some(()) => (Action::Send(hop), reason),
        None => (Action::Drop, Reason::DropRewrite),
    }
}

/// Reads ports and flags, or, for a later fragment, looks its ports up. Packets whose ports concern nobody leave here.
#[inline(always)]
fn segment<A: Family, F: Frame, T: Tables<A>>(frame: &F, tables: &T, ip: &Ip<A>) -> Result<Segment<A>, Reason> {
    let at = ip.transport;
    let ip_len = (at - ip.at + ip.transport_len) as u16;
    if let Fragment::Later(id) = ip.fragment {
        let ports = tables.fragment(&FragmentKey { src: ip.src, dst: ip.dst, id }).ok_or(Reason::PassFragment)?;
        let tuple = Tuple { src: ip.src, dst: ip.dst, sport: ports.sport, dport: ports.dport };
        return Ok(Segment { tuple, flags: 0, seq: 0, ack: 0, ip_len });
    }
    let [sport, dport]: [Be16; 2] = frame.load(at).ok_or(Reason::PassMalformed)?;
    if !tables.port_in_use(PortUse::Listen, dport) && !tables.port_in_use(PortUse::Backend, sport) {
        return Err(Reason::PassPort);
    }
    if ip.transport_len < tcp::MIN_LEN {
        return Err(Reason::PassMalformed);
    }
    let [seq, ack]: [Be32; 2] = frame.load(at + tcp::SEQ).ok_or(Reason::PassMalformed)?;
    let flags = frame.load::<Be16>(at + tcp::OFFSET_FLAGS).ok_or(Reason::PassMalformed)?.get() as u8;
    if let Fragment::First(id) = ip.fragment {
        tables.put_fragment(&FragmentKey { src: ip.src, dst: ip.dst, id }, &FragmentPorts { sport, dport });
    }
    let tuple = Tuple { src: ip.src, dst: ip.dst, sport, dport };
    Ok(Segment { tuple, flags, seq: seq.get(), ack: ack.get(), ip_len })
}

/// Writes the new addresses and ports and corrects every checksum. A later fragment has no ports: its transport checksum
/// stands in the first one and was corrected there.
#[inline(always)]
fn rewrite<A: Family, F: Frame>(frame: &mut F, ip: &Ip<A>, from: &Tuple<A>, to: &Tuple<A>) -> Result<(), Reason> {
    let addresses = from.src.change(&to.src).plus(from.dst.change(&to.dst));
    A::rewrite(frame, ip.at, &to.src, &to.dst, addresses)?;
    if matches!(ip.fragment, Fragment::Later(_)) {
        return Ok(());
    }
    let change = TransportChange {
        pseudo: addresses,
        body: Sum::default().replace16(from.sport.raw(), to.sport.raw()).replace16(from.dport.raw(), to.dport.raw()),
        pseudo_before: pseudo(from, ip.transport_len),
        segment: ip.transport,
        segment_len: ip.transport_len,
    };
    frame.store(ip.transport, [to.sport, to.dport]).ok_or(Reason::DropRewrite)?;
    frame.patch_transport(ip.transport + tcp::CHECKSUM, &change).ok_or(Reason::DropRewrite)
}

/// Folded sum of TCP's pseudo header.
#[inline(always)]
pub(crate) fn pseudo<A: Address>(tuple: &Tuple<A>, len: usize) -> u16 {
    tuple.src.sum().plus(tuple.dst.sum()).word(Be16::new(protocol::TCP as u16)).word(Be16::new(len as u16)).fold()
}

/// What differs between the families when a header is rewritten.
pub trait Family: Header {
    /// Protocol number of the family's ICMP.
    const ICMP: u8;

    /// Sets both addresses, takes one from the time to live, and corrects the header's own checksum.
    fn rewrite<F: Frame>(frame: &mut F, at: usize, src: &Self, dst: &Self, addresses: Sum) -> Result<(), Reason>;
}

impl Family for V4 {
    const ICMP: u8 = protocol::ICMP;

    #[inline(always)]
    fn rewrite<F: Frame>(frame: &mut F, at: usize, src: &Self, dst: &Self, addresses: Sum) -> Result<(), Reason> {
        let [ttl_protocol, check]: [Be16; 2] = frame.load(at + ipv4::TTL).ok_or(Reason::DropRewrite)?;
        let aged = Be16::new(ttl_protocol.get().wrapping_sub(0x0100));
        if ttl_protocol.get() < 0x0200 {
            return Err(Reason::DropTtl);
        }
        let change = addresses.replace16(ttl_protocol.raw(), aged.raw());
        let check = checksum::update(check, change);
        frame.store(at + ipv4::TTL, [aged.raw(), check]).ok_or(Reason::DropRewrite)?;
        frame.store(at + ipv4::SRC, [*src, *dst]).ok_or(Reason::DropRewrite)
    }
}

impl Family for V6 {
    const ICMP: u8 = protocol::ICMPV6;

    #[inline(always)]
    fn rewrite<F: Frame>(frame: &mut F, at: usize, src: &Self, dst: &Self, _: Sum) -> Result<(), Reason> {
        let hops: u8 = frame.load(at + ipv6::HOP_LIMIT).ok_or(Reason::DropRewrite)?;
        if hops < 2 {
            return Err(Reason::DropTtl);
        }
        frame.store(at + ipv6::HOP_LIMIT, hops - 1).ok_or(Reason::DropRewrite)?;
        frame.store(at + ipv6::SRC, [*src, *dst]).ok_or(Reason::DropRewrite)
    }
}

/// Swaps the link addresses, for a frame that goes back where it came from.
#[inline(always)]
pub(crate) fn swap_link<F: Frame>(frame: &mut F) -> Option<()> {
    let [destination, source]: [Mac; 2] = frame.load(0)?;
    frame.store(0, [source, destination])
}

const _: () = assert!(ether::LEN == 2 * size_of::<Mac>() + 2);
