//! Key and value of every kernel map, and the lookups and writes the data path may make.
//!
//! The layouts here are shared by the kernel program and every agent version that adopts its pinned maps: a change of any
//! of them is a change of [`LAYOUT`]. All types are free of padding (asserted below), so their bytes are their meaning.

use core::ops::{Deref, DerefMut};

use crate::{
    conntrack::State,
    flow::{Address, Tuple, V4, V6, mix},
    packet::Packet,
    wire::{Be16, Mac, ether},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of everything in this file. An agent that finds another one pinned refuses to touch it.
pub const LAYOUT: u32 = 5;

/// Key of a VIP: what clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct VipKey<A> {
    pub address: A,
    pub port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// The clients' class ([`Client`]); 0: every client that no other entry is for.
    pub class: u8,
}

/// Key of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ClientKey<A> {
    pub address: A,
}

/// What is known of a client by its address, where some rule is for certain clients only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Client {
    /// Hash of the class's name.
    pub name: u64,
    /// 1 to 255.
    pub class: u32,
    pub reserved: u32,
}

/// One endpoint as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Backend<A> {
    pub address: A,
    /// Our own address towards it; the packets' source with [`Forwarding::Snat`].
    pub source: A,
    pub port: Be16,
    pub forwarding: Forwarding,
    pub reserved: u8,
    /// Its index in the backend statistics.
    pub stats: u32,
}

/// How packets reach a backend and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Forwarding {
    /// Source and destination are rewritten: works wherever the backend is reachable.
    Snat = 0,
    /// The client's address is kept: only where the backend's replies pass this host.
    Dnat = 1,
}

/// Where a frame leaves: what `bpf_fib_lookup` answered. See [`Hop::way`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hop {
    /// 0: not known. Interface numbers are below 2^31.
    pub ifindex: u32,
    pub destination: Mac,
    pub source: Mac,
}

/// How much of the way out is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Unknown,
    /// The interface, but not the next hop's link address.
    Unmet(u32),
    Ready(u32),
}

impl Hop {
    /// Set in `ifindex` while the link address is not known.
    const UNMET: u32 = 1 << 31;

    pub const fn unmet(ifindex: u32) -> Self {
        Self { ifindex: ifindex | Self::UNMET, destination: Mac([0; 3]), source: Mac([0; 3]) }
    }

    #[inline(always)]
    pub const fn leaves_by(&self, ifindex: u32) -> bool {
        self.ifindex & !Self::UNMET == ifindex
    }

    /// Whether a frame can be sent with what is known.
    #[inline(always)]
    pub const fn ready(&self) -> bool {
        self.ifindex as i32 > 0
    }

    #[inline(always)]
    pub const fn way(&self) -> Way {
        match self.ifindex {
            0 => Way::Unknown,
            ifindex if ifindex & Self::UNMET != 0 => Way::Unmet(ifindex & !Self::UNMET),
            ifindex => Way::Ready(ifindex),
        }
    }
}

/// What an XDP program writes in front of a frame that it leaves to the program behind it, the only one of the two that can
/// ask the host for a link address. Metadata never comes from a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handover {
    /// See [`Handover::SHIFTED`].
    room: [u32; 4],
    mark: u32,
    ifindex: u32,
}

/// The part of a [`Handover`] that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Note {
    mark: u32,
    ifindex: u32,
}

impl Handover {
    const MARK: u32 = u32::from_ne_bytes(*b"mltm");

    /// Where the note lies behind the start of the metadata.
    pub const NOTE: usize = 16;

    /// The same where the kernel thinks that the frame has no link header: generic XDP copies a packet that has a clone or too
    /// little room in front, and forgets the header's length over it (6.9 and later, `skb_pp_cow_data`). Metadata then seems
    /// to end where the IP header begins, and what lies further to the front is out of reach.
    pub const SHIFTED: usize = Self::NOTE - ether::LEN;

    pub const fn new(ifindex: u32) -> Self {
        Self { room: [0; 4], mark: Self::MARK, ifindex }
    }

    /// The interface to leave by; `None` where these bytes are somebody else's.
    #[inline(always)]
    pub const fn ifindex(self) -> Option<u32> {
        Note { mark: self.mark, ifindex: self.ifindex }.ifindex()
    }
}

impl Note {
    /// As [`Handover::ifindex`].
    #[inline(always)]
    pub const fn ifindex(self) -> Option<u32> {
        if self.mark == Handover::MARK { Some(self.ifindex) } else { None }
    }
}

/// Which end of a flow sent the packets that an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    Client = 0,
    Backend = 1,
}

impl Side {
    #[inline(always)]
    pub const fn opposite(self) -> Side {
        match self {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        }
    }
}

/// One direction of a flow. The other direction's key is `to.reverse()`, and its `to` is this one's key reversed,
/// so either entry can restore the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowEntry<A> {
    /// The packet's addresses and ports after rewriting.
    pub to: Tuple<A>,
    pub hop: Hop,
    /// Tick of the last refresh; at most [`Settings::refresh`] behind the last packet.
    pub seen: u32,
    pub backend: u32,
    /// Index of the backend's and of the destination's statistics.
    pub backend_stats: u32,
    pub destination: u32,
    pub state: State,
    pub side: Side,
    /// Bytes of IP that fit through `hop`.
    pub mtu: u16,
}

/// One direction of a flow whose handshake is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PendingEntry<A> {
    pub entry: FlowEntry<A>,
    /// The acknowledgement number that completes the handshake, once the backend answered.
    pub expect: u32,
    /// 1 once the backend answered.
    pub answered: u32,
}

/// Ports of a fragmented datagram, learnt from its first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey<A> {
    pub src: A,
    pub dst: A,
    pub id: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentPorts {
    pub sport: Be16,
    pub dport: Be16,
}

/// Agent-wide settings, one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// First source port used with [`Forwarding::Snat`], and how many.
    pub snat_first: u16,
    pub snat_count: u16,
    /// Ticks after which an entry's `seen` and `hop` are renewed (about a second).
    pub refresh: u32,
    pub turn: Turn,
}

/// How native XDP sends a frame out of the interface that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Turn(u32);

impl Turn {
    /// XDP_TX: every driver has it, and on hardware it is the fastest.
    pub const TRANSMIT: Turn = Turn(0);
    /// As to any other interface: on veth XDP_TX is delivered only to a far end that has an XDP program itself, and otherwise
    /// lies there until something else is sent (`veth_xdp_flush`).
    pub const REDIRECT: Turn = Turn(1);
}

/// Per-CPU counters of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BackendStats {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    pub flows: u64,
}

/// Offset and length, in words, of a table in the arena; one 64-bit store puts it in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region(pub u64);

impl Region {
    pub const NONE: Region = Region(0);

    pub const fn new(offset: u32, words: u32) -> Self {
        Self((words as u64) << 32 | offset as u64)
    }

    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn words(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Layout of a rule in the arena, in words:
/// `[slots, hash key | destinations << 8, name low, name high] [subset, statistics, name low, name high] * destinations [4 slots a word]*`.
pub mod rule {
    pub const SLOTS: u32 = 0;
    pub const SHAPE: u32 = 1;
    pub const NAME: u32 = 2;
    pub const DESTINATIONS: u32 = 4;
    pub const DESTINATION_WORDS: u32 = 4;
    /// A slot is one byte.
    pub const MAX_DESTINATIONS: usize = 255;
    /// In place of a subset: the destination does not exist and answers RST.
    pub const BROKEN: u32 = u32::MAX;
    /// In place of a VIP's rule: the proxy on this host serves it.
    pub const PROXY: u32 = !CLASSES;
    /// In place of a VIP's rule: only some classes of clients are served, and this one is not.
    pub const NONE: u32 = PROXY - 1;
    /// Set in the rule of a VIP's class 0: classes of clients may have rules of their own.
    pub const CLASSES: u32 = 1 << 31;
}

/// Layout of a subset in the arena, in words: `[slots, backends, name low, name high] [backend id]* [2 slots a word]*`.
pub mod subset {
    pub const SLOTS: u32 = 0;
    pub const COUNT: u32 = 1;
    pub const NAME: u32 = 2;
    pub const BACKENDS: u32 = 4;
    /// A slot is two bytes.
    pub const MAX_BACKENDS: usize = 65_535;
}

/// The map of the proxy's listening sockets: one of each family for every worker. How many workers there are stands in META.
pub mod socket {
    use crate::flow::Family;

    /// All sockets must fit into one message of descriptors (253, unix(7)).
    pub const MAX_WORKERS: u32 = 126;
    pub const MAX: u32 = 2 * MAX_WORKERS;
    /// Position of the number of workers in META; 0: nothing is steered.
    pub const WORKERS: u32 = 4;

    /// Position of a worker's socket.
    #[inline(always)]
    pub const fn position(worker: u32, family: Family) -> u32 {
        2 * worker + family as u32
    }
}

/// Words of one arena element: a cache line.
pub const ARENA_LINE: usize = 16;

/// Which half of the filters a port or an endpoint is looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PortUse {
    /// Some VIP or live flow listens on it.
    Listen = 0,
    /// Some backend or live flow answers from it.
    Backend = 1,
}

/// 64-bit words of one half of the port filter.
pub const PORT_WORDS: u32 = 65_536 / 64;

impl PortUse {
    /// Word index and bit of `port` in the port filter.
    #[inline(always)]
    pub const fn position(self, port: u16) -> (u32, u64) {
        (self as u32 * PORT_WORDS + (port >> 6) as u32, 1 << (port & 63))
    }

    /// Word index and bit of an endpoint, known by [`endpoint_hash`]. These words follow those of the ports.
    #[inline(always)]
    pub const fn endpoint_position(self, hash: u16) -> (u32, u64) {
        let (word, bit) = self.position(hash);
        (2 * PORT_WORDS + word, bit)
    }
}

/// Words of the whole filter: both halves by port, then both by endpoint.
pub const FILTER_WORDS: u32 = 4 * PORT_WORDS;

/// The 16 bits by which the filter knows an address with a port. Two may share them: the filter only says who is not ours.
#[inline(always)]
pub fn endpoint_hash<A: Address>(address: &A, port: Be16) -> u16 {
    (mix(address.mixed() ^ (port.raw() as u64) << 32) >> 48) as u16
}

/// Answer of a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// With the route's MTU in bytes of IP.
    Hop(Hop, u16),
    /// The way is by this interface, but the next hop's link address is not known yet.
    Unmet(u32),
    /// The host answers no lookups: somebody turned off forwarding for the loopback interface.
    Refused,
    /// None that a program can take: also where the destination is the host itself, or the route has a tunnel of its own.
    None,
}

/// A route lookup's answer, kept for those that ask the same soon. All zero: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LastRoute<A> {
    pub from: A,
    pub to: A,
    pub hop: Hop,
    /// The tick of the answer.
    pub seen: u32,
    pub mtu: u32,
}

/// How many answers each CPU keeps, each in the place that its destination's hash gives it.
pub const LAST_ROUTES: u32 = 1_024;

/// Where an answer for this destination is kept.
#[inline(always)]
pub fn route_position<A: Address>(to: &A) -> u32 {
    (mix(to.mixed()) >> 32) as u32 % LAST_ROUTES
}

/// Whether a write may replace an existing entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    New,
    Replace,
}

/// Why a write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutError {
    Exists,
    Full,
}

/// Everything the decision may look up or write for one address family. The kernel implements it over BPF maps, the
/// agent over ordinary memory.
pub trait Tables<A: Address> {
    /// An entry where it lies: copying one costs more than looking it up.
    type Flow<'a>: Deref<Target = FlowEntry<A>>
    where
        Self: 'a;
    type Pending<'a>: Deref<Target = PendingEntry<A>>
    where
        Self: 'a;

    type Scratch<'a>: DerefMut<Target = Packet<A>>
    where
        Self: 'a;

    /// Room for one packet; never taken twice at a time.
    fn scratch(&self) -> Option<Self::Scratch<'_>>;
    fn settings(&self) -> Settings;
    /// Whether one more ICMP error may be sent that RFC 4443 section 2.4 (f) wants limited.
    fn may_answer(&self) -> bool;
    /// Ticks of a coarse clock; wraps.
    fn now(&self) -> u32;
    fn port_in_use(&self, usage: PortUse, port: Be16) -> bool;
    /// False: no VIP and no flow (or no backend) has this address and port. True is no promise.
    fn endpoint_in_use(&self, usage: PortUse, address: &A, port: Be16) -> bool;

    fn flow(&self, key: &Tuple<A>) -> Option<Self::Flow<'_>>;
    fn touch_flow(&self, key: &Tuple<A>, change: impl FnOnce(&mut FlowEntry<A>));
    fn put_flow(&self, key: &Tuple<A>, entry: &FlowEntry<A>, put: Put) -> Result<(), PutError>;
    fn drop_flow(&self, key: &Tuple<A>);

    fn pending(&self, key: &Tuple<A>) -> Option<Self::Pending<'_>>;
    fn touch_pending(&self, key: &Tuple<A>, change: impl FnOnce(&mut PendingEntry<A>));
    fn put_pending(&self, key: &Tuple<A>, entry: &PendingEntry<A>, put: Put) -> Result<(), PutError>;
    fn drop_pending(&self, key: &Tuple<A>);

    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts>;
    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts);

    /// Rule of a VIP.
    fn vip(&self, key: &VipKey<A>) -> Option<u32>;
    /// Class of a client; 0 where it has none.
    fn class(&self, client: &A) -> u8;
    fn rule(&self, id: u32) -> Region;
    fn subset(&self, id: u32) -> Region;
    /// A word of the arena; 0 outside it.
    fn word(&self, index: u32) -> u32;
    fn backend(&self, id: u32) -> Option<Backend<A>>;

    /// Next hop for a packet of ours from `from` to `to`.
    fn route(&self, from: &A, to: &A) -> Route;
    /// As `route`, but the answer may be as old as that of an entry that is not refreshed yet.
    fn recent_route(&self, from: &A, to: &A) -> Route {
        self.route(from, to)
    }
    /// The interface that the packet came in by; 0 where there is none.
    fn came_by(&self) -> u32;
    /// Whether `address` is a neighbour: reached without a gateway.
    fn is_neighbour(&self, address: &A) -> bool;

    /// Counts a packet by its reason's number.
    fn count(&self, reason: u32);
    fn count_backend(&self, stats: u32, side: Side, bytes: u64);
    /// A new flow went to this destination (and backend, where it is not a broken one).
    fn count_new(&self, destination: u32, backend_stats: Option<u32>);
}

const _: () = {
    assert!(size_of::<Tuple<V4>>() == 12 && size_of::<Tuple<V6>>() == 36);
    assert!(size_of::<VipKey<V4>>() == 8 && size_of::<VipKey<V6>>() == 20);
    assert!(size_of::<ClientKey<V4>>() == 4 && size_of::<ClientKey<V6>>() == 16 && size_of::<Client>() == 16);
    assert!(size_of::<Backend<V4>>() == 16 && size_of::<Backend<V6>>() == 40);
    assert!(size_of::<Hop>() == 16);
    assert!(size_of::<FlowEntry<V4>>() == 12 + 16 + 20 && size_of::<FlowEntry<V6>>() == 36 + 16 + 20);
    assert!(size_of::<PendingEntry<V4>>() == 56 && size_of::<PendingEntry<V6>>() == 80);
    assert!(size_of::<LastRoute<V4>>() == 32 && size_of::<LastRoute<V6>>() == 56);
    assert!(size_of::<FragmentKey<V4>>() == 12 && size_of::<FragmentKey<V6>>() == 36);
};
