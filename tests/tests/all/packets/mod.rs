//! Single frames through the real kernel programs by BPF_PROG_TEST_RUN, in every mode and for both families. Closed
//! world: verdict, every byte, and every counter. What is expected comes from `meltemi_tests::packet`, an independent
//! builder.

mod rig;

mod flows;

use rig::{Place, Rig, kernel_test};
