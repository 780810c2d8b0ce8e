//! ICMP errors about packets that the balancer rewrote.

use lb_common::verdict::Reason;
use meltemi_tests::packet::{ACK, Packet, Transport, verify};

use super::flows::{Flow, everywhere};
use super::kernel_test;
use super::rig::{B0_MAC, C0_MAC, CLIENT_MAC, Expect, Family, Fate, backend_mac};

/// Every kind of error that quotes a packet: type, code and the four bytes behind the checksum.
fn kinds(family: Family) -> Vec<(u8, u8, u32)> {
    match family {
        Family::V4 => vec![
            (3, 0, 0),
            (3, 1, 0),
            (3, 3, 0),
            (3, 4, 1_300),
            (3, 13, 0),
            (11, 0, 0),
            (11, 1, 0),
            (12, 0, 0x1400_0000),
        ],
        Family::V6 => vec![(1, 0, 0), (1, 4, 0), (2, 0, 1_280), (3, 0, 0), (3, 1, 0), (4, 0, 40), (4, 1, 6)],
    }
}

/// Errors by a router on the backends' side about what the client sent, and by one on the client's side about what the
/// backend sent: before and after translation. Quotes of the whole packet and, for IPv4, of 8 bytes of TCP.
pub fn errors(flow: &Flow) -> Vec<(Packet, Packet)> {
    let mut all = Vec::new();
    let request = flow.request(ACK, 77, 88).payload(b"quoted odd");
    let reply = flow.reply(ACK, 99, 11).payload(b"quoted even");
    let router_out = (flow.family.address(1, 77), flow.ours.0, [B0_MAC, backend_mac(2)]);
    let router_in = (flow.family.address(0, 77), flow.vip.0, [C0_MAC, CLIENT_MAC]);
    // The addressee gets it as if it came from the end that it knows.
    let to_client = (flow.vip.0, flow.client.0, [CLIENT_MAC, C0_MAC]);
    let to_backend = (flow.ours.0, flow.backend.0, [flow.link_out()[0], B0_MAC]);
    for (before, after, from, to) in [
        (&request, flow.outward(&request), router_out, to_client),
        (&reply, flow.inward(&reply), router_in, to_backend),
    ] {
        for (kind, code, rest) in kinds(flow.family) {
            for quoted in
                [after.datagram().len(), header(flow.family) + 8, header(flow.family) + 16, header(flow.family) + 18]
            {
                let error = |src, dst, link, ttl, about: &Packet| {
                    let mut body = about.datagram();
                    body.truncate(quoted);
                    let mut packet = Packet::new(src, dst, Transport::Icmp { kind, code, rest, body });
                    (packet.link, packet.ttl) = (link, ttl);
                    packet
                };
                // The quoted packet has lost one of its hops; that it cannot give back.
                let mut original = before.clone();
                original.ttl -= 1;
                all.push((error(from.0, from.1, from.2, 61, &after), error(to.0, to.1, to.2, 60, &original)));
            }
        }
    }
    all
}

fn header(family: Family) -> usize {
    if family == Family::V4 { 20 } else { 40 }
}

kernel_test! {
    fn errors_reach_the_end_that_sent_the_original(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            for (error, expected) in errors(&flow) {
                assert_eq!((verify(&error.bytes()), verify(&expected.bytes())), (Ok(()), Ok(())));
                let expect = Expect::new(Fate::Redirect, Reason::ForwardIcmp, expected.bytes());
                rig.check(mode, &format!("{family:?} {place:?} {error:?}"), &error.bytes(), &expect);
            }
        });
    }

    fn errors_about_a_handshake_are_translated(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::syn(rig, mode, family, place, 40_000);
            let (error, expected) = errors(&flow).swap_remove(0);
            let expect = Expect::new(Fate::Redirect, Reason::ForwardIcmp, expected.bytes());
            rig.check(mode, "about a SYN", &error.bytes(), &expect);
        });
    }

    fn other_errors_pass_untouched(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            let other = Flow { ours: (flow.ours.0, 999), ..flow };
            let (error, _) = errors(&other).swap_remove(0);
            rig.check(mode, "about no flow", &error.bytes(), &Expect::pass(Reason::PassIcmp, &error.bytes()));
            let mut udp = errors(&flow).swap_remove(0).0;
            if let Transport::Icmp { body, .. } = &mut udp.transport {
                let protocol = if family == Family::V4 { 9 } else { 6 };
                body[protocol] = 17;
            }
            rig.check(mode, "about UDP", &udp.bytes(), &Expect::pass(Reason::PassIcmp, &udp.bytes()));
        });
    }
}
