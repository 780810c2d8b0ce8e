//! What is remembered of a TCP flow's life, and how long. Pure: the clock is an argument.

use crate::{table::Side, wire::tcp};

/// Which ends have closed. Both entries of a flow carry the same value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct State(u8);

impl State {
    pub const OPEN: State = State(0);
    const CLIENT_FIN: u8 = 1;
    const BACKEND_FIN: u8 = 2;
    const RESET: u8 = 4;
    /// The agent ended the flow: its backend is gone.
    const ENDED: u8 = 8;

    /// The state after a segment with `flags` from `side` (RFC 9293 section 3.6).
    /// A segment without RST after a RST shows that the RST was not believed (RFC 5961), so it is forgotten.
    #[inline(always)]
    pub const fn step(self, side: Side, flags: u8) -> Self {
        if flags & tcp::RST != 0 {
            return Self(self.0 | Self::RESET);
        }
        let fin = match side {
            Side::Client => Self::CLIENT_FIN,
            Side::Backend => Self::BACKEND_FIN,
        };
        let state = self.0 & !Self::RESET;
        if flags & tcp::FIN != 0 { Self(state | fin) } else { Self(state) }
    }

    #[inline(always)]
    pub const fn ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }

    /// No segment but SYN, FIN or RST changes it.
    #[inline(always)]
    pub const fn steady(self) -> bool {
        self.0 & (Self::RESET | Self::ENDED) == 0
    }

    pub const fn end(self) -> Self {
        Self(self.0 | Self::ENDED)
    }

    /// Both ends are done: a SYN on this tuple starts a new flow.
    #[inline(always)]
    pub const fn closed(self) -> bool {
        self.0 & (Self::RESET | Self::ENDED) != 0
            || self.0 & (Self::CLIENT_FIN | Self::BACKEND_FIN) == Self::CLIENT_FIN | Self::BACKEND_FIN
    }

    /// Both ends said so themselves; a reset may have been forged.
    #[inline(always)]
    pub const fn finished(self) -> bool {
        self.0 == Self::CLIENT_FIN | Self::BACKEND_FIN
    }

    pub const fn phase(self) -> Phase {
        match (self.closed(), self.0 & (Self::CLIENT_FIN | Self::BACKEND_FIN)) {
            (true, _) => Phase::Closed,
            (false, 0) => Phase::Established,
            (false, _) => Phase::HalfClosed,
        }
    }

    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u8 {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Established,
    HalfClosed,
    Closed,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Established => "established",
            Phase::HalfClosed => "half-closed",
            Phase::Closed => "closed",
        }
    }
}

/// Seconds without a packet after which an entry may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// RFC 5382 REQ-5: at least 2 hours and 4 minutes.
    pub established: u32,
    pub half_closed: u32,
    /// As long as the peers' TIME_WAIT, so that a source port is not taken up again too soon.
    pub closed: u32,
}

impl Timeouts {
    pub const DEFAULT: Timeouts = Timeouts { established: 7_440, half_closed: 3_600, closed: 60 };

    pub const fn of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Established => self.established,
            Phase::HalfClosed => self.half_closed,
            Phase::Closed => self.closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_closes_when_both_ends_sent_fin() {
        let state = State::OPEN.step(Side::Client, tcp::FIN | tcp::ACK_FLAG);
        assert_eq!(state.phase(), Phase::HalfClosed);
        assert_eq!(state.step(Side::Client, tcp::FIN).phase(), Phase::HalfClosed, "a repeated FIN is still one");
        assert_eq!(state.step(Side::Backend, tcp::FIN).phase(), Phase::Closed);
    }

    #[test]
    fn a_reset_that_nobody_believed_is_forgotten() {
        let state = State::OPEN.step(Side::Backend, tcp::RST);
        assert!(state.closed());
        assert_eq!(state.step(Side::Client, tcp::ACK_FLAG).phase(), Phase::Established);
    }

    #[test]
    fn an_ended_flow_stays_ended() {
        assert!(State::OPEN.end().step(Side::Client, tcp::ACK_FLAG).ended());
    }
}
