//! Frames as the kernel hands them out: all packet pointer arithmetic, and the helpers that need the context.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_PSEUDO_HDR, xdp_md},
    helpers::generated::{bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_tail},
    programs::{TcContext, XdpContext},
};
use core::{marker::PhantomData, mem::MaybeUninit, ptr};
use lb_common::{
    checksum::{self, Sum},
    frame::{Frame, TransportChange},
    wire::Be16,
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

#[inline(always)]
fn within<T>(data: usize, end: usize, at: usize) -> Option<*mut T> {
    if at > MAX_OFFSET || data + at + size_of::<T>() > end { None } else { Some((data + at) as *mut T) }
}

impl<C: Checksums> Frame for XdpFrame<'_, C> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
    }

    #[inline(always)]
    fn load<T: FromBytes + Immutable>(&self, at: usize) -> Option<T> {
        // SAFETY: `at` checked the bytes against the frame's end; T takes any bytes.
        Some(unsafe { ptr::read_unaligned(self.at::<T>(at)?) })
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, at: usize, value: T) -> Option<()> {
        // SAFETY: as in `load`; XDP frames are writable.
        unsafe { ptr::write_unaligned(self.at::<T>(at)?, value) };
        Some(())
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        let by = len as i32 - self.len() as i32;
        // SAFETY: the context is the one this program was called with; packet pointers are read anew at each access.
        (unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, by) } == 0).then_some(())
    }

    #[inline(always)]
    fn patch_transport(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        let check: Be16 = self.load(at)?;
        if check.raw() == change.pseudo_before {
            return C::patch(self, at, check, change);
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
}

/// Most 32-byte steps of `sum_segment`: a jumbo frame. Only frames of virtual devices come here.
const SUM_STEPS: u32 = 288;

/// Sum over `len` bytes from `at`, as far as they are in the frame's linear part.
#[inline(never)]
fn sum_segment(ctx: *mut xdp_md, at: u32, len: u32) -> u64 {
    let mut at = at as usize;
    let stop = at + len as usize;
    let mut sum = 0u64;
    for _ in 0..SUM_STEPS {
        if at + 32 > stop {
            break;
        }
        let Some(words) = load_words(ctx, at) else { break };
        for word in words {
            sum += (word & 0xffff_ffff) + (word >> 32);
        }
        at += 32;
    }
    for _ in 0..16 {
        if at + 2 > stop {
            break;
        }
        // SAFETY: `ctx` is this program's context.
        let Some(word) = (unsafe { within::<u16>((*ctx).data as usize, (*ctx).data_end as usize, at) }) else { break };
        // SAFETY: checked by `within`.
        sum += unsafe { ptr::read_unaligned(word) } as u64;
        at += 2;
    }
    if at < stop
        // SAFETY: `ctx` is this program's context.
        && let Some(byte) = unsafe { within::<u8>((*ctx).data as usize, (*ctx).data_end as usize, at) }
    {
        // SAFETY: checked by `within`.
        sum += unsafe { *byte } as u64;
    }
    sum
}

#[inline(always)]
fn load_words(ctx: *mut xdp_md, at: usize) -> Option<[u64; 4]> {
    // SAFETY: `ctx` is this program's context.
    let words = unsafe { within::<[u64; 4]>((*ctx).data as usize, (*ctx).data_end as usize, at) }?;
    // SAFETY: checked by `within`.
    Some(unsafe { ptr::read_unaligned(words) })
}

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

    #[inline(always)]
    fn replace(&self, at: usize, change: Sum, flags: u64) -> Option<()> {
        // SAFETY: the helper checks the offset; size 0 in the flags makes the last value a difference.
        (unsafe { bpf_l4_csum_replace(self.ctx.skb.skb, at as u32, 0, change.fold32() as u64, flags) } == 0).then_some(())
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

    /// Headers are nearly always in the linear part; what is not is copied out.
    #[inline(always)]
    fn load<T: FromBytes + Immutable>(&self, at: usize) -> Option<T> {
        if let Some(found) = self.at::<T>(at) {
            // SAFETY: `at` checked the bytes against the end of the linear part; T takes any bytes.
            return Some(unsafe { ptr::read_unaligned(found) });
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes or fails.
        unsafe {
            let read = bpf_skb_load_bytes(self.ctx.as_ptr(), at as u32, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            (read == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable>(&mut self, at: usize, value: T) -> Option<()> {
        if let Some(found) = self.at::<T>(at) {
            // SAFETY: as in `load`; the verifier makes a private copy of shared data before the program runs.
            unsafe { ptr::write_unaligned(found, value) };
            return Some(());
        }
        // SAFETY: the helper reads exactly `size_of::<T>()` bytes.
        let written = unsafe { bpf_skb_store_bytes(self.ctx.skb.skb, at as u32, ptr::from_ref(&value).cast(), size_of::<T>() as u32, 0) };
        (written == 0).then_some(())
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> Option<()> {
        // SAFETY: packet pointers are read anew at each access.
        (unsafe { bpf_skb_change_tail(self.ctx.skb.skb, len as u32, 0) } == 0).then_some(())
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

/// The interface a packet came in on.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    unsafe { (*ctx.skb.skb).ifindex }
}
