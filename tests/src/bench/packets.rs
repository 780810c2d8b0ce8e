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

/// Room for both directions of both kinds of flow at the largest count, and some: an LRU map evicts before it is full.
const CAPACITY: u32 = 2_400_000;

/// As with the agent's default limits.
const PENDING: u32 = 32_768;

/// What the front should be answered with.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

/// How long it is measured.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Effort {
    /// Passes of each row; the median counts
    #[arg(long, default_value_t = 5)]
    pub passes: u32,
    /// Packets of a pass
    #[arg(long, default_value_t = 1_000_000)]
    pub repeat: u32,
    /// Most established flows
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
    LruInsert,
    Snat4,
    Dnat4,
    Snat6,
    NewFlow,
    OtherPort,
    OtherAddress,
}

impl Case {
    const ALL: [Case; 13] = [
        Case::Empty4,
        Case::Empty6,
        Case::LruHit4,
        Case::LruHit6,
        Case::HashHit,
        Case::HashMiss,
        Case::LruInsert,
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
            Case::NewFlow | Case::LruInsert => Packet::syn(Ipv4Addr::new(10, 66, 0, 0).into(), v4, PORT),
            Case::HashMiss | Case::OtherPort => Packet::data(from(v4, Forwarding::Snat), v4, PORT + 1),
            Case::OtherAddress => Packet::data(from(v4, Forwarding::Snat), elsewhere, PORT),
        }
    }

    /// Verdict, and where the production program is under test the reason that it counts.
    fn expected(self) -> (u32, Option<Reason>) {
        match self {
            Case::Empty4 | Case::Empty6 | Case::LruHit4 | Case::LruHit6 | Case::HashHit | Case::LruInsert => {
                (XDP_PASS, None)
            }
            Case::HashMiss => (XDP_DROP, None),
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
            Case::LruHit4 => "lru_hit4",
            Case::LruHit6 => "lru_hit6",
            Case::HashHit | Case::HashMiss => "hash4",
            Case::LruInsert => "lru_insert4",
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
    let mut stand = Stand::new(backends)?;
    let mut filled = 0;
    for count in COUNTS.into_iter().filter(|count| *count <= effort.flows) {
        stand.fill(filled..count, out)?;
        filled = count;
        let figures = stand.measure(effort, count)?;
        print(&figures, count);
    }
    Ok(())
}

impl Stand {
    fn new(backends: &[SocketAddr]) -> Result<Self> {
        let mut programs = Programs::load(&[
            ("BASE_LRU4", CAPACITY),
            ("BASE_LRU6", CAPACITY),
            ("BASE_HASH4", CAPACITY),
            ("BASE_INSERT4", PENDING),
        ])?;
        let (lru4, lru6, hash4) =
            (programs.take("BASE_LRU4")?, programs.take("BASE_LRU6")?, programs.take("BASE_HASH4")?);
        let mut production = Production::load(&[
            ("FLOWS4", CAPACITY),
            ("FLOWS6", CAPACITY),
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

    /// Medians by case. Cases take turns, so that a busy neighbour disturbs all alike.
    fn measure(&mut self, effort: &Effort, flows: u32) -> Result<Vec<(Case, f64)>> {
        let mut figures = vec![Vec::new(); Case::ALL.len()];
        for _ in 0..effort.passes {
            for case in Case::ALL {
                figures[case as usize].push(self.pass(case, effort.repeat, flows)?);
            }
        }
        Ok(Case::ALL.into_iter().map(|case| (case, median(&figures[case as usize]))).collect())
    }

    fn pass(&mut self, case: Case, repeat: u32, flows: u32) -> Result<f64> {
        let packet = case.packet();
        let mask = match case {
            Case::NewFlow | Case::LruInsert => u64::from(u32::MAX),
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

fn insert_keys<A: Encode, V: Pod>(
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

fn print(figures: &[(Case, f64)], flows: u32) {
    let raw = |wanted: Case| figures.iter().find(|(case, _)| *case == wanted).map_or(0.0, |(_, ns)| *ns);
    let above4 = |case: Case| raw(case) - raw(Case::Empty4);
    let above6 = |case: Case| raw(case) - raw(Case::Empty6);
    let ns = |value: f64| format!("{value:.0} ns");
    let mut report = Report::new(format!(
        "Per packet, {flows} established flows, ns above an empty program (the front alone: {:.0} ns)",
        raw(Case::Empty4)
    ));
    let (hit, miss, insert) = (above4(Case::LruHit4), above4(Case::HashMiss), above4(Case::LruInsert));
    report.plain("LRU hash hit, IPv4 key", ns(hit));
    report.plain("LRU hash hit, IPv6 key", ns(above6(Case::LruHit6)));
    report.plain("hash hit", ns(above4(Case::HashHit)));
    report.plain("hash miss", ns(miss));
    report.plain("LRU insert (of 32,768)", ns(insert));
    let limit = match flows {
        4_096 => Some(Target::AtMost(2.0)),
        524_288 => Some(Target::AtMost(1.2)),
        _ => None,
    };
    let established = above4(Case::Snat4);
    report.judged("established, snat, IPv4", ns(established), (established / hit, "x LRU hit"), limit);
    report.judged("established, dnat, IPv4", ns(above4(Case::Dnat4)), (above4(Case::Dnat4) / hit, "x LRU hit"), limit);
    let v6 = above6(Case::Snat6);
    let limit = limit.map(|_| Target::AtMost(1.4));
    report.judged("established, snat, IPv6", ns(v6), (v6 / established, "x IPv4"), limit);
    let new = above4(Case::NewFlow);
    let most = |value: f64| (flows == 4_096 || flows == 524_288).then_some(Target::AtMost(value));
    report.judged("new flow, snat, IPv4", ns(new), (new - 2.0 * insert, "ns above 2 LRU inserts"), most(100.0));
    for (what, case) in
        [("not ours: a port nobody uses", Case::OtherPort), ("not ours: another address", Case::OtherAddress)]
    {
        let value = above4(case);
        report.judged(what, ns(value), (value - miss, "ns above a hash miss"), most(15.0));
    }
    report.print();
}
