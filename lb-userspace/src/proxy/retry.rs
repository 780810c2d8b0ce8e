//! Whether a request is tried again: Istio's `retries`, in Envoy's words. Pure.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::{
    router::Draw,
    snapshot::{self, RetryBudget},
};

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// With a response, of which these are the status and what gRPC says in its head.
    Answered(StatusCode, Option<u16>),
    /// No connection came about.
    Unconnected,
    /// The endpoint said that it has not begun (HTTP/2 REFUSED_STREAM).
    Refused,
    /// The connection or stream ended before the response's head.
    Reset,
    TimedOut,
}

impl Try {
    pub fn answered(status: StatusCode, headers: &HeaderMap) -> Try {
        let grpc = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
        Try::Answered(status, grpc)
    }
}

/// Whether the policy wants another try after this one.
pub(super) fn is_wanted(retry: &snapshot::Retry, ended: Try) -> bool {
    let by_status = matches!(ended, Try::Answered(status, _) if retry.statuses.contains(&status.as_u16()));
    by_status || retry.conditions.iter().any(|condition| fits(condition, ended))
}

/// Whether anything but a failure to connect can be tried again: if so, the request must be kept.
pub(super) fn needs_copy(retry: &snapshot::Retry, is_grpc: bool, is_http2: bool) -> bool {
    let needs = |condition: &str| match condition {
        "connect-failure" => false,
        "refused-stream" => is_http2,
        "cancelled" | "deadline-exceeded" | "internal" | "resource-exhausted" | "unavailable" => is_grpc,
        "retriable-status-codes" => false,
        _ => true,
    };
    !retry.statuses.is_empty() || retry.conditions.iter().any(|condition| needs(condition))
}

fn fits(condition: &str, ended: Try) -> bool {
    let code = match ended {
        Try::Answered(status, _) => Some(status.as_u16()),
        _ => None,
    };
    match condition {
        "5xx" => code.is_none_or(|code| code >= 500),
        "gateway-error" => code.is_none_or(|code| matches!(code, 502..=504)),
        "reset" => code.is_none(),
        "reset-before-request" | "connect-failure" => ended == Try::Unconnected,
        "refused-stream" => ended == Try::Refused,
        "retriable-4xx" => code == Some(409),
        "cancelled" => grpc(ended) == Some(1),
        "deadline-exceeded" => grpc(ended) == Some(4),
        "resource-exhausted" => grpc(ended) == Some(8),
        "internal" => grpc(ended) == Some(13),
        "unavailable" => grpc(ended) == Some(14),
        _ => false,
    }
}

fn grpc(ended: Try) -> Option<u16> {
    match ended {
        Try::Answered(_, grpc) => grpc,
        _ => None,
    }
}

/// The pause before retry number `n` (from 0): exponential with full jitter, at most ten times the base.
pub(super) fn pause(base: Duration, n: u32, draw: Draw) -> Duration {
    let most = base.saturating_mul(10).min(base.saturating_mul(1 << n.min(8)));
    most.mul_f64((draw.0 >> 11) as f64 / (1_u64 << 53) as f64)
}

/// How many retries a budget allows at one time, with so many requests under way.
pub(super) fn budget(budget: &RetryBudget, active: u32) -> u32 {
    ((f64::from(active) * budget.percent / 100.0) as u32).max(budget.min_concurrency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{PreviousHosts, RetryLocalities};

    fn retry(conditions: &[&str], statuses: &[u16]) -> snapshot::Retry {
        snapshot::Retry {
            attempts: 2,
            per_try_timeout: None,
            conditions: conditions.iter().map(|text| (*text).into()).collect(),
            statuses: statuses.to_vec(),
            backoff: Duration::from_millis(25),
            localities: RetryLocalities::Same,
            previous_hosts: PreviousHosts::Avoided,
        }
    }

    const ENDINGS: [Try; 8] = [
        Try::Answered(StatusCode::OK, None),
        Try::Answered(StatusCode::CONFLICT, None),
        Try::Answered(StatusCode::SERVICE_UNAVAILABLE, None),
        Try::Answered(StatusCode::OK, Some(14)),
        Try::Unconnected,
        Try::Refused,
        Try::Reset,
        Try::TimedOut,
    ];

    #[test]
    fn conditions() {
        for (conditions, statuses, wanted) in [
            (&["5xx"][..], &[][..], [0, 0, 1, 0, 1, 1, 1, 1]),
            (&["gateway-error"], &[], [0, 0, 1, 0, 1, 1, 1, 1]),
            (&["reset"], &[], [0, 0, 0, 0, 1, 1, 1, 1]),
            (&["connect-failure", "refused-stream"], &[], [0, 0, 0, 0, 1, 1, 0, 0]),
            (&["unavailable", "cancelled"], &[], [0, 0, 0, 1, 0, 0, 0, 0]),
            (&["retriable-4xx"], &[], [0, 1, 0, 0, 0, 0, 0, 0]),
            (&["retriable-status-codes"], &[503], [0, 0, 1, 0, 0, 0, 0, 0]),
            (&[], &[], [0; 8]),
        ] {
            let retry = retry(conditions, statuses);
            assert_eq!(ENDINGS.map(|ended| u8::from(is_wanted(&retry, ended))), wanted, "{conditions:?}");
        }
    }

    #[test]
    fn the_default_keeps_no_copy_of_a_plain_request() {
        let default =
            retry(&["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"], &[]);
        assert!(!needs_copy(&default, false, false));
        assert!(needs_copy(&default, true, false) && needs_copy(&default, false, true));
        assert!(needs_copy(&retry(&["connect-failure"], &[503]), false, false));
    }

    #[test]
    fn pauses_grow_to_ten_times() {
        let base = Duration::from_millis(25);
        let longest = [0, 1, 2, 3, 4, 40].map(|n| pause(base, n, Draw(u64::MAX)).as_millis());
        assert_eq!(longest, [25, 50, 100, 200, 250, 250]);
        assert_eq!(pause(base, 3, Draw(0)), Duration::ZERO);
    }

    #[test]
    fn a_budget_has_a_floor() {
        let budget_of = RetryBudget { percent: 20.0, min_concurrency: 3, interval: Duration::ZERO };
        assert_eq!([0, 10, 100].map(|active| budget(&budget_of, active)), [3, 3, 20]);
    }
}
