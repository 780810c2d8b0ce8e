//! What a route does with a request on its way, in words: headers, time limits, retries, copies.

use super::proxied::why;
use crate::snapshot::{Action, Destination, HeaderAction, HeaderOperation, Mirror, Outcome, Retry, RetryLocalities};

/// One step for each thing that is done to a request for `destination`, in the order in which it is done.
pub(super) fn steps(action: &Action, destination: &Destination) -> Vec<String> {
    let mut steps = Vec::new();
    steps.extend(headers("request", &destination.request_headers));
    let Outcome::Forward { timeout, retry, mirrors, .. } = &action.outcome else { return steps };
    steps.extend(timeout.map(|timeout| format!("timeout: 504 after {timeout:?}, all tries together")));
    steps.extend(retry.as_ref().map(retries));
    steps.extend(mirrors.iter().map(copy));
    steps.extend(headers("response", &destination.response_headers));
    steps
}

/// Operations on the headers of answers that the proxy makes itself.
pub(super) fn own_response(action: &Action) -> Option<String> {
    headers("response", &action.response_headers)
}

fn headers(of: &str, operations: &[HeaderOperation]) -> Option<String> {
    let one = |operation: &HeaderOperation| match &operation.action {
        HeaderAction::Remove => format!("{} removed", operation.name),
        HeaderAction::Set(text) => format!("{} set to `{text}`", operation.name),
        HeaderAction::Add(text) => format!("{} added with `{text}`", operation.name),
    };
    let all: Vec<String> = operations.iter().map(one).collect();
    (!all.is_empty()).then(|| format!("{of} headers: {}", all.join(", ")))
}

fn retries(retry: &Retry) -> String {
    let statuses = retry.statuses.iter().map(u16::to_string);
    let on: Vec<String> = retry.conditions.iter().map(ToString::to_string).chain(statuses).collect();
    let time = retry.per_try_timeout.map(|time| format!(", {time:?} each")).unwrap_or_default();
    let place = match retry.localities {
        RetryLocalities::Same => "",
        RetryLocalities::Any => ", in other localities too",
    };
    format!("tried again up to {} times{time}{place}, on {}", retry.attempts, on.join(", "))
}

fn copy(mirror: &Mirror) -> String {
    let share = f64::from(mirror.share.0) / 10_000.0;
    let Mirror { cluster, place, broken, .. } = mirror;
    match broken {
        None => format!("mirror: {share} % of the requests are copied to {cluster} ({place})"),
        Some(broken) => format!("mirror: copies for {cluster} ({place}) are lost, {}", why(*broken)),
    }
}
