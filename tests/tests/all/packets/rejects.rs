//! Segments that are answered or dropped: of no flow, to places that cannot be reached, too large, too old.

use lb_common::verdict::Reason;
use meltemi::dataplane::load::Mode;
use meltemi_tests::packet::{ACK, FIN, Packet, RST, SYN, Transport};

use super::flows::{BACKEND_SEQ, CLIENT_SEQ, Flow, everywhere, jumbo, reset_of};
use super::rig::{Expect, FAMILIES, Family, Fate};
use super::{Place, Rig, kernel_test};

fn segment(family: Family, place: Place, flags: u8) -> Packet {
    Packet::tcp(family.client(), 40_000, family.vip(), place.port(), flags).numbers(500, 0)
}

fn each(rig: &mut Rig, mut body: impl FnMut(&mut Rig, Mode, Family)) {
    for mode in Mode::ALL {
        for family in FAMILIES {
            rig.forget();
            rig.counted();
            body(rig, mode, family);
        }
    }
}

/// The "packet too big" that answers a packet: RFC 1191 section 4, RFC 4443 section 3.2.
fn too_big(packet: &Packet, mtu: u16) -> Packet {
    let quote = |header: usize| packet.datagram()[..header + 8].to_vec();
    let transport = match packet.src.is_ipv4() {
        true => Transport::Icmp { kind: 3, code: 4, rest: mtu.into(), body: quote(20) },
        false => Transport::Icmp { kind: 2, code: 0, rest: mtu.into(), body: quote(40) },
    };
    let mut answer = Packet::new(packet.dst, packet.src, transport);
    (answer.link, answer.tags) = ([packet.link[1], packet.link[0]], packet.tags.clone());
    answer.id = 0;
    answer
}

/// As much metadata as has room in front of a frame: 256 bytes without the 40 of `struct xdp_frame`.
const FULL_METADATA: usize = 216;

kernel_test! {
    fn a_segment_of_no_flow_is_reset_as_rfc_9293_says(rig) {
        each(rig, |rig, mode, family| {
            for (flags, payload, seq, ack, answer) in [
                (ACK, 0, 7_777, 0, RST),
                (ACK, 100, 7_777, 0, RST),
                (ACK, *jumbo(mode).last().unwrap(), 7_777, 0, RST),
                (ACK | FIN, 3, 7_777, 0, RST),
                (SYN | ACK, 0, 7_777, 0, RST),
                (0, 0, 0, 500, RST | ACK),
                (0, 11, 0, 511, RST | ACK),
                (FIN, 11, 0, 512, RST | ACK),
                (SYN | FIN, 0, 0, 502, RST | ACK),
            ] {
                for options in [0, 4, 40] {
                    let mut packet = segment(family, Place::Snat, flags).numbers(500, 7_777).payload(&vec![3; payload]);
                    packet.segment().options = vec![1; options];
                    if flags & ACK == 0 {
                        packet.segment().ack = 0;
                    }
                    let expect = Expect::new(Fate::Back, Reason::RejectNoFlow, reset_of(&packet, answer, seq, ack).bytes());
                    rig.check(mode, &format!("{family:?} flags {flags:#x}"), &packet.bytes(), &expect);
                }
            }
            for flags in [RST, RST | ACK, RST | SYN, RST | FIN] {
                let bytes = segment(family, Place::Snat, flags).bytes();
                rig.check(mode, "RST", &bytes, &Expect::new(Fate::Drop, Reason::DropReset, bytes.clone()));
            }
        });
    }

    fn a_syn_to_a_broken_or_empty_destination_is_reset(rig) {
        each(rig, |rig, mode, family| {
            for (place, reason) in [(Place::Broken, Reason::RejectBroken), (Place::Empty, Reason::RejectNoEndpoint)] {
                let syn = segment(family, place, SYN);
                let expect = Expect::new(Fate::Back, reason, reset_of(&syn, RST | ACK, 0, 501).bytes())
                    .destination(place.stats(family));
                rig.check(mode, &format!("{family:?} {place:?}"), &syn.bytes(), &expect);
            }
        });
    }

    fn without_a_route_it_is_dropped(rig) {
        each(rig, |rig, mode, family| {
            let bytes = segment(family, Place::Unreachable, SYN).bytes();
            rig.check(mode, "SYN", &bytes, &Expect::new(Fate::Drop, Reason::DropNoRoute, bytes.clone()));
        });
    }

    fn without_a_neighbour_the_host_asks_for_it_and_sends(rig) {
        each(rig, |rig, mode, family| {
            let syn = segment(family, Place::Silent, SYN);
            let (_, sent) = rig.run(mode, &syn.bytes());
            let at = if family == Family::V4 { 34 } else { 54 };
            let ours = (family.address(1, 1), u16::from_be_bytes([sent[at], sent[at + 1]]));
            let backend = (family.address(1, 99), super::rig::BACKEND_PORT);
            let expected = syn.hopped(ours, backend, syn.link);
            rig.forget();
            rig.counted();
            let stats = Place::Silent.stats(family);
            let expect = Expect::new(Fate::Meet, Reason::ForwardNeighbour, expected.bytes())
                .backend(stats, [1, syn.ip_len(), 0, 0, 1])
                .destination(stats);
            rig.check(mode, &format!("{family:?} SYN"), &syn.bytes(), &expect);
        });
    }

    // A driver without metadata looks to the program like a frame whose metadata takes all room there is.
    fn where_the_driver_cannot_hand_over_it_is_dropped(rig) {
        for mode in [Mode::Xdp, Mode::XdpGeneric] {
            for family in FAMILIES {
                rig.forget();
                rig.counted();
                let syn = segment(family, Place::Silent, SYN);
                let frame = [vec![0; FULL_METADATA], syn.bytes()].concat();
                // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
                let words = [FULL_METADATA as u32, frame.len() as u32, 0, 0, 0, 0];
                let context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                assert_eq!(rig.run_on(mode, &frame, Some(&context)).0, Fate::Drop, "{mode:?} {family:?}");
                assert_eq!(rig.counted().reasons, [(Reason::DropNeighbour.name(), 1)].into());
            }
        }
    }

    // Somebody turned off forwarding everywhere: flows keep the way they have, new ones are dropped by name.
    fn without_lookups_old_flows_go_on(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            flow.down(rig, "first reply", flow.reply(ACK, 1, 1), Reason::ForwardFlow);
            rig.refresh_after(0);
            rig.lookups("0");
            rig.counted();
            let (request, reply) = (flow.request(ACK, 1, 1), flow.reply(ACK, 1, 1));
            let fates = [&request, &reply].map(|packet| rig.run(mode, &packet.bytes()));
            let counted = rig.counted();
            let syn = Packet::tcp(family.client(), 40_001, family.vip(), place.port(), SYN).bytes();
            let new = rig.run(mode, &syn);
            let counted_new = rig.counted();
            rig.lookups("1");
            rig.refresh_after(u32::MAX);
            assert_eq!(fates[0], (Fate::Redirect, flow.outward(&request).bytes()));
            assert_eq!(fates[1], (Fate::Redirect, flow.inward(&reply).bytes()));
            assert_eq!(counted.reasons, [(Reason::ForwardFlow.name(), 2)].into());
            assert_eq!(new, (Fate::Drop, syn));
            assert_eq!(counted_new.reasons, [(Reason::DropLookup.name(), 1)].into());
        });
    }

    fn a_packet_whose_time_is_over_is_dropped(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            for ttl in [0, 1] {
                let mut packet = flow.request(ACK, 1, 1).payload(b"old");
                packet.ttl = ttl;
                let (fate, _) = rig.run(mode, &packet.bytes());
                assert_eq!((fate, rig.counted().reasons), (Fate::Drop, [(Reason::DropTtl.name(), 1)].into()));
            }
            let mut packet = flow.request(ACK, 1, 1).payload(b"old");
            packet.ttl = 2;
            flow.up(rig, "TTL 2", packet, Reason::ForwardFlow);
        });
    }

    fn a_packet_larger_than_the_way_is_answered_with_the_mtu(rig) {
        each(rig, |rig, mode, family| {
            let flow = Flow::open(rig, mode, family, Place::SmallMtu, 40_000);
            let headers = if family == Family::V4 { 40 } else { 60 };
            flow.up(rig, "1300 bytes", flow.request(ACK, 1, 1).payload(&[7; 1300][headers..]), Reason::ForwardFlow);
            for length in [1301, 1400, 1500].into_iter().chain(jumbo(mode)) {
                let packet = flow.request(ACK, 1, 1).payload(&[7; 9_000][..length - headers]);
                let expect = Expect::new(Fate::Back, Reason::ReplyTooBig, too_big(&packet, 1300).bytes());
                rig.check(mode, &format!("{family:?} {length} bytes"), &packet.bytes(), &expect);
            }
            let reply = flow.reply(ACK, 1, 1).payload(&[7; 1500][headers..]);
            flow.down(rig, "the other way", reply, Reason::ForwardFlow);
        });
    }

    fn a_handshake_segment_larger_than_the_way_is_answered_too(rig) {
        each(rig, |rig, mode, family| {
            // TCP fast open: data in the SYN.
            let packet = segment(family, Place::SmallMtu, SYN).payload(&[7; 1400]);
            let expect = Expect::new(Fate::Back, Reason::ReplyTooBig, too_big(&packet, 1300).bytes());
            rig.check(mode, &format!("{family:?} SYN with data"), &packet.bytes(), &expect);
            assert_eq!(rig.entries(family), (0, 0));
            let flow = Flow::syn(rig, mode, family, Place::SmallMtu, 40_000);
            flow.down(rig, "SYN-ACK", flow.reply(SYN | ACK, BACKEND_SEQ, CLIENT_SEQ + 1), Reason::ForwardHandshake);
            let packet = flow.request(ACK, CLIENT_SEQ + 1, BACKEND_SEQ + 1).payload(&[7; 1400]);
            let expect = Expect::new(Fate::Back, Reason::ReplyTooBig, too_big(&packet, 1300).bytes());
            rig.check(mode, &format!("{family:?} ACK with data"), &packet.bytes(), &expect);
        });
    }

    fn too_large_with_options_is_dropped(rig) {
        each(rig, |rig, mode, family| {
            let flow = Flow::open(rig, mode, family, Place::SmallMtu, 40_000);
            let mut packet = flow.request(ACK, 1, 1).payload(&[7; 1_300]);
            (packet.options, packet.extensions) = (vec![1; 4], vec![(60, vec![0, 1, 4, 0, 0, 0, 0])]);
            let bytes = packet.bytes();
            rig.check(mode, "options", &bytes, &Expect::new(Fate::Drop, Reason::DropRewrite, bytes.clone()));
        });
    }
}
