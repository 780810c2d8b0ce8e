//! What holds for the proxy as a whole, whatever the configuration says.

use std::{collections::BTreeMap, fmt, io::Write, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::snapshot::Locality;

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub limits: Limits,
    /// Where this proxy runs.
    pub locality: Locality,
    /// Its own, for failover by labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// How many proxies in front of this one are trusted to have set `X-Forwarded-For` (`gatewayTopology.numTrustedProxies`).
    /// 0: what clients say of themselves is dropped.
    pub trusted_hops: u32,
    /// Balancers in front that begin each connection with a PROXY header. Nobody else is believed one.
    pub proxy_protocol_from: Vec<IpNet>,
    pub access_log: AccessLog,
    pub log_to: LogTo,
}

/// A line for each request and connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    #[default]
    Off,
    /// Istio's default format, with the rule and its place at the end.
    Text,
    Json,
}

/// Takes whole lines, many at a time; called by every worker's thread, at least twice a second if there is anything.
#[derive(Clone)]
pub struct LogTo(pub Arc<dyn Fn(&str) + Send + Sync>);

/// Standard output. Where nobody reads it any more, the lines are lost and nothing else.
impl Default for LogTo {
    fn default() -> LogTo {
        LogTo(Arc::new(|lines| _ = std::io::stdout().lock().write_all(lines.as_bytes())))
    }
}

impl fmt::Debug for LogTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogTo")
    }
}

/// Limits on clients, by default those of Envoy's guide for edge proxies.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a request to the end of its head; also for a TLS handshake and a PROXY header.
    pub head_time: Duration,
    /// Without any request on a connection.
    pub idle_time: Duration,
    /// A request's body must bring as much per second, seen over [`Limits::head_time`]. 0: no limit.
    pub body_rate: u64,
    pub headers: usize,
    /// All of a request's head, bytes.
    pub head_size: usize,
    /// Request target, bytes.
    pub target_size: usize,
    /// Of one HTTP/2 connection.
    pub streams: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    /// Of one worker; what is above is closed at once.
    pub connections: usize,
    /// Bytes of a request's body that are kept for another try.
    pub replay: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(3_600),
            body_rate: 240,
            headers: 100,
            head_size: 60 * 1_024,
            target_size: 8 * 1_024,
            streams: 100,
            stream_window: 64 * 1_024,
            connection_window: 1_024 * 1_024,
            connections: 50_000,
            replay: 64 * 1_024,
        }
    }
}
