//! Turns a segment into the RST that answers it (RFC 9293 section 3.10.7.1), in place.
//!
//! The IP header keeps its length, so that the transport header stays where the sender's checksum offload expects it.

use crate::{
    checksum::{self, Sum},
    flow::{Address, V4, V6},
    frame::{Frame, TransportChange},
    packet::Segment,
    parse::Ip,
    rewrite::{Family, pseudo, swap_link},
    wire::{Be16, Be32, ipv4, ipv6, tcp},
};

/// Time to live of what the balancer itself sends.
pub(crate) const HOPS: u8 = 64;

/// `None`: the frame could not be rewritten.
#[inline(never)]
pub fn reset<A: Family + Answer, F: Frame>(frame: &mut F, ip: &Ip<A>, segment: &Segment<A>) -> Option<()> {
    let at = ip.transport;
    let [offset_flags, _window, check, _urgent]: [Be16; 4] = frame.load(at + tcp::OFFSET_FLAGS)?;
    let header = (offset_flags.get() >> 12) as usize * 4;
    let payload = ip.transport_len.checked_sub(header)? as u32;
    let length = payload + (segment.flags & tcp::SYN != 0) as u32 + (segment.flags & tcp::FIN != 0) as u32;
    let (seq, ack, flags) = match segment.flags & tcp::ACK_FLAG {
        0 => (0, segment.seq.wrapping_add(length), tcp::RST | tcp::ACK_FLAG),
        _ => (segment.ack, 0, tcp::RST),
    };
    swap_link(frame)?;
    A::answer(frame, ip, tcp::MIN_LEN)?;
    let tuple = segment.tuple.reverse();
    let ports = Be32::new((tuple.sport.get() as u32) << 16 | tuple.dport.get() as u32);
    let numbers = [Be32::new(seq), Be32::new(ack)];
    let words = [Be16::new(5 << 12 | flags as u16), Be16::new(0), check, Be16::new(0)];
    frame.store(at, ports)?;
    frame.store(at + tcp::SEQ, numbers)?;
    frame.store(at + tcp::OFFSET_FLAGS, words)?;
    // The old segment's sum follows from its checksum, so the new one is a difference like any other.
    let (before, after) = (pseudo(&segment.tuple, ip.transport_len), pseudo(&tuple, tcp::MIN_LEN));
    let old_body = Sum::default().raw((!check.raw()) as u64).raw((!before) as u64).fold();
    let new_body = Sum::default().long(ports).long(numbers[0]).long(numbers[1]).word(words[0]).fold();
    let change = TransportChange {
        pseudo: Sum::default().replace16(before, after),
        body: Sum::default().replace16(old_body, new_body),
        pseudo_before: before,
        segment: at,
        segment_len: tcp::MIN_LEN,
    };
    frame.patch_answer(at + tcp::CHECKSUM, &change)?;
    frame.truncate(at + tcp::MIN_LEN)
}

/// Turns an IP header into that of the answer.
pub trait Answer: Address {
    fn answer<F: Frame>(frame: &mut F, ip: &Ip<Self>, transport_len: usize) -> Option<()>;
}

impl Answer for V4 {
    #[inline(always)]
    fn answer<F: Frame>(frame: &mut F, ip: &Ip<Self>, transport_len: usize) -> Option<()> {
        let old_len: Be16 = frame.load(ip.at + ipv4::TOTAL_LEN)?;
        let [old_ttl, check]: [Be16; 2] = frame.load(ip.at + ipv4::TTL)?;
        let len = Be16::new((ip.transport - ip.at + transport_len) as u16);
        let ttl = Be16::new((HOPS as u16) << 8 | old_ttl.get() & 0xff);
        let change = Sum::default().replace16(old_len.raw(), len.raw()).replace16(old_ttl.raw(), ttl.raw());
        frame.store(ip.at + ipv4::TOTAL_LEN, len)?;
        frame.store(ip.at + ipv4::TTL, [ttl.raw(), checksum::update(check, change)])?;
        frame.store(ip.at + ipv4::SRC, [ip.dst, ip.src])
    }
}

impl Answer for V6 {
    #[inline(always)]
    fn answer<F: Frame>(frame: &mut F, ip: &Ip<Self>, transport_len: usize) -> Option<()> {
        let len = ip.transport - ip.at - ipv6::LEN + transport_len;
        frame.store(ip.at + ipv6::PAYLOAD_LEN, Be16::new(len as u16))?;
        frame.store(ip.at + ipv6::HOP_LIMIT, HOPS)?;
        frame.store(ip.at + ipv6::SRC, [ip.dst, ip.src])
    }
}
