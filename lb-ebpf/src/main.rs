//! Meltemi's kernel programs: entry points and adapters around `lb_common`. Nothing is decided here.
#![no_std]
#![no_main]
// For the barrier in `ctx`; the BPF target needs an unstable compiler anyway.
#![feature(asm_experimental_arch)]

mod ctx;
mod ingress;
mod maps;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
