//! A line echo as in Istio's tcp-echo sample, and bulk transfers with a hash. Server and client are processes of their
//! own inside namespaces; both answer in JSON lines on stdout and end when their stdin ends.
//!
//! The protocol: a line `TEXT` is answered by `GREETING TEXT`. The line `SINK N` is followed by N bytes and answered by
//! their hash; `SOURCE N` is answered by N bytes and then their hash.

pub mod client;
pub mod flood;
pub mod server;

use std::io::{self, Read, Write};

/// Bytes moved at once; the hash is taken over blocks of this size, so that both ends agree whatever a read gives.
const BLOCK: usize = 64 * 1024;

/// FNV-1a over words of 64 bits instead of bytes: as fast as memory, and any lost, doubled or changed block shows.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, block: &[u8]) {
        for word in block.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.0 = (self.0 ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Sends `count` pseudo-random bytes and gives their hash.
fn send_bulk(mut to: impl Write, count: u64) -> io::Result<u64> {
    let mut hash = Hash::new();
    let mut block = vec![0; BLOCK];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = count;
    while left > 0 {
        let size = left.min(BLOCK as u64) as usize;
        for word in block.chunks_exact_mut(8) {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hash.add(&block[..size]);
        to.write_all(&block[..size])?;
        left -= size as u64;
    }
    Ok(hash.0)
}

/// Receives `count` bytes and gives their hash.
fn receive_bulk(mut from: impl Read, count: u64) -> io::Result<u64> {
    let mut hash = Hash::new();
    let mut block = vec![0; BLOCK];
    let mut left = count;
    while left > 0 {
        let size = left.min(BLOCK as u64) as usize;
        from.read_exact(&mut block[..size])?;
        hash.add(&block[..size]);
        left -= size as u64;
    }
    Ok(hash.0)
}

/// Writes one line of JSON to stdout. Whoever started us may be gone; that is no reason to fail.
pub(crate) fn tell(value: &serde_json::Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_bulk_transfer_agree() {
        for count in [0, 1, 7, 65_535, 65_536, 65_537, 1_000_003] {
            let mut bytes = Vec::new();
            let sent = send_bulk(&mut bytes, count).unwrap();
            assert_eq!(bytes.len() as u64, count);
            assert_eq!(receive_bulk(&bytes[..], count).unwrap(), sent);
        }
    }

    #[test]
    fn one_changed_byte_shows() {
        let mut bytes = Vec::new();
        let sent = send_bulk(&mut bytes, 200_000).unwrap();
        bytes[131_072] ^= 1;
        assert_ne!(receive_bulk(&bytes[..], 200_000).unwrap(), sent);
        assert!(receive_bulk(&bytes[..199_999], 200_000).is_err());
    }
}
