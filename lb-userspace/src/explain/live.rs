//! The same question to the running kernel program, and whether the two answers agree.

use super::{Answer, Verdict, forwarding, frame};
use crate::dataplane::{
    pins::Pins,
    probe::{self, End, ProbeError},
};
use lb_common::table::Forwarding;
use serde::Serialize;
use std::net::SocketAddr;

/// What the kernel does with the flow's first packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    pub mode: &'static str,
    pub verdict: Verdict,
    pub backend: Option<SocketAddr>,
    pub forwarding: Option<&'static str>,
    /// Whether it says what the configuration says.
    pub agrees: bool,
}

/// Runs the pinned program on the flow's SYN, and removes what that left in the tables. The flow counts once in the
/// statistics. `None`: the addresses are of two families.
pub fn ask(pins: &Pins, from: SocketAddr, to: SocketAddr, offline: &Answer) -> Result<Option<Live>, ProbeError> {
    let Some(syn) = frame::syn(from, to) else {
        return Ok(None);
    };
    probe::expect_unknown(pins, (from, to))?;
    let mut ran = probe::run(pins, &syn)?;
    let seen = frame::read(&mut ran.frame);
    let mut live =
        Live { mode: ran.mode.name(), verdict: Verdict::Pass, backend: None, forwarding: None, agrees: false };
    match seen {
        Some(seen) if seen.is_reset() => live.verdict = Verdict::Reject,
        Some(seen) if seen.to != to => {
            probe::forget(pins, (from, to), (seen.from, seen.to))?;
            let how = if seen.from.ip() == from.ip() { Forwarding::Dnat } else { Forwarding::Snat };
            live.verdict = if ran.end == End::Drop { Verdict::Drop } else { Verdict::Forward };
            (live.backend, live.forwarding) = (Some(seen.to), Some(forwarding(how)));
        }
        _ if ran.end == End::Drop => live.verdict = Verdict::Drop,
        _ => {}
    }
    Ok(Some(live.compare(offline)))
}

impl Live {
    fn compare(mut self, offline: &Answer) -> Live {
        let chosen = offline.chosen.as_ref().filter(|_| offline.verdict == Verdict::Forward);
        let same_end = chosen.map(|chosen| chosen.backend) == self.backend
            && chosen.map(|chosen| chosen.forwarding) == self.forwarding;
        let same_verdict = match offline.verdict {
            // The kernel leaves to the host what a proxy must read.
            Verdict::Proxy | Verdict::Respond => self.verdict == Verdict::Pass,
            verdict => self.verdict == verdict,
        };
        self.agrees = same_verdict && same_end;
        self
    }
}
