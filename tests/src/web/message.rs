//! Reading HTTP/1.1 messages from a stream.

use std::io::{self, BufRead, Read};

/// More than any message of a test has.
const LONGEST_LINE: u64 = 64 * 1024;
const LONGEST_BODY: u64 = 64 << 20;

/// Which kind of message is read: they differ in what a missing length means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Without a length there is no body.
    Request,
    /// Without a length the body ends with the connection.
    Response,
}

/// A request or a response, read to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// Request line or status line.
    pub first: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The first header of that name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The second word of the first line: a request's target, a response's status.
    pub fn second(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or("")
    }

    /// Whether the connection is used no further.
    pub fn is_last(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Reads the next message. `None`: the connection has ended before it.
    pub fn read(from: &mut impl BufRead, kind: Kind) -> io::Result<Option<Message>> {
        let first = line(from)?;
        if first.is_empty() {
            return Ok(None);
        }
        let mut message = Message { first: first.trim_end().to_owned(), ..Message::default() };
        loop {
            let line = line(from)?;
            if line.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim_end().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("a header without a colon"))?;
            message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        message.body = message.read_body(from, kind)?;
        Ok(Some(message))
    }

    fn read_body(&self, from: &mut impl BufRead, kind: Kind) -> io::Result<Vec<u8>> {
        if self.header("transfer-encoding").is_some() {
            return chunks(from);
        }
        let mut body = Vec::new();
        match (self.header("content-length"), kind) {
            (Some(length), _) => {
                let length: u64 = length.parse().map_err(|_| bad("a length that is no number"))?;
                from.by_ref().take(length.min(LONGEST_BODY)).read_to_end(&mut body)?;
                if (body.len() as u64) < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            (None, Kind::Request) => {}
            (None, Kind::Response) if matches!(self.second(), "204" | "304") || self.second().starts_with('1') => {}
            (None, Kind::Response) => drop(from.by_ref().take(LONGEST_BODY).read_to_end(&mut body)?),
        }
        Ok(body)
    }
}

/// RFC 9112 7.1, without extensions; trailers are dropped.
fn chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(|_| bad("a chunk without a size"))?;
        let before = body.len() as u64;
        from.by_ref().take(size.min(LONGEST_BODY)).read_to_end(&mut body)?;
        if body.len() as u64 - before < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The end of the chunk's data, or of the trailers.
        while !line(from)?.trim_end().is_empty() {}
        if size == 0 {
            return Ok(body);
        }
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.by_ref().take(LONGEST_LINE).read_line(&mut line)?;
    Ok(line)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_with_every_kind_of_body() {
        let mut text: &[u8] =
            b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n\
            PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n";
        let mut next = || Message::read(&mut text, Kind::Request).unwrap();
        let first = next().unwrap();
        assert_eq!((first.second(), first.header("host"), &first.body[..]), ("/a", Some("h"), &b"abc"[..]));
        assert!(next().unwrap().body.is_empty());
        assert_eq!(next().unwrap().body, b"xyz");
        assert!(next().is_none());
        let mut text: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end";
        let whole = Message::read(&mut text, Kind::Response).unwrap().unwrap();
        assert_eq!((&whole.body[..], whole.is_last()), (&b"to the end"[..], true));
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        ] {
            assert!(Message::read(&mut text.as_bytes(), Kind::Response).is_err(), "{text}");
        }
    }
}
