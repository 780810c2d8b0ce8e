//! Messages and descriptors over a Unix stream socket: four bytes of length, then JSON. Blocking; knows no particular message.

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

/// Descriptors in one message (unix(7), SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// A message is refused above this: 10,000 rules make about 20 MiB.
const MAX_BYTES: usize = 256 << 20;

/// Whoever does not read for this long is given up.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// One end. Several threads may use it, one to read and one to write.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_TIME))?;
        Ok(Self { stream })
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.try_clone()? })
    }

    /// Ends the connection for all who share this end.
    pub fn close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// `None`: for ever.
    pub fn read_within(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(time)
    }

    pub fn send<M: Serialize>(&self, message: &M, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).ok().filter(|length| *length as usize <= MAX_BYTES);
        let Some(length) = length else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
        };
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        let head = length.to_be_bytes();
        // They come with the first byte; the rest of the head follows by itself where the socket is full.
        let sent = loop {
            match sendmsg(&self.stream, &[IoSlice::new(&head)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        (&self.stream).write_all(&head[sent..])?;
        (&self.stream).write_all(&text)
    }

    /// `None`: the other end is gone.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut descriptors = Vec::new();
        let mut head = [0u8; 4];
        let mut filled = 0;
        while filled < head.len() {
            let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut head[filled..])];
            let got = match recvmsg(&self.stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => return Ok(None),
                other => other?.bytes,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            match got {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                got => filled += got,
            }
        }
        let length = u32::from_be_bytes(head) as usize;
        if length > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
        }
        // Not reserved at once: the length is only what the other end says.
        let mut text = Vec::new();
        (&self.stream).take(length as u64).read_to_end(&mut text)?;
        if text.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Seek, os::fd::AsFd, thread};

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        (Channel::new(a).unwrap(), Channel::new(b).unwrap())
    }

    #[test]
    fn messages_keep_their_order_and_their_descriptors() {
        let (a, b) = pair();
        let mut files: Vec<File> = (0..3).map(|_| tempfile()).collect();
        for (at, file) in files.iter_mut().enumerate() {
            file.write_all(&[at as u8]).unwrap();
            file.rewind().unwrap();
        }
        let long = "x".repeat(5 << 20);
        thread::scope(|scope| {
            scope.spawn(|| {
                a.send(&"one", &[files[0].as_fd(), files[1].as_fd()]).unwrap();
                a.send(&long, &[]).unwrap();
                a.send(&"three", &[files[2].as_fd()]).unwrap();
            });
            let told: Vec<(String, Vec<OwnedFd>)> = (0..3).map(|_| b.receive().unwrap().unwrap()).collect();
            assert_eq!(told.iter().map(|(_, fds)| fds.len()).collect::<Vec<_>>(), [2, 0, 1]);
            assert!(told[0].0 == "one" && told[1].0 == long && told[2].0 == "three");
            let mut contents = Vec::new();
            for fd in told.into_iter().flat_map(|(_, fds)| fds) {
                File::from(fd).read_to_end(&mut contents).unwrap();
            }
            assert_eq!(contents, [0, 1, 2]);
        });
        drop(a);
        assert!(b.receive::<String>().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&b"\0\0"[..], b"\0\0\0\x05\"ab", b"\0\0\0\x02{]", b"\xff\xff\xff\xff"] {
            let (a, b) = pair();
            (&a.stream).write_all(bytes).unwrap();
            drop(a);
            assert!(b.receive::<String>().is_err(), "{bytes:?}");
        }
    }

    fn tempfile() -> File {
        let path =
            std::env::temp_dir().join(format!("mlt-channel-{}-{:?}", std::process::id(), thread::current().id()));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
