//! Tables in ordinary memory: what `explain` asks and what tests run the kernel's decision on. The layouts are the
//! kernel's own, so an encoding mistake shows here too.

use super::{Maps, MapsError, space::Space};
use crate::plan::Op;
use crate::slots::encode::{self, Encode};
use lb_common::{
    flow::{Tuple, V4, V6},
    packet::Packet,
    table::{
        ARENA_LINE, Backend, Client, FILTER_WORDS, FlowEntry, FragmentKey, FragmentPorts, Hop, PendingEntry, PortUse,
        Put, PutError, Region, Route, Settings, Side, Tables, Turn, VipKey, endpoint_hash,
    },
    verdict::Reason,
    wire::{Be16, protocol},
};
use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

/// The maps of one address family.
#[derive(Debug)]
pub struct FamilyTables<A: Encode> {
    flows: RefCell<HashMap<Tuple<A>, FlowEntry<A>>>,
    pending: RefCell<HashMap<Tuple<A>, PendingEntry<A>>>,
    fragments: RefCell<HashMap<FragmentKey<A>, FragmentPorts>>,
    vips: HashMap<VipKey<A>, u32>,
    clients: HashMap<A, Client>,
    backends: HashMap<u32, Backend<A>>,
    scratch: RefCell<Packet<A>>,
}

impl<A: Encode> FamilyTables<A> {
    fn new() -> Self {
        Self {
            flows: RefCell::default(),
            pending: RefCell::default(),
            fragments: RefCell::default(),
            vips: HashMap::new(),
            clients: HashMap::new(),
            backends: HashMap::new(),
            scratch: RefCell::new(Packet::blank()),
        }
    }
}

/// Every table, and what the kernel would know besides: the clock and the routes.
#[derive(Debug)]
pub struct MemoryTables {
    v4: FamilyTables<V4>,
    v6: FamilyTables<V6>,
    rules: HashMap<u32, Region>,
    subsets: HashMap<u32, Region>,
    arena: Vec<u32>,
    space: Space,
    ports: Vec<u64>,
    pub settings: Settings,
    pub clock: Cell<u32>,
    /// The answer to every route lookup.
    pub route: Cell<Route>,
    /// New flows by destination statistics.
    pub destinations: RefCell<BTreeMap<u32, u64>>,
    pub counters: RefCell<BTreeMap<Reason, u64>>,
}

impl MemoryTables {
    /// Empty tables with an arena of `words`.
    pub fn new(words: u32) -> Self {
        let lines = words.div_ceil(ARENA_LINE as u32);
        let hop = Hop { ifindex: 1, ..Hop::default() };
        Self {
            v4: FamilyTables::new(),
            v6: FamilyTables::new(),
            rules: HashMap::new(),
            subsets: HashMap::new(),
            arena: vec![0; lines as usize * ARENA_LINE],
            space: Space::new(lines),
            ports: vec![0; FILTER_WORDS as usize],
            settings: Settings { snat_first: 10_000, snat_count: 20_000, refresh: 1_000, turn: Turn::TRANSMIT },
            clock: Cell::new(0),
            route: Cell::new(Route::Hop(hop, 1_500)),
            destinations: RefCell::default(),
            counters: RefCell::default(),
        }
    }

    fn write(&mut self, words: &[u32]) -> Result<Region, MapsError> {
        self.space.wake();
        let needed = words.len() as u32;
        let region = self
            .space
            .take(needed)
            .ok_or_else(|| MapsError::NoSpace { needed: needed / 256, free: self.space.free_words().1 / 256 })?;
        self.arena[region.offset() as usize..][..words.len()].copy_from_slice(words);
        Ok(region)
    }

    fn use_endpoint(&mut self, usage: PortUse, endpoint: SocketAddr) {
        let positions = [usage.position(endpoint.port()), usage.endpoint_position(encode::endpoint_hash(endpoint))];
        for (word, bit) in positions {
            self.ports[word as usize] |= bit;
        }
    }
}

impl Maps for MemoryTables {
    fn apply(&mut self, op: &Op) -> Result<(), MapsError> {
        match op {
            Op::PutBackend(id, backend) => {
                self.use_endpoint(PortUse::Backend, backend.address);
                if let Some(backend) = V4::backend(backend) {
                    self.v4.backends.insert(id.0, backend);
                }
                if let Some(backend) = V6::backend(backend) {
                    self.v6.backends.insert(id.0, backend);
                }
            }
            Op::PutSubset(id, table) => {
                let region = self.write(&encode::subset(table))?;
                if let Some(old) = self.subsets.insert(id.0, region) {
                    self.space.rest(old);
                }
            }
            Op::PutRule(id, table) => {
                let region = self.write(&encode::rule(table))?;
                if let Some(old) = self.rules.insert(id.0, region) {
                    self.space.rest(old);
                }
            }
            Op::PutVip(vip, rule) => {
                self.use_endpoint(PortUse::Listen, vip.socket());
                if let Some(key) = vip_key::<V4>(vip) {
                    self.v4.vips.insert(key, encode::vip(rule));
                }
                if let Some(key) = vip_key::<V6>(vip) {
                    self.v6.vips.insert(key, encode::vip(rule));
                }
            }
            Op::PutClient(address, client) => {
                V4::encode(*address).map(|key| self.v4.clients.insert(key, encode::client(client)));
                V6::encode(*address).map(|key| self.v6.clients.insert(key, encode::client(client)));
            }
            Op::DeleteClient(address) => {
                V4::encode(*address).map(|key| self.v4.clients.remove(&key));
                V6::encode(*address).map(|key| self.v6.clients.remove(&key));
            }
            Op::DeleteVip(vip) => {
                vip_key::<V4>(vip).map(|key| self.v4.vips.remove(&key));
                vip_key::<V6>(vip).map(|key| self.v6.vips.remove(&key));
            }
            Op::DeleteRule(id) => {
                if let Some(old) = self.rules.remove(&id.0) {
                    self.space.rest(old);
                }
            }
            Op::DeleteSubset(id) => {
                if let Some(old) = self.subsets.remove(&id.0) {
                    self.space.rest(old);
                }
            }
            Op::DeleteBackend(id, _) => {
                self.v4.backends.remove(&id.0);
                self.v6.backends.remove(&id.0);
            }
        }
        Ok(())
    }
}

/// `None`: the VIP is of the other family.
pub fn vip_key<A: Encode>(vip: &crate::image::Vip) -> Option<VipKey<A>> {
    Some(VipKey {
        address: A::encode(vip.address)?,
        port: Be16::new(vip.port.get()),
        protocol: protocol::TCP,
        class: vip.class.0,
    })
}

/// An address family of [`MemoryTables`].
pub trait InMemory: Encode {
    fn tables(tables: &MemoryTables) -> &FamilyTables<Self>;
}

impl InMemory for V4 {
    fn tables(tables: &MemoryTables) -> &FamilyTables<Self> {
        &tables.v4
    }
}

impl InMemory for V6 {
    fn tables(tables: &MemoryTables) -> &FamilyTables<Self> {
        &tables.v6
    }
}

fn put<K: std::hash::Hash + Eq, V>(map: &RefCell<HashMap<K, V>>, key: K, value: V, put: Put) -> Result<(), PutError> {
    let mut map = map.borrow_mut();
    if put == Put::New && map.contains_key(&key) {
        return Err(PutError::Exists);
    }
    map.insert(key, value);
    Ok(())
}

impl<A: InMemory> Tables<A> for MemoryTables {
    type Flow<'a> = Ref<'a, FlowEntry<A>>;
    type Pending<'a> = Ref<'a, PendingEntry<A>>;
    type Scratch<'a> = RefMut<'a, Packet<A>>;

    fn scratch(&self) -> Option<Self::Scratch<'_>> {
        A::tables(self).scratch.try_borrow_mut().ok()
    }

    fn settings(&self) -> Settings {
        self.settings
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
        self.clock.get()
    }

    fn port_in_use(&self, usage: PortUse, port: Be16) -> bool {
        let (word, bit) = usage.position(port.get());
        self.ports[word as usize] & bit != 0
    }

    fn endpoint_in_use(&self, usage: PortUse, address: &A, port: Be16) -> bool {
        let (word, bit) = usage.endpoint_position(endpoint_hash(address, port));
        self.ports[word as usize] & bit != 0
    }

    fn flow(&self, key: &Tuple<A>) -> Option<Self::Flow<'_>> {
        Ref::filter_map(A::tables(self).flows.borrow(), |flows| flows.get(key)).ok()
    }

    fn touch_flow(&self, key: &Tuple<A>, change: impl FnOnce(&mut FlowEntry<A>)) {
        if let Some(entry) = A::tables(self).flows.borrow_mut().get_mut(key) {
            change(entry);
        }
    }

    fn put_flow(&self, key: &Tuple<A>, entry: &FlowEntry<A>, how: Put) -> Result<(), PutError> {
        put(&A::tables(self).flows, *key, *entry, how)
    }

    fn drop_flow(&self, key: &Tuple<A>) {
        A::tables(self).flows.borrow_mut().remove(key);
    }

    fn pending(&self, key: &Tuple<A>) -> Option<Self::Pending<'_>> {
        Ref::filter_map(A::tables(self).pending.borrow(), |pending| pending.get(key)).ok()
    }

    fn touch_pending(&self, key: &Tuple<A>, change: impl FnOnce(&mut PendingEntry<A>)) {
        if let Some(entry) = A::tables(self).pending.borrow_mut().get_mut(key) {
            change(entry);
        }
    }

    fn put_pending(&self, key: &Tuple<A>, entry: &PendingEntry<A>, how: Put) -> Result<(), PutError> {
        put(&A::tables(self).pending, *key, *entry, how)
    }

    fn drop_pending(&self, key: &Tuple<A>) {
        A::tables(self).pending.borrow_mut().remove(key);
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<FragmentPorts> {
        A::tables(self).fragments.borrow().get(key).copied()
    }

    fn put_fragment(&self, key: &FragmentKey<A>, ports: &FragmentPorts) {
        A::tables(self).fragments.borrow_mut().insert(*key, *ports);
    }

    fn vip(&self, key: &VipKey<A>) -> Option<u32> {
        A::tables(self).vips.get(key).copied()
    }

    fn class(&self, client: &A) -> u8 {
        A::tables(self).clients.get(client).map_or(0, |client| client.class as u8)
    }

    fn rule(&self, id: u32) -> Region {
        self.rules.get(&id).copied().unwrap_or(Region::NONE)
    }

    fn subset(&self, id: u32) -> Region {
        self.subsets.get(&id).copied().unwrap_or(Region::NONE)
    }

    fn word(&self, index: u32) -> u32 {
        self.arena.get(index as usize).copied().unwrap_or(0)
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::tables(self).backends.get(&id).copied()
    }

    fn route(&self, _: &A, _: &A) -> Route {
        self.route.get()
    }

    fn count(&self, reason: u32) {
        *self.counters.borrow_mut().entry(Reason::ALL[reason as usize]).or_default() += 1;
    }

    fn count_backend(&self, _: u32, _: Side, _: u64) {}

    fn count_new(&self, destination: u32, _: Option<u32>) {
        *self.destinations.borrow_mut().entry(destination).or_default() += 1;
    }
}
