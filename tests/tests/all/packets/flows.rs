//! Flows from SYN to the end, in every mode, for both families and both ways of forwarding.

use std::net::IpAddr;

use lb_common::table::{Forwarding, Settings, Turn};
use lb_common::verdict::Reason;
use meltemi::dataplane::load::Mode;
use meltemi_tests::packet::{ACK, FIN, PSH, Packet, RST, SYN};

use super::rig::{
    B0_MAC, BACKEND_PORT, C0_MAC, CLIENT_MAC, Expect, FAMILIES, Family, Fate, SNAT_COUNT, SNAT_FIRST, backend_mac,
};
use super::{Place, Rig, kernel_test};

/// A flow as seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub mode: Mode,
    pub family: Family,
    pub place: Place,
    pub client: (IpAddr, u16),
    pub vip: (IpAddr, u16),
    /// What the backend takes for the client.
    pub ours: (IpAddr, u16),
    pub backend: (IpAddr, u16),
}

/// First sequence numbers of the two ends.
pub const CLIENT_SEQ: u32 = 1_000;
pub const BACKEND_SEQ: u32 = 900_000;

impl Flow {
    /// Sends the SYN and checks all that comes of it.
    #[track_caller]
    pub fn syn(rig: &mut Rig, mode: Mode, family: Family, place: Place, port: u16) -> Flow {
        let (client, vip) = ((family.client(), port), (family.vip(), place.port()));
        let (net, host) = place.backend().unwrap();
        let mut flow = Flow {
            mode,
            family,
            place,
            client,
            vip,
            ours: (family.address(1, 1), 0),
            backend: (family.address(net, host), BACKEND_PORT),
        };
        let mut syn = Packet::tcp(client.0, port, vip.0, vip.1, SYN).numbers(CLIENT_SEQ, 0);
        // What Linux sends: MSS, SACK permitted, timestamps, window scale.
        syn.segment().options = vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let (_, sent) = rig.run(mode, &syn.bytes());
        rig.counted();
        learn_port(rig, &mut flow, &sent);
        let expected = syn.hopped(flow.ours, flow.backend, flow.link_out());
        let stats = place.stats(family);
        let expect = Expect::new(Fate::Redirect, Reason::ForwardNew, expected.bytes())
            .backend(stats, [1, expected.ip_len(), 0, 0, 1])
            .destination(stats);
        // The first run told the port; this one is a new flow again, because nothing remembers the first.
        rig.check(mode, "SYN", &syn.bytes(), &expect);
        flow
    }

    /// SYN, SYN-ACK, ACK.
    #[track_caller]
    pub fn open(rig: &mut Rig, mode: Mode, family: Family, place: Place, port: u16) -> Flow {
        let flow = Flow::syn(rig, mode, family, place, port);
        flow.down(rig, "SYN-ACK", flow.reply(SYN | ACK, BACKEND_SEQ, CLIENT_SEQ + 1), Reason::ForwardHandshake);
        flow.up(rig, "ACK", flow.request(ACK, CLIENT_SEQ + 1, BACKEND_SEQ + 1), Reason::ForwardHandshake);
        flow
    }

    /// Link addresses of frames to the backend.
    pub fn link_out(&self) -> [[u8; 6]; 2] {
        let (net, host) = self.place.backend().unwrap();
        [backend_mac(if net == 2 { 2 } else { host }), B0_MAC]
    }

    pub fn request(&self, flags: u8, seq: u32, ack: u32) -> Packet {
        Packet::tcp(self.client.0, self.client.1, self.vip.0, self.vip.1, flags).numbers(seq, ack)
    }

    pub fn reply(&self, flags: u8, seq: u32, ack: u32) -> Packet {
        let mut packet = Packet::tcp(self.backend.0, self.backend.1, self.ours.0, self.ours.1, flags).numbers(seq, ack);
        packet.link = [B0_MAC, self.link_out()[0]];
        packet
    }

    /// What the backend gets of a client's packet.
    pub fn outward(&self, packet: &Packet) -> Packet {
        packet.hopped(self.ours, self.backend, self.link_out())
    }

    /// What the client gets of a backend's packet.
    pub fn inward(&self, packet: &Packet) -> Packet {
        packet.hopped(self.vip, self.client, [CLIENT_MAC, C0_MAC])
    }

    /// A client's packet arrives at the backend.
    #[track_caller]
    pub fn up(&self, rig: &mut Rig, what: &str, packet: Packet, reason: Reason) {
        let expected = self.outward(&packet);
        let counted = [1, packet.ip_len(), 0, 0, 0];
        let expect =
            Expect::new(Fate::Redirect, reason, expected.bytes()).backend(self.place.stats(self.family), counted);
        rig.check(self.mode, &format!("{:?} {:?} {what}", self.family, self.place), &packet.bytes(), &expect);
    }

    /// A backend's packet arrives at the client.
    #[track_caller]
    pub fn down(&self, rig: &mut Rig, what: &str, packet: Packet, reason: Reason) {
        let expected = self.inward(&packet);
        let counted = [0, 0, 1, packet.ip_len(), 0];
        let expect =
            Expect::new(Fate::Redirect, reason, expected.bytes()).backend(self.place.stats(self.family), counted);
        rig.check(self.mode, &format!("{:?} {:?} {what}", self.family, self.place), &packet.bytes(), &expect);
    }

    /// A client's packet is answered with this RST.
    #[track_caller]
    pub fn refused(&self, rig: &mut Rig, what: &str, packet: Packet, reset: Packet, reason: Reason) {
        let expect = Expect::new(Fate::Back, reason, reset.bytes());
        rig.check(self.mode, &format!("{:?} {:?} {what}", self.family, self.place), &packet.bytes(), &expect);
    }
}

/// Takes the source port from what was sent, and has the tables forget the attempt that told it.
fn learn_port(rig: &mut Rig, flow: &mut Flow, sent: &[u8]) {
    let at = if flow.family == Family::V4 { 34 } else { 54 };
    flow.ours.1 = u16::from_be_bytes([sent[at], sent[at + 1]]);
    if flow.place.forwarding() == Forwarding::Dnat {
        flow.ours.0 = flow.client.0;
    } else {
        assert!((SNAT_FIRST..SNAT_FIRST + 60).contains(&flow.ours.1), "source port {}", flow.ours.1);
    }
    rig.forget_pending(flow.client, flow.vip);
    rig.forget_pending(flow.backend, flow.ours);
}

/// Payloads beyond one buffer of a native XDP frame, about 3,500 bytes. The kernel runs TC programs on less only.
pub fn jumbo(mode: Mode) -> Vec<usize> {
    if mode == Mode::Tc { vec![3_000] } else { vec![3_000, 3_600, 5_001, 8_900] }
}

/// Every mode, family and way of forwarding.
pub fn everywhere(rig: &mut Rig, mut body: impl FnMut(&mut Rig, Mode, Family, Place)) {
    for mode in Mode::ALL {
        for family in FAMILIES {
            for place in [Place::Snat, Place::Dnat] {
                rig.forget();
                rig.counted();
                body(rig, mode, family, place);
            }
        }
    }
}

kernel_test! {
    fn a_flow_from_syn_to_both_fins(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::syn(rig, mode, family, place, 40_000);
            if place == Place::Dnat {
                assert_eq!(flow.ours, flow.client, "an only flow keeps the client's port");
            }
            assert_eq!(rig.entries(family), (0, 2));
            flow.down(rig, "SYN-ACK", flow.reply(SYN | ACK, BACKEND_SEQ, CLIENT_SEQ + 1), Reason::ForwardHandshake);
            flow.down(rig, "SYN-ACK again", flow.reply(SYN | ACK, BACKEND_SEQ, CLIENT_SEQ + 1), Reason::ForwardHandshake);
            let stray = flow.request(ACK, CLIENT_SEQ + 1, BACKEND_SEQ + (2 << 20));
            flow.up(rig, "ACK of something else", stray, Reason::ForwardHandshake);
            assert_eq!(rig.entries(family), (0, 2), "a guessed ACK opened the flow");
            flow.up(rig, "ACK", flow.request(ACK, CLIENT_SEQ + 1, BACKEND_SEQ + 1), Reason::ForwardHandshake);
            assert_eq!(rig.entries(family), (2, 0));
            for length in [0, 1, 2, 3, 100, 1_431] {
                let payload: Vec<u8> = (0..length).map(|at| at as u8 ^ 0x5a).collect();
                let request = flow.request(ACK | PSH, CLIENT_SEQ + 1, BACKEND_SEQ + 1).payload(&payload);
                flow.up(rig, "data", request, Reason::ForwardFlow);
                let reply = flow.reply(ACK | PSH, BACKEND_SEQ + 1, CLIENT_SEQ + 2).payload(&payload);
                flow.down(rig, "data", reply, Reason::ForwardFlow);
            }
            flow.up(rig, "FIN", flow.request(FIN | ACK, 1, 1), Reason::ForwardFlow);
            flow.down(rig, "data after FIN", flow.reply(ACK, 1, 1).payload(b"more"), Reason::ForwardFlow);
            flow.down(rig, "FIN", flow.reply(FIN | ACK, 1, 1), Reason::ForwardFlow);
            flow.up(rig, "last ACK", flow.request(ACK, 2, 2), Reason::ForwardFlow);
            assert_eq!(rig.entries(family), (2, 0), "kept as long as TIME_WAIT");
            let again = Flow::syn_again(rig, &flow);
            assert_eq!(rig.entries(family), (0, 2), "a SYN on a closed flow starts a new one");
            again.down(rig, "SYN-ACK", again.reply(SYN | ACK, 5, 6), Reason::ForwardHandshake);
        });
    }

    fn jumbo_frames_in_several_buffers(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            // A native XDP frame has about 3,500 bytes in one piece; the rest is in fragments of it.
            for length in jumbo(mode) {
                let payload: Vec<u8> = (0..length).map(|at| (at * 7) as u8).collect();
                flow.up(rig, &format!("{length} bytes"), flow.request(ACK, 1, 1).payload(&payload), Reason::ForwardFlow);
                flow.down(rig, &format!("{length} bytes"), flow.reply(ACK, 1, 1).payload(&payload), Reason::ForwardFlow);
            }
        });
    }

    fn a_stale_entry_is_renewed_by_the_slow_path(rig) {
        everywhere(rig, |rig, mode, family, place| {
            rig.refresh_after(0);
            let flow = Flow::open(rig, mode, family, place, 40_000);
            for _ in 0..3 {
                flow.up(rig, "data", flow.request(ACK, 1, 1).payload(b"to and"), Reason::ForwardFlow);
                flow.down(rig, "data", flow.reply(ACK, 1, 1).payload(b"fro"), Reason::ForwardFlow);
            }
            assert_eq!(rig.entries(family), (2, 0));
        });
    }

    fn the_other_direction_is_restored(rig) {
        everywhere(rig, |rig, mode, family, place| {
            rig.refresh_after(0);
            let flow = Flow::open(rig, mode, family, place, 40_000);
            rig.forget_flow(flow.backend, flow.ours);
            assert_eq!(rig.entries(family), (1, 0));
            flow.up(rig, "data", flow.request(ACK, 1, 1), Reason::ForwardFlow);
            assert_eq!(rig.entries(family), (2, 0));
            flow.down(rig, "data", flow.reply(ACK, 1, 1).payload(b"back"), Reason::ForwardFlow);
            rig.forget_flow(flow.client, flow.vip);
            flow.down(rig, "data", flow.reply(ACK, 1, 1).payload(b"back"), Reason::ForwardFlow);
            flow.up(rig, "data", flow.request(ACK, 1, 1), Reason::ForwardFlow);
        });
    }

    fn a_syn_or_a_blind_rst_on_a_live_flow_changes_nothing(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            flow.up(rig, "SYN", flow.request(SYN, 77, 0), Reason::ForwardFlow);
            flow.down(rig, "challenge ACK", flow.reply(ACK, 1, 1), Reason::ForwardFlow);
            flow.up(rig, "RST", flow.request(RST, 77, 0), Reason::ForwardFlow);
            flow.down(rig, "challenge ACK", flow.reply(ACK, 1, 1), Reason::ForwardFlow);
            flow.up(rig, "SYN", flow.request(SYN, 77, 0), Reason::ForwardFlow);
            flow.up(rig, "data", flow.request(ACK, 1, 1).payload(b"alive"), Reason::ForwardFlow);
            assert_eq!(rig.entries(family), (2, 0));
        });
    }

    fn a_reset_closes(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            flow.down(rig, "RST", flow.reply(RST | ACK, 1, 1), Reason::ForwardFlow);
            Flow::syn_again(rig, &flow);
            flow.down(rig, "RST of a handshake", flow.reply(RST | ACK, 0, CLIENT_SEQ + 1), Reason::ForwardHandshake);
            assert_eq!(rig.entries(family), (0, 0), "a refused handshake is forgotten");
        });
    }

    fn one_client_port_to_two_vips_of_one_backend(rig) {
        everywhere(rig, |rig, mode, family, _| {
            let one = Flow::open(rig, mode, family, Place::Dnat, 40_000);
            let two = Flow::open(rig, mode, family, Place::DnatToo, 40_000);
            assert_eq!(one.ours.1, 40_000);
            assert!((SNAT_FIRST..SNAT_FIRST + SNAT_COUNT).contains(&two.ours.1), "{two:?}");
            for flow in [one, two] {
                flow.up(rig, "data", flow.request(ACK, 1, 1).payload(b"x"), Reason::ForwardFlow);
                flow.down(rig, "data", flow.reply(ACK, 1, 1).payload(b"y"), Reason::ForwardFlow);
            }
        });
    }

    fn ports_run_out_and_come_back(rig) {
        everywhere(rig, |rig, mode, family, _| {
            let flows: Vec<Flow> = (0..SNAT_COUNT).map(|at| Flow::open(rig, mode, family, Place::Snat, 40_000 + at)).collect();
            let mut ports: Vec<u16> = flows.iter().map(|flow| flow.ours.1).collect();
            ports.sort_unstable();
            assert_eq!(ports, (SNAT_FIRST..SNAT_FIRST + SNAT_COUNT).collect::<Vec<_>>(), "each port once");
            let refused = Flow { client: (family.client(), 50_000), ..flows[0] };
            let reset = reset_of(&refused.request(SYN, 9, 0), RST | ACK, 0, 10);
            refused.refused(rig, "fifth SYN", refused.request(SYN, 9, 0), reset, Reason::RejectPorts);
            for flow in &flows {
                flow.up(rig, "data", flow.request(ACK, 1, 1).payload(b"x"), Reason::ForwardFlow);
                flow.down(rig, "data", flow.reply(ACK, 1, 1).payload(b"y"), Reason::ForwardFlow);
            }
            // The same client port again takes the same flow's source port.
            flows[2].down(rig, "RST", flows[2].reply(RST | ACK, 1, 1), Reason::ForwardFlow);
            let again = Flow::syn_again(rig, &flows[2]);
            assert_eq!(again.ours, flows[2].ours);
        });
    }

    fn finished_flows_yield_their_ports_after_a_while(rig) {
        // More than are tried before a finished flow's port will do.
        const PORTS: u16 = 20;
        let settings = |refresh| Settings { snat_first: SNAT_FIRST, snat_count: PORTS, refresh, turn: Turn::TRANSMIT };
        everywhere(rig, |rig, mode, family, _| {
            rig.maps.set_settings(settings(u32::MAX)).unwrap();
            let flows: Vec<Flow> = (0..PORTS).map(|at| Flow::open(rig, mode, family, Place::Snat, 40_000 + at)).collect();
            for flow in &flows {
                flow.up(rig, "FIN", flow.request(FIN | ACK, 1, 1), Reason::ForwardFlow);
                flow.down(rig, "FIN", flow.reply(FIN | ACK, 1, 2), Reason::ForwardFlow);
            }
            let late = Flow { client: (family.client(), 50_000), ..flows[0] };
            let reset = reset_of(&late.request(SYN, 9, 0), RST | ACK, 0, 10);
            late.refused(rig, "a SYN at once", late.request(SYN, 9, 0), reset, Reason::RejectPorts);
            rig.maps.set_settings(settings(0)).unwrap();
            Flow::syn(rig, mode, family, Place::Snat, 50_000);
            assert_eq!(rig.entries(family), (2 * usize::from(PORTS) - 2, 2), "one finished flow made way");
        });
    }

    fn handshakes_that_do_not_get_on_yield_their_ports_after_a_while(rig) {
        const PORTS: u16 = 20;
        let settings = |refresh| Settings { snat_first: SNAT_FIRST, snat_count: PORTS, refresh, turn: Turn::TRANSMIT };
        everywhere(rig, |rig, mode, family, _| {
            rig.maps.set_settings(settings(u32::MAX)).unwrap();
            let flows: Vec<Flow> = (0..PORTS).map(|at| Flow::syn(rig, mode, family, Place::Snat, 40_000 + at)).collect();
            let late = Flow { client: (family.client(), 50_000), ..flows[0] };
            let reset = reset_of(&late.request(SYN, 9, 0), RST | ACK, 0, 10);
            late.refused(rig, "a SYN at once", late.request(SYN, 9, 0), reset, Reason::RejectPorts);
            rig.maps.set_settings(settings(0)).unwrap();
            let late = Flow::syn(rig, mode, family, Place::Snat, 50_000);
            assert_eq!(rig.entries(family), (0, 2 * usize::from(PORTS)), "one handshake made way for the other");
            late.down(rig, "SYN-ACK", late.reply(SYN | ACK, 5, CLIENT_SEQ + 1), Reason::ForwardHandshake);
        });
    }

    fn a_repeated_syn_goes_the_same_way(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::syn(rig, mode, family, place, 40_000);
            flow.up(rig, "SYN again", flow.request(SYN, CLIENT_SEQ, 0), Reason::ForwardHandshake);
            flow.down(rig, "SYN-ACK", flow.reply(SYN | ACK, 5, CLIENT_SEQ + 1), Reason::ForwardHandshake);
            flow.up(rig, "SYN once more", flow.request(SYN, CLIENT_SEQ, 0), Reason::ForwardHandshake);
            assert_eq!(rig.entries(family), (0, 2));
        });
    }

    fn what_became_of_a_flow_whose_backend_is_gone(rig) {
        everywhere(rig, |rig, mode, family, place| {
            let flow = Flow::open(rig, mode, family, place, 40_000);
            rig.end_flows();
            let request = flow.request(ACK | PSH, 7, 8).payload(b"hello");
            let reset = reset_of(&request, RST, 8, 0);
            flow.refused(rig, "data", request, reset, Reason::RejectEnded);
            let reply = flow.reply(ACK, 70, 80);
            let reset = reset_of(&reply, RST, 80, 0);
            flow.refused(rig, "reply", reply, reset, Reason::RejectEnded);
            let answer = flow.request(RST, 7, 0);
            rig.check(mode, "RST", &answer.bytes(), &Expect::new(Fate::Drop, Reason::DropReset, answer.bytes()));
            Flow::syn_again(rig, &flow);
        });
    }
}

impl Flow {
    /// A SYN on the tuple of a closed flow.
    #[track_caller]
    fn syn_again(rig: &mut Rig, old: &Flow) -> Flow {
        let syn = old.request(SYN, 5_000, 0);
        let expected = old.outward(&syn);
        let stats = old.place.stats(old.family);
        let expect = Expect::new(Fate::Redirect, Reason::ForwardNew, expected.bytes())
            .backend(stats, [1, expected.ip_len(), 0, 0, 1])
            .destination(stats);
        rig.check(old.mode, "SYN on a closed flow", &syn.bytes(), &expect);
        *old
    }
}

/// The RST that answers a packet.
pub fn reset_of(packet: &Packet, flags: u8, seq: u32, ack: u32) -> Packet {
    let mut reset = packet.clone();
    (reset.src, reset.dst) = (packet.dst, packet.src);
    reset.link = [packet.link[1], packet.link[0]];
    reset.ttl = 64;
    let segment = reset.segment();
    (segment.sport, segment.dport) = (segment.dport, segment.sport);
    (segment.seq, segment.ack, segment.flags, segment.window) = (seq, ack, flags, 0);
    (segment.options, segment.payload) = (vec![], vec![]);
    reset
}
