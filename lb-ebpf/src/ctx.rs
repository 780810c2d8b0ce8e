//! Frames as the kernel hands them out: all packet pointer arithmetic, and the helpers that need the context.

use crate::maps;
use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, bpf_sk_lookup, xdp_md},
    helpers::generated::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head, bpf_skb_change_tail,
        bpf_xdp_adjust_head, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::{SkLookupContext, TcContext, XdpContext},
};
use core::{arch::asm, marker::PhantomData, ptr};
use lb_common::{
    checksum::{self, Sum},
    flow::{Tuple, V4, V6},
    frame::{Frame, TransportChange},
    table::{Handover, Note},
    wire::{Be16, Be32, ether, protocol},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// No header of interest starts behind this offset; it also bounds the verifier's view of packet offsets.
const MAX_OFFSET: usize = 0x3fff;

/// How an XDP program meets checksums whose completion the sender left to hardware: on veth such frames carry only the
/// pseudo header's sum.
pub trait Checksums {
    fn patch(frame: &mut XdpFrame<'_, Self>, at: usize, check: Be16, change: &TransportChange) -> Option<()>
    where
        Self: Sized;

    /// For a segment that has been overwritten by an answer to it.
    fn patch_answer(frame: &mut XdpFrame<'_, Self>, at: usize, check: Be16, change: &TransportChange) -> Option<()>
    where
        Self: Sized;
}

/// An `xdp_frame` has no place for "to be completed", so the program completes the checksum itself.
pub struct Native;

/// The frame stays an sk_buff that remembers what is to be completed, so the bare sum must stay a bare sum.
pub struct Generic;

pub struct XdpFrame<'a, C> {
    ctx: &'a XdpContext,
    checksums: PhantomData<C>,
}

impl<'a, C> XdpFrame<'a, C> {
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx, checksums: PhantomData }
    }

    #[inline(always)]
    fn at<T>(&self, at: usize) -> Option<*mut T> {
        within(self.ctx.data(), self.ctx.data_end(), at)
    }
}

/// The verifier knows a packet pointer by the addition that made it, so the one that is checked must be the one that is
/// used: written as `asm`, the compiler cannot compute it twice.
#[inline(always)]
fn within<T>(data: usize, end: usize, at: usize) -> Option<*mut T> {
    if at > MAX_OFFSET {
        return None;
    }
    let mut found = data;
    // SAFETY: adds two registers.
    unsafe { asm!("{0} += {1}", inout(reg) found, in(reg) at, options(pure, nomem, nostack)) };
    if found + size_of::<T>() > end { None } else { Some(found as *mut T) }
}

/// Written as `asm`, the compiler cannot move terms of a comparison over to the packet's end, with which the verifier allows
/// no arithmetic.
#[inline(always)]
fn distance(data: usize, end: usize) -> usize {
    let mut length = end;
    // SAFETY: subtracts two registers.
    unsafe { asm!("{0} -= {1}", inout(reg) length, in(reg) data, options(pure, nomem, nostack)) };
    length
}

impl<C: Checksums> Frame for XdpFrame<'_, C> {
    /// Of all buffers, of which only the first is in reach of `load` and `store`.
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context is the one this program was called with.
        (unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) }) as usize
    }

    /// The helper is asked only about frames of several buffers.
    #[inline(always)]
    fn holds(&self, len: usize) -> bool {
        len <= distance(self.ctx.data(), self.ctx.data_end()) || len <= self.len()
    }

    #[inline(always)]
    fn load<T: FromBytes + Immutable>(&self, at: usize) -> Option<T> {
        // SAFETY: `at` checked the bytes against the frame's end; T takes any bytes. Packet memory has no alignment, and the
        // verifier refuses the program on a machine where that matters.
        Some(unsafe { ptr::read(self.at::<T>(at)?) })
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, at: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; XDP frames are writable.
        unsafe { ptr::write(self.at::<T>(at)?, value) };
        Some(())
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        let by = len as i32 - self.len() as i32;
        // SAFETY: the context is the one this program was called with; packet pointers are read anew at each access.
        (unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn grow(&mut self, by: usize) -> Option<()> {
        // SAFETY: the context is the one this program was called with; packet pointers are read anew at each access.
        (unsafe { bpf_xdp_adjust_head(self.ctx.ctx, -(by as i32)) } == 0).then_some(())
    }

    /// Some drivers keep no metadata; the helper refuses there.
    #[inline(always)]
    fn hand_over(&mut self, ifindex: u32) -> Option<()> {
        // SAFETY: the context is the one this program was called with; packet pointers are read anew at each access.
        if unsafe { bpf_xdp_adjust_meta(self.ctx.ctx, -(size_of::<Handover>() as i32)) } != 0 {
            return None;
        }
        let handover = within::<Handover>(self.ctx.metadata(), self.ctx.data(), 0)?;
        // SAFETY: `within` checked the bytes against the start of the frame.
        unsafe { ptr::write_unaligned(handover, Handover::new(ifindex)) };
        Some(())
    }

    #[inline(always)]
    fn patch_transport(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        let check: Be16 = self.load(at)?;
        if check.raw() == change.pseudo_before {
            return C::patch(self, at, check, change);
        }
        self.store(at, checksum::update(check, change.pseudo.plus(change.body)))
    }

    #[inline(always)]
    fn patch_answer(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        let check: Be16 = self.load(at)?;
        if check.raw() == change.pseudo_before {
            return C::patch_answer(self, at, check, change);
        }
        self.store(at, checksum::update(check, change.pseudo.plus(change.body)))
    }
}

impl Checksums for Native {
    /// Whatever the field meant, the sum over the whole segment is right.
    #[inline(always)]
    fn patch(frame: &mut XdpFrame<'_, Self>, at: usize, check: Be16, change: &TransportChange) -> Option<()> {
        let segment = sum_segment(frame.ctx.ctx, change.segment as u32, change.segment_len as u32);
        // One word in 65,536 complete checksums looks like a bare sum too; summing all bytes serves both.
        let total = Sum(segment).raw((!check.raw()) as u64).raw(change.pseudo_before as u64).plus(change.pseudo);
        frame.store(at, !total.fold())
    }

    #[inline(always)]
    fn patch_answer(frame: &mut XdpFrame<'_, Self>, at: usize, check: Be16, change: &TransportChange) -> Option<()> {
        Self::patch(frame, at, check, change)
    }
}

impl Checksums for Generic {
    /// Tells a bare sum from a complete checksum that happens to equal it by summing the segment as it was.
    #[inline(always)]
    fn patch(frame: &mut XdpFrame<'_, Self>, at: usize, check: Be16, change: &TransportChange) -> Option<()> {
        let now = sum_segment(frame.ctx.ctx, change.segment as u32, change.segment_len as u32);
        let before = Sum(now).raw((!change.body.fold()) as u64).raw(change.pseudo_before as u64);
        if before.fold() == 0xffff {
            return frame.store(at, checksum::update(check, change.pseudo.plus(change.body)));
        }
        frame.store(at, Sum(check.raw() as u64).plus(change.pseudo).fold())
    }

    /// The segment is gone, so a complete checksum that looks like a bare sum (one in 65,536) is taken for one: that answer
    /// is lost.
    #[inline(always)]
    fn patch_answer(frame: &mut XdpFrame<'_, Self>, at: usize, check: Be16, change: &TransportChange) -> Option<()> {
        frame.store(at, Sum(check.raw() as u64).plus(change.pseudo).fold())
    }
}

/// What `bpf_csum_diff` takes at a time (its scratch room before kernel 6.13).
pub const PIECE_LEN: usize = 512;

/// Pieces of the largest IP packet: 127 whole ones, and the rest in 7 of 64 bytes, 15 of 4 and 2 smaller
/// ones at most. The round that finds nothing left counts too.
const PIECES: u32 = 153;

/// Where a summation stands. It is kept in a map, because the verifier follows numbers on the stack and would look at every
/// length on its own, while a number in a map is just any number to it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Summing {
    at: u64,
    left: u64,
    sum: u64,
}

/// Sum over `len` bytes from `at`, in whatever buffers of the frame they are. Only frames of virtual devices come here.
///
/// A global function (`no_mangle`): the verifier looks at it once, not once for every state of every caller.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sum_segment(ctx: *mut xdp_md, at: u32, len: u32) -> u64 {
    let Some(summing) = maps::summing() else {
        return 0;
    };
    *summing = Summing { at: at as u64, left: len as u64, sum: 0 };
    for _ in 0..PIECES {
        if sum_piece(ctx) == 0 {
            break;
        }
    }
    summing.sum
}

/// Adds the next piece; 0 where none is left. Global too, or the verifier would follow each way through each round.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn sum_piece(ctx: *mut xdp_md) -> u64 {
    let (Some(summing), Some(room)) = (maps::summing(), maps::piece()) else {
        return 0;
    };
    let added = match summing.left {
        512.. => add::<512>(ctx, summing, room),
        64.. => add::<64>(ctx, summing, room),
        4.. => add::<4>(ctx, summing, room),
        2.. => add_last::<2>(ctx, summing, room),
        1.. => add_last::<1>(ctx, summing, room),
        0 => None,
    };
    added.is_some() as u64
}

#[inline(always)]
fn add<const SIZE: usize>(ctx: *mut xdp_md, summing: &mut Summing, room: &mut [u8; PIECE_LEN]) -> Option<()> {
    // SAFETY: `ctx` is this program's context.
    let near = unsafe { within::<[u8; SIZE]>((*ctx).data as usize, (*ctx).data_end as usize, summing.at as usize) };
    // SAFETY: the helper reads `SIZE` bytes, which `within` checked, or which `copy` put there.
    let sum = |piece: *mut u32| unsafe { bpf_csum_diff(ptr::null_mut(), 0, piece, SIZE as u32, 0) } as u32 as u64;
    summing.sum += match near {
        Some(piece) => sum(piece.cast()),
        None => {
            copy::<SIZE>(ctx, summing.at, room)?;
            sum(room.as_mut_ptr().cast())
        }
    };
    summing.at += SIZE as u64;
    summing.left -= SIZE as u64;
    Some(())
}

/// Fewer bytes than a checksum's unit here: zeros behind them count nothing (RFC 1071 section 1).
#[inline(always)]
fn add_last<const SIZE: usize>(ctx: *mut xdp_md, summing: &mut Summing, room: &mut [u8; PIECE_LEN]) -> Option<()> {
    [room[0], room[1]] = [0; 2];
    copy::<SIZE>(ctx, summing.at, room)?;
    summing.sum += u16::from_ne_bytes([room[0], room[1]]) as u64;
    summing.at += SIZE as u64;
    summing.left -= SIZE as u64;
    Some(())
}

/// Copies what may lie beyond the first buffer.
#[inline(always)]
fn copy<const SIZE: usize>(ctx: *mut xdp_md, at: u64, room: &mut [u8; PIECE_LEN]) -> Option<()> {
    // SAFETY: the helper checks the place in the frame; the room has `SIZE` bytes or more.
    let copied = unsafe { bpf_xdp_load_bytes(ctx, at as u32, room.as_mut_ptr().cast(), SIZE as u32) };
    (copied == 0).then_some(())
}

/// Bytes in which all headers of interest lie, also those quoted in an ICMP error.
const HEADERS: u32 = 192;

pub struct TcFrame<'a> {
    ctx: &'a TcContext,
}

/// Kernel 6.16 and the stable kernels it went to: without it a change of IPv6 addresses spoils `skb->csum`.
const BPF_F_IPV6: u64 = 1 << 7;

impl<'a> TcFrame<'a> {
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn at<T>(&self, at: usize) -> Option<*mut T> {
        within(self.ctx.data(), self.ctx.data_end(), at)
    }

    /// Moves all headers into the linear part, where `load` and `store` reach them.
    #[inline(always)]
    pub fn linearize(&mut self) {
        let _ = self.ctx.pull_data(self.ctx.len().min(HEADERS));
    }

    #[inline(always)]
    fn replace(&self, at: usize, change: Sum, flags: u64) -> Option<()> {
        // SAFETY: the helper checks the offset; size 0 in the flags makes the last value a difference.
        (unsafe { bpf_l4_csum_replace(self.ctx.skb.skb, at as u32, 0, change.fold32() as u64, flags) } == 0)
            .then_some(())
    }

    #[inline(always)]
    fn patch(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        let pseudo = BPF_F_PSEUDO_HDR as u64;
        if change.pseudo.0 != 0 {
            self.replace(at, change.pseudo, pseudo | BPF_F_IPV6).or_else(|| self.replace(at, change.pseudo, pseudo))?;
        }
        self.replace(at, change.body, 0)
    }
}

impl Frame for TcFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.ctx.len() as usize
    }

    #[inline(always)]
    fn gso_size(&self) -> usize {
        // SAFETY: the context is the one this program was called with.
        unsafe { (*self.ctx.skb.skb).gso_size as usize }
    }

    #[inline(always)]
    fn load<T: FromBytes + Immutable>(&self, at: usize) -> Option<T> {
        // SAFETY: `at` checked the bytes against the end of the linear part; else as for XDP.
        Some(unsafe { ptr::read(self.at::<T>(at)?) })
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, at: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; the verifier makes a private copy of shared data before the program runs.
        unsafe { ptr::write(self.at::<T>(at)?, value) };
        Some(())
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        // SAFETY: packet pointers are read anew at each access.
        (unsafe { bpf_skb_change_tail(self.ctx.skb.skb, len as u32, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn grow(&mut self, by: usize) -> Option<()> {
        // SAFETY: packet pointers are read anew at each access.
        (unsafe { bpf_skb_change_head(self.ctx.skb.skb, by as u32, 0) } == 0).then_some(())
    }

    /// The helper knows whether the checksum is complete.
    #[inline(always)]
    fn patch_transport(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        self.patch(at, change)
    }

    #[inline(always)]
    fn patch_icmp(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        self.patch(at, change)
    }
}

#[inline(always)]
pub fn redirect(ifindex: u32) -> i64 {
    // SAFETY: takes plain numbers.
    unsafe { bpf_redirect(ifindex, 0) }
}

/// Out of an interface by the host's own routes and neighbours, which asks for a link address where it is not known.
#[inline(always)]
pub fn redirect_by_neighbour(ifindex: u32) -> i64 {
    // SAFETY: without parameters the kernel looks the next hop up itself.
    unsafe { bpf_redirect_neigh(ifindex, ptr::null_mut(), 0, 0) }
}

/// The interface by which an XDP program wants the packet to leave.
#[inline(always)]
pub fn handed_over(ctx: &TcContext) -> Option<u32> {
    noted(ctx, Handover::NOTE).or_else(|| {
        let ifindex = noted(ctx, Handover::SHIFTED)?;
        // The kernel takes a link header off before it puts its own in front.
        // SAFETY: packet pointers are read anew at each access.
        (unsafe { bpf_skb_change_head(ctx.skb.skb, ether::LEN as u32, 0) } == 0).then_some(ifindex)
    })
}

#[inline(always)]
fn noted(ctx: &TcContext, at: usize) -> Option<u32> {
    // SAFETY: the context is the one this program was called with.
    let (meta, data) = unsafe { ((*ctx.skb.skb).data_meta as usize, (*ctx.skb.skb).data as usize) };
    let note = within::<Note>(meta, data, at)?;
    // SAFETY: `within` checked the bytes against the start of the frame; the type takes any bytes.
    unsafe { ptr::read_unaligned(note) }.ifindex()
}

/// The interface a packet came in on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// What a connection that needs a socket asks for: its addresses and ports, client first. `None`: not TCP of this family.
#[inline(always)]
pub fn asked<A: Asked>(ctx: &SkLookupContext) -> Option<Tuple<A>> {
    // SAFETY: the context is the one this program was called with; the kernel turns these loads into its own.
    let lookup = unsafe { &*ctx.lookup };
    if lookup.family != A::AF || lookup.protocol != u32::from(protocol::TCP) {
        return None;
    }
    let (src, dst) = A::ends(lookup);
    let sport = Be16::new(u16::from_be(lookup.remote_port));
    Some(Tuple { src, dst, sport, dport: Be16::new(lookup.local_port as u16) })
}

/// A family's addresses in the context of a socket lookup.
pub trait Asked: Sized {
    const AF: u32;
    /// The client's address and ours.
    fn ends(lookup: &bpf_sk_lookup) -> (Self, Self);
}

impl Asked for V4 {
    const AF: u32 = 2;

    #[inline(always)]
    fn ends(lookup: &bpf_sk_lookup) -> (Self, Self) {
        (V4(Be32::from_raw(lookup.remote_ip4)), V4(Be32::from_raw(lookup.local_ip4)))
    }
}

impl Asked for V6 {
    const AF: u32 = 10;

    #[inline(always)]
    fn ends(lookup: &bpf_sk_lookup) -> (Self, Self) {
        (V6(lookup.remote_ip6.map(Be32::from_raw)), V6(lookup.local_ip6.map(Be32::from_raw)))
    }
}
