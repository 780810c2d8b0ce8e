//! Nanoseconds a packet by BPF_PROG_TEST_RUN, above an empty program, beside bare map operations of the same run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail, ensure};
use aya::Pod;
use aya::maps::{HashMap, MapData};
use lb_common::flow::{Tuple, V4, V6};
use lb_common::table::Forwarding;
use lb_common::verdict::Reason;
use meltemi::dataplane::kernel::Plain;
use meltemi::slots::encode::Encode;

use super::production::{PORT, Production, clients, keys, step, vips};
use super::programs::{Packet, Programs, Way};
use super::report::{Report, Target, median};
use crate::world::ECHO_PORT;

/// Established flows. Each is two entries of the table.
const COUNTS: [u32; 4] = [1, 4_096, 65_536, 524_288];

/// Entries of the flow tables and of those they are compared with: the agent's default, or room for both directions of both
/// kinds of flow, and some: an LRU map evicts before it is full.
fn capacity(flows: u32) -> u32 {
    (flows * 4 + flows / 2).max(524_288)
}

/// As with the agent's default limits.
const PENDING: u32 = 32_768;

/// What the front should be answered with.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// How long it is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Passes of each row, in turns; the median counts
    #[arg(long, default_value_t = 31)]
    pub passes: u32,
    /// Packets of a pass
    #[arg(long, default_value_t = 100_000)]
    pub repeat: u32,
    /// Fewest and most established flows
    #[arg(long, default_value_t = 1)]
    pub least: u32,
    #[arg(long, default_value_t = 524_288)]
    pub flows: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    Empty4,
    Empty6,
    LruHit4,
    LruHit6,
    HashHit,
    HashMiss,
    LruMiss,
    LruInsert,
    Route,
    Snat4,
    Dnat4,
    Snat6,
    NewFlow,
    OtherPort,
    OtherAddress,
}

impl Case {
    const ALL: [Case; 15] = [
        Case::Empty4,
        Case::Empty6,
        Case::LruHit4,
        Case::LruHit6,
        Case::HashHit,
        Case::HashMiss,
        Case::LruMiss,
        Case::LruInsert,
        Case::Route,
        Case::Snat4,
        Case::Dnat4,
        Case::Snat6,
        Case::NewFlow,
        Case::OtherPort,
        Case::OtherAddress,
    ];

    fn packet(self) -> Packet {
        let [v4, v6] = vips();
        let from = |vip, forwarding| clients(vip, forwarding);
        let elsewhere = IpAddr::from(Ipv4Addr::new(10, 9, 9, 9));
        match self {
            Case::Empty4 | Case::LruHit4 | Case::HashHit | Case::Snat4 => {
                Packet::data(from(v4, Forwarding::Snat), v4, PORT)
            }
            Case::Dnat4 => Packet::data(from(v4, Forwarding::Dnat), v4, PORT),
            Case::Empty6 | Case::LruHit6 | Case::Snat6 => Packet::data(from(v6, Forwarding::Snat), v6, PORT),
            Case::Route => Packet::data(from(v4, Forwarding::Snat), Ipv4Addr::new(10, 1, 0, 100).into(), PORT),
            Case::NewFlow | Case::LruInsert | Case::LruMiss => {
                Packet::syn(Ipv4Addr::new(10, 66, 0, 0).into(), v4, PORT)
            }
            Case::HashMiss | Case::OtherPort => Packet::data(from(v4, Forwarding::Snat), v4, PORT + 1),
            Case::OtherAddress => Packet::data(from(v4, Forwarding::Snat), elsewhere, PORT),
        }
    }

    /// Verdict, and where the production program is under test the reason that it counts.
    fn expected(self) -> (u32, Option<Reason>) {
        match self {
            Case::Empty4 | Case::Empty6 | Case::LruHit4 | Case::LruHit6 | Case::HashHit => (XDP_PASS, None),
            Case::LruInsert | Case::Route => (XDP_PASS, None),
            Case::HashMiss | Case::LruMiss => (XDP_DROP, None),
            Case::Snat4 | Case::Dnat4 | Case::Snat6 => (XDP_REDIRECT, Some(Reason::ForwardFlow)),
            Case::NewFlow => (XDP_REDIRECT, Some(Reason::ForwardNew)),
            Case::OtherPort => (XDP_PASS, Some(Reason::PassPort)),
            Case::OtherAddress => (XDP_PASS, Some(Reason::PassAddress)),
        }
    }

    /// The bench's own program; `None`: the production program.
    fn own(self) -> Option<&'static str> {
        Some(match self {
            Case::Empty4 | Case::Empty6 => "empty",
            Case::LruHit4 | Case::LruMiss => "lru_hit4",
            Case::LruHit6 => "lru_hit6",
            Case::HashHit | Case::HashMiss => "hash4",
            Case::LruInsert => "lru_insert4",
            Case::Route => "route4",
            _ => return None,
        })
    }
}

struct Stand {
    programs: Programs,
    production: Production,
    lru4: HashMap<MapData, Plain<Tuple<V4>>, [u64; 6]>,
    lru6: HashMap<MapData, Plain<Tuple<V6>>, [u64; 9]>,
    hash4: HashMap<MapData, Plain<Tuple<V4>>, [u64; 6]>,
}

/// Measures all rows; to be run on the balancer host of a world, on one CPU. `out` is the interface towards the backends.
///
/// # Errors
/// When something cannot be loaded, or packets do not take the path that is to be measured.
pub fn run(effort: &Effort, out: u32, backends: &[SocketAddr]) -> Result<()> {
    meltemi::host::allow_lookups()?;
    for count in COUNTS.into_iter().filter(|count| (effort.least..=effort.flows).contains(count)) {
        let mut stand = Stand::new(backends, capacity(count))?;
        stand.fill(0..count, out)?;
        print(&stand.measure(effort, count)?, count);
    }
    Ok(())
}

impl Stand {
    fn new(backends: &[SocketAddr], capacity: u32) -> Result<Self> {
        let mut programs = Programs::load(&[
            ("BASE_LRU4", capacity),
            ("BASE_LRU6", capacity),
            ("BASE_HASH4", capacity),
            ("BASE_INSERT4", PENDING),
        ])?;
        let (lru4, lru6, hash4) =
            (programs.take("BASE_LRU4")?, programs.take("BASE_LRU6")?, programs.take("BASE_HASH4")?);
        let mut production = Production::load(&[
            ("FLOWS4", capacity),
            ("FLOWS6", capacity),
            ("PENDING4", PENDING),
            ("PENDING6", 4_096),
        ])?;
        let [v4, v6] = vips();
        production.listen(v4, Ipv4Addr::new(10, 1, 0, 1).into(), backends, Forwarding::Snat)?;
        // Only its port matters: the flows of IPv6 are established ones.
        production.listen(v6, v6, &[SocketAddr::new(step(v6, 1), ECHO_PORT)], Forwarding::Snat)?;
        let (lru4, lru6, hash4) = (lru4.try_into()?, lru6.try_into()?, hash4.try_into()?);
        Ok(Stand { programs, production, lru4, lru6, hash4 })
    }

    /// The baseline maps hold the same keys as the flow tables.
    fn fill(&mut self, numbers: std::ops::Range<u32>, out: u32) -> Result<()> {
        let [v4, v6] = vips();
        let way = (out, [2; 12]);
        for (vip, forwarding) in [(v4, Forwarding::Snat), (v4, Forwarding::Dnat), (v6, Forwarding::Snat)] {
            self.production.establish(vip, forwarding, numbers.clone(), way)?;
        }
        for forwarding in [Forwarding::Snat, Forwarding::Dnat] {
            insert_keys(&mut self.lru4, v4, forwarding, numbers.clone(), [0; 6])?;
        }
        insert_keys(&mut self.lru6, v6, Forwarding::Snat, numbers.clone(), [0; 9])?;
        insert_keys(&mut self.hash4, v4, Forwarding::Snat, numbers, [0; 6])
    }

    /// Cases take turns, so that a busy neighbour disturbs all alike, and each figure is compared with those of its own turn.
    fn measure(&mut self, effort: &Effort, flows: u32) -> Result<Figures> {
        let mut turns = Vec::new();
        for _ in 0..effort.passes {
            let mut turn = [0.0; Case::ALL.len()];
            for case in Case::ALL {
                turn[case as usize] = self.pass(case, effort.repeat, flows)?;
            }
            turns.push(turn);
        }
        Ok(Figures(turns))
    }

    fn pass(&mut self, case: Case, repeat: u32, flows: u32) -> Result<f64> {
        let packet = case.packet();
        let mask = match case {
            Case::NewFlow | Case::LruInsert | Case::LruMiss => u64::from(u32::MAX),
            _ => u64::from(flows - 1),
        };
        self.programs.set(&packet, mask, Way::default())?;
        match case.own() {
            Some(name) => {
                let program = self.programs.own(name)?;
                self.programs.put(&program)?;
            }
            None => self.programs.put(self.production.xdp())?,
        }
        let (verdict, reason) = case.expected();
        let before = reason.map(|reason| self.production.counted(reason)).transpose()?;
        let (ns, last) = self.programs.run(packet.front(), repeat)?;
        ensure!(last == verdict, "{case:?} ended with XDP verdict {last}: {}", self.production.all_counted()?);
        if let (Some(reason), Some(before)) = (reason, before) {
            let counted = self.production.counted(reason)? - before;
            // Among random SYNs a few come twice.
            if counted < u64::from(repeat - repeat / 1_000) {
                let all = self.production.all_counted()?;
                bail!("{case:?}: {} was counted {counted} times for {repeat} packets; so far: {all}", reason.name());
            }
        }
        Ok(ns)
    }
}

/// Both directions of flows, as keys of a map to compare with.
pub(super) fn insert_keys<A: Encode, V: Pod>(
    map: &mut HashMap<MapData, Plain<Tuple<A>>, V>,
    vip: IpAddr,
    forwarding: Forwarding,
    numbers: std::ops::Range<u32>,
    value: V,
) -> Result<()>
where
    Plain<Tuple<A>>: Pod,
{
    for number in numbers {
        for key in keys::<A>(vip, forwarding, number).into_iter().flatten() {
            map.insert(Plain(key), value, 0)?;
        }
    }
    Ok(())
}

/// Nanoseconds of each case, turn by turn.
struct Figures(Vec<[f64; Case::ALL.len()]>);

impl Figures {
    /// The median over all turns of what `figure` makes of the nanoseconds above an empty program.
    fn of(&self, figure: impl Fn(&dyn Fn(Case) -> f64) -> f64) -> f64 {
        let figures = self.0.iter().map(|turn| {
            figure(&|case: Case| {
                let empty = if case.packet().dst.is_ipv4() { Case::Empty4 } else { Case::Empty6 };
                turn[case as usize] - turn[empty as usize]
            })
        });
        median(&figures.collect::<Vec<_>>())
    }

    fn above(&self, case: Case) -> String {
        format!("{:.0} ns", self.of(|ns| ns(case)))
    }

    fn ratio(&self, case: Case, base: Case) -> f64 {
        self.of(|ns| ns(case) / ns(base))
    }
}

fn print(figures: &Figures, flows: u32) {
    let front = median(&figures.0.iter().map(|turn| turn[Case::Empty4 as usize]).collect::<Vec<_>>());
    let mut report = Report::new(format!(
        "Per packet, {flows} established flows, ns above an empty program (the front alone: {front:.0} ns)"
    ));
    for (what, case) in [
        ("LRU hash hit, IPv4 key", Case::LruHit4),
        ("LRU hash hit, IPv6 key", Case::LruHit6),
        ("hash hit", Case::HashHit),
        ("hash miss", Case::HashMiss),
        ("LRU hash miss, a key of 2^32", Case::LruMiss),
        ("LRU insert (of 32,768)", Case::LruInsert),
        ("route lookup", Case::Route),
    ] {
        report.plain(what, figures.above(case));
    }
    let limit = match flows {
        4_096 => Some(Target::AtMost(2.0)),
        524_288 => Some(Target::AtMost(1.2)),
        _ => None,
    };
    for (what, case, base, of, limit) in [
        ("established, snat, IPv4", Case::Snat4, Case::LruHit4, "x LRU hit", limit),
        ("established, dnat, IPv4", Case::Dnat4, Case::LruHit4, "x LRU hit", limit),
        ("established, snat, IPv6", Case::Snat6, Case::Snat4, "x IPv4", limit.map(|_| Target::AtMost(1.4))),
    ] {
        report.judged(what, figures.above(case), (figures.ratio(case, base), of), limit);
    }
    let most = |value: f64| limit.map(|_| Target::AtMost(value));
    let over = figures.of(|ns| ns(Case::NewFlow) - 2.0 * ns(Case::LruInsert));
    report.judged("new flow, snat, IPv4", figures.above(Case::NewFlow), (over, "ns above 2 LRU inserts"), most(100.0));
    for (what, case) in
        [("not ours: a port nobody uses", Case::OtherPort), ("not ours: another address", Case::OtherAddress)]
    {
        let over = figures.of(|ns| ns(case) - ns(Case::HashMiss));
        report.judged(what, figures.above(case), (over, "ns above a hash miss"), most(15.0));
    }
    report.print();
}
