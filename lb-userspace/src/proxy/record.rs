//! What is written down of a request when it is over: counters always, a line of the access log where one is wanted.

use std::{
    cell::Cell,
    fmt::Write,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts};
use serde_json::json;

use super::{
    AccessLog,
    client::Client,
    download::Under,
    forwarded,
    reply::Flag,
    statistics::{Labels, Protocol, Series},
};
use crate::snapshot::{ClusterName, RuleSource};

/// A request, from its first byte to its last.
pub(super) struct Record {
    pub client: Rc<Client>,
    begin: Instant,
    protocol: Protocol,
    pub status: StatusCode,
    pub flag: Flag,
    /// Why the proxy answered itself.
    pub reason: &'static str,
    pub destination: Option<ClusterName>,
    /// Bytes of the request's body.
    pub received: Rc<Cell<u64>>,
    pub sent: u64,
    pub grpc_status: Option<u16>,
    details: Option<Box<Details>>,
}

/// Only for the log.
struct Details {
    start: SystemTime,
    method: Method,
    uri: Uri,
    version: Version,
    authority: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    service_time: Option<Duration>,
    rule: Option<RuleSource>,
}

impl Record {
    pub fn new(client: Rc<Client>, parts: &Parts, is_grpc: bool) -> Record {
        let details = (client.shared.options.access_log != AccessLog::Off).then(|| {
            let host = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            Box::new(Details {
                start: SystemTime::now(),
                method: parts.method.clone(),
                uri: parts.uri.clone(),
                version: parts.version,
                authority: host.or(parts.headers.get(header::HOST).cloned()),
                forwarded_for: None,
                user_agent: parts.headers.get(header::USER_AGENT).cloned(),
                request_id: None,
                service_time: None,
                rule: None,
            })
        });
        let protocol = if is_grpc { Protocol::Grpc } else { Protocol::Http };
        Record {
            client,
            begin: Instant::now(),
            protocol,
            status: StatusCode::OK,
            flag: Flag::None,
            reason: "-",
            destination: None,
            received: Rc::default(),
            sent: 0,
            grpc_status: None,
            details,
        }
    }

    /// What the proxy has added to the request.
    pub fn stamped(&mut self, headers: &HeaderMap) {
        static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
        if let Some(details) = &mut self.details {
            details.forwarded_for = headers.get(&X_FORWARDED_FOR).cloned();
            details.request_id = headers.get(&forwarded::X_REQUEST_ID).cloned();
        }
    }

    pub fn routed(&mut self, rule: &RuleSource) {
        if let Some(details) = &mut self.details {
            details.rule = Some(rule.clone());
        }
    }

    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status;
        self.trailed(headers);
        let begin = self.begin;
        if let Some(details) = &mut self.details {
            details.service_time = Some(begin.elapsed());
        }
    }

    /// A head or trailers with gRPC's status.
    pub fn trailed(&mut self, headers: &HeaderMap) {
        if self.protocol == Protocol::Grpc
            && let Some(status) = headers.get("grpc-status")
        {
            self.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    /// The request is over.
    pub fn end(&self, under: Option<&Under>) {
        let key =
            Key { protocol: self.protocol, status: self.status.as_u16(), flag: self.flag, grpc: self.grpc_status };
        let shared = &self.client.shared;
        let own = shared.without_destination();
        let series = under.map_or(own, |under| under.cluster.series());
        let destination = || under.map(|under| under.cluster.policy().name.clone()).or(self.destination.clone());
        let find = || shared.statistics.series(key.labels(destination()));
        let series = if under.is_none() && self.destination.is_some() { find() } else { series.get(key, find) };
        series.add(self.begin.elapsed(), self.received.get(), self.sent);
        if let Some(details) = &self.details {
            self.write(details, under);
        }
    }

    fn write(&self, details: &Details, under: Option<&Under>) {
        let shared = &self.client.shared;
        let options = shared.options.clone();
        shared.log(|text| match options.access_log {
            AccessLog::Off => {}
            AccessLog::Text => self.text(details, under, text),
            AccessLog::Json => self.json(details, under, text),
        });
    }

    /// Istio's default format, and the rule behind it.
    fn text(&self, details: &Details, under: Option<&Under>, text: &mut String) {
        let value = |value: &Option<HeaderValue>| quoted(value.as_ref().and_then(|value| value.to_str().ok()));
        let target = details.uri.path_and_query().map_or("-", |target| target.as_str());
        let duration = self.begin.elapsed().as_millis();
        let service = details.service_time.filter(|_| under.is_some());
        let service = service.map_or("-".to_owned(), |time| time.as_millis().to_string());
        let reason = self.reason.replace(' ', "_");
        let _ = write!(
            text,
            "[{}] \"{} {} {}\" {} {} {reason} - \"-\" {} {} {duration} {service} {} {} {} {} \"{}\" {} - {} {} {} {}",
            timestamp(details.start),
            details.method,
            target.replace('"', "%22"),
            forwarded::version(details.version),
            self.status.as_u16(),
            self.flag.letters(),
            self.received.get(),
            self.sent,
            value(&details.forwarded_for),
            value(&details.user_agent),
            value(&details.request_id),
            value(&details.authority),
            under.map_or("-", |under| &under.endpoint.text),
            self.cluster(under),
            self.client.local,
            self.client.peer,
            self.client.sni.as_deref().unwrap_or("-"),
            details.rule.as_ref().and_then(|rule| rule.name.as_deref()).unwrap_or("-"),
        );
        let _ = match &details.rule {
            Some(rule) => writeln!(text, " \"{rule}\""),
            None => writeln!(text, " \"-\""),
        };
    }

    fn json(&self, details: &Details, under: Option<&Under>, text: &mut String) {
        let value =
            |value: &Option<HeaderValue>| value.as_ref().and_then(|value| value.to_str().ok().map(str::to_owned));
        let line = json!({
            "start_time": timestamp(details.start),
            "method": details.method.as_str(),
            "path": details.uri.path_and_query().map(|target| target.as_str()),
            "protocol": forwarded::version(details.version),
            "response_code": self.status.as_u16(),
            "response_flags": self.flag.letters(),
            "response_code_details": self.reason,
            "bytes_received": self.received.get(),
            "bytes_sent": self.sent,
            "duration": self.begin.elapsed().as_millis() as u64,
            "upstream_service_time": details.service_time.filter(|_| under.is_some()).map(|time| time.as_millis() as u64),
            "x_forwarded_for": value(&details.forwarded_for),
            "user_agent": value(&details.user_agent),
            "request_id": value(&details.request_id),
            "authority": value(&details.authority),
            "upstream_host": under.map(|under| &under.endpoint.text),
            "upstream_cluster": self.cluster(under),
            "downstream_local_address": self.client.local.to_string(),
            "downstream_remote_address": self.client.peer.to_string(),
            "requested_server_name": self.client.sni,
            "route_name": details.rule.as_ref().and_then(|rule| rule.name.as_deref()),
            "rule": details.rule.as_ref().map(ToString::to_string),
        });
        let _ = writeln!(text, "{line}");
    }

    fn cluster(&self, under: Option<&Under>) -> String {
        let name = under.map(|under| &under.cluster.policy().name).or(self.destination.as_ref());
        name.map_or("-".to_owned(), |name| {
            // As Istio names clusters.
            format!("outbound|{}|{}|{}", name.port, name.subset.as_deref().unwrap_or_default(), name.host)
        })
    }
}

fn quoted(text: Option<&str>) -> String {
    format!("\"{}\"", text.unwrap_or("-").replace('"', "'"))
}

/// RFC 3339 with milliseconds, in UTC.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01, so that a leap day is the last of its year (H. Hinnant, "chrono-compatible low-level date
    // algorithms").
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Series of one destination, found without a lock once they are known.
#[derive(Default)]
pub(super) struct KnownSeries {
    all: std::cell::RefCell<Vec<(Key, std::sync::Arc<Series>)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    protocol: Protocol,
    status: u16,
    flag: Flag,
    grpc: Option<u16>,
}

impl Key {
    pub fn tcp(flag: Flag) -> Key {
        Key { protocol: Protocol::Tcp, status: 0, flag, grpc: None }
    }

    pub fn labels(self, destination: Option<ClusterName>) -> Labels {
        Labels::new(destination, self.protocol, self.status, self.flag, self.grpc)
    }
}

impl KnownSeries {
    pub fn get(&self, key: Key, find: impl FnOnce() -> std::sync::Arc<Series>) -> std::sync::Arc<Series> {
        if let Some((_, series)) = self.all.borrow().iter().find(|(known, _)| *known == key) {
            return series.clone();
        }
        let series = find();
        self.all.borrow_mut().push((key, series.clone()));
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
