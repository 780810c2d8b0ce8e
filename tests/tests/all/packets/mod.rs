//! Single frames through the real kernel programs by BPF_PROG_TEST_RUN, in every mode and for both families. Closed
//! world: verdict, every byte, and every counter. What is expected comes from `meltemi_tests::packet`, an independent
//! builder.

mod rig;
mod twin;

mod checksums;
mod classes;
mod flows;
mod icmp;
mod parsing;
mod random;
mod rejects;

use lb_common::verdict::Reason;
use rig::{Place, Rig, kernel_test};

/// A reason that no fixture names is a reason that nothing tests.
#[test]
fn every_reason_has_a_fixture() {
    let fixtures = [
        include_str!("checksums.rs"),
        include_str!("flows.rs"),
        include_str!("icmp.rs"),
        include_str!("parsing.rs"),
        include_str!("rejects.rs"),
        include_str!("random.rs").split("fn without_room_for_its_state").nth(1).unwrap_or_default(),
    ]
    .concat();
    let names = |reason: &&Reason| !fixtures.contains(&format!("Reason::{reason:?}"));
    let missing: Vec<_> = Reason::ALL.iter().filter(names).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

kernel_test! {
    fn the_verifier_is_far_from_its_limit(rig) {
        // It gives up at a million; other kernels' verifiers need more than this one's.
        let verified = rig.verified();
        assert_eq!(verified.len(), 6, "{verified:?}");
        assert!(verified.iter().all(|(_, count)| *count < 250_000), "{verified:?}");
    }
}
