//! What one worker has counted, readable from any thread: Istio's metrics, so that dashboards and Kiali work as they are.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    reply::Flag,
    splits::{PoolReading, SplitName, Splits},
};
use crate::snapshot::ClusterName;

/// Upper bounds of the duration's buckets in milliseconds: those of Istio's histograms.
pub const BOUNDS: [u64; 19] = [
    1,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
    60_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    u64::MAX,
];

/// Counters of one worker, one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Taken when a series is first seen, and by readers; not on the way of a request.
    series: Mutex<HashMap<Labels, Arc<Series>>>,
    pub(super) connections_opened: AtomicU64,
    pub(super) connections_closed: AtomicU64,
    pub(super) splits: Splits,
    /// As they were at the last look.
    pools: Mutex<Vec<(ClusterName, PoolReading)>>,
}

/// What tells series apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Labels {
    /// `None`: no destination was found.
    pub destination: Option<ClusterName>,
    pub protocol: Protocol,
    /// 0 for connections that are not HTTP.
    pub status: u16,
    /// Envoy's letters, `-` for none.
    pub flag: String,
    /// gRPC's status, where the response's head or trailers have one.
    pub grpc_status: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Http,
    Grpc,
    Tcp,
}

#[derive(Debug, Default)]
pub(super) struct Series {
    count: AtomicU64,
    milliseconds: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
    received: AtomicU64,
    sent: AtomicU64,
    /// Only of connections that are not HTTP.
    opened: AtomicU64,
}

/// A reading.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub series: Vec<(Labels, Reading)>,
    pub connections_opened: u64,
    pub connections_closed: u64,
    /// Requests and connections by rule and destination, since the rule's weights last changed.
    pub splits: Vec<(SplitName, Vec<u64>)>,
    /// Those to which something is under way, or that have ejected endpoints.
    pub pools: Vec<(ClusterName, PoolReading)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    pub count: u64,
    /// Sum of all durations.
    pub milliseconds: u64,
    /// As [`BOUNDS`], each for itself.
    pub buckets: Vec<u64>,
    /// Bytes of bodies from clients, and to them.
    pub received: u64,
    pub sent: u64,
    /// Connections that are not HTTP; `count` has those that have ended.
    pub opened: u64,
}

impl Series {
    pub fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub fn add(&self, duration: Duration, received: u64, sent: u64) {
        let time = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len() - 1);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.milliseconds.fetch_add(time, Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.received.fetch_add(received, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }
}

impl Statistics {
    pub(super) fn series(&self, labels: Labels) -> Arc<Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner).entry(labels).or_default().clone()
    }

    /// Tells readers what is under way now.
    pub(super) fn publish(&self, pools: Vec<(ClusterName, PoolReading)>) {
        *self.pools.lock().unwrap_or_else(PoisonError::into_inner) = pools;
    }

    pub fn read(&self) -> Figures {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = |(labels, series): (&Labels, &Arc<Series>)| {
            let reading = Reading {
                count: load(&series.count),
                milliseconds: load(&series.milliseconds),
                buckets: series.buckets.iter().map(load).collect(),
                received: load(&series.received),
                sent: load(&series.sent),
                opened: load(&series.opened),
            };
            (labels.clone(), reading)
        };
        let mut series: Vec<_> = series.iter().map(reading).collect();
        series.sort_by(|a, b| a.0.cmp(&b.0));
        Figures {
            series,
            connections_opened: load(&self.connections_opened),
            connections_closed: load(&self.connections_closed),
            splits: self.splits.read(),
            pools: self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Figures {
    /// The sum of several workers.
    pub fn merge(all: impl IntoIterator<Item = Figures>) -> Figures {
        let mut sum = Figures::default();
        let mut series: BTreeMap<Labels, Reading> = BTreeMap::new();
        let mut splits: BTreeMap<SplitName, Vec<u64>> = BTreeMap::new();
        let mut pools: BTreeMap<ClusterName, PoolReading> = BTreeMap::new();
        for one in all {
            sum.connections_opened += one.connections_opened;
            sum.connections_closed += one.connections_closed;
            for (labels, reading) in one.series {
                let total = series.entry(labels).or_default();
                total.count += reading.count;
                total.milliseconds += reading.milliseconds;
                total.received += reading.received;
                total.sent += reading.sent;
                total.opened += reading.opened;
                total.buckets.resize(BOUNDS.len(), 0);
                total.buckets.iter_mut().zip(&reading.buckets).for_each(|(total, one)| *total += one);
            }
            for (name, counts) in one.splits {
                let total = splits.entry(name).or_default();
                total.resize(counts.len(), 0);
                total.iter_mut().zip(counts).for_each(|(total, one)| *total += one);
            }
            for (name, pool) in one.pools {
                pools.entry(name).or_default().add(&pool);
            }
        }
        sum.series = series.into_iter().collect();
        sum.splits = splits.into_iter().collect();
        sum.pools = pools.into_iter().collect();
        sum
    }

    /// In the text format of OpenMetrics, with Istio's names. `namespace` is the proxy's own.
    pub fn prometheus(&self, namespace: &str) -> String {
        let mut text = String::new();
        let series: Vec<_> =
            self.series.iter().map(|(labels, reading)| (labels.protocol, labels.text(namespace), reading)).collect();
        let of = |tcp: bool| series.iter().filter(move |one| (one.0 == Protocol::Tcp) == tcp);
        requests(&mut text, &of(false).map(|(_, labels, reading)| (labels.as_str(), *reading)).collect::<Vec<_>>());
        connections(&mut text, &of(true).map(|(_, labels, reading)| (labels.as_str(), *reading)).collect::<Vec<_>>());
        let live = self.connections_opened - self.connections_closed.min(self.connections_opened);
        let _ = writeln!(text, "# TYPE meltemi_proxy_connections_opened counter");
        let _ = writeln!(text, "meltemi_proxy_connections_opened_total {}", self.connections_opened);
        let _ = writeln!(text, "# TYPE meltemi_proxy_connections gauge\nmeltemi_proxy_connections {live}");
        text
    }
}

type Labelled<'f> = (&'f str, &'f Reading);

fn requests(text: &mut String, all: &[Labelled<'_>]) {
    counter(text, "istio_requests", all, |reading| reading.count);
    let name = "istio_request_duration_milliseconds";
    let _ = writeln!(text, "# TYPE {name} histogram");
    for (labels, reading) in all {
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(&reading.buckets) {
            below += count;
            let bound = if *bound == u64::MAX { "+Inf".to_owned() } else { bound.to_string() };
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(text, "{name}_sum{{{labels}}} {}", reading.milliseconds);
        let _ = writeln!(text, "{name}_count{{{labels}}} {}", reading.count);
    }
    sizes(text, "istio_request_bytes", all, |reading| reading.received);
    sizes(text, "istio_response_bytes", all, |reading| reading.sent);
}

fn connections(text: &mut String, all: &[Labelled<'_>]) {
    counter(text, "istio_tcp_connections_opened", all, |reading| reading.opened);
    counter(text, "istio_tcp_connections_closed", all, |reading| reading.count);
    counter(text, "istio_tcp_received_bytes", all, |reading| reading.received);
    counter(text, "istio_tcp_sent_bytes", all, |reading| reading.sent);
}

fn counter(text: &mut String, name: &str, all: &[Labelled<'_>], value: impl Fn(&Reading) -> u64) {
    let _ = writeln!(text, "# TYPE {name} counter");
    for (labels, reading) in all {
        let _ = writeln!(text, "{name}_total{{{labels}}} {}", value(reading));
    }
}

/// Sum and count, as of Istio's histograms; buckets are not counted.
fn sizes(text: &mut String, name: &str, all: &[Labelled<'_>], value: impl Fn(&Reading) -> u64) {
    let _ = writeln!(text, "# TYPE {name} summary");
    for (labels, reading) in all {
        let _ = writeln!(text, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", value(reading), reading.count);
    }
}

impl Labels {
    pub(super) fn new(
        destination: Option<ClusterName>,
        protocol: Protocol,
        status: u16,
        flag: Flag,
        grpc_status: Option<u16>,
    ) -> Labels {
        Labels { destination, protocol, status, flag: flag.letters().to_owned(), grpc_status }
    }

    /// Istio's standard labels, as far as a gateway knows them; it reports as one, under its own name.
    fn text(&self, namespace: &str) -> String {
        let mut text = String::from("reporter=\"source\",source_workload=\"meltemi\"");
        let mut add = |name: &str, value: &str| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(text, ",{name}=\"{value}\"");
        };
        let (host, subset) = match &self.destination {
            Some(name) => (&*name.host, name.subset.as_deref().unwrap_or("unknown")),
            None => ("unknown", "unknown"),
        };
        add("source_workload_namespace", namespace);
        add("source_canonical_service", "meltemi");
        add("source_canonical_revision", "latest");
        // `name.namespace.svc.…`; other hosts belong to no namespace.
        let mut labels = host.split('.');
        let (first, second, third) = (labels.next(), labels.next(), labels.next());
        let (name, namespace) = match (first, second, third) {
            (Some(name), Some(namespace), Some("svc")) => (name, namespace),
            _ => (host, "unknown"),
        };
        add("destination_service", host);
        add("destination_service_name", name);
        add("destination_service_namespace", namespace);
        add("destination_workload_namespace", namespace);
        add("destination_canonical_service", name);
        add("destination_canonical_revision", subset);
        add("destination_version", subset);
        let protocol = match self.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
            Protocol::Tcp => "tcp",
        };
        add("request_protocol", protocol);
        if self.protocol != Protocol::Tcp {
            add("response_code", &self.status.to_string());
        }
        add("response_flags", &self.flag);
        if let Some(status) = self.grpc_status {
            add("grpc_response_status", &status.to_string());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(status: u16) -> Labels {
        let host = "reviews.default.svc.cluster.local".into();
        let name = ClusterName { host, subset: Some("v1".into()), port: 9_080 };
        Labels::new(Some(name), Protocol::Http, status, Flag::None, None)
    }

    #[test]
    fn readings_of_workers_add_up_to_istios_metrics() {
        let (one, other) = (Statistics::default(), Statistics::default());
        one.series(labels(200)).add(Duration::from_millis(3), 5, 7);
        other.series(labels(200)).add(Duration::from_millis(30), 1, 1);
        other.series(labels(503)).add(Duration::from_secs(7_200), 0, 9);
        let figures = Figures::merge([one.read(), other.read()]);
        let text = figures.prometheus("edge");
        let known = "reporter=\"source\",source_workload=\"meltemi\",source_workload_namespace=\"edge\",\
                     source_canonical_service=\"meltemi\",source_canonical_revision=\"latest\",\
                     destination_service=\"reviews.default.svc.cluster.local\",\
                     destination_service_name=\"reviews\",destination_service_namespace=\"default\",\
                     destination_workload_namespace=\"default\",destination_canonical_service=\"reviews\",\
                     destination_canonical_revision=\"v1\",\
                     destination_version=\"v1\",request_protocol=\"http\"";
        for line in [
            format!("istio_requests_total{{{known},response_code=\"200\",response_flags=\"-\"}} 2"),
            format!("istio_requests_total{{{known},response_code=\"503\",response_flags=\"-\"}} 1"),
            format!(
                "istio_request_duration_milliseconds_bucket{{{known},response_code=\"200\",response_flags=\"-\",le=\"5\"}} 1"
            ),
            format!(
                "istio_request_duration_milliseconds_bucket{{{known},response_code=\"503\",response_flags=\"-\",le=\"+Inf\"}} 1"
            ),
            format!("istio_request_duration_milliseconds_sum{{{known},response_code=\"200\",response_flags=\"-\"}} 33"),
            format!("istio_response_bytes_sum{{{known},response_code=\"200\",response_flags=\"-\"}} 8"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
