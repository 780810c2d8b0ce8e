//! From a frame to IP addresses and the place where the transport header starts. Reads only; judges nothing.

use crate::{
    flow::Address,
    frame::Frame,
    verdict::Reason,
    wire::{Be16, Be32, ether, ipv4, ipv6},
};

/// The IP part of a packet. Offsets are from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    pub at: usize,
    pub src: A,
    pub dst: A,
    pub protocol: u8,
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
    fn parse<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason> {
        let version_ihl: u8 = frame.load(at).ok_or(MALFORMED)?;
        let header = ((version_ihl & 0x0f) as usize) * 4;
        if version_ihl >> 4 != 4 || header < ipv4::MIN_LEN {
            return Err(MALFORMED);
        }
        let total = frame.load::<Be16>(at + ipv4::TOTAL_LEN).ok_or(MALFORMED)?.get() as usize;
        let fragment = frame.load::<Be16>(at + ipv4::FRAGMENT).ok_or(MALFORMED)?.get();
        let protocol: u8 = frame.load(at + ipv4::PROTOCOL).ok_or(MALFORMED)?;
        let src: Self = frame.load(at + ipv4::SRC).ok_or(MALFORMED)?;
        let dst: Self = frame.load(at + ipv4::DST).ok_or(MALFORMED)?;
        if total < header || (room == Room::Whole && at + total > frame.len()) {
            return Err(MALFORMED);
        }
        let fragment = if fragment & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) == 0 {
            Fragment::Whole
        } else {
            let id = frame.load::<Be16>(at + ipv4::ID).ok_or(MALFORMED)?.get() as u32;
            if fragment & ipv4::OFFSET_MASK == 0 { Fragment::First(id) } else { Fragment::Later(id) }
        };
        Ok(Ip { at, src, dst, protocol, transport: at + header, transport_len: total - header, fragment })
    }
}

impl Header for crate::flow::V6 {
    #[inline(always)]
    fn parse<F: Frame>(frame: &F, at: usize, room: Room) -> Result<Ip<Self>, Reason> {
        let version: u8 = frame.load(at).ok_or(MALFORMED)?;
        if version >> 4 != 6 {
            return Err(MALFORMED);
        }
        let payload = frame.load::<Be16>(at + ipv6::PAYLOAD_LEN).ok_or(MALFORMED)?.get() as usize;
        let src: Self = frame.load(at + ipv6::SRC).ok_or(MALFORMED)?;
        let dst: Self = frame.load(at + ipv6::DST).ok_or(MALFORMED)?;
        if room == Room::Whole && at + ipv6::LEN + payload > frame.len() {
            return Err(MALFORMED);
        }
        let mut protocol: u8 = frame.load(at + ipv6::NEXT_HEADER).ok_or(MALFORMED)?;
        let mut transport = at + ipv6::LEN;
        let mut fragment = Fragment::Whole;
        for _ in 0..ipv6::MAX_EXTENSIONS {
            let length = match protocol {
                // RFC 8200 section 4.2: units of 8 octets, the first not counted.
                ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION => 8 + 8 * frame.load::<u8>(transport + 1).ok_or(MALFORMED)? as usize,
                // RFC 4302 section 2.2: units of 4 octets, minus 2.
                ipv6::AUTHENTICATION => 8 + 4 * frame.load::<u8>(transport + 1).ok_or(MALFORMED)? as usize,
                ipv6::FRAGMENT => {
                    let offset = frame.load::<Be16>(transport + 2).ok_or(MALFORMED)?.get();
                    let id = frame.load::<Be32>(transport + 4).ok_or(MALFORMED)?.get();
                    fragment = match offset & 0xfff9 {
                        0 => Fragment::Whole,
                        1 => Fragment::First(id),
                        _ => Fragment::Later(id),
                    };
                    8
                }
                _ => break,
            };
            protocol = frame.load(transport).ok_or(MALFORMED)?;
            transport += length;
            if matches!(fragment, Fragment::Later(_)) {
                break;
            }
        }
        let Some(transport_len) = (at + ipv6::LEN + payload).checked_sub(transport) else {
            return Err(MALFORMED);
        };
        Ok(Ip { at, src, dst, protocol, transport, transport_len, fragment })
    }
}
