//! The packet as the decision sees it: typed loads and stores at an offset, each of which may fail.
//!
//! Offsets count from the first byte of the Ethernet header. How bytes are reached is the implementer's business.

use crate::{
    checksum::{self, Sum},
    wire::Be16,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub trait Frame {
    /// Bytes of the whole frame, Ethernet header included.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the frame has `len` bytes or more.
    fn holds(&self, len: usize) -> bool {
        len <= self.len()
    }

    /// Payload bytes of each packet that hardware will cut this one into; 0 where it goes out as it is.
    fn gso_size(&self) -> usize {
        0
    }

    /// `None` where the frame ends before `at + size_of::<T>()`.
    fn load<T: FromBytes + Immutable>(&self, at: usize) -> Option<T>;

    fn store<T: IntoBytes + Immutable>(&mut self, at: usize, value: T) -> Option<()>;

    /// Cuts the frame to `len` bytes.
    fn truncate(&mut self, len: usize) -> Option<()>;

    /// Makes room for `by` bytes in front of the frame, which hold anything.
    fn grow(&mut self, by: usize) -> Option<()>;

    /// Prepares the frame for the host's neighbour table, where that is another program's to ask: it must find `ifindex` in
    /// the frame.
    fn hand_over(&mut self, _ifindex: u32) -> Option<()> {
        Some(())
    }

    /// Corrects the transport checksum at `at` for bytes that have just changed. Senders may leave the completion of a
    /// checksum to hardware, so that the field holds no more than the pseudo header's sum; an implementer that can meet
    /// such frames must tell them apart.
    fn patch_transport(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        let check: Be16 = self.load(at)?;
        self.store(at, checksum::update(check, change.pseudo.plus(change.body)))
    }

    /// The same for an answer that was written over the segment: what the segment held besides is known from its checksum
    /// alone, if at all.
    fn patch_answer(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        self.patch_transport(at, change)
    }

    /// The same for an ICMP checksum, whose completion no sender leaves to hardware.
    fn patch_icmp(&mut self, at: usize, change: &TransportChange) -> Option<()> {
        let check: Be16 = self.load(at)?;
        self.store(at, checksum::update(check, change.pseudo.plus(change.body)))
    }
}

/// What of a transport checksum's input changes.
#[derive(Clone, Copy, Debug)]
pub struct TransportChange {
    /// Difference in the pseudo header (addresses).
    pub pseudo: Sum,
    /// Difference in the segment itself (ports).
    pub body: Sum,
    /// Folded pseudo-header sum before the change: what a checksum field holds whose completion was left to hardware.
    pub pseudo_before: u16,
    /// Where the segment starts and how long it is.
    pub segment: usize,
    pub segment_len: usize,
}

/// A frame in ordinary memory: tests, `explain`, and the reference for the kernel adapters.
#[derive(Debug, PartialEq, Eq)]
pub struct Bytes<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        Self { bytes, len }
    }

    /// A frame of `len` bytes at the start of a larger buffer: it can grow.
    pub fn within(bytes: &'a mut [u8], len: usize) -> Self {
        let len = len.min(bytes.len());
        Self { bytes, len }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Frame for Bytes<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn load<T: FromBytes + Immutable>(&self, at: usize) -> Option<T> {
        T::read_from_prefix(self.bytes[..self.len].get(at..)?).ok().map(|(value, _)| value)
    }

    fn store<T: IntoBytes + Immutable>(&mut self, at: usize, value: T) -> Option<()> {
        value.write_to_prefix(self.bytes[..self.len].get_mut(at..)?).ok()
    }

    fn truncate(&mut self, len: usize) -> Option<()> {
        (len <= self.len).then(|| self.len = len)
    }

    fn grow(&mut self, by: usize) -> Option<()> {
        let len = self.len.checked_add(by).filter(|len| *len <= self.bytes.len())?;
        self.bytes.copy_within(..self.len, by);
        self.len = len;
        Some(())
    }
}
