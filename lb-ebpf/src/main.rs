//! Meltemi's kernel programs: entry points and adapters around `lb_common`. Nothing is decided here.
//!
//! For the host this is an empty program, so that `cargo check --workspace` and editors work with any toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the barrier in `ctx`; the BPF target needs an unstable compiler anyway.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod ctx;
#[cfg(target_arch = "bpf")]
mod ingress;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod steer;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
