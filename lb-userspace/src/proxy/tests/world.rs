//! A proxy on a thread, endpoints on others, and snapshots to set it up with.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::super::{Material, Options, Phase, Prepared, Statistics, Worker, serve};
use crate::snapshot::*;

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A worker on a thread of its own, for as long as this lives.
pub struct Proxy {
    pub address: SocketAddr,
    prepared: watch::Sender<Arc<Prepared>>,
    phase: watch::Sender<Phase>,
    pub statistics: Arc<Statistics>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// `snapshot` gets the port that the proxy listens on.
    pub fn new(snapshot: impl FnOnce(u16) -> Snapshot) -> Proxy {
        Proxy::with(Options::default(), snapshot)
    }

    pub fn with(options: Options, snapshot: impl FnOnce(u16) -> Snapshot) -> Proxy {
        Proxy::whole(options, Material::default(), snapshot)
    }

    pub fn whole(options: Options, material: Material, snapshot: impl FnOnce(u16) -> Snapshot) -> Proxy {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let first = Arc::new(Prepared::new(Arc::new(snapshot(address.port())), material, None).unwrap().0);
        let (prepared, watched) = watch::channel(first);
        let statistics = Arc::new(Statistics::default());
        let (phase, watched_phase) = watch::channel(Phase::Serving);
        let worker = Worker {
            sockets: vec![socket],
            prepared: watched,
            phase: watched_phase,
            options: Arc::new(options),
            statistics: statistics.clone(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, serve(worker)).unwrap();
        });
        Proxy { address, prepared, phase, statistics, thread: Some(thread) }
    }

    pub fn adopt(&self, snapshot: Snapshot) {
        let old = self.prepared.borrow().clone();
        let new = Prepared::new(Arc::new(snapshot), Material::default(), Some(&old)).unwrap().0;
        self.prepared.send_replace(Arc::new(new));
    }

    pub fn drain(&self, patience: Duration) {
        self.phase.send_replace(Phase::Draining { deadline: Instant::now() + patience });
    }

    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().unwrap().is_finished()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One request on a connection of its own; all that comes back until the end.
    pub fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// `GET` of a path for a host, closing afterwards.
    pub fn get(&self, host: &str, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// An endpoint that runs a function for each connection and remembers what it was sent.
pub struct Peer {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicUsize>,
}

impl Peer {
    pub fn new(serve: impl Fn(TcpStream, &Mutex<Vec<String>>) + Send + Sync + 'static) -> Peer {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (seen_there, counted) = (seen.clone(), connections.clone());
        let serve = Arc::new(serve);
        // Ends with the test's process.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = socket.accept() {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let (serve, seen) = (serve.clone(), seen_there.clone());
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Peer { address, seen, connections }
    }

    /// Answers every request on a connection with the same bytes.
    pub fn answering(answer: &str) -> Peer {
        let answer = answer.to_owned();
        Peer::new(move |mut stream, seen| {
            while let Some(head) = read_request(&mut stream) {
                seen.lock().unwrap().push(head);
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    pub fn ok(body: &str) -> Peer {
        Peer::answering(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Head and body of a request with `Content-Length`, or chunks as they are. `None`: the connection ended.
pub fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        all.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&all).to_lowercase();
    if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        let mut body = vec![0; length.trim().parse().unwrap()];
        stream.read_exact(&mut body).ok()?;
        all.extend(body);
    } else if head.contains("transfer-encoding: chunked") {
        while !all.ends_with(b"0\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            all.push(byte[0]);
        }
    }
    Some(String::from_utf8_lossy(&all).into_owned())
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}")).1
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn place() -> Place {
    Place { file: "a.yaml".into(), line: 1 }
}

pub fn name(host: &str) -> ClusterName {
    ClusterName { host: host.into(), subset: None, port: 80 }
}

pub fn destination(host: &str, weight: u32) -> Destination {
    Destination {
        cluster: name(host),
        weight,
        broken: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        place: place(),
    }
}

pub fn cluster(host: &str, endpoints: &[SocketAddr]) -> Cluster {
    let endpoint = |address: &SocketAddr| Endpoint {
        address: EndpointAddress::Ip(*address),
        weight: 1,
        locality: Locality::default(),
        health: Health::Ready,
        identity: None,
        labels: Default::default(),
    };
    Cluster {
        name: name(host),
        endpoints: endpoints.iter().map(endpoint).collect(),
        protocol: UpstreamProtocol::Http1,
        balancer: Balancer::RoundRobin,
        locality: LocalityPolicy::Off,
        warmup: None,
        pool: Pool::default(),
        outlier_detection: None,
        tls: None,
        proxy_protocol: None,
        tunnel: None,
        place: place(),
        policy: None,
    }
}

pub fn to(destinations: Vec<Destination>) -> Outcome {
    Outcome::Forward {
        split: Split { destinations },
        rewrite: Rewrite::default(),
        timeout: None,
        retry: None,
        mirrors: Vec::new(),
    }
}

/// A route for every path that begins so.
pub fn route(prefix: &str, outcome: Outcome) -> Route {
    let uri = UriMatch { text: StringMatch::Prefix(prefix.into()), case: Case::Sensitive };
    Route {
        source: RuleSource {
            kind: RouteKind::Http,
            virtual_service: Some("default/web".into()),
            index: 0,
            item: None,
            name: None,
            place: place(),
        },
        condition: Condition { uri: Some(uri), ..Condition::default() },
        action: Arc::new(Action { outcome, fault: None, cors: None, response_headers: Vec::new() }),
    }
}

/// One plain listener with one virtual host.
pub fn snapshot(port: u16, host: &str, routes: Vec<Route>, clusters: Vec<Cluster>) -> Snapshot {
    let host = VirtualHost { name: host.into(), https_redirect: HttpsRedirect::Off, routes, place: place() };
    let chain = Chain {
        names: vec!["*".into()],
        tls: None,
        content: Content::Http(vec![host]),
        gateway: "default/gateway".into(),
        place: place(),
    };
    let listener = Listener {
        name: "gateway default/gateway".into(),
        addresses: Addresses::Own,
        port: port.try_into().unwrap(),
        gateway: "default/gateway".into(),
        chains: vec![chain],
        place: place(),
    };
    let mut clusters: Vec<_> = clusters.into_iter().map(Arc::new).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    Snapshot { revision: 1, listeners: vec![listener], clusters, ..Snapshot::default() }
}

/// Everything for `a.example` to one endpoint.
pub fn simple(port: u16, endpoint: SocketAddr) -> Snapshot {
    snapshot(port, "a.example", vec![route("/", to(vec![destination("web", 1)]))], vec![cluster("web", &[endpoint])])
}
