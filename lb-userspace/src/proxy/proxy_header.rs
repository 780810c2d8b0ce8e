//! The PROXY protocol's header (versions 1 and 2), written ahead of a connection to an endpoint. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::snapshot::ProxyProtocol;

/// Section 2.2 of the PROXY protocol's specification.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

pub(super) fn write(version: ProxyProtocol, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => {
            let family = match (from.ip(), to.ip()) {
                (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
                (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
                _ => return b"PROXY UNKNOWN\r\n".to_vec(),
            };
            format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut header = SIGNATURE.to_vec();
            // Version 2, PROXY.
            header.push(0x21);
            match (from.ip(), to.ip()) {
                (IpAddr::V4(source), IpAddr::V4(target)) => {
                    header.extend([0x11, 0, 12]);
                    header.extend(source.octets());
                    header.extend(target.octets());
                }
                (IpAddr::V6(source), IpAddr::V6(target)) => {
                    header.extend([0x21, 0, 36]);
                    header.extend(source.octets());
                    header.extend(target.octets());
                }
                _ => {
                    header.extend([0, 0, 0]);
                    return header;
                }
            }
            header.extend(from.port().to_be_bytes());
            header.extend(to.port().to_be_bytes());
            header
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let (v4, v6): (SocketAddr, SocketAddr) = ("1.2.3.4:5".parse().unwrap(), "[fd00::1]:80".parse().unwrap());
        assert_eq!(write(ProxyProtocol::V1, v4, v4), b"PROXY TCP4 1.2.3.4 1.2.3.4 5 5\r\n");
        assert_eq!(write(ProxyProtocol::V1, v6, v6), b"PROXY TCP6 fd00::1 fd00::1 80 80\r\n");
        assert_eq!(write(ProxyProtocol::V1, v4, v6), b"PROXY UNKNOWN\r\n");
        let v2 = write(ProxyProtocol::V2, v4, v4);
        assert_eq!(v2[..12], *SIGNATURE);
        assert_eq!(v2[12..], [0x21, 0x11, 0, 12, 1, 2, 3, 4, 1, 2, 3, 4, 0, 5, 0, 5]);
        let v2 = write(ProxyProtocol::V2, v6, v6);
        assert_eq!((v2.len(), &v2[12..16], &v2[48..]), (52, &[0x21, 0x21, 0, 36][..], &[0, 80, 0, 80][..]));
        assert_eq!(write(ProxyProtocol::V2, v4, v6)[12..], [0x21, 0, 0, 0]);
    }
}
