//! Segments that are answered or dropped: of no flow, to places that cannot be reached, too large, too old.

use std::time::Duration;

use lb_common::verdict::Reason;
use meltemi::dataplane::load::Mode;
use meltemi_tests::packet::{ACK, FIN, PSH, Packet, RST, SYN, Transport, checksum};
use meltemi_tests::poll;

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

/// The ICMP error about a packet: RFC 792, RFC 4443. It quotes the IP header and 20 bytes of TCP, whose checksum is one that
/// completion by hardware would leave as it is.
fn error(packet: &Packet, kind: u8, code: u8, rest: u32) -> Packet {
    let datagram = packet.datagram();
    let extensions: usize = packet.extensions.iter().map(|(_, rest)| rest.len() + 1).sum();
    let header = if packet.src.is_ipv4() { 20 + packet.options.len() } else { 40 + extensions };
    let mut body = datagram[..header + 20].to_vec();
    let with = |value: u16| [&body[header..header + 16], &value.to_be_bytes(), &body[header + 18..]].concat();
    let standing = (0..=u16::MAX).find(|value| checksum(&with(*value)) == *value).unwrap();
    let segment = with(standing);
    body.truncate(header);
    body.extend(segment);
    let mut answer = Packet::new(packet.dst, packet.src, Transport::Icmp { kind, code, rest, body });
    (answer.link, answer.tags) = ([packet.link[1], packet.link[0]], packet.tags.clone());
    answer.id = 0;
    answer
}

/// RFC 1191 section 4, RFC 4443 section 3.2.
fn too_big(packet: &Packet, mtu: u16) -> Packet {
    match packet.src.is_ipv4() {
        true => error(packet, 3, 4, mtu.into()),
        false => error(packet, 2, 0, mtu.into()),
    }
}

/// RFC 792, RFC 4443 section 3.3: hop limit exceeded in transit.
fn expired(packet: &Packet) -> Packet {
    error(packet, if packet.src.is_ipv4() { 11 } else { 3 }, 0, 0)
}

/// Options of IPv4 and extension headers of IPv6 of the same length, a multiple of 8.
fn with_headers(packet: Packet, length: usize) -> Packet {
    let mut header = vec![1; length - 1];
    (header[0], header[1], header[2]) = ((length / 8 - 1) as u8, 1, (length - 4) as u8);
    Packet { options: vec![1; length.min(40)], extensions: vec![(60, header)], ..packet }
}

/// As much metadata as has room in front of a frame: 256 bytes without the 40 of `struct xdp_frame`.
const FULL_METADATA: usize = 216;

/// The frame with metadata that leaves no room in front, and the context that says so.
fn without_room(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let frame = [&[0; FULL_METADATA], frame].concat();
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let words = [FULL_METADATA as u32, frame.len() as u32, 0, 0, 0, 0];
    (frame, words.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

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

    fn segments_of_a_proxied_listener_are_left_to_the_host(rig) {
        each(rig, |rig, mode, family| {
            for flags in [SYN, ACK, ACK | PSH, FIN | ACK, RST, SYN | ACK, 0] {
                let bytes = segment(family, Place::Proxied, flags).payload(&[1, 2, 3]).bytes();
                let expect = Expect::new(Fate::Pass, Reason::PassProxy, bytes.clone());
                rig.check(mode, &format!("{family:?} flags {flags:#x}"), &bytes, &expect);
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
                let (frame, context) = without_room(&syn.bytes());
                assert_eq!(rig.run_on(mode, &frame, Some(&context)).0, Fate::Drop, "{mode:?} {family:?}");
                assert_eq!(rig.counted().reasons, [(Reason::DropNeighbour.name(), 1)].into());
            }
        }
    }

    fn where_the_frame_cannot_grow_no_error_is_sent(rig) {
        rig.rest();
        for mode in [Mode::Xdp, Mode::XdpGeneric] {
            for family in FAMILIES {
                rig.forget();
                let flow = Flow::open(rig, mode, family, Place::Snat, 40_000);
                rig.counted();
                let packet = Packet { ttl: 1, ..flow.request(ACK, 1, 1) };
                let (frame, context) = without_room(&packet.bytes());
                assert_eq!(rig.run_on(mode, &frame, Some(&context)).0, Fate::Drop, "{mode:?} {family:?}");
                assert_eq!(rig.counted().reasons, [(Reason::DropRewrite.name(), 1)].into());
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

    fn a_packet_whose_time_is_over_is_answered(rig) {
        everywhere(rig, |rig, mode, family, place| {
            rig.rest();
            let flow = Flow::open(rig, mode, family, place, 40_000);
            for ttl in [0, 1] {
                for payload in [0, 3, 1_000] {
                    for packet in [flow.request(ACK, 1, 1), flow.reply(ACK, 1, 1)] {
                        let plain = Packet { ttl, ..packet.payload(&vec![7; payload]) };
                        let tagged = Packet { tags: vec![(0x88a8, 5), (0x8100, 7)], ..plain.clone() };
                        for packet in [with_headers(plain.clone(), 8), with_headers(tagged, 40), plain] {
                            let expect = Expect::new(Fate::Back, Reason::ReplyExpired, expired(&packet).bytes());
                            rig.check(mode, &format!("{family:?} TTL {ttl}"), &packet.bytes(), &expect);
                        }
                    }
                }
            }
            let syn = Packet { ttl: 1, ..Packet::tcp(family.client(), 40_001, family.vip(), place.port(), SYN) };
            let expect = Expect::new(Fate::Back, Reason::ReplyExpired, expired(&syn).bytes());
            rig.check(mode, "SYN of a traceroute", &syn.bytes(), &expect);
            assert_eq!(rig.entries(family), (2, 0), "it opened no flow");
            let mut packet = flow.request(ACK, 1, 1).payload(b"old");
            packet.ttl = 2;
            flow.up(rig, "TTL 2", packet, Reason::ForwardFlow);
        });
    }

    fn no_error_about_an_error_or_a_later_fragment(rig) {
        each(rig, |rig, mode, family| {
            let flow = Flow::open(rig, mode, family, Place::Snat, 40_000);
            let (mut error, _) = super::icmp::errors(&flow).remove(0);
            error.ttl = 1;
            let (fate, _) = rig.run(mode, &error.bytes());
            assert_eq!((fate, rig.counted().reasons), (Fate::Drop, [(Reason::DropTtl.name(), 1)].into()));
            let fragments = flow.request(ACK, 1, 1).payload(&[1; 64]).fragments(77, &[48]);
            let [first, mut later] = <[Packet; 2]>::try_from(fragments).unwrap();
            assert_eq!(rig.run(mode, &first.bytes()).0, Fate::Redirect);
            later.ttl = 1;
            rig.counted();
            let bytes = later.bytes();
            rig.check(mode, "later fragment", &bytes, &Expect::new(Fate::Drop, Reason::DropTtl, bytes.clone()));
        });
    }

    fn errors_are_limited(rig) {
        each(rig, |rig, mode, family| {
            let flow = Flow::open(rig, mode, family, Place::Snat, 40_000);
            let bytes = Packet { ttl: 1, ..flow.request(ACK, 1, 1) }.bytes();
            let batch = |rig: &mut Rig, size: u32| {
                (0..size).for_each(|_| drop(rig.run(mode, &bytes)));
                let counted = rig.counted().reasons;
                ["reply.time-exceeded", "drop.ttl"].map(|reason| counted.get(reason).copied().unwrap_or(0))
            };
            // A busy machine may take longer than the span of the limit for one batch, but not for each.
            assert!((0..10).any(|_| batch(rig, 300)[1] > 0), "the limit is reached");
            let again = || Ok((batch(rig, 1) == [1, 0]).then_some(()));
            poll::until(Duration::from_secs(5), "an answer when the span is over", again).unwrap();
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

    fn too_large_with_options_or_extension_headers_is_answered(rig) {
        each(rig, |rig, mode, family| {
            let flow = Flow::open(rig, mode, family, Place::SmallMtu, 40_000);
            for length in [8, 24, 40, 88] {
                let packet = with_headers(flow.request(ACK, 1, 1).payload(&[7; 1_300]), length);
                let expect = Expect::new(Fate::Back, Reason::ReplyTooBig, too_big(&packet, 1_300).bytes());
                rig.check(mode, &format!("{family:?} {length} bytes of options"), &packet.bytes(), &expect);
            }
        });
    }

    fn what_cannot_be_quoted_is_dropped_by_name(rig) {
        each(rig, |rig, mode, family| {
            let flow = Flow::open(rig, mode, family, Place::SmallMtu, 40_000);
            let whole = flow.request(ACK, 1, 1).payload(&[1; 3_000]);
            let [first, later] = <[Packet; 2]>::try_from(whole.fragments(78, &[48])).unwrap();
            assert_eq!(rig.run(mode, &first.bytes()).0, Fate::Redirect);
            rig.counted();
            let long = with_headers(flow.request(ACK, 1, 1).payload(&[7; 1_300]), 96);
            let mut dropped = vec![later];
            if family == Family::V6 {
                dropped.push(long);
            }
            for packet in dropped {
                let bytes = packet.bytes();
                rig.check(mode, "large", &bytes, &Expect::new(Fate::Drop, Reason::DropTooBig, bytes.clone()));
            }
        });
    }
}
