//! Headers of every shape: what is balanced whatever its options, and what passes untouched.

use lb_common::verdict::Reason;
use meltemi::dataplane::load::Mode;
use meltemi_tests::packet::{ACK, PSH, Packet, SYN, Transport, verify};

use super::flows::{Flow, everywhere};
use super::rig::{C0_MAC, CLIENT_MAC, Expect, Family, Fate};
use super::{Rig, kernel_test};

#[track_caller]
fn untouched(rig: &mut Rig, what: &str, frame: &[u8], reason: Reason) {
    for mode in Mode::ALL {
        rig.check(mode, what, frame, &Expect::pass(reason, frame));
    }
}

/// A frame with another EtherType.
fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&C0_MAC[..], &CLIENT_MAC, &kind.to_be_bytes(), payload].concat()
}

fn extension(length: usize) -> Vec<u8> {
    let mut rest = vec![((length - 8) / 8) as u8];
    // PadN (RFC 8200 section 4.2).
    rest.extend([1, (length - 4) as u8]);
    rest.resize(length - 1, 0);
    rest
}

/// RFC 4302 section 2.2, 24 bytes.
fn authentication() -> Vec<u8> {
    let mut rest = vec![4];
    rest.resize(23, 0xaa);
    rest
}

kernel_test! {
    fn ip_options_by_tcp_options(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            let ip = if family == Family::V4 { 0..=10 } else { 0..=0 };
            for ip in ip {
                for tcp in 0..=10 {
                    for mut packet in [flow.request(ACK | PSH, 1, 1), flow.reply(ACK | PSH, 1, 1)] {
                        // No operations, an end: options that nothing acts upon.
                        packet.options = vec![1; 4 * ip];
                        packet.segment().options = vec![1; 4 * tcp];
                        packet.segment().payload = b"odd".to_vec();
                        match packet.src == family.client() && packet.dst == family.vip() {
                            true => flow.up(rig, &format!("options {ip} {tcp}"), packet, Reason::ForwardFlow),
                            false => flow.down(rig, &format!("options {ip} {tcp}"), packet, Reason::ForwardFlow),
                        }
                    }
                }
            }
        });
    }

    fn vlan_tags_stay(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            for tags in [vec![], vec![(0x8100, 7)], vec![(0x88a8, 7), (0x8100, 0x2009)], vec![(0x8100, 7), (0x8100, 8)]] {
                let mut packet = flow.request(ACK, 1, 1).payload(b"tagged");
                packet.tags = tags.clone();
                flow.up(rig, &format!("tags {tags:x?}"), packet, Reason::ForwardFlow);
            }
            let mut packet = flow.request(ACK, 1, 1);
            packet.tags = vec![(0x8100, 1); 3];
            rig.check(mode, "three tags", &packet.bytes(), &Expect::pass(Reason::PassNotIp, &packet.bytes()));
        });
    }

    fn extension_headers_are_skipped(rig) {
        everywhere(rig, |rig, mode, family, place| {
            if family == Family::V4 {
                return;
            }
            let flow = Flow::open(rig, mode, family, place, 40_000);
            for chain in [
                vec![(0, extension(8))],
                vec![(60, extension(24))],
                vec![(43, extension(8))],
                vec![(51, authentication())],
                // An atomic fragment (RFC 6946).
                vec![(44, vec![0, 0, 0, 0, 0, 0, 9])],
                vec![(0, extension(8)), (60, extension(16)), (43, extension(24)), (51, authentication()), (60, extension(8))],
                vec![(60, extension(8)); 6],
            ] {
                let mut packet = flow.request(ACK, 1, 1).payload(b"far");
                packet.extensions = chain.clone();
                assert_eq!(verify(&packet.bytes()), Ok(()));
                flow.up(rig, &format!("chain {:?}", chain.iter().map(|(number, _)| number).collect::<Vec<_>>()), packet, Reason::ForwardFlow);
            }
            let mut packet = flow.request(ACK, 1, 1);
            packet.extensions = vec![(60, extension(8)); 7];
            rig.check(mode, "seven headers", &packet.bytes(), &Expect::pass(Reason::PassNotTcp, &packet.bytes()));
            packet.extensions = vec![(60, vec![200; 7])];
            rig.check(mode, "a header longer than the packet", &packet.bytes(), &Expect::pass(Reason::PassMalformed, &packet.bytes()));
        });
    }

    fn fragments_follow_the_first(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            let packet = flow.request(ACK | PSH, 1, 1).payload(&[9; 1_000]);
            let whole = flow.outward(&packet);
            let pieces = packet.fragments(77, &[64, 800]);
            let expected = whole.fragments(77, &[64, 800]);
            assert_eq!(pieces.len(), 3);
            let orphan = pieces[1].bytes();
            rig.check(mode, "orphan", &orphan, &Expect::pass(Reason::PassFragment, &orphan));
            for at in [0, 2, 1] {
                let expect = Expect::new(Fate::Redirect, Reason::ForwardFlow, expected[at].bytes())
                    .backend(place.stats(family), [1, pieces[at].ip_len(), 0, 0, 0]);
                rig.check(mode, &format!("{family:?} {place:?} fragment {at}"), &pieces[at].bytes(), &expect);
            }
            let other = packet.fragments(78, &[64])[1].bytes();
            rig.check(mode, "fragment of another datagram", &other, &Expect::pass(Reason::PassFragment, &other));
        });
    }

    fn what_is_none_of_ours_passes_untouched(rig) {
        untouched(rig, "ARP", &ethernet(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]), Reason::PassNotIp);
        untouched(rig, "LLDP", &ethernet(0x88cc, &[2, 7, 4, 2, 0, 0, 0, 0, 1]), Reason::PassNotIp);
        untouched(rig, "802.3 length", &ethernet(0x0026, &[0x42, 0x42, 3]), Reason::PassNotIp);
        for family in super::rig::FAMILIES {
            let (client, vip) = (family.client(), family.vip());
            let udp = Packet::new(client, vip, Transport::Raw(17, vec![0x9c, 0x40, 0, 80, 0, 9, 0, 0, 7]));
            untouched(rig, "UDP to a VIP's port", &udp.bytes(), Reason::PassNotTcp);
            let ssh = Packet::tcp(client, 40_000, vip, 22, SYN);
            untouched(rig, "another port", &ssh.bytes(), Reason::PassPort);
            let own = Packet::tcp(client, 40_000, family.address(1, 1), 80, SYN);
            untouched(rig, "a VIP's port on another address", &own.bytes(), Reason::PassAddress);
            let reply = Packet::tcp(family.address(1, 2), 8080, family.address(1, 1), 40_000, ACK);
            untouched(rig, "a reply of no flow", &reply.bytes(), Reason::PassAddress);
        }
        let (client, vip) = (Family::V4.client(), Family::V4.vip());
        let echo = Packet::new(client, vip, Transport::Icmp { kind: 8, code: 0, rest: 1, body: b"ping".to_vec() });
        untouched(rig, "echo", &echo.bytes(), Reason::PassIcmp);
        let (client, vip) = (Family::V6.client(), Family::V6.vip());
        for kind in [128, 133, 134, 135, 136, 137] {
            let message = Packet::new(client, vip, Transport::Icmp { kind, code: 0, rest: 0, body: vec![0xfd; 24] });
            untouched(rig, &format!("ICMPv6 type {kind}"), &message.bytes(), Reason::PassIcmp);
        }
    }

    fn headers_that_contradict_themselves_pass(rig) {
        let good = Packet::tcp(Family::V4.client(), 40_000, Family::V4.vip(), 80, SYN).bytes();
        for (what, at, value) in [("version 5", 14, 0x55), ("header of 16 bytes", 14, 0x44), ("longer than the frame", 17, 41), ("shorter than its header", 17, 19)] {
            let mut bad = good.clone();
            bad[at] = value;
            untouched(rig, what, &bad, Reason::PassMalformed);
        }
        let good = Packet::tcp(Family::V6.client(), 40_000, Family::V6.vip(), 80, SYN).bytes();
        for (what, at, value) in [("version 4", 14, 0x40), ("longer than the frame", 19, 21), ("half a TCP header", 19, 10)] {
            let mut bad = good.clone();
            bad[at] = value;
            untouched(rig, what, &bad, Reason::PassMalformed);
        }
        // A data offset beyond the segment: there is no saying what its answer would acknowledge.
        for family in super::rig::FAMILIES {
            let mut bad = Packet::tcp(family.client(), 40_000, family.vip(), 80, ACK).bytes();
            let at = if family == Family::V4 { 46 } else { 66 };
            for offset in [0x60, 0xf0, 0x00, 0x40] {
                bad[at] = offset;
                untouched(rig, &format!("data offset {offset:#x}"), &bad, Reason::PassMalformed);
            }
        }
    }

    fn no_truncated_header_is_sent(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            let mut tagged = flow.request(ACK, 1, 1).payload(b"0123456789");
            tagged.tags = vec![(0x8100, 7)];
            let mut options = flow.reply(ACK, 1, 1);
            options.segment().options = vec![1; 12];
            options.options = vec![1; 8];
            let mut chain = flow.request(ACK, 1, 1);
            chain.extensions = vec![(0, extension(8)), (60, extension(16))];
            let icmp = super::icmp::errors(&flow)[0].0.clone();
            let stray = Packet::tcp(family.client(), 1, family.vip(), 80, ACK);
            for packet in [tagged, options, chain, icmp, stray] {
                let bytes = packet.bytes();
                // The kernel itself refuses to run a TC program on less than an IP header.
                let first = match (mode, family) {
                    (Mode::Tc, Family::V4) => 34,
                    (Mode::Tc, Family::V6) => 54,
                    _ => 14,
                };
                for length in first..bytes.len() {
                    let (fate, sent) = rig.run(mode, &bytes[..length]);
                    assert_eq!(fate, Fate::Pass, "{mode:?} {family:?} {length} bytes of {packet:?}");
                    assert_eq!(sent, &bytes[..length], "{mode:?} {family:?} {length} bytes of {packet:?}");
                }
            }
        });
    }

    fn padding_behind_the_packet_is_kept_out_of_it(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            let packet = flow.request(ACK, 1, 1);
            let padded = [packet.bytes(), vec![0xee; 6]].concat();
            let expected = [flow.outward(&packet).bytes(), vec![0xee; 6]].concat();
            let expect = Expect::new(Fate::Redirect, Reason::ForwardFlow, expected)
                .backend(place.stats(family), [1, packet.ip_len(), 0, 0, 0]);
            rig.check(mode, "padding of a short frame", &padded, &expect);
        });
    }
}
