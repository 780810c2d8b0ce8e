//! From a frame to IP addresses and the place where the transport header starts. Reads only; judges nothing.

use crate::{
    flow::Address,
    frame::Frame,
    verdict::Reason,
    wire::{Be16, Be32, Ipv4Header, Ipv6Header, ether, ipv4, ipv6},
};

/// The IP part of a packet. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    pub at: usize,
    pub src: A,
    pub dst: A,
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// Where the transport header starts, and the bytes of IP payload from there on.
    pub transport: usize,
    pub transport_len: usize,
    pub fragment: Fragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    /// The first fragment of datagram `id`: it has the ports.
    First(u32),
    /// A later fragment: no transport header.
    Later(u32),
}

/// Network layer found behind the Ethernet header and up to two VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    Ipv4(usize),
    Ipv6(usize),
    Other,
}

/// `None`: the frame is cut short.
#[inline(always)]
pub fn network<F: Frame>(frame: &F) -> Option<Network> {
    let mut at = ether::LEN;
    let mut kind = frame.load::<Be16>(ether::TYPE)?.get();
    for _ in 0..2 {
        if kind == ether::VLAN || kind == ether::QINQ {
            kind = frame.load::<Be16>(at + 2)?.get();
            at += ether::VLAN_TAG_LEN;
        }
    }
    Some(match kind {
        ether::IPV4 => Network::Ipv4(at),
        ether::IPV6 => Network::Ipv6(at),
        _ => Network::Other,
    })
}

/// An address family's header, read with its options or extension headers.
pub trait Header: Address {
    /// The fixed header only: where [`Header::extends`] its `protocol`, the transport header lies further on.
    fn base<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason>;

    /// Whether `protocol` is an extension header.
    fn extends(protocol: u8) -> bool;

    fn parse<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason>;
}

/// Whether the whole datagram must be in the frame, or only its head (as quoted in an ICMP error).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Whole,
    Quoted,
}

const MALFORMED: Reason = Reason::PassMalformed;

impl Header for crate::flow::V4 {
    #[inline(always)]
    fn extends(_: u8) -> bool {
        false
    }

    #[inline(always)]
    fn parse<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason> {
        Self::base(frame, at, room)
    }

    #[inline(always)]
    fn base<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason> {
        let fixed: Ipv4Header = frame.load(at).ok_or(MALFORMED)?;
        let header = ((fixed.version_ihl & 0x0f) as usize) * 4;
        if fixed.version_ihl >> 4 != 4 || header < ipv4::MIN_LEN {
            return Err(MALFORMED);
        }
        let total = fixed.total_len.get() as usize;
        if total < header || (room == Room::Whole && !frame.holds(at + total)) {
            return Err(MALFORMED);
        }
        let (id, fragment) = (fixed.id.get() as u32, fixed.fragment.get());
        let fragment = match fragment & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) {
            0 => Fragment::Whole,
            _ if fragment & ipv4::OFFSET_MASK == 0 => Fragment::First(id),
            _ => Fragment::Later(id),
        };
        let (src, dst, protocol, hops) = (Self(fixed.src), Self(fixed.dst), fixed.protocol, fixed.ttl);
        Ok(Ip { at, src, dst, protocol, hops, transport: at + header, transport_len: total - header, fragment })
    }
}

impl Header for crate::flow::V6 {
    #[inline(always)]
    fn extends(protocol: u8) -> bool {
        matches!(protocol, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION | ipv6::AUTHENTICATION | ipv6::FRAGMENT)
    }

    #[inline(always)]
    fn base<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason> {
        let fixed: Ipv6Header = frame.load(at).ok_or(MALFORMED)?;
        if fixed.version >> 4 != 6 {
            return Err(MALFORMED);
        }
        let (transport, transport_len) = (at + ipv6::LEN, fixed.payload_len.get() as usize);
        if room == Room::Whole && !frame.holds(transport + transport_len) {
            return Err(MALFORMED);
        }
        let (src, dst, protocol, hops) = (Self(fixed.src), Self(fixed.dst), fixed.next_header, fixed.hop_limit);
        Ok(Ip { at, src, dst, protocol, hops, transport, transport_len, fragment: Fragment::Whole })
    }

    #[inline(always)]
    fn parse<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason> {
        let mut ip = Self::base(frame, at, room)?;
        for _ in 0..ipv6::MAX_EXTENSIONS {
            let length = match ip.protocol {
                // RFC 8200 section 4.2: units of 8 octets, the first not counted.
                ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION => {
                    8 + 8 * frame.load::<u8>(ip.transport + 1).ok_or(MALFORMED)? as usize
                }
                // RFC 4302 section 2.2: units of 4 octets, minus 2.
                ipv6::AUTHENTICATION => 8 + 4 * frame.load::<u8>(ip.transport + 1).ok_or(MALFORMED)? as usize,
                ipv6::FRAGMENT => {
                    let offset = frame.load::<Be16>(ip.transport + 2).ok_or(MALFORMED)?.get();
                    let id = frame.load::<Be32>(ip.transport + 4).ok_or(MALFORMED)?.get();
                    ip.fragment = match offset & 0xfff9 {
                        0 => Fragment::Whole,
                        1 => Fragment::First(id),
                        _ => Fragment::Later(id),
                    };
                    8
                }
                _ => break,
            };
            ip.protocol = frame.load(ip.transport).ok_or(MALFORMED)?;
            ip.transport_len = ip.transport_len.checked_sub(length).ok_or(MALFORMED)?;
            ip.transport += length;
            if matches!(ip.fragment, Fragment::Later(_)) {
                break;
            }
        }
        Ok(ip)
    }
}
