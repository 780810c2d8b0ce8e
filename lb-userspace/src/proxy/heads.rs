//! What hyper does not tell of HTTP/1.1 requests: whether a head names both a length and a transfer coding. It drops the length and
//! closes the connection later (RFC 9112 section 6.3 allows that to a server), but a proxy must not pass such a request on.
//!
//! A look at the bytes that come between requests. Of requests sent without waiting for the answer before (pipelined) those that
//! come in one piece with another are not seen: they are framed by their chunks, and the connection is closed after them.

/// The lines of one head, however it is cut into pieces.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// What the line under way begins with.
    line: Vec<u8>,
    has_request_line: bool,
    is_over: bool,
    has_length: bool,
    has_coding: bool,
}

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

impl Heads {
    /// Bytes of a head, and perhaps what follows it.
    pub fn see(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.is_over && !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
            let piece = &rest[..end.unwrap_or(rest.len())];
            let room = CODING.len() - self.line.len().min(CODING.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            rest = &rest[piece.len()..];
            if end.is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let begins = |name: &[u8]| self.line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
        match &self.line[..] {
            // Empty lines before a request are allowed (RFC 9112 section 2.2).
            b"\n" | b"\r\n" => self.is_over = self.has_request_line,
            _ if !self.has_request_line => self.has_request_line = true,
            _ => {
                self.has_length |= begins(LENGTH);
                self.has_coding |= begins(CODING);
            }
        }
        self.line.clear();
    }

    /// Whether the head that was seen names both; the next bytes are of another one.
    pub fn names_both(&mut self) -> bool {
        let both = self.has_length && self.has_coding;
        // The line's memory is kept.
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        *self = Heads { line, ..Heads::default() };
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str, size: usize) -> bool {
        let mut heads = Heads::default();
        text.as_bytes().chunks(size).for_each(|piece| heads.see(piece));
        heads.names_both()
    }

    #[test]
    fn both_are_found_however_the_head_is_cut() {
        for (text, expected) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("\r\nPOST / HTTP/1.1\ntransfer-encoding:chunked\ncontent-length:5\n\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nTransfer-Encoding: chunked\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nContent-Length: 5\r\n", false),
            ("POST / HTTP/1.1\r\nX-Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            ("GET /content-length: HTTP/1.1\r\nTransfer-Encodings: a\r\nContent-Lengths: 5\r\n\r\n", false),
        ] {
            for size in [1, 2, 3, 7, 1_000] {
                assert_eq!(judge(text, size), expected, "{size} {text:?}");
            }
        }
    }

    #[test]
    fn each_head_is_judged_by_itself() {
        let mut heads = Heads::default();
        heads.see(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
        assert!(!heads.names_both());
        heads.see(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(!heads.names_both());
    }
}
