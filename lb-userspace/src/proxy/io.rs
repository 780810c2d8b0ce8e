//! The byte streams under a connection, as one type each, so that HTTP is compiled once.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use hyper::body::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::{client, server};

use super::{glitch::Glitches, watch::Watch};

/// Whatever bytes go through.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    ServerTls(Box<server::TlsStream<Prefixed>>),
    ClientTls(Box<client::TlsStream<Prefixed>>),
}

/// A stream of which some bytes have been read already.
pub(super) struct Prefixed {
    pub prefix: Bytes,
    pub inner: Box<Stream>,
}

/// A client's stream: bytes that were peeked come first, and the connection's watch sees what comes.
pub(super) struct Downstream {
    pub prefix: Bytes,
    pub stream: Stream,
    pub watch: Rc<Watch>,
    /// Of HTTP/2: many requests at a time, and frames that are counted.
    pub multiplexed: Option<Box<Glitches>>,
}

impl Downstream {
    pub fn new(prefix: Bytes, stream: Stream, watch: Rc<Watch>) -> Downstream {
        Downstream { prefix, stream, watch, multiplexed: None }
    }
}

macro_rules! delegate {
    ($self:ident, $name:ident ( $($argument:expr),* )) => {
        match &mut *$self {
            Stream::Tcp(inner) => Pin::new(inner).$name($($argument),*),
            Stream::Unix(inner) => Pin::new(inner).$name($($argument),*),
            Stream::ServerTls(inner) => Pin::new(&mut **inner).$name($($argument),*),
            Stream::ClientTls(inner) => Pin::new(&mut **inner).$name($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(inner) => inner.is_write_vectored(),
            Stream::Unix(inner) => inner.is_write_vectored(),
            Stream::ServerTls(inner) => inner.is_write_vectored(),
            Stream::ClientTls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(cx))
    }
}

/// Fills a buffer from the bytes that were peeked; whether there were any.
fn from_prefix(prefix: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    if prefix.is_empty() {
        return false;
    }
    let length = prefix.len().min(buf.remaining());
    buf.put_slice(&prefix[..length]);
    prefix.advance(length);
    if prefix.is_empty() {
        *prefix = Bytes::new();
    }
    true
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if from_prefix(&mut self.prefix, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *self.inner).poll_read(cx, buf)
    }
}

impl AsyncRead for Downstream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        if !from_prefix(&mut this.prefix, buf) {
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            this.watch.received((buf.filled().len() - before) as u64, this.multiplexed.is_some());
        }
        if this.multiplexed.is_none() {
            this.watch.sees(&buf.filled()[before..]);
        }
        let has_flood = |glitches: &mut Box<Glitches>| glitches.are_too_many(&buf.filled()[before..], Instant::now());
        match this.multiplexed.as_mut().is_some_and(has_flood) {
            true => Poll::Ready(Err(io::Error::other("a flood of control frames"))),
            false => Poll::Ready(Ok(())),
        }
    }
}

macro_rules! write_through {
    ($type:ty, $field:ident) => {
        impl AsyncWrite for $type {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$field).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$field).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.$field.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$field).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$field).poll_shutdown(cx)
            }
        }
    };
}

write_through!(Prefixed, inner);
write_through!(Downstream, stream);
