//! Floods of cheap HTTP/2 frames (PING, SETTINGS, RST_STREAM, PRIORITY, empty DATA), which neither hyper nor h2 limits: counted
//! from frame headers alone, as bytes come by. Pure; the clock is an argument.

use std::time::Instant;

/// Frames that may come at once, and again each second. A gRPC client that measures its bandwidth sends no more than one PING
/// for each round trip.
const FRAMES: f64 = 5_000.0;

#[derive(Debug)]
pub(super) struct Glitches {
    /// Bytes of the preface, or of a frame's content, that are still to come.
    skip: usize,
    header: [u8; 9],
    have: usize,
    left: f64,
    last: Instant,
}

/// RFC 9113 section 6.
const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;

impl Glitches {
    /// Of a connection whose next byte is the preface's first.
    pub fn new(now: Instant) -> Glitches {
        Glitches { skip: 24, header: [0; 9], have: 0, left: FRAMES, last: now }
    }

    /// Looks at the next bytes; whether there were too many such frames.
    #[must_use]
    pub fn are_too_many(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let mut found = 0_u32;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.header.len() - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.header.len() {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                found += u32::from(match kind {
                    PRIORITY | RST_STREAM | SETTINGS | PING => true,
                    DATA => self.skip == 0 && flags & END_STREAM == 0,
                    _ => false,
                });
            }
        }
        if found > 0 {
            let back = now.saturating_duration_since(self.last).as_secs_f64() * FRAMES;
            self.last = now;
            self.left = (self.left + back).min(FRAMES) - f64::from(found);
        }
        self.left < 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(std::iter::repeat_n(0xff, length.into()));
        bytes
    }

    /// How many of a frame are taken at one time, byte by byte.
    fn taken(frame: &[u8]) -> usize {
        let now = Instant::now();
        let mut glitches = Glitches::new(now);
        assert!(!glitches.are_too_many(PREFACE, now));
        (0..20_000).take_while(|_| !frame.iter().any(|byte| glitches.are_too_many(&[*byte], now))).count()
    }

    #[test]
    fn cheap_frames_are_limited_and_others_are_not() {
        for (frame, expected) in [
            (frame(PING, 0, 8), 5_000),
            (frame(SETTINGS, 0, 0), 5_000),
            (frame(RST_STREAM, 0, 4), 5_000),
            (frame(PRIORITY, 0, 5), 5_000),
            (frame(DATA, 0, 0), 5_000),
            (frame(DATA, END_STREAM, 0), 20_000),
            (frame(DATA, 0, 6), 20_000),
            (frame(1, 4, 20), 20_000),
            (frame(8, 0, 4), 20_000),
        ] {
            assert_eq!(taken(&frame), expected, "{frame:?}");
        }
    }

    #[test]
    fn what_comes_slowly_is_no_flood() {
        let mut now = Instant::now();
        let mut glitches = Glitches::new(now);
        assert!(!glitches.are_too_many(PREFACE, now));
        for _ in 0..20_000 {
            now += Duration::from_micros(250);
            assert!(!glitches.are_too_many(&frame(PING, 0, 8), now));
        }
    }
}
