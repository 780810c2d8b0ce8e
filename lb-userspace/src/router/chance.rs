//! Faults and mirrors: what happens for a number that was drawn.

use std::time::Duration;

use super::split::Draw;
use crate::snapshot::{Abort, Cluster, Endpoint, Fault, Fraction, Health, Mirror};

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
pub fn mirrors(all: &[Mirror], mut draw: impl FnMut() -> Draw) -> impl Iterator<Item = &Mirror> {
    all.iter().filter(move |mirror| mirror.share.has(draw()))
}

/// One of a cluster's endpoints at random, by weight alone: neither locality nor load. `None`: none takes new connections.
pub fn endpoint(cluster: &Cluster, draw: Draw) -> Option<&Endpoint> {
    let ready = || cluster.endpoints.iter().filter(|one| one.health == Health::Ready);
    let sum: u64 = ready().map(|one| u64::from(one.weight)).sum();
    let mut rest = ((u128::from(draw.0) * u128::from(sum)) >> 64) as u64;
    ready().find(|one| {
        let taken = rest < u64::from(one.weight);
        rest = rest.saturating_sub(u64::from(one.weight));
        taken
    })
}

/// The authority of a mirrored request: `-shadow` before the port.
pub fn shadow(authority: &str) -> String {
    let host = super::rewrite::without_port(authority);
    format!("{host}-shadow{}", &authority[host.len()..])
}
