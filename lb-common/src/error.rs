//! Turns a packet into an ICMP error about itself (RFC 792, RFC 4443), in place: "packet too big" (RFC 1191 section 4,
//! RFC 4443 section 3.2) and "time exceeded". Only about TCP segments; never about ICMP, never about later fragments.

use crate::{
    checksum::Sum,
    flow::{Address, V4, V6},
    frame::Frame,
    parse::{Fragment, Ip},
    reject::HOPS,
    wire::{Be16, Be32, ipv4, ipv6, protocol, tcp},
};

const ICMP_HEADER: usize = 8;

/// Longest IP header, with options or extension headers, that is quoted. One that is longer could only be quoted in part, and
/// without the ports nobody finds out whose packet it was.
const LONGEST_HEADER: usize = 128;

/// Link addresses, two VLAN tags and the type: as much as moves to the front.
type Link = [Be16; 11];

/// The error messages of an address family, and the header that carries them.
pub trait Errors: Address {
    /// Bytes of an IP header without options or extension headers.
    const HEADER: usize;
    /// Type and code.
    const TOO_BIG: u16;
    const EXPIRED: u16;

    /// Writes an IP header for `len` bytes of ICMP.
    fn header<F: Frame>(frame: &mut F, at: usize, src: &Self, dst: &Self, len: usize) -> Option<()>;

    /// What the ICMP checksum counts besides the message.
    fn pseudo(src: &Self, dst: &Self, len: usize) -> Sum;
}

/// Whether an error about this packet may be sent, and can be (RFC 1122 section 3.2.2).
#[inline(always)]
pub fn possible<A: Address>(ip: &Ip<A>) -> bool {
    !matches!(ip.fragment, Fragment::Later(_)) && ip.transport - ip.at <= LONGEST_HEADER
}

/// Puts an IP and an ICMP header of type and code `kind` in front of the packet, and cuts off all behind its TCP header, of
/// which 20 bytes are quoted. `None`: the frame could not be rewritten.
#[inline(never)]
pub fn answer<A: Errors, F: Frame>(frame: &mut F, ip: &Ip<A>, kind: u16, word: u32) -> Option<()> {
    let header = ip.transport - ip.at;
    let quote = header + tcp::MIN_LEN;
    frame.truncate(ip.at + quote)?;
    let grown = A::HEADER + ICMP_HEADER;
    let len = ICMP_HEADER + quote;
    let message = Sum::default().word(Be16::new(kind)).long(Be32::new(word));
    let sum = message.plus(sum_header(frame, ip.at, header)?).plus(settle_checksum(frame, ip.transport)?);
    let sum = sum.plus(A::pseudo(&ip.dst, &ip.src, len));
    frame.grow(grown)?;
    let mut link: Link = frame.load(grown)?;
    for word in 0..3 {
        link.swap(word, word + 3);
    }
    frame.store(0, link)?;
    A::header(frame, ip.at, &ip.dst, &ip.src, len)?;
    let at = ip.at + A::HEADER;
    frame.store(at, [Be16::new(kind).raw(), !sum.fold()])?;
    frame.store(at + 4, Be32::new(word))
}

/// Sum over a header of at most [`LONGEST_HEADER`] bytes.
#[inline(always)]
fn sum_header<F: Frame>(frame: &F, at: usize, len: usize) -> Option<Sum> {
    let mut sum = Sum::default();
    for word in 0..LONGEST_HEADER / 4 {
        if word * 4 >= len {
            break;
        }
        sum = sum.long(frame.load(at + word * 4)?);
    }
    Some(sum)
}

/// Sum over the quoted TCP header, whose checksum is replaced by one that stands.
///
/// Where the sender left its completion to hardware, that still happens when the answer leaves: from the TCP header on all is
/// summed up, and the complement written to the field. So the field gets the one value v that this leaves as it is: with s
/// the sum of all else, v = ~(s + v), which is half of ~s, and in ones' complement halving is turning right by one bit.
/// The quoted checksum says nothing to anybody: it covers a payload that is not quoted.
#[inline(always)]
fn settle_checksum<F: Frame>(frame: &mut F, at: usize) -> Option<Sum> {
    let words: [Be16; tcp::MIN_LEN / 2] = frame.load(at)?;
    let check = words[tcp::CHECKSUM / 2];
    let others = words.iter().fold(Sum::default(), |sum, word| sum.word(*word)).raw((!check.raw()) as u64).fold();
    let standing = (!others).rotate_right(1);
    frame.store(at + tcp::CHECKSUM, standing)?;
    Some(Sum::default().raw(others as u64).raw(standing as u64))
}

impl Errors for V4 {
    const HEADER: usize = ipv4::MIN_LEN;
    const TOO_BIG: u16 = 0x0304;
    const EXPIRED: u16 = 0x0b00;

    #[inline(always)]
    fn header<F: Frame>(frame: &mut F, at: usize, src: &Self, dst: &Self, len: usize) -> Option<()> {
        let words = [
            Be32::new(0x4500_0000 | (ipv4::MIN_LEN + len) as u32),
            Be32::new(ipv4::DONT_FRAGMENT as u32),
            Be32::new((HOPS as u32) << 24 | (protocol::ICMP as u32) << 16),
        ];
        let sum = words.iter().fold(src.sum().plus(dst.sum()), |sum, word| sum.long(*word));
        frame.store(at, words)?;
        frame.store(at + ipv4::CHECKSUM, !sum.fold())?;
        frame.store(at + ipv4::SRC, [*src, *dst])
    }

    #[inline(always)]
    fn pseudo(_: &Self, _: &Self, _: usize) -> Sum {
        Sum::default()
    }
}

impl Errors for V6 {
    const HEADER: usize = ipv6::LEN;
    const TOO_BIG: u16 = 0x0200;
    const EXPIRED: u16 = 0x0300;

    #[inline(always)]
    fn header<F: Frame>(frame: &mut F, at: usize, src: &Self, dst: &Self, len: usize) -> Option<()> {
        let rest = (len as u32) << 16 | (protocol::ICMPV6 as u32) << 8 | HOPS as u32;
        frame.store(at, [Be32::new(6 << 28), Be32::new(rest)])?;
        frame.store(at + ipv6::SRC, [*src, *dst])
    }

    /// RFC 4443 section 2.3.
    #[inline(always)]
    fn pseudo(src: &Self, dst: &Self, len: usize) -> Sum {
        src.sum().plus(dst.sum()).word(Be16::new(len as u16)).word(Be16::new(protocol::ICMPV6 as u16))
    }
}
