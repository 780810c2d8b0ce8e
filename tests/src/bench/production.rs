//! The production programs and tables without an agent: loaded without a pin, filled with flows of our choice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, MapData, MapError, ProgramArray};
use aya::programs::{ProgramFd, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use lb_common::conntrack::State;
use lb_common::flow::Tuple;
use lb_common::table::{FlowEntry, Forwarding, Hop, Settings, Side, Turn};
use lb_common::verdict::Reason;
use lb_common::wire::{Be16, Mac};
use meltemi::dataplane::Maps as _;
use meltemi::dataplane::kernel::{KernelMaps, Plain};
use meltemi::dataplane::load::{Mode, OBJECT};
use meltemi::image::{
    Backend, BackendId, RuleDestination, RuleId, RuleTable, StatsId, SubsetId, SubsetMember, SubsetTable, Vip,
};
use meltemi::plan::Op;
use meltemi::slots::encode::Encode;

use super::programs::FIRST_PORT;
use crate::world::{ECHO_PORT, LB_V4, LB_V6};

/// Names an object file to measure instead of the one that the agent carries: two builds of the data plane can be compared
/// without building the agent anew.
const OTHER_OBJECT: &str = "MELTEMI_BENCH_DATA_PLANE";

/// The listener's port.
pub const PORT: u16 = 31400;

/// First client address of the flows; a flow's number is added to it.
pub fn clients(like: IpAddr, forwarding: Forwarding) -> IpAddr {
    match (like, forwarding) {
        (IpAddr::V4(_), Forwarding::Snat) => Ipv4Addr::new(10, 64, 0, 0).into(),
        (IpAddr::V4(_), Forwarding::Dnat) => Ipv4Addr::new(10, 65, 0, 0).into(),
        (IpAddr::V6(_), Forwarding::Snat) => Ipv6Addr::new(0xfd00, 64, 0, 0, 0, 0, 0, 0).into(),
        (IpAddr::V6(_), Forwarding::Dnat) => Ipv6Addr::new(0xfd00, 65, 0, 0, 0, 0, 0, 0).into(),
    }
}

/// An address that follows `first` by `steps`.
pub fn step(first: IpAddr, steps: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + steps).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(steps)).into(),
    }
}

/// Both directions of flow `number`: what it comes in as, what it leaves as.
fn flow(vip: IpAddr, forwarding: Forwarding, number: u32) -> [(SocketAddr, SocketAddr); 2] {
    const PORTS: u32 = 16_384;
    let client = SocketAddr::new(
        step(clients(vip, forwarding), number & 0xffff),
        FIRST_PORT + u16::try_from(number >> 16).unwrap_or(0),
    );
    let backends: IpAddr = match vip {
        IpAddr::V4(_) => Ipv4Addr::new(10, 2, 0, 2).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2).into(),
    };
    let backend = SocketAddr::new(step(backends, number / PORTS), ECHO_PORT);
    let source = match forwarding {
        Forwarding::Snat => SocketAddr::new(vip, 10_000 + (number % PORTS) as u16),
        Forwarding::Dnat => client,
    };
    [(client, SocketAddr::new(vip, PORT)), (source, backend)]
}

fn tuple<A: Encode>([src, dst]: [SocketAddr; 2]) -> Option<Tuple<A>> {
    Some(Tuple {
        src: A::encode(src.ip())?,
        dst: A::encode(dst.ip())?,
        sport: Be16::new(src.port()),
        dport: Be16::new(dst.port()),
    })
}

/// Both keys of a flow of this number, in one family.
pub fn keys<A: Encode>(vip: IpAddr, forwarding: Forwarding, number: u32) -> Option<[Tuple<A>; 2]> {
    let [(client, listener), (source, backend)] = flow(vip, forwarding, number);
    Some([tuple([client, listener])?, tuple::<A>([source, backend])?.reverse()])
}

/// Programs and tables.
pub struct Production {
    ebpf: Ebpf,
    pub maps: KernelMaps,
    ours: ProgramFd,
}

impl Production {
    /// Loads with these sizes; flows never need a refresh.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(sizes: &[(&str, u32)]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::empty());
        for (map, entries) in sizes {
            loader.map_max_entries(map, *entries);
        }
        let object = match std::env::var_os(OTHER_OBJECT) {
            Some(path) => std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
            None => OBJECT.to_vec(),
        };
        let mut ebpf = loader.load(&object)?;
        let ours = load_xdp(&mut ebpf)?;
        // Only now: some maps are closed once they are mapped into memory, and programs name maps by descriptor.
        let mut maps = KernelMaps::open(|name| ebpf.take_map(name).ok_or(MapError::KeyNotFound))?;
        maps.set_settings(Settings {
            snat_first: 10_000,
            snat_count: 22_768,
            refresh: u32::MAX,
            turn: Turn::TRANSMIT,
        })?;
        Ok(Production { ebpf, maps, ours })
    }

    /// The fast program of native XDP, its slow one in place.
    #[must_use]
    pub fn xdp(&self) -> &ProgramFd {
        &self.ours
    }

    /// Attaches native XDP, until this value is dropped.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let (fast, _) = Mode::Xdp.programs();
        let program: &mut Xdp = self.ebpf.program_mut(fast).context("no such program")?.try_into()?;
        program.attach(interface, XdpMode::Driver)?;
        Ok(())
    }

    /// One rule for the listener on `vip` with `backends`, all of one subset.
    ///
    /// # Errors
    /// When a table is full.
    pub fn listen(
        &mut self,
        vip: IpAddr,
        source: IpAddr,
        backends: &[SocketAddr],
        forwarding: Forwarding,
    ) -> Result<()> {
        let base = if vip.is_ipv4() { 0 } else { 1_000 };
        let (rule, subset) = (RuleId(base / 1_000), SubsetId(base / 1_000));
        let mut members = Vec::new();
        for (number, address) in (1..).zip(backends) {
            let id = BackendId(base + number);
            let stats = StatsId(number);
            self.maps.apply(&Op::PutBackend(id, Backend { address: *address, forwarding, source, stats }))?;
            members.push(SubsetMember { backend: id, address: *address, weight: 1 });
        }
        self.maps.apply(&Op::PutSubset(subset, Arc::new(SubsetTable { name: "bench".into(), members })))?;
        let destination = RuleDestination { name: "all".into(), weight: 1, subset: Some(subset), stats: StatsId(0) };
        let hash = lb_common::flow::HashKey::Flow;
        let table = RuleTable { name: "bench".into(), hash, destinations: vec![destination] };
        self.maps.apply(&Op::PutRule(rule, Arc::new(table)))?;
        let port = NonZeroU16::new(PORT).context("no port")?;
        self.maps.apply(&Op::PutVip(Vip::any(vip, port), rule.into()))?;
        Ok(())
    }

    /// Writes both directions of established flows, which leave through `interface` to `link`.
    ///
    /// # Errors
    /// When the table does not take them.
    pub fn establish(
        &mut self,
        vip: IpAddr,
        forwarding: Forwarding,
        numbers: std::ops::Range<u32>,
        (interface, link): (u32, [u8; 12]),
    ) -> Result<()> {
        let mac =
            |at: usize| Mac(std::array::from_fn(|i| u16::from_ne_bytes([link[at + 2 * i], link[at + 2 * i + 1]])));
        let hop = Hop { ifindex: interface, destination: mac(0), source: mac(6) };
        match vip {
            IpAddr::V4(_) => fill(&mut self.maps.v4.flows, vip, forwarding, numbers, hop),
            IpAddr::V6(_) => fill(&mut self.maps.v6.flows, vip, forwarding, numbers, hop),
        }
    }

    /// How often a reason was counted so far.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counted(&self, reason: Reason) -> Result<u64> {
        let counters = self.maps.counters()?;
        Ok(counters.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count))
    }

    /// Every counter, to say where packets went that were expected elsewhere.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn all_counted(&self) -> Result<String> {
        let counters = self.maps.counters()?;
        let counted = counters.iter().filter(|(_, count)| *count > 0);
        Ok(counted.map(|(reason, count)| format!("{} {count}", reason.name())).collect::<Vec<_>>().join(", "))
    }
}

fn load_xdp(ebpf: &mut Ebpf) -> Result<ProgramFd> {
    let (fast, slow) = Mode::Xdp.programs();
    let mut fds = Vec::new();
    for name in [slow, fast] {
        let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
        program.load().with_context(|| format!("program {name}"))?;
        fds.push(program.fd()?.try_clone()?);
    }
    let mut slots: ProgramArray<&mut MapData> = ebpf.map_mut("SLOW_XDP").context("no program array")?.try_into()?;
    slots.set(0, &fds[0], 0)?;
    fds.pop().context("no program")
}

fn fill<A: Encode>(
    map: &mut HashMap<MapData, Plain<Tuple<A>>, Plain<FlowEntry<A>>>,
    vip: IpAddr,
    forwarding: Forwarding,
    numbers: std::ops::Range<u32>,
    hop: Hop,
) -> Result<()>
where
    Plain<Tuple<A>>: Pod,
    Plain<FlowEntry<A>>: Pod,
{
    for number in numbers {
        let Some([client, reply]) = keys::<A>(vip, forwarding, number) else {
            bail!("flow {number} is of the other family");
        };
        for (key, to, side) in [(client, reply.reverse(), Side::Client), (reply, client.reverse(), Side::Backend)] {
            let entry = FlowEntry {
                to,
                hop,
                seen: 0,
                backend: 1,
                backend_stats: 1,
                destination: 0,
                state: State::OPEN,
                side,
                mtu: 1_500,
            };
            map.insert(Plain(key), Plain(entry), 0)?;
        }
    }
    Ok(())
}

/// The balancer host's address on the client's side, of the family of `v6` or not.
#[must_use]
pub fn vips() -> [IpAddr; 2] {
    [LB_V4.into(), LB_V6.into()]
}
