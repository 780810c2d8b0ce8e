//! The first bytes of a connection whose chain depends on the SNI: read until the ClientHello is whole, however it is cut.

use std::io;

use hyper::body::Bytes;
use rustls::server::{Accepted, Acceptor};
use tokio::{io::AsyncReadExt, net::TcpStream};

pub(super) enum Hello {
    /// What the client wants, and all bytes that were read for it.
    Tls(Box<Accepted>, Bytes),
    /// What is no handshake.
    Other(Bytes),
}

/// A ClientHello is a handshake message of at most 64 KiB, in records of at least a byte each.
const MOST: usize = 128 * 1_024;

/// RFC 8446 section 5.1: content type handshake.
const HANDSHAKE: u8 = 22;

/// # Errors
/// The connection's; something that begins like TLS and is not; too much of it.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Hello> {
    let mut bytes = Vec::with_capacity(2_048);
    let mut acceptor = Acceptor::default();
    let mut fed = 0;
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes[0] != HANDSHAKE {
            return Ok(Hello::Other(bytes.into()));
        }
        while fed < bytes.len() {
            match acceptor.read_tls(&mut &bytes[fed..])? {
                0 => return Err(io::Error::other("bytes after a ClientHello that never ends")),
                length => fed += length,
            }
            match acceptor.accept() {
                Ok(Some(accepted)) if fed == bytes.len() => return Ok(Hello::Tls(Box::new(accepted), bytes.into())),
                Ok(Some(_)) => return Err(io::Error::other("bytes behind a ClientHello")),
                Ok(None) => {}
                Err((error, _)) => return Err(io::Error::other(error)),
            }
        }
        if bytes.len() > MOST {
            return Err(io::Error::other("a ClientHello that is too long"));
        }
    }
}
