//! What an http route does to requests: fields of `HTTPRoute` with their defaults.

use std::{sync::Arc, time::Duration};

use super::condition::{regex, text};
use crate::{
    snapshot::{
        Abort, AuthorityRewrite, Cors, CorsCredentials, Fault, Fraction, HeaderAction, HeaderOperation, PathRewrite,
        PreviousHosts, Redirect, RedirectPath, RedirectPort, Respond, Retry, RetryLocalities, Rewrite, StringMatch,
        UnmatchedPreflight,
    },
    spec::{
        istio::{self, HeaderOperations, HttpRoute, UnmatchedPreflights},
        value::{GRPC_STATUS, Percent},
    },
};

pub fn redirect(written: &istio::Redirect) -> Redirect {
    let shared = |text: &Option<String>| text.as_deref().map(Arc::from);
    let path = match (shared(&written.uri), shared(&written.prefix_rewrite)) {
        (Some(uri), _) => RedirectPath::Replaced(uri),
        (None, Some(prefix)) => RedirectPath::Prefix(prefix),
        (None, None) => RedirectPath::Kept,
    };
    let port = match (written.port.and_then(|port| u16::try_from(port).ok()), written.derive_port) {
        (Some(port), _) if port > 0 => Some(RedirectPort::Number(port)),
        (_, Some(istio::DerivePort::FromRequestPort)) => Some(RedirectPort::OfListener),
        (_, Some(istio::DerivePort::FromProtocolDefault)) => Some(RedirectPort::OfScheme),
        (_, None) => None,
    };
    let status = match written.redirect_code.unwrap_or(0) {
        0 => 301,
        code => u16::try_from(code).unwrap_or(301),
    };
    Redirect { status, scheme: shared(&written.scheme), authority: shared(&written.authority), port, path }
}

pub fn respond(written: &istio::DirectResponse) -> Respond {
    let body = written.body.as_ref().map_or(&[][..], |body| body.as_bytes());
    Respond { status: u16::try_from(written.status).unwrap_or(200), body: body.into() }
}

pub fn rewrite(written: Option<&istio::Rewrite>) -> Rewrite {
    let Some(written) = written else {
        return Rewrite::default();
    };
    let path = match (&written.uri, &written.uri_regex_rewrite) {
        (Some(uri), _) => PathRewrite::Uri(uri.as_str().into()),
        (None, Some(written)) => {
            PathRewrite::Regex { pattern: regex(&written.r#match), substitution: written.rewrite.as_str().into() }
        }
        (None, None) => PathRewrite::Kept,
    };
    let authority =
        written.authority.as_deref().map_or(AuthorityRewrite::Kept, |text| AuthorityRewrite::Set(text.into()));
    Rewrite { path, authority }
}

/// What is tried again where the route does not say.
const CONDITIONS: [&str; 5] = ["connect-failure", "refused-stream", "unavailable", "cancelled", BY_STATUS];
const BY_STATUS: &str = "retriable-status-codes";
const ATTEMPTS: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(25);

/// `None`: nothing is tried again.
pub fn retry(written: Option<&istio::Retries>) -> Option<Retry> {
    let default = istio::Retries { attempts: ATTEMPTS as i32, ..istio::Retries::default() };
    let written = written.unwrap_or(&default);
    let attempts = u32::try_from(written.attempts).ok().filter(|attempts| *attempts > 0)?;
    let words = written.retry_on.as_deref().unwrap_or_default().split(',').map(str::trim);
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let statuses: Vec<u16> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let mut conditions: Vec<Arc<str>> =
        words.iter().filter(|word| word.parse::<u16>().is_err()).map(|word| word.to_ascii_lowercase().into()).collect();
    if words.is_empty() {
        conditions = CONDITIONS.map(Arc::from).to_vec();
    } else if !statuses.is_empty() && !conditions.iter().any(|word| &**word == BY_STATUS) {
        conditions.push(BY_STATUS.into());
    }
    Some(Retry {
        attempts,
        per_try_timeout: written.per_try_timeout.map(|time| time.to_std()).filter(|time| !time.is_zero()),
        conditions,
        statuses,
        backoff: written.backoff.map_or(BACKOFF, |time| time.to_std()),
        localities: match written.retry_remote_localities {
            Some(true) => RetryLocalities::Any,
            Some(false) | None => RetryLocalities::Same,
        },
        previous_hosts: match written.retry_ignore_previous_hosts {
            Some(false) => PreviousHosts::Allowed,
            Some(true) | None => PreviousHosts::Avoided,
        },
    })
}

/// Without a percentage nothing happens.
pub fn fault(written: &istio::Fault) -> Fault {
    let share = |percent: Option<Percent>| Fraction::of_percent(percent.map_or(0.0, |percent| percent.value));
    let delay = written.delay.as_ref().and_then(|delay| {
        let old = delay.percent.map(|percent| Percent { value: f64::from(percent) });
        Some((share(delay.percentage.or(old)), delay.fixed_delay?.to_std()))
    });
    let abort = written.abort.as_ref().and_then(|abort| {
        let grpc = || GRPC_STATUS.iter().position(|name| Some(*name) == abort.grpc_status.as_deref());
        let status = abort.http_status.and_then(|status| u16::try_from(status).ok()).map(Abort::Http);
        let kind = status.or_else(|| grpc().map(|number| Abort::Grpc(number as u8)))?;
        Some((share(abort.percentage), kind))
    });
    Fault { delay, abort }
}

pub fn cors(written: &istio::CorsPolicy) -> Cors {
    let old = written.allow_origin.iter().map(|origin| match origin.as_str() {
        "*" => StringMatch::Regex(".*".into()),
        origin => StringMatch::Exact(origin.into()),
    });
    let any = |origin| match text(origin) {
        Some(StringMatch::Exact(star)) if &*star == "*" => StringMatch::Regex(".*".into()),
        Some(text) => text,
        None => StringMatch::Regex(".*".into()),
    };
    Cors {
        origins: written.allow_origins.iter().map(any).chain(old).collect(),
        methods: super::texts(&written.allow_methods),
        headers: super::texts(&written.allow_headers),
        expose: super::texts(&written.expose_headers),
        max_age: written.max_age.map(|age| age.to_std()),
        credentials: match written.allow_credentials {
            Some(true) => CorsCredentials::Allowed,
            Some(false) | None => CorsCredentials::Unsaid,
        },
        unmatched: match written.unmatched_preflights {
            Some(UnmatchedPreflights::Ignore) => UnmatchedPreflight::Ignore,
            Some(UnmatchedPreflights::Forward | UnmatchedPreflights::Unspecified) | None => UnmatchedPreflight::Forward,
        },
    }
}

/// How many percent of requests each mirror gets a copy of: `mirror` with its percentages old and new, and `mirrors`.
pub fn mirrors(route: &HttpRoute) -> Vec<(&istio::Destination, Fraction, String)> {
    let share = |percent: Option<Percent>| Fraction::of_percent(percent.map_or(100.0, |percent| percent.value));
    let old = route.mirror_percent.map(|percent| Percent { value: f64::from(percent) });
    let single = route.mirror.iter().map(|one| (one, share(route.mirror_percentage.or(old)), "mirror".to_owned()));
    let listed = route.mirrors.iter().enumerate().filter_map(|(at, mirror)| {
        Some((mirror.destination.as_ref()?, share(mirror.percentage), format!("mirrors[{at}]")))
    });
    single.chain(listed).collect()
}

/// Blocks of operations, one after the other: all removals first, then each block's sets and additions, by name.
pub fn operations(blocks: &[Option<&HeaderOperations>]) -> Vec<HeaderOperation> {
    let blocks: Vec<&HeaderOperations> = blocks.iter().copied().flatten().collect();
    let step = |name: &str, action| HeaderOperation { name: header_name(name), action };
    let removals = blocks.iter().flat_map(|block| &block.remove).map(|name| step(name, HeaderAction::Remove));
    let writes = blocks.iter().flat_map(|block| {
        let set = block.set.iter().map(|(name, value)| step(name, HeaderAction::Set(value.as_str().into())));
        set.chain(block.add.iter().map(|(name, value)| step(name, HeaderAction::Add(value.as_str().into()))))
    });
    removals.chain(writes).collect()
}

/// The two names of a request's authority are one here.
fn header_name(name: &str) -> Arc<str> {
    match name.to_ascii_lowercase() {
        host if host == "host" => ":authority".into(),
        name => name.into(),
    }
}
