//! What is known of one packet while it is being decided on. The kernel keeps it in a per-CPU map, because a BPF program
//! has 512 bytes of stack along each chain of calls; nothing of it outlives the packet.

use crate::{
    conntrack::State,
    flow::{Address, FlowHash, HashKey, Tuple},
    parse::{Fragment, Ip},
    pick::{Outcome, Pick},
    table::{Backend, FlowEntry, Forwarding, Hop, PendingEntry, Side},
    wire::{Be16, tcp},
};

/// What the decision needs to know of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<A> {
    pub tuple: Tuple<A>,
    /// TCP flags; 0 for a later fragment.
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// Bytes of the IP packet, and of the largest packet it will be on the wire (less, if hardware will cut it up).
    pub ip_len: u32,
    pub wire_len: u16,
}

impl<A> Segment<A> {
    /// A SYN that opens a connection.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (tcp::SYN | tcp::ACK_FLAG | tcp::RST | tcp::FIN) == tcp::SYN
    }

    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Packet<A> {
    pub ip: Ip<A>,
    pub segment: Segment<A>,
    /// Addresses and ports it leaves with, once the verdict is to forward it.
    pub to: Tuple<A>,
    /// Way out; `ifindex` 0 where the host must find it.
    pub hop: Hop,
    pub mtu: u16,
    /// What the tables said, where they were asked.
    pub pick: Pick<A>,
    /// The flow's entries as they are about to be written: this direction's and the other's, and the other's key.
    pub here: PendingEntry<A>,
    pub there: PendingEntry<A>,
    pub reverse: Tuple<A>,
}

impl<A: Address> Packet<A> {
    /// Nothing known yet.
    pub fn blank() -> Self {
        let tuple = Tuple { src: A::ZERO, dst: A::ZERO, sport: Be16::new(0), dport: Be16::new(0) };
        let entry = FlowEntry {
            to: tuple,
            hop: Hop::default(),
            seen: 0,
            backend: 0,
            backend_stats: 0,
            destination: 0,
            state: State::OPEN,
            side: Side::Client,
            mtu: 0,
        };
        let backend = Backend {
            address: A::ZERO,
            source: A::ZERO,
            port: Be16::new(0),
            forwarding: Forwarding::Snat,
            reserved: 0,
            stats: 0,
        };
        let pending = PendingEntry { entry, expect: 0, answered: 0 };
        Self {
            ip: Ip {
                at: 0,
                src: A::ZERO,
                dst: A::ZERO,
                protocol: 0,
                hops: 64,
                transport: 0,
                transport_len: 0,
                fragment: Fragment::Whole,
            },
            segment: Segment { tuple, flags: 0, seq: 0, ack: 0, ip_len: 0, wire_len: 0 },
            to: tuple,
            hop: Hop::default(),
            mtu: 0,
            pick: Pick {
                rule: 0,
                hash: FlowHash::of(&tuple, HashKey::Flow),
                slot: 0,
                position: 0,
                destination: 0,
                outcome: Outcome::Empty,
                backend_id: 0,
                backend_slot: 0,
                backend,
            },
            here: pending,
            there: pending,
            reverse: tuple,
        }
    }

    /// Fills `there` and `reverse` with the other direction of `here`.
    #[inline(always)]
    pub fn mirror(&mut self) {
        self.reverse = self.here.entry.to.reverse();
        self.there.entry.to = self.segment.tuple.reverse();
        self.there.entry.hop = Hop::default();
        self.there.entry.seen = self.here.entry.seen;
        self.there.entry.backend = self.here.entry.backend;
        self.there.entry.backend_stats = self.here.entry.backend_stats;
        self.there.entry.destination = self.here.entry.destination;
        self.there.entry.state = self.here.entry.state;
        self.there.entry.side = self.here.entry.side.opposite();
        self.there.entry.mtu = 0;
        self.there.expect = 0;
        self.there.answered = 0;
    }
}
