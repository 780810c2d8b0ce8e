//! The real programs over tables built by hand, in a network namespace of their own, and the comparison of what they do
//! with a frame against what they should.
//!
//! ```text
//! 10.0.0.2 fd00::2 (client) ── c0 10.0.0.1 fd00::1     b0 10.1.0.1 fd00:1::1 ── 10.1.0.2 .3 fd00:1::2 ::3 (backends)
//! 10.2.0.0/24 fd00:2::/64 by backend 2 with an MTU of 1300; 10.3.0.0/24 fd00:3::/64 unreachable; 10.1.0.99 silent
//! ```
//! Tests run in a child process inside the namespace; its parent removes the pins, whatever became of the child.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, loaded_programs};
use lb_common::flow::HashKey;
use lb_common::table::{BackendStats, Forwarding, Handover, Settings, Turn};
use lb_common::verdict::Reason;
use meltemi::dataplane;
use meltemi::dataplane::kernel::{KernelMaps, Plain};
use meltemi::dataplane::limits::Limits;
use meltemi::dataplane::load::{Loaded, Mode};
use meltemi::dataplane::pins::Pins;
use meltemi::image::{
    Backend, BackendId, ClassId, Classes, Client, Image, RuleDestination, RuleId, RuleTable, StatsId, SubsetId,
    SubsetMember, SubsetTable, Vip, VipRule,
};
use meltemi::plan;
use zerocopy::FromBytes as _;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const C0_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const B0_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub const SNAT_FIRST: u16 = 20_000;
/// Few, so that a test can use them up.
pub const SNAT_COUNT: u16 = 4;
const INSIDE: &str = "MELTEMI_TEST_INSIDE";

/// The link address of backend `number`.
pub fn backend_mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, number]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// Host `host` of network `net`: 0 the clients', 1 the backends'.
    pub fn address(self, net: u8, host: u8) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(10, net, 0, host).into(),
            Family::V6 if net == 0 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    pub fn client(self) -> IpAddr {
        self.address(0, 2)
    }

    pub fn vip(self) -> IpAddr {
        self.address(0, 1)
    }
}

/// What a port of the VIP leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Snat,
    Dnat,
    /// The same backend as `Dnat`, from another VIP port.
    DnatToo,
    Broken,
    Empty,
    Unreachable,
    SmallMtu,
    Silent,
    /// Served by the proxy.
    Proxied,
}

impl Place {
    const ALL: [Place; 9] = [
        Place::Snat,
        Place::Dnat,
        Place::DnatToo,
        Place::Broken,
        Place::Empty,
        Place::Unreachable,
        Place::SmallMtu,
        Place::Silent,
        Place::Proxied,
    ];

    pub const fn port(self) -> u16 {
        80 + self as u16
    }

    pub const fn forwarding(self) -> Forwarding {
        match self {
            Place::Dnat | Place::DnatToo => Forwarding::Dnat,
            _ => Forwarding::Snat,
        }
    }

    /// Network and host of the backend.
    pub const fn backend(self) -> Option<(u8, u8)> {
        match self {
            Place::Snat => Some((1, 2)),
            Place::Dnat | Place::DnatToo => Some((1, 3)),
            Place::Unreachable => Some((3, 2)),
            Place::SmallMtu => Some((2, 2)),
            Place::Silent => Some((1, 99)),
            Place::Broken | Place::Empty | Place::Proxied => None,
        }
    }

    /// Position of the destination's and of the backend's counters.
    pub fn stats(self, family: Family) -> u32 {
        self as u32 + 16 * family as u32
    }
}

/// The backends' port.
pub const BACKEND_PORT: u16 = 8080;

/// Every place in both families.
pub fn image() -> Image {
    let mut image = Image::default();
    for family in FAMILIES {
        for place in Place::ALL {
            let number = place.stats(family);
            let subset = SubsetId(number);
            let name = format!("{family:?} {place:?}");
            let destination = RuleDestination {
                name: name.as_str().into(),
                weight: 1,
                subset: (place != Place::Broken).then_some(subset),
                stats: StatsId(number),
            };
            let vip = Vip::any(family.vip(), NonZeroU16::new(place.port()).unwrap());
            if place == Place::Proxied {
                image.vips.insert(vip, RuleId::PROXY.into());
                continue;
            }
            image.vips.insert(vip, RuleId(number).into());
            image.rules.insert(
                RuleId(number),
                Arc::new(RuleTable {
                    name: name.as_str().into(),
                    hash: HashKey::Flow,
                    destinations: vec![destination],
                }),
            );
            let mut members = vec![];
            if let Some((net, host)) = place.backend() {
                let address = SocketAddr::new(family.address(net, host), BACKEND_PORT);
                let (backend, source) = (BackendId(number + 1), family.address(1, 1));
                image.backends.insert(
                    backend,
                    Backend { address, forwarding: place.forwarding(), source, stats: StatsId(number) },
                );
                members.push(SubsetMember { backend, address, weight: 1 });
            }
            image.subsets.insert(subset, Arc::new(SubsetTable { name: name.as_str().into(), members }));
        }
    }
    classes(&mut image);
    image
}

/// A port of the VIP that leads clients of a class to [`Place::Dnat`] and all others to [`Place::Snat`].
pub const BY_CLASS: u16 = 95;
/// One that serves that class only.
pub const CLASS_ONLY: u16 = 96;

/// The IPv4 client is of a class; the IPv6 client of none.
fn classes(image: &mut Image) {
    let class = ClassId(7);
    image.clients.insert(Family::V4.client(), Client { class, name: 7 });
    for family in FAMILIES {
        let rule = |place: Place| RuleId(place.stats(family));
        let any = |port| Vip::any(family.vip(), NonZeroU16::new(port).unwrap());
        for (port, all) in [(BY_CLASS, rule(Place::Snat)), (CLASS_ONLY, RuleId::NONE)] {
            image.vips.insert(any(port), VipRule { rule: all, classes: Classes::Differ });
            image.vips.insert(Vip { class, ..any(port) }, rule(Place::Dnat).into());
        }
    }
}

const LINKS: &str = "link set lo up
link add c0 address 02:00:00:00:00:01 type veth peer name c1
link add b0 address 02:00:00:00:01:01 type veth peer name b1
link set c0 mtu 9000 up
link set c1 mtu 9000 up
link set b0 mtu 9000 up
link set b1 mtu 9000 up
address add 10.0.0.1/24 dev c0
address add 10.1.0.1/24 dev b0
address add fd00::1/64 dev c0 nodad
address add fd00:1::1/64 dev b0 nodad
neighbor add 10.0.0.2 dev c0 lladdr 02:00:00:00:00:02 nud permanent
neighbor add fd00::2 dev c0 lladdr 02:00:00:00:00:02 nud permanent
neighbor add 10.1.0.2 dev b0 lladdr 02:00:00:00:01:02 nud permanent
neighbor add fd00:1::2 dev b0 lladdr 02:00:00:00:01:02 nud permanent
neighbor add 10.1.0.3 dev b0 lladdr 02:00:00:00:01:03 nud permanent
neighbor add fd00:1::3 dev b0 lladdr 02:00:00:00:01:03 nud permanent
route add 10.2.0.0/24 via 10.1.0.2 mtu lock 1300
route add fd00:2::/64 via fd00:1::2 mtu lock 1300
route add unreachable 10.3.0.0/24
route add unreachable fd00:3::/64
";

/// Tests that each get a [`Rig`] inside a namespace of its own.
macro_rules! kernel_test {
    ($(fn $name:ident($rig:ident) $body:block)*) => { $(
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            $crate::packets::rig::in_namespace(name, |$rig: &mut $crate::packets::rig::Rig| $body);
        }
    )* };
}
pub(crate) use kernel_test;

/// Runs `body` on the rig, in a child process that has a network namespace of its own. Loading the programs is the slowest
/// part, so one child runs all tests of this module in turn, and each test reports what became of its like there.
pub fn in_namespace(name: &str, body: impl FnOnce(&mut Rig)) {
    static RIG: Mutex<Option<Rig>> = Mutex::new(None);
    static CHILD: LazyLock<(String, ExitStatus)> = LazyLock::new(run_child);
    if env::var_os(INSIDE).is_some() {
        let mut rig = RIG.lock().unwrap_or_else(PoisonError::into_inner);
        let rig = rig.get_or_insert_with(Rig::new);
        rig.refresh_after(u32::MAX);
        rig.forget();
        rig.counted();
        return body(rig);
    }
    let (_, name) = name.split_once("::").unwrap();
    let (said, status) = &*CHILD;
    if said.lines().any(|line| line == format!("test {name} ... ok")) {
        return;
    }
    let head = format!("---- {name} stdout ----");
    match said.split_once(&head) {
        Some((_, rest)) => panic!("{}", rest.split("\n---- ").next().unwrap_or(rest)),
        None => panic!("the tests in the namespace ended early ({status}; loading programs needs root):\n{said}"),
    }
}

/// Its output and how it ended.
fn run_child() -> (String, ExitStatus) {
    let child = Command::new("unshare")
        .arg("--net")
        .arg(env::current_exe().unwrap())
        .args(["packets::", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare (Debian package util-linux)");
    // `unshare` becomes the program it starts, so this is the id that the child takes its pins' name from.
    let pins = Pins::new(pin_dir(child.id()));
    let output = child.wait_with_output().unwrap();
    pins.remove().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (said, output.status)
}

fn pin_dir(pid: u32) -> PathBuf {
    format!("/sys/fs/bpf/meltemi-test-{pid}").into()
}

/// What became of a frame, in the words of all modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Drop,
    /// Back out of the interface that it came from: XDP_TX. TC has no name of its own for it.
    Back,
    Redirect,
    /// Sent by the host's neighbour table: a redirect in TC, handed over to it in XDP.
    Meet,
}

impl Fate {
    /// As the return value of that mode's program tells it.
    pub fn seen_in(self, mode: Mode) -> Fate {
        match self {
            Fate::Back | Fate::Meet if mode == Mode::Tc => Fate::Redirect,
            fate => fate,
        }
    }
}

/// Takes the metadata off that a TEST_RUN puts in front of the frame.
fn handed_over(out: &mut Vec<u8>) -> bool {
    let ifindex = Handover::read_from_prefix(out).ok().and_then(|(handover, _)| handover.ifindex());
    if ifindex.is_some() {
        out.drain(..size_of::<Handover>());
    }
    ifindex.is_some()
}

/// Every counter there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub reasons: BTreeMap<&'static str, u64>,
    /// Of each backend: packets and bytes in, packets and bytes out, flows.
    pub backends: BTreeMap<u32, [u64; 5]>,
    pub destinations: BTreeMap<u32, u64>,
}

/// What should become of a frame.
#[derive(Clone, Debug)]
pub struct Expect {
    pub fate: Fate,
    pub bytes: Vec<u8>,
    pub counters: Counters,
}

impl Expect {
    pub fn new(fate: Fate, reason: Reason, bytes: Vec<u8>) -> Expect {
        let reasons = [(reason.name(), 1)].into();
        Expect { fate, bytes, counters: Counters { reasons, ..Counters::default() } }
    }

    /// Left as it is.
    pub fn pass(reason: Reason, bytes: &[u8]) -> Expect {
        Expect::new(Fate::Pass, reason, bytes.to_vec())
    }

    pub fn backend(mut self, stats: u32, counted: [u64; 5]) -> Expect {
        self.counters.backends.insert(stats, counted);
        self
    }

    pub fn destination(mut self, stats: u32) -> Expect {
        self.counters.destinations.insert(stats, 1);
        self
    }
}

pub struct Rig {
    _loaded: Loaded,
    pub maps: KernelMaps,
    pins: Pins,
    /// TEST_RUN goes by the file descriptor, so one of aya's types serves all; XDP's own cannot be made from a pin, since its
    /// attach type is not exported.
    programs: BTreeMap<Mode, SchedClassifier>,
    before: Counters,
}

impl Rig {
    fn new() -> Rig {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(LINKS.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
        let pins = Pins::new(pin_dir(std::process::id()));
        let limits = Limits { flows: 4_096, rules: 64, backends: 64, table_memory: 4 << 20 };
        let mut loaded = Loaded::load(&pins, &limits).unwrap();
        let mut maps = loaded.maps().unwrap();
        dataplane::apply(&mut maps, &plan::diff(&Image::default(), &image())).unwrap();
        let programs = Mode::ALL.map(|mode| {
            loaded.enable(mode).unwrap();
            let pin = pins.program(mode.programs().0);
            (mode, SchedClassifier::from_pin(pin).unwrap())
        });
        let mut rig = Rig { _loaded: loaded, maps, pins, programs: programs.into(), before: Counters::default() };
        rig.lookups("1");
        rig.refresh_after(u32::MAX);
        rig
    }

    /// How long an entry is taken as it is, in ticks: 0 sends every packet by the slow path.
    pub fn refresh_after(&mut self, ticks: u32) {
        let settings =
            Settings { snat_first: SNAT_FIRST, snat_count: SNAT_COUNT, refresh: ticks, turn: Turn::TRANSMIT };
        self.maps.set_settings(settings).unwrap();
    }

    /// Lets the span of time pass in which ICMP answers are counted: 64 ticks, at 100 a second or more.
    pub fn rest(&self) {
        std::thread::sleep(std::time::Duration::from_millis(700));
    }

    /// Whether the host answers route lookups: "1" or "0".
    pub fn lookups(&self, value: &str) {
        for family in ["ipv4", "ipv6"] {
            fs::write(format!("/proc/sys/net/{family}/conf/lo/forwarding"), value).unwrap();
        }
    }

    /// Every program loaded over this rig's maps, its name cut to 15 letters by the kernel, and how many instructions the verifier looked at.
    pub fn verified(&self) -> Vec<(String, u32)> {
        let ours = MapData::from_pin(self.pins.map("COUNTERS")).unwrap().info().unwrap().id();
        let programs = loaded_programs().map(Result::unwrap);
        let programs = programs.filter(|program| program.map_ids().unwrap().is_some_and(|ids| ids.contains(&ours)));
        programs
            .map(|program| (program.name_as_str().unwrap().to_owned(), program.verified_instruction_count().unwrap()))
            .collect()
    }

    /// Runs a frame. The interface a TEST_RUN frame comes from is the loopback.
    pub fn run(&self, mode: Mode, frame: &[u8]) -> (Fate, Vec<u8>) {
        self.run_on(mode, frame, None)
    }

    /// As `run`, with a context of the program's type.
    pub fn run_on(&self, mode: Mode, frame: &[u8], context: Option<&[u8]>) -> (Fate, Vec<u8>) {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = context;
        let result = self.programs[&mode]
            .test_run(options)
            .unwrap_or_else(|error| panic!("{mode:?}, {} bytes: {error:?}", frame.len()));
        out.truncate(result.data_size_out as usize);
        let fate = match (mode, result.return_value as i32) {
            (Mode::Xdp | Mode::XdpGeneric, 2) if handed_over(&mut out) => Fate::Meet,
            (Mode::Tc, 2) | (Mode::Xdp | Mode::XdpGeneric, 1) => Fate::Drop,
            (Mode::Tc, -1) | (Mode::Xdp | Mode::XdpGeneric, 2) => Fate::Pass,
            (Mode::Xdp | Mode::XdpGeneric, 3) => Fate::Back,
            (Mode::Tc, 7) | (Mode::Xdp | Mode::XdpGeneric, 4) => Fate::Redirect,
            (_, other) => panic!("{mode:?}: the program returned {other}"),
        };
        (fate, out)
    }

    fn counters(&self) -> Counters {
        let reasons = self.maps.counters().unwrap().into_iter().map(|(reason, count)| (reason.name(), count));
        let all = 0..64;
        let backends = all.clone().map(|stats| {
            let BackendStats { packets_in, bytes_in, packets_out, bytes_out, flows } =
                self.maps.backend_stats(stats).unwrap();
            (stats, [packets_in, bytes_in, packets_out, bytes_out, flows])
        });
        let destinations = all.map(|stats| (stats, self.maps.destination_flows(stats).unwrap()));
        Counters { reasons: reasons.collect(), backends: backends.collect(), destinations: destinations.collect() }
    }

    /// What was counted since the last call.
    pub fn counted(&mut self) -> Counters {
        let now = self.counters();
        let before = std::mem::replace(&mut self.before, now.clone());
        let less = |stats: &u32, values: [u64; 5]| {
            let old = before.backends.get(stats).copied().unwrap_or_default();
            std::array::from_fn(|at| values[at] - old[at])
        };
        Counters {
            reasons: now
                .reasons
                .into_iter()
                .map(|(name, count)| (name, count - before.reasons.get(name).unwrap_or(&0)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            backends: now
                .backends
                .into_iter()
                .map(|(stats, values)| (stats, less(&stats, values)))
                .filter(|(_, values)| *values != [0; 5])
                .collect(),
            destinations: now
                .destinations
                .into_iter()
                .map(|(stats, count)| (stats, count - before.destinations.get(&stats).unwrap_or(&0)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }

    /// Runs a frame and compares everything. Notes the reason as covered.
    #[track_caller]
    pub fn check(&mut self, mode: Mode, what: &str, frame: &[u8], expect: &Expect) {
        let (fate, bytes) = self.run(mode, frame);
        let counters = self.counted();
        let what = format!("{mode:?} {what}");
        assert_eq!(counters, expect.counters, "{what}: counters (left: counted)");
        assert_eq!(bytes, expect.bytes, "{what}: bytes (left: sent)");
        assert_eq!(fate, expect.fate.seen_in(mode), "{what}");
    }

    /// Forgets every flow, handshake and fragment.
    pub fn forget(&mut self) {
        clear::<12, 48>(&self.pins, "FLOWS4");
        clear::<36, 72>(&self.pins, "FLOWS6");
        clear::<12, 56>(&self.pins, "PENDING4");
        clear::<36, 80>(&self.pins, "PENDING6");
        clear::<12, 4>(&self.pins, "FRAGMENTS4");
        clear::<36, 4>(&self.pins, "FRAGMENTS6");
    }

    /// Forgets one direction of a handshake.
    pub fn forget_pending(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) {
        match from.0 {
            IpAddr::V4(_) => remove::<12, 56>(&self.pins, "PENDING4", from, to),
            IpAddr::V6(_) => remove::<36, 80>(&self.pins, "PENDING6", from, to),
        }
    }

    /// Forgets one direction of a flow.
    pub fn forget_flow(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) {
        match from.0 {
            IpAddr::V4(_) => remove::<12, 48>(&self.pins, "FLOWS4", from, to),
            IpAddr::V6(_) => remove::<36, 72>(&self.pins, "FLOWS6", from, to),
        }
    }

    /// How many entries a table of flows has: flows, then handshakes.
    pub fn entries(&self, family: Family) -> (usize, usize) {
        match family {
            Family::V4 => (count::<12, 48>(&self.pins, "FLOWS4"), count::<12, 56>(&self.pins, "PENDING4")),
            Family::V6 => (count::<36, 72>(&self.pins, "FLOWS6"), count::<36, 80>(&self.pins, "PENDING6")),
        }
    }

    /// Ends every flow, as the agent does whose backend is gone.
    pub fn end_flows(&mut self) {
        macro_rules! end {
            ($flows:expr) => {
                let all: Vec<_> = $flows.iter().collect::<Result<_, _>>().unwrap();
                for (key, Plain(mut entry)) in all {
                    entry.state = entry.state.end();
                    $flows.insert(key, Plain(entry), 0).unwrap();
                }
            };
        }
        end!(self.maps.v4.flows);
        end!(self.maps.v6.flows);
    }
}

fn raw<const K: usize, const V: usize>(pins: &Pins, name: &str) -> HashMap<MapData, [u8; K], [u8; V]>
where
    [u8; K]: Pod,
    [u8; V]: Pod,
{
    let data = MapData::from_pin(pins.map(name)).unwrap();
    HashMap::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

fn clear<const K: usize, const V: usize>(pins: &Pins, name: &str) {
    let mut map = raw::<K, V>(pins, name);
    let keys: Vec<[u8; K]> = map.keys().collect::<Result<_, _>>().unwrap();
    keys.iter().for_each(|key| map.remove(key).unwrap());
}

fn count<const K: usize, const V: usize>(pins: &Pins, name: &str) -> usize {
    raw::<K, V>(pins, name).keys().count()
}

fn remove<const K: usize, const V: usize>(pins: &Pins, name: &str, from: (IpAddr, u16), to: (IpAddr, u16)) {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let key: [u8; K] = [octets(from.0), octets(to.0), ports].concat().try_into().unwrap();
    raw::<K, V>(pins, name).remove(&key).unwrap();
}
