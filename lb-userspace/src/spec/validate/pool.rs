//! Limits of connections, and passive health checks.

use super::check::Check;
use crate::{
    finding::code,
    spec::{
        istio::{ConnectionPool, H2UpgradePolicy, HttpPool, OutlierDetection, TcpPool},
        value::Duration,
    },
};

pub fn connection_pool(check: &mut Check<'_>, path: &str, pool: &ConnectionPool) {
    if pool.tcp.is_none() && pool.http.is_none() {
        check.refuse(path, "the block is empty", "Add `tcp` or `http`, or remove it.");
    }
    if let Some(tcp) = &pool.tcp {
        tcp_pool(check, &format!("{path}.tcp"), tcp);
    }
    if let Some(http) = &pool.http {
        http_pool(check, &format!("{path}.http"), http);
    }
}

fn tcp_pool(check: &mut Check<'_>, path: &str, tcp: &TcpPool) {
    check.not_negative(format!("{path}.maxConnections"), tcp.max_connections);
    check.duration(format!("{path}.connectTimeout"), tcp.connect_timeout);
    check.duration(format!("{path}.maxConnectionDuration"), tcp.max_connection_duration);
    // Less than a millisecond counts as 0, which never ends a connection for idleness.
    let off = |timeout: &Duration| timeout.nanoseconds().abs() < Duration::MILLISECOND.nanoseconds();
    check.duration(format!("{path}.idleTimeout"), tcp.idle_timeout.filter(|timeout| !off(timeout)));
    if let Some(keepalive) = &tcp.tcp_keepalive {
        check.duration(format!("{path}.tcpKeepalive.time"), keepalive.time);
        check.duration(format!("{path}.tcpKeepalive.interval"), keepalive.interval);
    }
}

fn http_pool(check: &mut Check<'_>, path: &str, http: &HttpPool) {
    let numbers = [
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    for (field, number) in numbers {
        check.not_negative(format!("{path}.{field}"), number);
    }
    check.duration(format!("{path}.idleTimeout"), http.idle_timeout);
    if http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) && http.use_client_protocol {
        let message = "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other";
        check.refuse(format!("{path}.useClientProtocol"), message, "Remove one of the two.");
    }
    let Some(keepalive) = &http.http2_keep_alive else {
        return;
    };
    let path = format!("{path}.http2KeepAlive");
    for (field, duration) in [("interval", keepalive.interval), ("timeout", keepalive.timeout)] {
        match duration {
            None => check.refuse(&path, format!("{field} is missing"), "Write both interval and timeout."),
            Some(_) => check.duration(format!("{path}.{field}"), duration),
        }
    }
}

pub fn outlier_detection(check: &mut Check<'_>, path: &str, outlier: &OutlierDetection) {
    check.duration(format!("{path}.baseEjectionTime"), outlier.base_ejection_time);
    check.duration(format!("{path}.interval"), outlier.interval);
    check.percent(format!("{path}.maxEjectionPercent"), outlier.max_ejection_percent.into());
    check.percent(format!("{path}.minHealthPercent"), outlier.min_health_percent.into());
    if outlier.consecutive_errors.is_some_and(|errors| errors != 0) {
        let message = "consecutiveErrors is deprecated and no longer read";
        let remedy = "Use consecutive5xxErrors or consecutiveGatewayErrors.";
        check.warn_as(code::DEPRECATED, format!("{path}.consecutiveErrors"), message, remedy);
    }
    let local = outlier.consecutive_local_origin_failures.is_some_and(|failures| failures > 0);
    if local && !outlier.split_external_local_origin_errors {
        let message = "consecutiveLocalOriginFailures needs splitExternalLocalOriginErrors";
        let path = format!("{path}.consecutiveLocalOriginFailures");
        check.refuse(path, message, "Set splitExternalLocalOriginErrors: true.");
    }
    for (at, status) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(status) {
            let path = format!("{path}.outlierDetectionHttpErrorCodes[{at}]");
            check.refuse(path, format!("{status} is not an HTTP status"), "Statuses go from 100 to 599.");
        }
    }
    if outlier.consecutive_5xx_errors == Some(0) && outlier.consecutive_gateway_errors.unwrap_or(0) == 0 && !local {
        let message = "with consecutive5xxErrors 0 and no other counter no endpoint is ever ejected";
        check.idle(format!("{path}.consecutive5xxErrors"), message, "Count something, or remove outlierDetection.");
    }
}
