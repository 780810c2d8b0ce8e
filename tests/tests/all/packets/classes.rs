//! Clients that are told apart by class.

use lb_common::verdict::Reason;
use meltemi::dataplane::load::Mode;
use meltemi::explain::frame;
use meltemi_tests::packet::{Packet, SYN};

use super::kernel_test;
use super::rig::{BY_CLASS, CLASS_ONLY, Family, Place};

kernel_test! {
    fn a_client_goes_where_its_class_goes(rig) {
        for mode in Mode::ALL {
            for (family, port, place) in [
                (Family::V4, BY_CLASS, Some(Place::Dnat)),
                (Family::V6, BY_CLASS, Some(Place::Snat)),
                (Family::V4, CLASS_ONLY, Some(Place::Dnat)),
                (Family::V6, CLASS_ONLY, None),
            ] {
                let syn = Packet::tcp(family.client(), 40_000, family.vip(), port, SYN).numbers(1_000, 0).bytes();
                let (_, mut sent) = rig.run(mode, &syn);
                let to = frame::read(&mut sent).unwrap().to.ip();
                let expected = place.and_then(Place::backend).map_or(family.vip(), |(net, host)| family.address(net, host));
                assert_eq!(to, expected, "{mode:?} {family:?} {port}");
                let reason = if place.is_some() { Reason::ForwardNew } else { Reason::PassAddress };
                assert_eq!(rig.counted().reasons.get(reason.name()), Some(&1), "{mode:?} {family:?} {port}");
                rig.forget();
            }
        }
    }
}
