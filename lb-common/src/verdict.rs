//! Every outcome a packet can have, by name. Each packet ends in exactly one [`Reason`], and each reason has its counter.

macro_rules! reasons {
    ($($variant:ident = $name:literal, $meaning:literal;)*) => {
        /// Why a packet went the way it went. The value is the counter's index and part of the map layout.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Reason { $(#[doc = $meaning] $variant,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// Stable name, as in metrics and `status`.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// One line for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => $meaning,)* }
            }
        }
    };
}

reasons! {
    PassNotIp = "pass.not-ip", "not IPv4 or IPv6, or more than two VLAN tags";
    PassNotTcp = "pass.not-tcp", "a protocol that is not balanced";
    PassMalformed = "pass.malformed", "headers cut short or contradicting themselves; left to the host";
    PassPort = "pass.port", "no listener and no backend uses its ports";
    PassAddress = "pass.address", "a listener's port on an address that is no VIP, or a reply of no flow";
    PassFragment = "pass.fragment", "a later fragment whose first fragment was not seen";
    PassIcmp = "pass.icmp", "an ICMP message that is no error about one of our flows";
    PassProxy = "pass.proxy", "for a listener that the proxy on this host serves";
    DropNoRoute = "drop.no-route", "the host has no route to the rewritten destination that a program can take";
    DropLookup = "drop.lookup-refused", "the host answers no route lookups: forwarding is off for its loopback interface";
    DropNeighbour = "drop.neighbour", "the next hop's link address is not known and this interface's driver cannot hand the packet to the host";
    DropTtl = "drop.ttl", "time to live ran out, and no answer is due: of an ICMP error, or too many were given just now";
    DropTooBig = "drop.too-big", "larger than the next hop's MTU, and no answer can be made: a later fragment, or too many headers to quote";
    DropReset = "drop.reset", "a RST for a flow that is not known";
    DropRewrite = "drop.rewrite", "the frame could not be rewritten";
    RejectBroken = "reject.broken-destination", "the chosen destination does not exist";
    RejectNoEndpoint = "reject.no-endpoint", "the chosen subset has no ready endpoint";
    RejectNoFlow = "reject.no-flow", "a segment inside no known flow";
    RejectEnded = "reject.ended", "the flow's backend was removed";
    RejectPorts = "reject.ports-exhausted", "no free source port towards the backend";
    RejectTableFull = "reject.table-full", "no room for the flow's state";
    ForwardNew = "forward.new", "first packet of a flow";
    ForwardHandshake = "forward.handshake", "handshake of a flow";
    ForwardFlow = "forward.flow", "packet of an established flow";
    ForwardIcmp = "forward.icmp", "ICMP error about a flow, translated";
    ForwardNeighbour = "forward.neighbour", "sent through the host's neighbour table, which asks for the next hop's link address";
    ReplyTooBig = "reply.too-big", "larger than the next hop's MTU; answered with ICMP";
    ReplyExpired = "reply.time-exceeded", "time to live ran out; answered with ICMP";
}

/// What happens to one TCP segment.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass(Reason),
    Drop(Reason),
    /// Answered with a TCP RST.
    Reject(Reason),
    /// Larger than the next hop takes (bytes of IP); the sender is told.
    TooBig(u16),
    /// Its time to live ends here; the sender is told.
    Expired,
    Forward(Reason),
}

/// What the adapter does with the frame, which is already rewritten.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the host's stack.
    Pass,
    Drop,
    /// Out of the interface it came from.
    Reflect,
    /// Out of the interface with this index; the link addresses are already set.
    Send(u32),
    /// Out of the interface with this index, by the host's neighbour table.
    Meet(u32),
}

/// An action and its reason in one register: a BPF function cannot return more without the stack.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Outcome(u64);

impl Outcome {
    const PASS: u64 = 0;
    const DROP: u64 = 1;
    const REFLECT: u64 = 2;
    const SEND: u64 = 3;
    const MEET: u64 = 4;

    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self(Self::PASS | (reason as u64) << 8)
    }

    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self(Self::DROP | (reason as u64) << 8)
    }

    #[inline(always)]
    pub const fn reflect(reason: Reason) -> Self {
        Self(Self::REFLECT | (reason as u64) << 8)
    }

    #[inline(always)]
    pub const fn send(ifindex: u32, reason: Reason) -> Self {
        Self(Self::SEND | (reason as u64) << 8 | (ifindex as u64) << 32)
    }

    #[inline(always)]
    pub const fn meet(ifindex: u32, reason: Reason) -> Self {
        Self(Self::MEET | (reason as u64) << 8 | (ifindex as u64) << 32)
    }

    #[inline(always)]
    pub const fn action(self) -> Action {
        match self.0 & 7 {
            Self::PASS => Action::Pass,
            Self::DROP => Action::Drop,
            Self::REFLECT => Action::Reflect,
            Self::MEET => Action::Meet((self.0 >> 32) as u32),
            _ => Action::Send((self.0 >> 32) as u32),
        }
    }

    /// The reason's number: an index of the counters.
    #[inline(always)]
    pub const fn reason(self) -> u32 {
        (self.0 >> 8) as u32 & 0xff
    }
}
