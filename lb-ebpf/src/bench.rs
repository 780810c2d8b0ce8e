//! Programs of `cargo xtask bench`, in an object of their own: a front that restores a packet and hands it to the program
//! under test, and the small programs that others are compared with. Never attached by the agent.
//!
//! `BPF_PROG_TEST_RUN` runs the same buffer again and again, so a program that rewrites would meet its own output. The front
//! puts the headers back, takes the next flow in random order, and tail-calls what stands in the program array.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// The adapters are the production programs' own; this object uses a few of them.
#![allow(dead_code)]

#[path = "ctx.rs"]
mod ctx;
#[path = "maps.rs"]
mod maps;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC, xdp_action},
    macros::{map, xdp},
    maps::{Array, HashMap, LruHashMap},
    programs::XdpContext,
};
use ctx::{Native, XdpFrame};
use lb_common::{
    flow::{Address, Tuple, V4, V6, mix},
    frame::Frame,
    table::{Route, Tables},
    wire::{Be16, ether, ipv4, ipv6},
};
use maps::Kernel;

/// What the front writes: the first 80 bytes of the frame.
#[map]
static TEMPLATE: Array<[u64; 10]> = Array::with_max_entries(1, 0);
/// `[mask of flow numbers, interface to redirect to, link addresses]`.
#[map]
static PARAMETERS: Array<[u64; 4]> = Array::with_max_entries(1, 0);
/// How many packets the front has made.
#[map]
static MADE: Array<u64> = Array::with_max_entries(1, 0);

// Keys and values are as large as those of the production tables; the bench sets every size.
#[map]
static BASE_LRU4: LruHashMap<Tuple<V4>, [u64; 6]> = LruHashMap::with_max_entries(1024, 0);
#[map]
static BASE_LRU6: LruHashMap<Tuple<V6>, [u64; 9]> = LruHashMap::with_max_entries(1024, 0);
#[map]
static BASE_HASH4: HashMap<Tuple<V4>, [u64; 6]> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
static BASE_INSERT4: LruHashMap<Tuple<V4>, [u64; 7]> = LruHashMap::with_max_entries(1024, 0);

/// Flow `number`'s own bits go into the source address' last word and the source port; the words that are given here give
/// them back, so that no checksum changes.
struct Words {
    address: usize,
    /// In the IP header, where that has a checksum.
    address_back: Option<usize>,
    transport: usize,
}

const V4_WORDS: Words = Words {
    address: ether::LEN + ipv4::SRC + 2,
    address_back: Some(ether::LEN + ipv4::ID),
    transport: ether::LEN + ipv4::MIN_LEN,
};
const V6_WORDS: Words =
    Words { address: ether::LEN + ipv6::SRC + 14, address_back: None, transport: ether::LEN + ipv6::LEN };

/// Offsets in the TCP header of two fields that the balancer does not read.
const WINDOW: usize = 14;
const URGENT: usize = 18;

#[inline(always)]
fn restore(frame: &mut XdpFrame<'_, Native>, words: &Words) -> Option<()> {
    let made = *MADE.get(0)?;
    let _ = MADE.set(0, made.wrapping_add(1), BPF_ANY as u64);
    let flow = mix(made) & PARAMETERS.get(0)?[0];
    frame.store(0, *TEMPLATE.get(0)?)?;
    let (low, high) = (flow as u16, (flow >> 16) as u16);
    frame.store(words.address, Be16::new(low))?;
    if let Some(back) = words.address_back {
        frame.store(back, Be16::new(!low))?;
    }
    frame.store(words.transport + WINDOW, Be16::new(!low))?;
    let port: Be16 = frame.load(words.transport)?;
    frame.store(words.transport, Be16::new(port.get().wrapping_add(high)))?;
    frame.store(words.transport + URGENT, Be16::new(!high))
}

#[inline(always)]
fn front(ctx: &XdpContext, words: &Words) -> u32 {
    if restore(&mut XdpFrame::new(ctx), words).is_some() {
        maps::slow_xdp(ctx, 0);
    }
    xdp_action::XDP_ABORTED
}

#[xdp(frags)]
pub fn front4(ctx: XdpContext) -> u32 {
    front(&ctx, &V4_WORDS)
}

#[xdp(frags)]
pub fn front6(ctx: XdpContext) -> u32 {
    front(&ctx, &V6_WORDS)
}

#[xdp(frags)]
pub fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[inline(always)]
fn key<A: Address>(ctx: &XdpContext, ip: usize) -> Option<Tuple<A>> {
    let frame = XdpFrame::<Native>::new(ctx);
    let [src, dst]: [A; 2] = frame.load(ether::LEN + A::SRC)?;
    let [sport, dport]: [Be16; 2] = frame.load(ether::LEN + ip)?;
    Some(Tuple { src, dst, sport, dport })
}

#[inline(always)]
fn told(found: Option<bool>) -> u32 {
    match found {
        Some(true) => xdp_action::XDP_PASS,
        Some(false) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_ABORTED,
    }
}

#[xdp(frags)]
pub fn lru_hit4(ctx: XdpContext) -> u32 {
    told(key::<V4>(&ctx, ipv4::MIN_LEN).map(|key| BASE_LRU4.get_ptr(&key).is_some()))
}

#[xdp(frags)]
pub fn lru_hit6(ctx: XdpContext) -> u32 {
    told(key::<V6>(&ctx, ipv6::LEN).map(|key| BASE_LRU6.get_ptr(&key).is_some()))
}

#[xdp(frags)]
pub fn hash4(ctx: XdpContext) -> u32 {
    told(key::<V4>(&ctx, ipv4::MIN_LEN).map(|key| BASE_HASH4.get_ptr(&key).is_some()))
}

#[xdp(frags)]
pub fn lru_insert4(ctx: XdpContext) -> u32 {
    told(key::<V4>(&ctx, ipv4::MIN_LEN).map(|key| BASE_INSERT4.insert(&key, &[0; 7], BPF_ANY as u64).is_ok()))
}

/// A route lookup for the packet's own addresses.
#[xdp(frags)]
pub fn route4(ctx: XdpContext) -> u32 {
    told(key::<V4>(&ctx, ipv4::MIN_LEN).map(|key| Kernel::xdp(&ctx).route(&V4::ZERO, &key.dst) != Route::None))
}

/// Out of the interface that the parameters name; of a generator or of the bare redirect.
#[xdp(frags)]
pub fn redirect(ctx: XdpContext) -> u32 {
    out(&ctx)
}

/// The least that a balancer with a flow table does: one look-up, then out.
#[xdp(frags)]
pub fn lookup(ctx: XdpContext) -> u32 {
    match key::<V4>(&ctx, ipv4::MIN_LEN).and_then(|key| BASE_LRU4.get_ptr(&key)) {
        Some(_) => out(&ctx),
        None => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn out(ctx: &XdpContext) -> u32 {
    let Some(parameters) = PARAMETERS.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // 12 bytes of link addresses, then 4 that are Ethernet type and the first two of IP: not written.
    let mut frame = XdpFrame::<Native>::new(ctx);
    let stored = frame.store(0, parameters[2]).and(frame.store(8, parameters[3] as u32));
    match stored {
        Some(()) => ctx::redirect(parameters[1] as u32) as u32,
        None => xdp_action::XDP_ABORTED,
    }
}

/// The far end: counts, under the first counter.
#[xdp(frags)]
pub fn sink(ctx: XdpContext) -> u32 {
    Tables::<V4>::count(&Kernel::xdp(&ctx), 0);
    xdp_action::XDP_DROP
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
