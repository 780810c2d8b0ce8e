//! Every kernel map, and `lb_common`'s tables over them.

use crate::ctx::{PIECE_LEN, Summing, ifindex};
use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, bpf_fib_lookup as FibLookup,
    },
    cty::c_void,
    helpers::generated::{bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, SockMap},
    programs::{SkLookupContext, TcContext, XdpContext},
};
use core::{mem, ptr};
use lb_common::{
    flow::{Address, Tuple, V4, V6},
    packet::Packet,
    table::{
        ARENA_LINE, Backend, BackendStats, Client, ClientKey, FILTER_WORDS, FlowEntry, FragmentKey, FragmentPorts, Hop,
        LAST_ROUTES, LastRoute, PendingEntry, PortUse, Put, PutError, Region, Route, Settings, Side, Tables, Turn,
        VipKey, endpoint_hash, route_position, socket,
    },
    verdict::Reason,
    wire::{Be16, Be32, Mac},
};

// The agent sets every size before it loads the program; the numbers here only have to be legal.

#[map]
static FLOWS4: LruHashMap<Tuple<V4>, FlowEntry<V4>> = LruHashMap::with_max_entries(1024, 0);
#[map]
static FLOWS6: LruHashMap<Tuple<V6>, FlowEntry<V6>> = LruHashMap::with_max_entries(1024, 0);
#[map]
static PENDING4: LruHashMap<Tuple<V4>, PendingEntry<V4>> = LruHashMap::with_max_entries(1024, 0);
#[map]
static PENDING6: LruHashMap<Tuple<V6>, PendingEntry<V6>> = LruHashMap::with_max_entries(1024, 0);
#[map]
static FRAGMENTS4: LruHashMap<FragmentKey<V4>, FragmentPorts> = LruHashMap::with_max_entries(1024, 0);
#[map]
static FRAGMENTS6: LruHashMap<FragmentKey<V6>, FragmentPorts> = LruHashMap::with_max_entries(1024, 0);
#[map]
static VIPS4: HashMap<VipKey<V4>, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
static VIPS6: HashMap<VipKey<V6>, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Classes of clients, by address.
#[map]
static CLIENTS4: HashMap<ClientKey<V4>, Client> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
static CLIENTS6: HashMap<ClientKey<V6>, Client> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS4: HashMap<u32, Backend<V4>> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
static BACKENDS6: HashMap<u32, Backend<V6>> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
/// Rule id and subset id to their table's place in the arena.
#[map]
static RULES: Array<u64> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
#[map]
static SUBSETS: Array<u64> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
#[map]
static ARENA: Array<[u32; ARENA_LINE]> = Array::with_max_entries(1024, BPF_F_MMAPABLE);
#[map]
static PORTS: Array<u64> = Array::with_max_entries(FILTER_WORDS, BPF_F_MMAPABLE);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
/// Layout version, next backend id, and what else outlives the agent.
#[map]
static META: Array<u64> = Array::with_max_entries(8, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::ALL.len() as u32, 0);
#[map]
static BACKEND_STATS: PerCpuArray<BackendStats> = PerCpuArray::with_max_entries(1024, 0);
/// New flows of each destination of each rule.
#[map]
static DESTINATION_STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1024, 0);
/// One packet's worth of working memory.
#[map]
static SCRATCH4: PerCpuArray<Packet<V4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static SCRATCH6: PerCpuArray<Packet<V6>> = PerCpuArray::with_max_entries(1, 0);
/// Answers to the last route lookups of this CPU.
#[map]
static ROUTES4: PerCpuArray<LastRoute<V4>> = PerCpuArray::with_max_entries(LAST_ROUTES, 0);
#[map]
static ROUTES6: PerCpuArray<LastRoute<V6>> = PerCpuArray::with_max_entries(LAST_ROUTES, 0);
#[map]
static SUMMING: PerCpuArray<Summing> = PerCpuArray::with_max_entries(1, 0);
/// What lies beyond a frame's first buffer, piece by piece.
#[map]
static PIECE: PerCpuArray<[u8; PIECE_LEN]> = PerCpuArray::with_max_entries(1, 0);
/// ICMP answers given in the present span of time.
#[map]
static ANSWERS: PerCpuArray<Answers> = PerCpuArray::with_max_entries(1, 0);
/// The slow path's programs: native and generic XDP, and TC.
#[map]
static SLOW_XDP: ProgramArray = ProgramArray::with_max_entries(2, 0);
#[map]
static SLOW_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// `[nanoseconds since boot, ticks]` as `clock` last saw them.
#[map]
static CLOCK: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// The tick at which a span began, and the answers since.
#[derive(Clone, Copy)]
#[repr(C)]
struct Answers {
    since: u32,
    given: u32,
}

/// Ticks of a span, and how many answers one CPU gives in it: 156 to 1,560 a second, by the kernel's CONFIG_HZ.
const ANSWER_SPAN: u32 = 64;
const ANSWERS_A_SPAN: u32 = 100;

/// The proxy's listening sockets; see `lb_common::table::socket`.
#[map]
static SOCKETS: SockMap = SockMap::with_max_entries(socket::MAX, 0);

/// Workers of the proxy.
#[inline(always)]
pub fn workers() -> u32 {
    META.get(socket::WORKERS).copied().unwrap_or(0) as u32
}

/// Gives the connection to a socket. Where that is gone, the host goes on as without us.
#[inline(always)]
pub fn assign(ctx: &SkLookupContext, position: u32) {
    let _ = SOCKETS.redirect_sk_lookup(ctx, position, 0);
}

pub fn read_clock() {
    // SAFETY: both helpers take nothing and return numbers.
    let now = unsafe { [bpf_ktime_get_ns(), bpf_jiffies64()] };
    let _ = CLOCK.set(0, now, BPF_ANY as u64);
}

/// Room for the part of a frame that no pointer reaches.
#[inline(always)]
pub fn piece() -> Option<&'static mut [u8; PIECE_LEN]> {
    // SAFETY: as in `summing`.
    PIECE.get_ptr_mut(0).map(|piece| unsafe { &mut *piece })
}

/// Room for one summation.
#[inline(always)]
pub fn summing() -> Option<&'static mut Summing> {
    // SAFETY: the slot is this CPU's own.
    SUMMING.get_ptr_mut(0).map(|summing| unsafe { &mut *summing })
}

/// Goes on in the slow path; returns only where the agent has not put it in place.
#[inline(always)]
pub fn slow_xdp<C: EbpfContext>(ctx: &C, index: u32) {
    // SAFETY: the program array holds programs of this type only; the kernel checks.
    unsafe { SLOW_XDP.tail_call(ctx, index) };
}

#[inline(always)]
pub fn slow_tc<C: EbpfContext>(ctx: &C) {
    // SAFETY: as in `slow_xdp`.
    unsafe { SLOW_TC.tail_call(ctx, 0) };
}

/// How to send back; of native XDP only.
#[inline(always)]
pub fn turn() -> Turn {
    SETTINGS.get(0).map_or(Turn::TRANSMIT, |settings| settings.turn)
}

/// The tables of this host. Holds the context because a route lookup needs it.
pub struct Kernel {
    ctx: *mut c_void,
    ingress: u32,
}

impl Kernel {
    #[inline(always)]
    pub fn xdp(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.as_ptr(), ingress: ctx.ingress_ifindex() as u32 }
    }

    #[inline(always)]
    pub fn tc(ctx: &TcContext) -> Self {
        Self { ctx: ctx.as_ptr(), ingress: ifindex(ctx) }
    }

    /// For a socket lookup, which asks for no routes.
    #[inline(always)]
    pub fn lookup(ctx: &SkLookupContext) -> Self {
        Self { ctx: ctx.as_ptr(), ingress: 0 }
    }

    /// What the kernel's routing tables say, and its verdict.
    #[inline(always)]
    fn look_up<A: Maps>(&self, from: &A, to: &A) -> (FibLookup, u32) {
        // SAFETY: all-zero is a legal value of every field.
        let mut lookup: FibLookup = unsafe { mem::zeroed() };
        A::fill(&mut lookup, from, to);
        lookup.ifindex = LOOPBACK;
        lookup.l4_protocol = lb_common::wire::protocol::TCP;
        // Any length makes the helper report the route's MTU.
        lookup.__bindgen_anon_1.tot_len = 1;
        // SAFETY: the helper reads and writes the struct it is given the size of.
        let result = unsafe { bpf_fib_lookup(self.ctx, ptr::from_mut(&mut lookup), size_of::<FibLookup>() as i32, 0) };
        (lookup, result as u32)
    }
}

/// The maps of one address family.
trait Maps: Address {
    fn flows() -> &'static LruHashMap<Tuple<Self>, FlowEntry<Self>>;
    fn pendings() -> &'static LruHashMap<Tuple<Self>, PendingEntry<Self>>;
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts>;
    fn vips() -> &'static HashMap<VipKey<Self>, u32>;
    fn clients() -> &'static HashMap<ClientKey<Self>, Client>;
    fn backends() -> &'static HashMap<u32, Backend<Self>>;
    fn routes() -> &'static PerCpuArray<LastRoute<Self>>;
    /// AF_INET or AF_INET6, and the addresses of a route lookup.
    fn scratches() -> &'static PerCpuArray<Packet<Self>>;
    fn fill(lookup: &mut FibLookup, from: &Self, to: &Self);
    fn destination(lookup: &FibLookup) -> Self;
}

macro_rules! family_maps {
    ($family:ty, $flows:ident, $pending:ident, $fragments:ident, $vips:ident, $clients:ident, $backends:ident, $scratch:ident, $routes:ident, $fill:expr, $destination:expr) => {
        impl Maps for $family {
            #[inline(always)]
            fn flows() -> &'static LruHashMap<Tuple<Self>, FlowEntry<Self>> {
                &$flows
            }
            #[inline(always)]
            fn pendings() -> &'static LruHashMap<Tuple<Self>, PendingEntry<Self>> {
                &$pending
            }
            #[inline(always)]
            fn fragments() -> &'static LruHashMap<FragmentKey<Self>, FragmentPorts> {
                &$fragments
            }
            #[inline(always)]
            fn vips() -> &'static HashMap<VipKey<Self>, u32> {
                &$vips
            }
            #[inline(always)]
            fn clients() -> &'static HashMap<ClientKey<Self>, Client> {
                &$clients
            }
            #[inline(always)]
            fn backends() -> &'static HashMap<u32, Backend<Self>> {
                &$backends
            }
            #[inline(always)]
            fn scratches() -> &'static PerCpuArray<Packet<Self>> {
                &$scratch
            }
            #[inline(always)]
            fn routes() -> &'static PerCpuArray<LastRoute<Self>> {
                &$routes
            }
            #[inline(always)]
            fn fill(lookup: &mut FibLookup, from: &Self, to: &Self) {
                $fill(lookup, from, to)
            }
            #[inline(always)]
            fn destination(lookup: &FibLookup) -> Self {
                $destination(lookup)
            }
        }
    };
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

family_maps!(
    V4,
    FLOWS4,
    PENDING4,
    FRAGMENTS4,
    VIPS4,
    CLIENTS4,
    BACKENDS4,
    SCRATCH4,
    ROUTES4,
    |lookup: &mut FibLookup, from: &V4, to: &V4| {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = from.0.raw();
        lookup.__bindgen_anon_4.ipv4_dst = to.0.raw();
    },
    // SAFETY: of an IPv4 lookup the union holds this.
    |lookup: &FibLookup| V4(Be32::from_raw(unsafe { lookup.__bindgen_anon_4.ipv4_dst }))
);
family_maps!(
    V6,
    FLOWS6,
    PENDING6,
    FRAGMENTS6,
    VIPS6,
    CLIENTS6,
    BACKENDS6,
    SCRATCH6,
    ROUTES6,
    |lookup: &mut FibLookup, from: &V6, to: &V6| {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = from.0.map(|word| word.raw());
        lookup.__bindgen_anon_4.ipv6_dst = to.0.map(|word| word.raw());
    },
    // SAFETY: of an IPv6 lookup the union holds this.
    |lookup: &FibLookup| V6(unsafe { lookup.__bindgen_anon_4.ipv6_dst }.map(Be32::from_raw))
);

/// The balancer sends packets as itself, so routes are looked up as for local packets: from the loopback interface. The
/// agent turns forwarding on for that interface alone (`bpf_fib_lookup` refuses otherwise).
const LOOPBACK: u32 = 1;

/// A tuple with both ports in one word. The kernel hashes keys word by word, and a load that spans two stores just made
/// has to wait for both to reach the cache.
#[repr(C)]
struct Words<A> {
    src: A,
    dst: A,
    ports: u32,
}

impl<A: Address> Words<A> {
    #[inline(always)]
    fn of(tuple: &Tuple<A>) -> Self {
        let ports = u32::from_ne_bytes({
            let ([a, b], [c, d]) = (tuple.sport.raw().to_ne_bytes(), tuple.dport.raw().to_ne_bytes());
            [a, b, c, d]
        });
        Self { src: tuple.src, dst: tuple.dst, ports }
    }

    #[inline(always)]
    fn tuple(&self) -> &Tuple<A> {
        // SAFETY: the same bytes at the same places, and stricter alignment.
        unsafe { &*ptr::from_ref(self).cast() }
    }
}

impl<A: Maps> Tables<A> for Kernel {
    type Flow<'a> = &'a FlowEntry<A>;
    type Pending<'a> = &'a PendingEntry<A>;
    type Scratch<'a> = &'a mut Packet<A>;

    #[inline(always)]
    fn scratch(&self) -> Option<&mut Packet<A>> {
        // SAFETY: the slot is this CPU's own, a program is not interrupted by another of ours on the same CPU while it holds
        // it, and all-zero bytes are a packet.
        A::scratches().get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        match SETTINGS.get(0) {
            Some(settings) => *settings,
            None => Settings { snat_first: 0, snat_count: 0, refresh: 0, turn: Turn::TRANSMIT },
        }
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        // SAFETY: takes nothing, returns a number.
        let now = unsafe { bpf_jiffies64() as u32 };
        // SAFETY: the slot is this CPU's own.
        let Some(answers) = ANSWERS.get_ptr_mut(0).map(|answers| unsafe { &mut *answers }) else {
            return false;
        };
        if now.wrapping_sub(answers.since) >= ANSWER_SPAN {
            *answers = Answers { since: now, given: 0 };
        }
        answers.given += 1;
        answers.given <= ANSWERS_A_SPAN
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn port_in_use(&self, usage: PortUse, port: Be16) -> bool {
        let (word, bit) = usage.position(port.get());
        PORTS.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn endpoint_in_use(&self, usage: PortUse, address: &A, port: Be16) -> bool {
        let (word, bit) = usage.endpoint_position(endpoint_hash(address, port));
        PORTS.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn flow(&self, key: &Tuple<A>) -> Option<&FlowEntry<A>> {
        // SAFETY: an entry may be recycled while it is read; a torn entry sends one packet astray, as any lost packet.
        A::flows().get_ptr(Words::of(key).tuple()).map(|entry| unsafe { &*entry })
    }

    #[inline(always)]
    fn touch_flow(&self, key: &Tuple<A>, change: impl FnOnce(&mut FlowEntry<A>)) {
        if let Some(entry) = A::flows().get_ptr_mut(key) {
            // SAFETY: as in `flow`; fields are written one by one and each is valid on its own.
            change(unsafe { &mut *entry });
        }
    }

    #[inline(always)]
    fn put_flow(&self, key: &Tuple<A>, entry: &FlowEntry<A>, put: Put) -> Result<(), PutError> {
        A::flows().insert(key, entry, flags(put)).map_err(put_error)
    }

    #[inline(always)]
    fn drop_flow(&self, key: &Tuple<A>) {
        let _ = A::flows().remove(key);
    }

    #[inline(always)]
    fn pending(&self, key: &Tuple<A>) -> Option<&PendingEntry<A>> {
        // SAFETY: as in `flow`.
        A::pendings().get_ptr(key).map(|entry| unsafe { &*entry })
    }

    #[inline(always)]
    fn touch_pending(&self, key: &Tuple<A>, change: impl FnOnce(&mut PendingEntry<A>)) {
        if let Some(entry) = A::pendings().get_ptr_mut(key) {
            // SAFETY: as in `touch_flow`.
            change(unsafe { &mut *entry });
        }
    }

    #[inline(always)]
    fn put_pending(&self, key: &Tuple<A>, entry: &PendingEntry<A>, put: Put) -> Result<(), PutError> {
        A::pendings().insert(key, entry, flags(put)).map_err(put_error)
    }

    #[inline(always)]
    fn drop_pending(&self, key: &Tuple<A>) {
        let _ = A::pendings().remove(key);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        // SAFETY: as in `flow`.
        A::fragments().get_ptr(key).map(|ports| unsafe { *ports })
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        let _ = A::fragments().insert(key, ports, BPF_ANY as u64);
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey<A>) -> Option<u32> {
        // SAFETY: without preallocation an element is freed only after a grace period.
        A::vips().get_ptr(key).map(|rule| unsafe { *rule })
    }

    #[inline(always)]
    fn class(&self, client: &A) -> u8 {
        // SAFETY: as in `vip`.
        A::clients().get_ptr(ClientKey { address: *client }).map_or(0, |client| unsafe { (*client).class as u8 })
    }

    #[inline(always)]
    fn rule(&self, id: u32) -> Region {
        Region(RULES.get(id).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn subset(&self, id: u32) -> Region {
        Region(SUBSETS.get(id).copied().unwrap_or(0))
    }

    #[inline(always)]
    fn word(&self, index: u32) -> u32 {
        match ARENA.get(index / ARENA_LINE as u32) {
            Some(line) => line[(index % ARENA_LINE as u32) as usize],
            None => 0,
        }
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        // SAFETY: as in `vip`.
        A::backends().get_ptr(id).map(|backend| unsafe { *backend })
    }

    #[inline(never)]
    fn route(&self, from: &A, to: &A) -> Route {
        let (lookup, result) = self.look_up(from, to);
        if result == BPF_FIB_LKUP_RET_SUCCESS {
            let hop = Hop { ifindex: lookup.ifindex, destination: mac(lookup.dmac), source: mac(lookup.smac) };
            // SAFETY: after success the union holds the MTU.
            return Route::Hop(hop, unsafe { lookup.__bindgen_anon_1.mtu_result });
        }
        match result {
            BPF_FIB_LKUP_RET_NO_NEIGH => Route::Unmet(lookup.ifindex),
            BPF_FIB_LKUP_RET_FWD_DISABLED => Route::Refused,
            _ => Route::None,
        }
    }

    #[inline(always)]
    fn recent_route(&self, from: &A, to: &A) -> Route {
        // SAFETY: the slot is this CPU's own, and all-zero bytes are an answer.
        let Some(last) = A::routes().get_ptr_mut(route_position(to)).map(|last| unsafe { &mut *last }) else {
            return self.route(from, to);
        };
        let now = Tables::<A>::now(self);
        let young = now.wrapping_sub(last.seen) < Tables::<A>::settings(self).refresh;
        if young && last.hop.ready() && last.to == *to && last.from == *from {
            return Route::Hop(last.hop, last.mtu as u16);
        }
        let route = self.route(from, to);
        if let Route::Hop(hop, mtu) = route {
            *last = LastRoute { from: *from, to: *to, hop, seen: now, mtu: mtu as u32 };
        }
        route
    }

    #[inline(always)]
    fn came_by(&self) -> u32 {
        self.ingress
    }

    #[inline(never)]
    fn is_neighbour(&self, address: &A) -> bool {
        let (lookup, result) = self.look_up(address, address);
        // The helper puts the gateway in the destination's place where there is one.
        matches!(result, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) && A::destination(&lookup) == *address
    }

    #[inline(always)]
    fn count(&self, reason: u32) {
        if let Some(counter) = COUNTERS.get_ptr_mut(reason) {
            // SAFETY: the slot is this CPU's own.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn count_backend(&self, stats: u32, side: Side, bytes: u64) {
        if let Some(stats) = BACKEND_STATS.get_ptr_mut(stats) {
            // SAFETY: the slot is this CPU's own.
            let stats = unsafe { &mut *stats };
            match side {
                Side::Client => {
                    stats.packets_in += 1;
                    stats.bytes_in += bytes;
                }
                Side::Backend => {
                    stats.packets_out += 1;
                    stats.bytes_out += bytes;
                }
            }
        }
    }

    #[inline(always)]
    fn count_new(&self, destination: u32, backend_stats: Option<u32>) {
        if let Some(counter) = DESTINATION_STATS.get_ptr_mut(destination) {
            // SAFETY: the slot is this CPU's own.
            unsafe { *counter += 1 };
        }
        if let Some(stats) = backend_stats.and_then(|index| BACKEND_STATS.get_ptr_mut(index)) {
            // SAFETY: the slot is this CPU's own.
            unsafe { (*stats).flows += 1 };
        }
    }
}

#[inline(always)]
fn flags(put: Put) -> u64 {
    match put {
        Put::New => BPF_NOEXIST as u64,
        Put::Replace => BPF_ANY as u64,
    }
}

const EEXIST: i32 = -17;

#[inline(always)]
fn put_error(code: i32) -> PutError {
    if code == EEXIST { PutError::Exists } else { PutError::Full }
}

#[inline(always)]
fn mac(bytes: [u8; 6]) -> Mac {
    Mac([
        u16::from_ne_bytes([bytes[0], bytes[1]]),
        u16::from_ne_bytes([bytes[2], bytes[3]]),
        u16::from_ne_bytes([bytes[4], bytes[5]]),
    ])
}
