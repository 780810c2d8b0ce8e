//! Faults and mirrors: what happens for a number that was drawn.

use std::time::Duration;

use super::split::Draw;
use crate::snapshot::{Abort, Fault, Fraction, Mirror};

impl Fraction {
    /// Whether a draw falls into this share.
    pub fn has(self, draw: Draw) -> bool {
        (u128::from(draw.0) * 1_000_000) >> 64 < u128::from(self.0)
    }
}

impl Fault {
    /// How long the request waits, and what it is answered with after that instead of being forwarded.
    pub fn draw(&self, delay: Draw, abort: Draw) -> (Option<Duration>, Option<Abort>) {
        let delayed = self.delay.filter(|(share, _)| share.has(delay)).map(|(_, time)| time);
        let aborted = self.abort.filter(|(share, _)| share.has(abort)).map(|(_, abort)| abort);
        (delayed, aborted)
    }
}

/// The mirrors that get a copy: one draw for each, in their order.
pub fn mirrors<'m>(all: &'m [Mirror], mut draw: impl FnMut() -> Draw) -> impl Iterator<Item = &'m Mirror> {
    all.iter().filter(move |mirror| mirror.share.has(draw()))
}

/// The authority of a mirrored request: `-shadow` before the port.
pub fn shadow(authority: &str) -> String {
    let host = super::rewrite::without_port(authority);
    format!("{host}-shadow{}", &authority[host.len()..])
}
