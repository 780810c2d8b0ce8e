//! Header constants and the few fixed layouts the data path reads and writes. Layout only, no logic.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit field exactly as it stands in the packet (network byte order in memory).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bytes of the field as they lie in memory, read as a native integer: what checksums add up.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

/// A 32-bit field exactly as it stands in the packet.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// Ethernet addresses as three 16-bit words, so that no load is byte-wise. 6 bytes, alignment 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mac(pub [u16; 3]);

/// The fixed part of an IPv4 header, so that one check reaches all of it (RFC 791).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Header {
    pub version_ihl: u8,
    pub service: u8,
    pub total_len: Be16,
    pub id: Be16,
    pub fragment: Be16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: Be16,
    pub src: Be32,
    pub dst: Be32,
}

/// What of an IPv4 header a balancer rewrites: from the time to live on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4Tail {
    pub ttl_protocol: Be16,
    pub checksum: Be16,
    pub src: Be32,
    pub dst: Be32,
}

/// RFC 8200 section 3.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Header {
    pub version: u8,
    pub flow: [u8; 3],
    pub payload_len: Be16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub src: [Be32; 4],
    pub dst: [Be32; 4],
}

/// The fixed part of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpHeader {
    pub sport: Be16,
    pub dport: Be16,
    pub seq: Be32,
    pub ack: Be32,
    pub offset_flags: Be16,
    pub window: Be16,
    pub checksum: Be16,
    pub urgent: Be16,
}

pub mod ether {
    pub const LEN: usize = 14;
    pub const TYPE: usize = 12;
    pub const VLAN_TAG_LEN: usize = 4;
    /// Values of the type field, host order.
    pub const IPV4: u16 = 0x0800;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: u16 = 0x8100;
    pub const QINQ: u16 = 0x88a8;
}

/// RFC 791.
pub mod ipv4 {
    pub const MIN_LEN: usize = 20;
    pub const TOTAL_LEN: usize = 2;
    pub const ID: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SRC: usize = 12;
    pub const DST: usize = 16;
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    pub const DONT_FRAGMENT: u16 = 0x4000;
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// RFC 8200.
pub mod ipv6 {
    pub const LEN: usize = 40;
    pub const PAYLOAD_LEN: usize = 4;
    pub const NEXT_HEADER: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SRC: usize = 8;
    pub const DST: usize = 24;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
    /// More extension headers than this and the packet is left to the host.
    pub const MAX_EXTENSIONS: usize = 6;
}

/// RFC 9293.
pub mod tcp {
    pub const MIN_LEN: usize = 20;
    pub const MAX_LEN: usize = 60;
    pub const SEQ: usize = 4;
    pub const ACK: usize = 8;
    pub const OFFSET_FLAGS: usize = 12;
    pub const CHECKSUM: usize = 16;
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK_FLAG: u8 = 0x10;
}

/// IP protocol numbers.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const ICMPV6: u8 = 58;
}

const _: () = {
    assert!(size_of::<Ipv4Header>() == ipv4::MIN_LEN && size_of::<Ipv6Header>() == ipv6::LEN);
    assert!(size_of::<Ipv4Tail>() == ipv4::MIN_LEN - ipv4::TTL);
    assert!(size_of::<TcpHeader>() == tcp::MIN_LEN);
};
