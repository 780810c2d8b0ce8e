//! The kernel's maps. The agent's only `unsafe` code: plain-data markers for map types, and the memory map that lets a
//! table be written by ordinary stores.
#![allow(unsafe_code)]

mod left;

pub use left::Left;

use super::{Maps, MapsError, memory::vip_key, space::Space};
use crate::slots::encode::{self, Encode};
use crate::{
    image::{RuleId, SubsetId},
    plan::Op,
};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use lb_common::{
    flow::{Tuple, V4, V6},
    table::{
        Backend, BackendStats, Client, ClientKey, FILTER_WORDS, FlowEntry, PORT_WORDS, PendingEntry, PortUse, Region,
        Settings, VipKey, socket,
    },
    verdict::Reason,
};
use std::{
    collections::BTreeSet,
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A type of `lb_common::table`: `repr(C)`, without padding, as asserted there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

/// Types whose bytes are their meaning.
///
/// # Safety
/// `repr(C)` without padding (asserted in `lb_common::table`). Enum fields are only ever written by the kernel program and
/// this agent, which share the type.
pub unsafe trait Layout: Copy + 'static {}

// SAFETY: as the trait asks, for all of `lb_common::table`.
unsafe impl<A: Encode> Layout for Tuple<A> {}
// SAFETY: as above.
unsafe impl<A: Encode> Layout for FlowEntry<A> {}
// SAFETY: as above.
unsafe impl<A: Encode> Layout for PendingEntry<A> {}
// SAFETY: as above.
unsafe impl<A: Encode> Layout for VipKey<A> {}
// SAFETY: as above.
unsafe impl Layout for Client {}
// SAFETY: as above.
unsafe impl<A: Encode> Layout for ClientKey<A> {}
// SAFETY: as above.
unsafe impl<A: Encode> Layout for Backend<A> {}
// SAFETY: as above.
unsafe impl Layout for Settings {}
// SAFETY: as above.
unsafe impl Layout for BackendStats {}

// SAFETY: a transparent wrapper of such a type.
unsafe impl<T: Layout> Pod for Plain<T> {}

/// A mmapable array map, seen as words that the program may read at any time.
struct Mapped<W> {
    words: NonNull<W>,
    len: usize,
    bytes: usize,
}

// SAFETY: the mapping is shared memory accessed through atomics only, from any thread.
unsafe impl<W: Sync> Send for Mapped<W> {}

impl<W> Mapped<W> {
    /// `element`: bytes of one element of the array.
    fn new(name: &'static str, map: &Map, element: usize) -> Result<Self, MapsError> {
        let error = |source: io::Error| MapsError::Kernel { map: name, source: MapError::IoError(source) };
        let Map::Array(data) = map else {
            return Err(error(io::Error::other("not an array")));
        };
        let info = data.info().map_err(|source| MapsError::Kernel { map: name, source })?;
        let bytes = (info.max_entries() as usize * element).next_multiple_of(4096);
        // SAFETY: a fresh shared mapping of a map's pages; the kernel checks the length.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(at.cast()) {
            Some(words) if at != libc::MAP_FAILED => {
                Ok(Self { words, len: info.max_entries() as usize * element / size_of::<W>(), bytes })
            }
            _ => Err(error(io::Error::last_os_error())),
        }
    }

    fn words(&self) -> &[W] {
        // SAFETY: the mapping is `len` words long and lives as long as `self`; W is an atomic, so others may write too.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl<W> Drop for Mapped<W> {
    fn drop(&mut self) {
        // SAFETY: the same address and length as mapped; nothing borrows it any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}

/// A map that is read many entries at a time.
struct Bulk {
    name: &'static str,
    fd: OwnedFd,
    entries: u32,
}

/// `union bpf_attr` of BPF_MAP_LOOKUP_BATCH (linux/bpf.h).
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Entries of whole buckets, and the bucket to go on with; `None` at the end of the table.
pub struct Batch<E> {
    pub entries: Vec<E>,
    pub next: Option<u32>,
}

/// One direction of a flow, as the kernel keeps it.
pub type Entry<A> = (Plain<Tuple<A>>, Plain<FlowEntry<A>>);

/// Entries of a batch at most; a bucket never holds as many.
const BATCH: usize = 4_096;

impl Bulk {
    fn new(name: &'static str, map: &Map) -> Result<Self, MapsError> {
        let Map::LruHashMap(data) = map else {
            let source = MapError::IoError(io::Error::other("not an LRU hash"));
            return Err(MapsError::Kernel { map: name, source });
        };
        let error = |source| MapsError::Kernel { map: name, source };
        let entries = data.info().map_err(error)?.max_entries();
        let fd = data.fd().as_fd().try_clone_to_owned().map_err(|source| error(MapError::IoError(source)))?;
        Ok(Self { name, fd, entries })
    }

    /// Reads on from a bucket (kernel 5.6). Entries do not become younger by it.
    fn read<K: Pod, V: Pod>(&self, from: u32) -> Result<Batch<(K, V)>, MapsError> {
        const BPF_MAP_LOOKUP_BATCH: i32 = 24;
        let mut keys: Vec<MaybeUninit<K>> = vec![MaybeUninit::uninit(); BATCH];
        let mut values: Vec<MaybeUninit<V>> = vec![MaybeUninit::uninit(); BATCH];
        let mut next = 0_u32;
        let mut attr = BatchAttr {
            in_batch: (&raw const from).addr() as u64,
            out_batch: (&raw mut next).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: BATCH as u32,
            map: self.fd.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel writes at most `count` keys and values of the map's own sizes, which are those of K and V, the
        // bucket it reached, and how many it wrote.
        let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
        let failed = (done != 0).then(io::Error::last_os_error);
        let next = match failed {
            None => Some(next),
            Some(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Some(error) => return Err(MapsError::Kernel { map: self.name, source: MapError::IoError(error) }),
        };
        let pairs = keys.into_iter().zip(values).take(attr.count as usize);
        // SAFETY: the kernel wrote that many of both, and any bytes that it holds are a key and a value.
        let entries = pairs.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }).collect();
        Ok(Batch { entries, next })
    }
}

/// The maps of one address family.
pub struct FamilyMaps<A: Encode> {
    pub flows: HashMap<MapData, Plain<Tuple<A>>, Plain<FlowEntry<A>>>,
    bulk: Bulk,
    pub pending: HashMap<MapData, Plain<Tuple<A>>, Plain<PendingEntry<A>>>,
    vips: HashMap<MapData, Plain<VipKey<A>>, u32>,
    clients: HashMap<MapData, Plain<ClientKey<A>>, Plain<Client>>,
    backends: HashMap<MapData, u32, Plain<Backend<A>>>,
}

impl<A: Encode> FamilyMaps<A> {
    /// Entries that the flow table has room for.
    pub fn capacity(&self) -> u32 {
        self.bulk.entries
    }

    /// Some flows, from a bucket on; the first is 0.
    pub fn some_flows(&self, from: u32) -> Result<Batch<Entry<A>>, MapsError> {
        self.bulk.read(from)
    }

    /// About how many entries the flow table holds: a few of its buckets tell, because keys are spread by their hash.
    pub fn filled(&self) -> Result<u64, MapsError> {
        // As many as the kernel makes for that many entries (`htab_map_alloc`).
        let buckets = u64::from(self.bulk.entries).next_power_of_two();
        let batch = self.some_flows(0)?;
        let seen = batch.next.map_or(buckets, |next| u64::from(next).max(1));
        Ok(batch.entries.len() as u64 * buckets / seen)
    }
}

/// All maps that the agent reads or writes.
pub struct KernelMaps {
    pub v4: FamilyMaps<V4>,
    pub v6: FamilyMaps<V6>,
    rules: Mapped<AtomicU64>,
    subsets: Mapped<AtomicU64>,
    arena: Mapped<AtomicU32>,
    ports: Mapped<AtomicU64>,
    settings: Array<MapData, Plain<Settings>>,
    meta: Array<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    backend_stats: PerCpuArray<MapData, Plain<BackendStats>>,
    destination_stats: PerCpuArray<MapData, u64>,
    space: Space,
}

/// What META's positions hold.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Meta {
    Layout = 0,
    NextBackend = 1,
    Revision = 2,
    /// 1 where the agent turned forwarding on for the loopback interface: bit 0 IPv4, bit 1 IPv6.
    Forwarding = 3,
    /// Workers of the proxy; 0: nothing is steered.
    Workers = socket::WORKERS,
}

impl KernelMaps {
    /// Takes every map from `get`, by its name in the program.
    pub fn open(mut get: impl FnMut(&'static str) -> Result<Map, MapError>) -> Result<Self, MapsError> {
        let mut take = |map: &'static str| get(map).map_err(|source| MapsError::Kernel { map, source });
        macro_rules! typed {
            ($name:literal) => {
                take($name)?.try_into().map_err(|source| MapsError::Kernel { map: $name, source })?
            };
        }
        let (flows4, flows6) = (take("FLOWS4")?, take("FLOWS6")?);
        let (bulk4, bulk6) = (Bulk::new("FLOWS4", &flows4)?, Bulk::new("FLOWS6", &flows6)?);
        let arena: Mapped<AtomicU32> = Mapped::new("ARENA", &take("ARENA")?, 64)?;
        let mut maps = Self {
            v4: FamilyMaps {
                flows: flows4.try_into().map_err(|source| MapsError::Kernel { map: "FLOWS4", source })?,
                bulk: bulk4,
                pending: typed!("PENDING4"),
                vips: typed!("VIPS4"),
                clients: typed!("CLIENTS4"),
                backends: typed!("BACKENDS4"),
            },
            v6: FamilyMaps {
                flows: flows6.try_into().map_err(|source| MapsError::Kernel { map: "FLOWS6", source })?,
                bulk: bulk6,
                pending: typed!("PENDING6"),
                vips: typed!("VIPS6"),
                clients: typed!("CLIENTS6"),
                backends: typed!("BACKENDS6"),
            },
            rules: Mapped::new("RULES", &take("RULES")?, 8)?,
            subsets: Mapped::new("SUBSETS", &take("SUBSETS")?, 8)?,
            space: Space::new((arena.len / lb_common::table::ARENA_LINE) as u32),
            arena,
            ports: Mapped::new("PORTS", &take("PORTS")?, 8)?,
            settings: typed!("SETTINGS"),
            meta: typed!("META"),
            counters: typed!("COUNTERS"),
            backend_stats: typed!("BACKEND_STATS"),
            destination_stats: typed!("DESTINATION_STATS"),
        };
        for region in
            maps.rules.words().iter().chain(maps.subsets.words()).map(|word| Region(word.load(Ordering::Acquire)))
        {
            if region.words() > 0 {
                maps.space.reserve(region);
            }
        }
        Ok(maps)
    }

    pub fn set_settings(&mut self, settings: Settings) -> Result<(), MapsError> {
        self.settings.set(0, Plain(settings), 0).map_err(|source| MapsError::Kernel { map: "SETTINGS", source })
    }

    pub fn meta(&self, position: Meta) -> Result<u64, MapsError> {
        self.meta.get(&(position as u32), 0).map_err(|source| MapsError::Kernel { map: "META", source })
    }

    pub fn set_meta(&mut self, position: Meta, value: u64) -> Result<(), MapsError> {
        self.meta.set(position as u32, value, 0).map_err(|source| MapsError::Kernel { map: "META", source })
    }

    /// One reason's counter, summed over CPUs.
    pub fn counter(&self, reason: Reason) -> Result<u64, MapsError> {
        let counted = self.counters.get(&(reason as u32), 0);
        Ok(counted.map_err(|source| MapsError::Kernel { map: "COUNTERS", source })?.iter().sum())
    }

    /// Every counter by reason, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<(Reason, u64)>, MapsError> {
        Reason::ALL.iter().map(|reason| Ok((*reason, self.counter(*reason)?))).collect()
    }

    /// Zero where there are more backends than counters: the program counts none of theirs either.
    pub fn backend_stats(&self, stats: u32) -> Result<BackendStats, MapsError> {
        if stats >= self.backend_stats.len() {
            return Ok(BackendStats::default());
        }
        let values =
            self.backend_stats.get(&stats, 0).map_err(|source| MapsError::Kernel { map: "BACKEND_STATS", source })?;
        Ok(values.iter().fold(BackendStats::default(), |sum, Plain(one)| BackendStats {
            packets_in: sum.packets_in + one.packets_in,
            bytes_in: sum.bytes_in + one.bytes_in,
            packets_out: sum.packets_out + one.packets_out,
            bytes_out: sum.bytes_out + one.bytes_out,
            flows: sum.flows + one.flows,
        }))
    }

    /// New flows of a destination since its rule's shares last changed; zero where there are more destinations than counters.
    pub fn destination_flows(&self, stats: u32) -> Result<u64, MapsError> {
        if stats >= self.destination_stats.len() {
            return Ok(0);
        }
        let values = self
            .destination_stats
            .get(&stats, 0)
            .map_err(|source| MapsError::Kernel { map: "DESTINATION_STATS", source })?;
        Ok(values.iter().sum())
    }

    /// Lets packets of `endpoint` through to the tables.
    fn use_endpoint(&self, usage: PortUse, endpoint: SocketAddr) {
        let positions = [usage.position(endpoint.port()), usage.endpoint_position(encode::endpoint_hash(endpoint))];
        for (word, bit) in positions {
            self.ports.words()[word as usize].fetch_or(bit, Ordering::Release);
        }
    }

    /// Clears what of the filter stands for no endpoint in `used`: after this, packets of others are none of ours.
    pub fn retain_endpoints(&self, usage: PortUse, used: &BTreeSet<SocketAddr>) {
        let mut kept = vec![0u64; FILTER_WORDS as usize];
        for endpoint in used {
            let hash = encode::endpoint_hash(*endpoint);
            for (word, bit) in [usage.position(endpoint.port()), usage.endpoint_position(hash)] {
                kept[word as usize] |= bit;
            }
        }
        let (ports, endpoints) = (usage.position(0).0 as usize, usage.endpoint_position(0).0 as usize);
        for at in [ports, endpoints].into_iter().flat_map(|first| first..first + PORT_WORDS as usize) {
            self.ports.words()[at].fetch_and(kept[at], Ordering::Release);
        }
    }

    /// Writes a table into free room. Nothing points at it yet.
    fn write(&mut self, words: &[u32]) -> Result<Region, MapsError> {
        let needed = words.len() as u32;
        let region = match self.space.take(needed) {
            Some(region) => region,
            None => {
                grace_period();
                self.space.wake();
                self.space.take(needed).ok_or_else(|| MapsError::NoSpace {
                    needed: needed / 256 + 1,
                    free: self.space.free_words().1 / 256,
                })?
            }
        };
        for (to, word) in self.arena.words()[region.offset() as usize..].iter().zip(words) {
            to.store(*word, Ordering::Relaxed);
        }
        Ok(region)
    }

    fn put_rule(&mut self, id: RuleId, words: &[u32]) -> Result<(), MapsError> {
        let limit = self.rules.len as u32;
        if id.0 >= limit {
            return Err(MapsError::Full { what: "rule", limit, option: "--max-rules" });
        }
        let old = Region(self.rules.words()[id.0 as usize].load(Ordering::Acquire));
        let before = &self.arena.words()[old.offset() as usize..][..old.words() as usize];
        let before: Vec<u32> = before.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let region = self.write(words)?;
        // One store puts the table in force on every CPU; Release: its words are there before.
        self.rules.words()[id.0 as usize].store(region.0, Ordering::Release);
        self.space.rest(old);
        // Shares are counted from the last change of weights on, whichever agent made it.
        if !encode::same_shares(&before, words) {
            encode::statistics(words).try_for_each(|stats| self.forget_flows(stats))?;
        }
        Ok(())
    }

    /// Counts a destination's flows from nothing.
    fn forget_flows(&mut self, stats: u32) -> Result<(), MapsError> {
        if stats >= self.destination_stats.len() {
            return Ok(());
        }
        let error = |source| MapsError::Kernel { map: "DESTINATION_STATS", source };
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| error(MapError::IoError(source)))?;
        let zero = PerCpuValues::try_from(vec![0; cpus]).map_err(|source| error(MapError::IoError(source)))?;
        self.destination_stats.set(stats, zero, 0).map_err(error)
    }

    fn put_subset(&mut self, id: SubsetId, words: &[u32]) -> Result<(), MapsError> {
        let limit = self.subsets.len as u32;
        if id.0 >= limit {
            return Err(MapsError::Full { what: "subset", limit, option: "--max-rules" });
        }
        let region = self.write(words)?;
        let old = self.subsets.words()[id.0 as usize].swap(region.0, Ordering::AcqRel);
        self.space.rest(Region(old));
        Ok(())
    }
}

impl Maps for KernelMaps {
    fn apply(&mut self, op: &Op) -> Result<(), MapsError> {
        match op {
            Op::PutBackend(id, backend) => {
                self.use_endpoint(PortUse::Backend, backend.address);
                if let Some(value) = V4::backend(backend) {
                    insert("BACKENDS4", &mut self.v4.backends, id.0, Plain(value))?;
                }
                if let Some(value) = V6::backend(backend) {
                    insert("BACKENDS6", &mut self.v6.backends, id.0, Plain(value))?;
                }
                Ok(())
            }
            Op::PutSubset(id, table) => self.put_subset(*id, &encode::subset(table)),
            Op::PutRule(id, table) => self.put_rule(*id, &encode::rule(table)),
            Op::PutVip(vip, rule) => {
                self.use_endpoint(PortUse::Listen, vip.socket());
                if let Some(key) = vip_key::<V4>(vip) {
                    insert("VIPS4", &mut self.v4.vips, Plain(key), encode::vip(rule))?;
                }
                if let Some(key) = vip_key::<V6>(vip) {
                    insert("VIPS6", &mut self.v6.vips, Plain(key), encode::vip(rule))?;
                }
                Ok(())
            }
            Op::PutClient(address, client) => {
                let value = Plain(encode::client(client));
                if let Some(key) = V4::encode(*address) {
                    insert("CLIENTS4", &mut self.v4.clients, Plain(ClientKey { address: key }), value)?;
                }
                if let Some(key) = V6::encode(*address) {
                    insert("CLIENTS6", &mut self.v6.clients, Plain(ClientKey { address: key }), value)?;
                }
                Ok(())
            }
            Op::DeleteClient(address) => {
                if let Some(key) = V4::encode(*address) {
                    remove("CLIENTS4", &mut self.v4.clients, &Plain(ClientKey { address: key }))?;
                }
                if let Some(key) = V6::encode(*address) {
                    remove("CLIENTS6", &mut self.v6.clients, &Plain(ClientKey { address: key }))?;
                }
                Ok(())
            }
            Op::DeleteVip(vip) => {
                if let Some(key) = vip_key::<V4>(vip) {
                    remove("VIPS4", &mut self.v4.vips, &Plain(key))?;
                }
                if let Some(key) = vip_key::<V6>(vip) {
                    remove("VIPS6", &mut self.v6.vips, &Plain(key))?;
                }
                Ok(())
            }
            Op::DeleteRule(id) => {
                let old = self.rules.words()[id.0 as usize].swap(0, Ordering::AcqRel);
                self.space.rest(Region(old));
                Ok(())
            }
            Op::DeleteSubset(id) => {
                let old = self.subsets.words()[id.0 as usize].swap(0, Ordering::AcqRel);
                self.space.rest(Region(old));
                Ok(())
            }
            Op::DeleteBackend(id, backend) if backend.address.is_ipv4() => {
                remove("BACKENDS4", &mut self.v4.backends, &id.0)
            }
            Op::DeleteBackend(id, _) => remove("BACKENDS6", &mut self.v6.backends, &id.0),
        }
    }
}

fn insert<K: Pod, V: Pod>(
    map: &'static str,
    table: &mut HashMap<MapData, K, V>,
    key: K,
    value: V,
) -> Result<(), MapsError> {
    table.insert(key, value, 0).map_err(|source| match &source {
        MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG) => match map {
            "CLIENTS4" | "CLIENTS6" => MapsError::Full { what: "client", limit: 0, option: "--max-backends" },
            "VIPS4" | "VIPS6" => MapsError::Full { what: "VIP", limit: 0, option: "--max-rules" },
            _ => MapsError::Full { what: "backend", limit: 0, option: "--max-backends" },
        },
        _ => MapsError::Kernel { map, source },
    })
}

/// Removing what is not there is done already.
fn remove<K: Pod, V: Pod>(map: &'static str, table: &mut HashMap<MapData, K, V>, key: &K) -> Result<(), MapsError> {
    match table.remove(key) {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(MapsError::Kernel { map, source }),
    }
}

/// Waits until every program that was running has returned. MEMBARRIER_CMD_GLOBAL is `synchronize_rcu` (kernel 4.3,
/// membarrier(2)); programs run inside RCU read-side sections.
fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: i32 = 1;
    // SAFETY: takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Not available with nohz_full CPUs. A program returns within microseconds; RCU never takes this long to see it.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
