//! The PROXY protocol's header (versions 1 and 2): written ahead of a connection to an endpoint, read from balancers that
//! are known to send it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

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

/// Reads a header, which must be there, and not a byte more. The result is the client's address; `None`: the balancer speaks
/// for itself (`UNKNOWN`, `LOCAL`).
///
/// # Errors
/// The connection's; no header.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    // Both versions are longer.
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await?;
    if begin == *SIGNATURE {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let mut addresses = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
        stream.read_exact(&mut addresses).await?;
        return binary(head[0], head[1], &addresses).ok_or_else(bad);
    }
    /// Section 2.1: the longest line, with its end.
    const LONGEST: usize = 107;
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST || !line.starts_with(b"PROXY ") {
            return Err(bad());
        }
        line.push(stream.read_u8().await?);
    }
    std::str::from_utf8(&line).ok().and_then(text).ok_or_else(bad)
}

fn bad() -> io::Error {
    io::Error::other("no PROXY header from a balancer that is said to send one")
}

/// The outer option is for what is no header.
fn text(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.strip_suffix("\r\n")?.split(' ').skip(1);
    let is_v4 = match words.next()? {
        "UNKNOWN" => return Some(None),
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let (from, to): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let port = words.next()?.parse().ok()?;
    let _: u16 = words.next()?.parse().ok()?;
    (from.is_ipv4() == is_v4 && to.is_ipv4() == is_v4 && words.next().is_none())
        .then_some(Some(SocketAddr::new(from, port)))
}

fn binary(command: u8, family: u8, bytes: &[u8]) -> Option<Option<SocketAddr>> {
    let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    match (command, family) {
        (0x20, _) | (0x21, 0) => Some(None),
        (0x21, 0x11) => {
            let from: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            Some(Some(SocketAddr::new(from.into(), port(8)?)))
        }
        (0x21, 0x21) => {
            let from: [u8; 16] = bytes.get(..16)?.try_into().ok()?;
            Some(Some(SocketAddr::new(from.into(), port(32)?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_what_follows_is_left() {
        let (v4, v6): (SocketAddr, SocketAddr) = ("1.2.3.4:5".parse().unwrap(), "[fd00::1]:80".parse().unwrap());
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            for (from, to, expected) in [(v4, v4, Some(v4)), (v6, v6, Some(v6)), (v4, v6, None)] {
                let mut bytes = write(version, from, to);
                bytes.extend(b"GET");
                let mut rest = &bytes[..];
                assert_eq!(read(&mut rest).await.unwrap(), expected, "{version:?} {from} {to}");
                assert_eq!(rest, b"GET");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 5\r\n",
            "PROXY TCP4 fd00::1 fd00::1 5 5\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 5 5 5\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 5 99999\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 5 5\r\n",
            "PROXY TCP4 1.2.3.4",
            &long,
        ] {
            assert!(read(&mut text.as_bytes()).await.is_err(), "{text}");
        }
    }

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
