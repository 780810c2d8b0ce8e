//! A flow's five-tuple, its reverse, and the hash that places it.

use crate::{
    checksum::Sum,
    wire::{Be16, Be32, ipv4, ipv6},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address of one family, as it lies in the packet.
pub trait Address:
    Copy + Clone + PartialEq + Eq + core::fmt::Debug + core::hash::Hash + FromBytes + IntoBytes + Immutable + 'static
{
    const FAMILY: Family;
    const ZERO: Self;
    /// Where source and destination lie in this family's IP header.
    const SRC: usize;
    const DST: usize;
    /// Mixed to 64 bits, for hashing.
    fn mixed(&self) -> u64;
    /// The address' contribution to a checksum.
    fn sum(&self) -> Sum;
    /// What a checksum changes by when `self` becomes `new`.
    fn change(&self, new: &Self) -> Sum;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct V4(pub Be32);

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct V6(pub [Be32; 4]);

impl Address for V4 {
    const FAMILY: Family = Family::V4;
    const ZERO: Self = V4(Be32::new(0));
    const SRC: usize = ipv4::SRC;
    const DST: usize = ipv4::DST;

    #[inline(always)]
    fn mixed(&self) -> u64 {
        self.0.raw() as u64
    }

    #[inline(always)]
    fn sum(&self) -> Sum {
        Sum::default().long(self.0)
    }

    #[inline(always)]
    fn change(&self, new: &Self) -> Sum {
        Sum::default().replace32(self.0.raw(), new.0.raw())
    }
}

impl Address for V6 {
    const FAMILY: Family = Family::V6;
    const ZERO: Self = V6([Be32::new(0); 4]);
    const SRC: usize = ipv6::SRC;
    const DST: usize = ipv6::DST;

    #[inline(always)]
    fn mixed(&self) -> u64 {
        let high = (self.0[0].raw() as u64) << 32 | self.0[1].raw() as u64;
        let low = (self.0[2].raw() as u64) << 32 | self.0[3].raw() as u64;
        mix(high ^ SEED_ADDRESS).wrapping_add(low)
    }

    #[inline(always)]
    fn sum(&self) -> Sum {
        Sum::default().long(self.0[0]).long(self.0[1]).long(self.0[2]).long(self.0[3])
    }

    #[inline(always)]
    fn change(&self, new: &Self) -> Sum {
        Sum::default()
            .replace32(self.0[0].raw(), new.0[0].raw())
            .replace32(self.0[1].raw(), new.0[1].raw())
            .replace32(self.0[2].raw(), new.0[2].raw())
            .replace32(self.0[3].raw(), new.0[3].raw())
    }
}

/// Key of the flow tables: source first, as the packet carries it. Only TCP is balanced, so no protocol field.
/// 12 bytes for IPv4, 36 for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple<A> {
    pub src: A,
    pub dst: A,
    pub sport: Be16,
    pub dport: Be16,
}

impl<A: Address> Tuple<A> {
    /// The tuple of the packets that answer this one.
    #[inline(always)]
    pub fn reverse(&self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

/// What of a flow is hashed. Values are part of the map layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HashKey {
    /// Both addresses and both ports.
    Flow = 0,
    /// The client's address alone: sticky clients.
    SourceIp = 1,
}

const SEED_ADDRESS: u64 = 0x9e37_79b9_7f4a_7c15;
/// The two levels must not see the same hash, or a version's clients would all land on a few of its backends.
const SEED_SUBSET: u64 = 0x243f_6a88_85a3_08d3;
const SEED_BACKEND: u64 = 0x1319_8a2e_0370_7344;
const SEED_PORT: u64 = 0xa409_3822_299f_31d0;
const SEED_WORKER: u64 = 0x082e_fa98_ec4e_6c89;

/// Bijective 64-bit finalizer (the constants of MurmurHash3's fmix64): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// The hash of a client's flow, equal on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(u64);

impl FlowHash {
    #[inline(always)]
    pub fn of<A: Address>(flow: &Tuple<A>, key: HashKey) -> Self {
        let source = mix(flow.src.mixed() ^ SEED_ADDRESS);
        match key {
            HashKey::SourceIp => Self(source),
            HashKey::Flow => {
                let ports = (flow.sport.raw() as u64) << 16 | flow.dport.raw() as u64;
                Self(mix(source ^ flow.dst.mixed().rotate_left(24) ^ ports.wrapping_mul(SEED_ADDRESS)))
            }
        }
    }

    /// Slot in a level 1 table (which subset).
    #[inline(always)]
    pub fn subset_slot(self, slots: u32) -> u32 {
        scale(mix(self.0 ^ SEED_SUBSET), slots)
    }

    /// Slot in a level 2 table (which backend of the subset).
    #[inline(always)]
    pub fn backend_slot(self, slots: u32) -> u32 {
        scale(mix(self.0 ^ SEED_BACKEND), slots)
    }

    /// Which of the proxy's workers serves a connection.
    #[inline(always)]
    pub fn worker(self, workers: u32) -> u32 {
        scale(mix(self.0 ^ SEED_WORKER), workers)
    }

    /// Where the search for a free source port begins.
    #[inline(always)]
    pub fn first_port(self, ports: u32) -> u32 {
        scale(mix(self.0 ^ SEED_PORT), ports)
    }
}

/// Maps the upper half of a hash to `0..slots` without division.
#[inline(always)]
const fn scale(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}
