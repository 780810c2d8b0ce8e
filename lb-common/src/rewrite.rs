//! Rewrites a packet in place and corrects every checksum by difference.

use crate::{
    checksum::{self, Sum},
    flow::{Address, Tuple, V4, V6},
    frame::{Frame, TransportChange},
    parse::{Fragment, Header, Ip},
    verdict::Reason,
    wire::{Be16, Ipv4Tail, Mac, ether, ipv4, ipv6, protocol, tcp},
};

/// Writes the new addresses and ports and corrects every checksum. A later fragment has no ports: its transport checksum
/// stands in the first one and was corrected there.
#[inline(always)]
pub fn rewrite<A: Family, F: Frame>(frame: &mut F, ip: &Ip<A>, from: &Tuple<A>, to: &Tuple<A>) -> Result<(), Reason> {
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
        let before: Ipv4Tail = frame.load(at + ipv4::TTL).ok_or(Reason::DropRewrite)?;
        let [ttl, protocol] = before.ttl_protocol.raw().to_ne_bytes();
        if ttl < 2 {
            return Err(Reason::DropTtl);
        }
        let aged = u16::from_ne_bytes([ttl - 1, protocol]);
        let checksum = checksum::update(before.checksum, addresses.replace16(before.ttl_protocol.raw(), aged));
        let after =
            Ipv4Tail { ttl_protocol: Be16::from_raw(aged), checksum: Be16::from_raw(checksum), src: src.0, dst: dst.0 };
        frame.store(at + ipv4::TTL, after).ok_or(Reason::DropRewrite)
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
