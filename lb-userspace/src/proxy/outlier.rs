//! Passive health: endpoints that fail too often get no requests for a while, with Envoy's arithmetic as Istio sets it up.
//! The clock is an argument.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::snapshot::OutlierDetection;

/// Envoy's `max_ejection_time`, unless one ejection alone is longer.
const LONGEST: Duration = Duration::from_secs(300);

/// What one endpoint has done lately.
#[derive(Debug, Default)]
pub(super) struct Outlier {
    errors: Cell<u32>,
    gateway_errors: Cell<u32>,
    local_errors: Cell<u32>,
    ejected: Cell<Option<Instant>>,
    /// How often in a row it was ejected; one less for each interval spent in service.
    times: Cell<u32>,
}

/// How a request ended, as far as the endpoint is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Status(u16),
    /// No connection, or none that lasted until the response.
    Local,
    /// Nothing came in time.
    TimedOut,
}

impl Outlier {
    pub fn is_ejected(&self) -> bool {
        self.ejected.get().is_some()
    }

    /// Whether the endpoint has now failed often enough to be ejected.
    pub fn note(&self, policy: &OutlierDetection, ending: Ending) -> bool {
        let (status, is_local) = match ending {
            Ending::Status(status) => (status, false),
            Ending::Local => (503, true),
            Ending::TimedOut => (504, true),
        };
        if let (true, Some(most)) = (is_local, policy.consecutive_local_errors) {
            return counts(&self.local_errors, most, true);
        }
        if !is_local {
            self.local_errors.set(0);
        }
        let is_error = match &policy.error_codes[..] {
            [] => status >= 500,
            codes => is_local || codes.contains(&status),
        };
        let errors = counts(&self.errors, policy.consecutive_5xx, is_error);
        let is_gateway_error = is_error && matches!(status, 502..=504);
        counts(&self.gateway_errors, policy.consecutive_gateway_errors, is_gateway_error) || errors
    }

    pub fn eject(&self, now: Instant) {
        self.ejected.set(Some(now));
        self.times.set(self.times.get() + 1);
    }

    /// To be called once an interval: whether an ejected endpoint is in service again.
    pub fn interval(&self, policy: &OutlierDetection, now: Instant) -> bool {
        let Some(since) = self.ejected.get() else {
            self.times.set(self.times.get().saturating_sub(1));
            return false;
        };
        let time =
            policy.base_ejection_time.saturating_mul(self.times.get()).min(LONGEST.max(policy.base_ejection_time));
        if now.saturating_duration_since(since) < time {
            return false;
        }
        self.ejected.set(None);
        for count in [&self.errors, &self.gateway_errors, &self.local_errors] {
            count.set(0);
        }
        true
    }
}

/// Counts errors in a row; whether there are `most` now. Zero is off.
fn counts(count: &Cell<u32>, most: u32, is_error: bool) -> bool {
    count.set(if is_error { count.get() + 1 } else { 0 });
    let is_reached = most > 0 && count.get() >= most;
    if is_reached {
        count.set(0);
    }
    is_reached
}

/// Whether one more endpoint may be ejected: never more than the policy's share of all (Envoy since 1.31: not even a first).
pub(super) fn has_room(policy: &OutlierDetection, ejected: usize, all: usize) -> bool {
    (ejected + 1) * 100 <= policy.max_ejection_percent as usize * all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection { consecutive_5xx: 3, ..OutlierDetection::default() }
    }

    #[test]
    fn errors_in_a_row_eject_and_a_success_begins_anew() {
        let outlier = Outlier::default();
        let note = |ending| outlier.note(&policy(), ending);
        assert_eq!([500, 503, 200, 500, 500].map(|status| note(Ending::Status(status))), [false; 5]);
        assert!(note(Ending::Local));
        assert_eq!([404, 501].map(|status| note(Ending::Status(status))), [false; 2]);
    }

    #[test]
    fn gateway_errors_and_local_errors_count_apart() {
        let policy = OutlierDetection {
            consecutive_5xx: 0,
            consecutive_gateway_errors: 2,
            consecutive_local_errors: Some(3),
            ..OutlierDetection::default()
        };
        let outlier = Outlier::default();
        let endings = [Ending::Status(500), Ending::Status(502), Ending::Local, Ending::TimedOut, Ending::Status(503)];
        assert_eq!(endings.map(|ending| outlier.note(&policy, ending)), [false, false, false, false, true]);
        assert_eq!([Ending::Local; 3].map(|ending| outlier.note(&policy, ending)), [false, false, true]);
    }

    #[test]
    fn own_codes_replace_the_five_hundreds() {
        let policy = OutlierDetection { error_codes: vec![404], consecutive_5xx: 1, ..OutlierDetection::default() };
        let outlier = Outlier::default();
        assert!(!outlier.note(&policy, Ending::Status(500)));
        assert!(outlier.note(&policy, Ending::Status(404)));
    }

    #[test]
    fn each_ejection_in_a_row_lasts_longer_up_to_five_minutes() {
        let (outlier, policy, start) = (Outlier::default(), policy(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        outlier.eject(at(0));
        assert!(!outlier.interval(&policy, at(29)) && outlier.interval(&policy, at(30)));
        outlier.eject(at(31));
        assert!(!outlier.interval(&policy, at(90)) && outlier.interval(&policy, at(91)));
        assert!(!outlier.interval(&policy, at(101)) && !outlier.interval(&policy, at(111)));
        outlier.eject(at(112));
        assert!(outlier.interval(&policy, at(142)));
        for _ in 0..20 {
            outlier.eject(at(200));
        }
        assert!(!outlier.interval(&policy, at(499)) && outlier.interval(&policy, at(500)));
    }

    #[test]
    fn ten_percent_of_nine_is_none() {
        let policy = policy();
        assert!(!has_room(&policy, 0, 9) && has_room(&policy, 0, 10) && !has_room(&policy, 1, 10));
    }
}
