//! The same tables in ordinary memory, with what the kernel knows besides: routes of the rig, and all counters.

use std::cell::RefCell;
use std::collections::BTreeMap;

use lb_common::flow::Tuple;
use lb_common::table::{
    Backend, FlowEntry, FragmentKey, FragmentPorts, Hop, PendingEntry, PortUse, Put, PutError, Region, Route, Settings,
    Side, Tables, Turn, VipKey,
};
use lb_common::wire::{Be16, Mac};
use meltemi::dataplane;
use meltemi::dataplane::memory::{InMemory, MemoryTables};
use meltemi::image::Image;
use meltemi::plan;
use meltemi::slots::encode::Encode;

use super::rig::{B0_MAC, C0_MAC, CLIENT_MAC, Counters, SNAT_COUNT, SNAT_FIRST, backend_mac, image};

/// What becomes of a new entry of the table of handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    None,
}

pub struct Twin {
    pub memory: MemoryTables,
    pub room: Room,
    backends: RefCell<BTreeMap<u32, [u64; 5]>>,
}

impl Twin {
    pub fn new() -> Twin {
        let mut memory = MemoryTables::new(1 << 20);
        dataplane::apply(&mut memory, &plan::diff(&Image::default(), &image())).unwrap();
        let mut twin = Twin { memory, room: Room::Enough, backends: RefCell::default() };
        twin.refresh_after(u32::MAX);
        twin
    }

    pub fn refresh_after(&mut self, ticks: u32) {
        self.memory.settings =
            Settings { snat_first: SNAT_FIRST, snat_count: SNAT_COUNT, refresh: ticks, turn: Turn::TRANSMIT };
    }

    /// What was counted since the last call.
    pub fn counted(&mut self) -> Counters {
        Counters {
            reasons: self.memory.counters.take().into_iter().map(|(reason, count)| (reason.name(), count)).collect(),
            backends: self.backends.take(),
            destinations: self.memory.destinations.take(),
        }
    }
}

fn mac(bytes: [u8; 6]) -> Mac {
    Mac(std::array::from_fn(|at| u16::from_ne_bytes([bytes[2 * at], bytes[2 * at + 1]])))
}

/// What the rig's routes answer. Interface numbers are the kernel's business: 2 for c0 and 3 for b0 will do.
fn route(to: std::net::IpAddr) -> Route {
    // Network, and the host where it is one of the first 255.
    let (net, host) = match to {
        std::net::IpAddr::V4(to) => match to.octets() {
            [10, _, 0, 0 | 255] => return Route::None,
            [10, net, 0, host] => (net.into(), host),
            _ => return Route::None,
        },
        std::net::IpAddr::V6(to) => match to.segments() {
            [0xfd00, net, 0, 0, 0, 0, 0, host @ 1..=255] => (net, host as u8),
            [0xfd00, net, 0, 0, ..] => (net, 255),
            _ => return Route::None,
        },
    };
    let hop = |ifindex, to, from| Hop { ifindex, destination: mac(to), source: mac(from) };
    match (net, host) {
        // The host itself.
        (0 | 1, 1) => Route::None,
        (0, 2) => Route::Hop(hop(2, CLIENT_MAC, C0_MAC), 9_000),
        (1, 2 | 3) => Route::Hop(hop(3, backend_mac(host), B0_MAC), 9_000),
        (2, _) => Route::Hop(hop(3, backend_mac(2), B0_MAC), 1_300),
        (0, _) => Route::Unmet(2),
        (1, _) => Route::Unmet(3),
        _ => Route::None,
    }
}

/// Everything but routes, room and the backends' counters is `MemoryTables`'.
impl<A: InMemory + Encode> Tables<A> for Twin {
    type Flow<'a> = <MemoryTables as Tables<A>>::Flow<'a>;
    type Pending<'a> = <MemoryTables as Tables<A>>::Pending<'a>;
    type Scratch<'a> = <MemoryTables as Tables<A>>::Scratch<'a>;

    fn scratch(&self) -> Option<Self::Scratch<'_>> {
        Tables::<A>::scratch(&self.memory)
    }
    fn settings(&self) -> Settings {
        self.memory.settings
    }
    fn may_answer(&self) -> bool {
        true
    }
    fn came_by(&self) -> u32 {
        0
    }
    fn is_neighbour(&self, _: &A) -> bool {
        false
    }
    fn now(&self) -> u32 {
        self.memory.clock.get()
    }
    fn port_in_use(&self, usage: PortUse, port: Be16) -> bool {
        Tables::<A>::port_in_use(&self.memory, usage, port)
    }

    fn endpoint_in_use(&self, usage: PortUse, address: &A, port: Be16) -> bool {
        Tables::<A>::endpoint_in_use(&self.memory, usage, address, port)
    }
    fn flow(&self, key: &Tuple<A>) -> Option<Self::Flow<'_>> {
        self.memory.flow(key)
    }
    fn touch_flow(&self, key: &Tuple<A>, change: impl FnOnce(&mut FlowEntry<A>)) {
        self.memory.touch_flow(key, change);
    }
    fn put_flow(&self, key: &Tuple<A>, entry: &FlowEntry<A>, put: Put) -> Result<(), PutError> {
        self.memory.put_flow(key, entry, put)
    }
    fn drop_flow(&self, key: &Tuple<A>) {
        self.memory.drop_flow(key);
    }
    fn pending(&self, key: &Tuple<A>) -> Option<Self::Pending<'_>> {
        self.memory.pending(key)
    }
    fn touch_pending(&self, key: &Tuple<A>, change: impl FnOnce(&mut PendingEntry<A>)) {
        self.memory.touch_pending(key, change);
    }
    fn put_pending(&self, key: &Tuple<A>, entry: &PendingEntry<A>, put: Put) -> Result<(), PutError> {
        match self.room {
            Room::Enough => self.memory.put_pending(key, entry, put),
            Room::None => Err(PutError::Full),
        }
    }
    fn drop_pending(&self, key: &Tuple<A>) {
        self.memory.drop_pending(key);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        self.memory.fragment(key)
    }
    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        self.memory.put_fragment(key, ports);
    }
    fn vip(&self, key: &VipKey<A>) -> Option<u32> {
        self.memory.vip(key)
    }
    fn class(&self, client: &A) -> u8 {
        self.memory.class(client)
    }
    fn rule(&self, id: u32) -> Region {
        Tables::<A>::rule(&self.memory, id)
    }
    fn subset(&self, id: u32) -> Region {
        Tables::<A>::subset(&self.memory, id)
    }
    fn word(&self, index: u32) -> u32 {
        Tables::<A>::word(&self.memory, index)
    }
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.memory.backend(id)
    }
    fn route(&self, _: &A, to: &A) -> Route {
        route(to.decode())
    }
    fn count(&self, reason: u32) {
        Tables::<A>::count(&self.memory, reason);
    }
    fn count_backend(&self, stats: u32, side: Side, bytes: u64) {
        let mut backends = self.backends.borrow_mut();
        let counted = backends.entry(stats).or_default();
        let at = if side == Side::Client { 0 } else { 2 };
        counted[at] += 1;
        counted[at + 1] += bytes;
    }
    fn count_new(&self, destination: u32, backend_stats: Option<u32>) {
        Tables::<A>::count_new(&self.memory, destination, backend_stats);
        if let Some(stats) = backend_stats {
            self.backends.borrow_mut().entry(stats).or_default()[4] += 1;
        }
    }
}
