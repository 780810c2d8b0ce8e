//! Random frames over random histories: the kernel's programs, the decision in ordinary memory, and its slow path alone
//! must agree on everything. A failure names the seed; `MELTEMI_SEED` runs one again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::frame::Bytes;
use lb_common::process::{process, slow};
use lb_common::verdict::{Action, Reason};
use meltemi::dataplane::load::Mode;
use meltemi_tests::packet::{ACK, FIN, PSH, Packet, RST, SYN, Transport, verify};

use super::kernel_test;
use super::rig::{BACKEND_PORT, BY_CLASS, CLASS_ONLY, FAMILIES, Family, Fate, Rig, SNAT_FIRST};
use super::twin::{Room, Twin};

/// xorshift64* (Vigna, 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A packet of few clients, ports, VIPs and backends, so that histories meet.
fn packet(random: &mut Random) -> Packet {
    let family = random.of(&FAMILIES);
    let client = (family.client(), 40_000 + random.below(6) as u16);
    let place = 80 + random.below(9) as u16;
    let port = match (client.1, place) {
        (40_005, 83) => BY_CLASS,
        (40_005, 84) => CLASS_ONLY,
        _ => place,
    };
    let vip = (family.vip(), port);
    let backend = (random.of(&[family.address(1, 2), family.address(1, 3), family.address(2, 2)]), BACKEND_PORT);
    let port = SNAT_FIRST + random.below(4) as u16;
    let ours = random.of(&[(family.address(1, 1), port), client]);
    let (from, to): ((IpAddr, u16), (IpAddr, u16)) = if random.below(5) < 3 { (client, vip) } else { (backend, ours) };
    let usual = [SYN, SYN, SYN | ACK, SYN | ACK, ACK, ACK, ACK, ACK | PSH, ACK | PSH, FIN | ACK, RST, RST | ACK];
    let flags = if random.below(20) == 0 { random.next() as u8 } else { random.of(&usual) };
    // Few numbers: handshakes must be completed by chance.
    let mut packet = Packet::tcp(from.0, from.1, to.0, to.1, flags)
        .numbers(random.of(&[1, 1_000, 0xffff_ffff]), random.of(&[1_001, 2, 0, 77_777_777]));
    let length = random.of(&[0, 0, 1, 5, 64, 513, 1_240, 1_300, 1_440]);
    packet.segment().payload = random.bytes(length);
    packet.segment().options = vec![1; 4 * random.of(&[0, 0, 3, 5, 10])];
    packet.ttl = random.of(&[64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 255, 2, 1, 0]);
    packet.tags = random.of(&[vec![], vec![], vec![], vec![(0x8100, 7)], vec![(0x88a8, 7), (0x8100, 8)]]);
    if family == Family::V4 {
        packet.options = vec![1; 4 * random.of(&[0, 0, 0, 0, 1, 10])];
    } else {
        packet.extensions =
            random.of(&[vec![], vec![], vec![], vec![(60, vec![0, 1, 4, 0, 0, 0, 0])], vec![(51, vec![0; 7])]]);
    }
    if random.below(12) == 0 {
        let id = random.below(3) as u32;
        return random.of(&packet.fragments(id, &[64, 128]));
    }
    packet
}

/// An ICMP message by some router about a frame that was sent before.
fn about(random: &mut Random, sent: &[u8]) -> Packet {
    let mut at = 12;
    while matches!(sent[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    let mut body = sent[at + 2..].to_vec();
    let (router, to) = match sent[at] {
        8 => (Family::V4.address(1, 77), IpAddr::from(<[u8; 4]>::try_from(&body[12..16]).unwrap())),
        _ => (Family::V6.address(1, 77), IpAddr::from(<[u8; 16]>::try_from(&body[8..24]).unwrap())),
    };
    body.truncate(28 + random.below(80) as usize);
    let (kind, code) = random.of(&[(3, 4), (3, 1), (11, 0), (1, 0), (2, 0), (4, 0), (8, 0), (135, 0)]);
    Packet::new(router, to, Transport::Icmp { kind, code, rest: 1_300, body })
}

/// The next frame of a history.
fn frame(random: &mut Random, sent: &[Vec<u8>]) -> Vec<u8> {
    match random.below(10) {
        0 if !sent.is_empty() => {
            let quoted = random.of(sent);
            about(random, &quoted).bytes()
        }
        _ => packet(random).bytes(),
    }
}

/// Damage to any byte behind the link header, or a cut.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.of(&[0, 0, 0, 0, 0, 0, 1, 1, 2, 8]) {
        let at = 12 + random.below(frame.len().min(110) as u64 - 12) as usize;
        frame[at] = random.next() as u8;
    }
    if random.below(20) == 0 {
        let length = random.below(frame.len() as u64).max(64) as usize;
        frame.truncate(length);
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("MELTEMI_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=count).collect(),
    }
}

fn fate(action: Action) -> Fate {
    match action {
        Action::Pass => Fate::Pass,
        Action::Drop => Fate::Drop,
        Action::Reflect => Fate::Back,
        Action::Send(_) => Fate::Redirect,
        Action::Meet(_) => Fate::Meet,
    }
}

/// The bytes of a frame that may grow into an ICMP error.
fn with_room(frame: &[u8]) -> Vec<u8> {
    [frame, &[0; 64]].concat()
}

/// Frames of one history.
const LENGTH: usize = 500;

fn compare(rig: &mut Rig, mode: Mode, seed: u64, seen: &mut BTreeSet<&'static str>) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut twin = Twin::new();
    let refresh = random.of(&[0, u32::MAX]);
    twin.refresh_after(refresh);
    rig.forget();
    rig.refresh_after(refresh);
    rig.counted();
    let mut history = Vec::new();
    for step in 0..LENGTH {
        let mut frame = frame(&mut random, &history);
        let whole = verify(&frame).is_ok();
        mutate(&mut random, &mut frame);
        let mut bytes = with_room(&frame);
        let mut in_memory = Bytes::within(&mut bytes, frame.len());
        let action = process(&mut in_memory, &twin);
        let expected = in_memory.as_slice().to_vec();
        let (did, sent) = rig.run(mode, &frame);
        let what = format!("MELTEMI_SEED={seed} {mode:?} step {step} frame {frame:02x?}");
        let counted = rig.counted();
        assert_eq!(counted, twin.counted(), "{what}: counters (left: kernel)");
        seen.extend(counted.reasons.keys());
        assert_eq!(did, fate(action).seen_in(mode), "{what}");
        // What a dropped frame looks like is nobody's business.
        if did != Fate::Drop {
            assert_eq!(sent, expected, "{what}: bytes (left: kernel)");
        }
        if did == Fate::Redirect && whole && verify(&sent).is_ok() {
            history.push(sent.clone());
        }
        // The decision in memory shares its mistakes with the kernel's; the checksums are judged apart.
        if whole && matches!(did, Fate::Redirect | Fate::Back) && verify(&frame).is_ok() {
            // The TCP checksum quoted in an error of our own is not that of the segment.
            let ours = counted.reasons.keys().any(|reason| reason.starts_with("reply."));
            let judged = verify(&sent);
            assert!(
                judged.is_ok() || ours && judged == Err("quoted checksum of protocol 6".into()),
                "{judged:?} {what}"
            );
        }
    }
}

kernel_test! {
    fn twenty_thousand_frames_as_in_memory(rig) {
        let mut seen = BTreeSet::new();
        for seed in seeds(40) {
            let mode = Mode::ALL[(seed % 3) as usize];
            compare(rig, mode, seed, &mut seen);
        }
        if std::env::var_os("MELTEMI_SEED").is_none() {
            // Random frames that never get anywhere would prove nothing. Left out: what needs the agent, a full table,
            // every source port at once, or a host or driver that refuses.
            let out_of_reach = [
                Reason::RejectEnded,
                Reason::RejectTableFull,
                Reason::RejectPorts,
                Reason::DropRewrite,
                Reason::DropLookup,
                Reason::DropNeighbour,
                Reason::DropTooBig,
            ];
            let missing: Vec<_> = Reason::ALL.iter().filter(|reason| !seen.contains(reason.name()) && !out_of_reach.contains(reason)).collect();
            assert!(missing.is_empty(), "never seen: {missing:?}");
        }
    }
}

/// The fast path is a short cut: without it every packet must fare the same.
#[test]
fn the_fast_path_changes_nothing() {
    for seed in seeds(60) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (mut with, mut without) = (Twin::new(), Twin::new());
        for twin in [&mut with, &mut without] {
            twin.refresh_after([0, 3, u32::MAX][(seed % 3) as usize]);
        }
        let mut history = Vec::new();
        for step in 0..LENGTH {
            let tick = random.below(3) as u32;
            for twin in [&with, &without] {
                twin.memory.clock.set(twin.memory.clock.get().wrapping_add(tick));
            }
            let mut frame = frame(&mut random, &history);
            mutate(&mut random, &mut frame);
            let (mut one, mut two) = (with_room(&frame), with_room(&frame));
            let (mut one, mut two) = (Bytes::within(&mut one, frame.len()), Bytes::within(&mut two, frame.len()));
            let actions = (process(&mut one, &with), slow(&mut two, &without));
            let what = format!("MELTEMI_SEED={seed} step {step} frame {frame:02x?}");
            assert_eq!(actions.0, actions.1, "{what}");
            assert_eq!(with.counted(), without.counted(), "{what}");
            assert_eq!(one.as_slice(), two.as_slice(), "{what}");
            if matches!(actions.0, Action::Send(_)) && verify(one.as_slice()).is_ok() {
                history.push(one.as_slice().to_vec());
            }
        }
    }
}

/// The kernel's tables evict rather than refuse, so a full one exists in memory only.
#[test]
fn without_room_for_its_state_a_flow_is_refused() {
    for family in FAMILIES {
        let mut twin = Twin::new();
        twin.room = Room::None;
        let syn = Packet::tcp(family.client(), 40_000, family.vip(), 80, SYN).numbers(9, 0);
        let mut bytes = syn.bytes();
        let mut frame = Bytes::new(&mut bytes);
        assert_eq!(process(&mut frame, &twin), Action::Reflect);
        let reset = super::flows::reset_of(&syn, RST | ACK, 0, 10).bytes();
        assert_eq!(frame.as_slice(), reset);
        assert_eq!(twin.counted().reasons, [(Reason::RejectTableFull.name(), 1)].into());
    }
}
