//! The first packet of a flow as bytes, and what became of it. Knows nothing of configuration.

use lb_common::{
    flow::{Address, Tuple, V4, V6},
    frame::{Bytes, Frame},
    parse::{self, Header, Network, Room},
    wire::{Be16, ether, protocol, tcp},
};
use std::net::{IpAddr, SocketAddr};

use crate::slots::encode::Encode;

/// A SYN from one address and port to another in an Ethernet frame, checksums included. `None`: the addresses are of two
/// families.
pub fn syn(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let mut segment = Vec::with_capacity(tcp::MIN_LEN);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    // Sequence number 1, no acknowledgement; 20 bytes of header; SYN; window 65,535; checksum and urgent pointer 0.
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcp::SYN, 0xff, 0xff, 0, 0, 0, 0]);
    let len = segment.len() as u16;
    let mut pseudo = Vec::new();
    let (kind, mut header) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            pseudo.extend(from.octets().into_iter().chain(to.octets()));
            let mut header = vec![0x45, 0];
            header.extend((20 + len).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
            header.extend(&pseudo);
            let check = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&check);
            (ether::IPV4, header)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            pseudo.extend(from.octets().into_iter().chain(to.octets()));
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(len.to_be_bytes());
            header.extend([protocol::TCP, 64]);
            header.extend(&pseudo);
            (ether::IPV6, header)
        }
        _ => return None,
    };
    pseudo.extend([0, protocol::TCP]);
    pseudo.extend(len.to_be_bytes());
    pseudo.extend(&segment);
    let check = checksum(&pseudo).to_be_bytes();
    segment[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&check);
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.append(&mut header);
    frame.append(&mut segment);
    Some(frame)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Addresses, ports and flags of a TCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
}

impl Seen {
    pub const fn is_reset(&self) -> bool {
        self.flags & tcp::RST != 0
    }
}

/// Reads a frame. `None`: it is no TCP packet.
pub fn read(frame: &mut [u8]) -> Option<Seen> {
    let frame = Bytes::new(frame);
    match parse::network(&frame)? {
        Network::Ipv4(at) => segment::<V4>(&frame, at),
        Network::Ipv6(at) => segment::<V6>(&frame, at),
        Network::Other => None,
    }
}

fn segment<A: Header + Encode>(frame: &Bytes<'_>, at: usize) -> Option<Seen> {
    let ip = A::parse(frame, at, Room::Whole).ok()?;
    let [sport, dport]: [Be16; 2] = frame.load(ip.transport)?;
    let flags = frame.load::<Be16>(ip.transport + tcp::OFFSET_FLAGS)?.get() as u8;
    Some(Seen {
        from: SocketAddr::new(ip.src.decode(), sport.get()),
        to: SocketAddr::new(ip.dst.decode(), dport.get()),
        flags,
    })
}

/// The flow's key in kernel tables. `None`: the addresses are not both of family `A`.
pub fn tuple<A: Encode + Address>(from: SocketAddr, to: SocketAddr) -> Option<Tuple<A>> {
    Some(Tuple {
        src: A::encode(from.ip())?,
        dst: A::encode(to.ip())?,
        sport: Be16::new(from.port()),
        dport: Be16::new(to.port()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_as_it_was_made() {
        for (from, to) in [("10.0.0.2:40000", "10.0.0.1:31400"), ("[fd00::2]:40000", "[fd00::1]:31400")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let mut frame = syn(from, to).unwrap();
            assert_eq!(read(&mut frame), Some(Seen { from, to, flags: tcp::SYN }));
        }
        assert_eq!(syn("10.0.0.2:1".parse().unwrap(), "[fd00::1]:1".parse().unwrap()), None);
    }

    #[test]
    fn checksums_are_right() {
        let mut frame = syn("10.0.0.2:40000".parse().unwrap(), "10.0.0.1:31400".parse().unwrap()).unwrap();
        assert_eq!(checksum(&frame[14..34]), 0);
        let mut pseudo = frame[26..34].to_vec();
        pseudo.extend([0, 6, 0, 20]);
        pseudo.extend(frame.drain(34..));
        assert_eq!(checksum(&pseudo), 0);
    }
}
