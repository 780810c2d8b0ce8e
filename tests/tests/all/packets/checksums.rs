//! Checksums whose completion the sender left to hardware: the field holds the pseudo header's sum alone.

use lb_common::verdict::Reason;
use meltemi::dataplane::load::Mode;
use meltemi_tests::packet::{ACK, Checksum, Packet, RST, SYN, verify};

use super::flows::{Flow, everywhere, reset_of};
use super::kernel_test;
use super::rig::{Expect, Fate};

/// What leaves by a program of `mode` when `packet` came in with a bare sum.
fn bare(packet: &Packet) -> Packet {
    Packet { checksum: Checksum::Bare, ..packet.clone() }
}

kernel_test! {
    fn native_xdp_completes_and_generic_xdp_keeps_bare_sums(rig) {
        everywhere(rig, |rig, mode, family, place| {
            if mode == Mode::Tc {
                // The helper goes by the sk_buff, which a test run cannot mark; the flow tests cover it.
                return;
            }
            let flow = Flow::open(rig, mode, family, place, 40_000);
            // The last ones are in several buffers.
            let long = [255, 256, 511, 512, 513, 1_000, 1_023, 1_024, 1_025, 1_440, 3_400, 3_500, 3_501, 4_097, 8_900];
            for length in (0..=70).chain(long) {
                let payload: Vec<u8> = (0..length).map(|at| (at * 31 + 7) as u8).collect();
                for packet in [flow.request(ACK, 1, 1).payload(&payload), flow.reply(ACK, 1, 1).payload(&payload)] {
                    let (out, counted) = match packet.src == flow.client.0 && packet.dst == flow.vip.0 {
                        true => (flow.outward(&packet), [1, packet.ip_len(), 0, 0, 0]),
                        false => (flow.inward(&packet), [0, 0, 1, packet.ip_len(), 0]),
                    };
                    let expected = if mode == Mode::Xdp { out } else { bare(&out) };
                    let expect = Expect::new(Fate::Redirect, Reason::ForwardFlow, expected.bytes())
                        .backend(place.stats(family), counted);
                    rig.check(mode, &format!("{family:?} {place:?} {length} bytes"), &bare(&packet).bytes(), &expect);
                    if mode == Mode::Xdp {
                        assert_eq!(verify(&expected.bytes()), Ok(()));
                    }
                }
            }
        });
    }

    fn a_reset_of_a_bare_segment(rig) {
        everywhere(rig, |rig, mode, family, place| {
            if mode == Mode::Tc {
                return;
            }
            for (flags, payload) in [(ACK, 0), (ACK, 33), (0, 100)] {
                let packet = Packet::tcp(family.client(), 40_000, family.vip(), place.port(), flags)
                    .numbers(500, 600)
                    .payload(&vec![5; payload]);
                let reset = match flags {
                    0 => reset_of(&packet, RST | ACK, 0, 500 + payload as u32),
                    _ => reset_of(&packet, RST, 600, 0),
                };
                let expected = if mode == Mode::Xdp { reset } else { bare(&reset) };
                let expect = Expect::new(Fate::Back, Reason::RejectNoFlow, expected.bytes());
                rig.check(mode, &format!("{family:?} {payload} bytes"), &bare(&packet).bytes(), &expect);
            }
        });
    }

    fn a_complete_checksum_that_looks_bare(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            let plain = flow.request(ACK, 1, 1).payload(&[0; 6]);
            // Chosen payload: the complete checksum equals the pseudo header's sum.
            let twin = (0..=u16::MAX).map(|word| {
                let [high, low] = word.to_be_bytes();
                plain.clone().payload(&[1, 2, high, low, 3, 4])
            });
            let found = twin.into_iter().find(|packet| packet.bytes() == bare(packet).bytes()).unwrap();
            flow.up(rig, "complete, looks bare", found, Reason::ForwardFlow);
        });
    }

    fn a_syn_with_a_bare_sum_opens_a_flow(rig) {
        everywhere(rig, |rig, mode, family, place| {
            if mode != Mode::Xdp {
                return;
            }
            let syn = Packet::tcp(family.client(), 40_000, family.vip(), place.port(), SYN);
            let (fate, sent) = rig.run(mode, &bare(&syn).bytes());
            assert_eq!((fate, verify(&sent)), (Fate::Redirect, Ok(())));
        });
    }
}
