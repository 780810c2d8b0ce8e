//! One worker: its sockets, its clock, its view of the revision in force, and its end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch, task::spawn_local};

use super::{
    Options, Prepared, Statistics, client,
    cluster::Cluster,
    record::KnownSeries,
    splits::{Counters, SplitName},
    watch::{Order, Watches},
};
use crate::{
    router::Draw,
    snapshot::{ClusterName, RuleSource, Split},
};

/// How often time-outs are looked at: none of them is finer than this.
const TICK: Duration = Duration::from_millis(500);

/// What one worker needs. All of it is used by one thread, and nothing in it by another worker but what is shared.
pub struct Worker {
    /// Listening sockets, whatever they are bound to: which listener of the snapshot a connection is for is told by its own
    /// local address and port.
    pub sockets: Vec<net::TcpListener>,
    /// The revision in force; requests that come after a change are routed by the new one, also on old connections.
    pub prepared: watch::Receiver<Arc<Prepared>>,
    pub phase: watch::Receiver<Phase>,
    pub options: Arc<Options>,
    /// This worker's own; read by whoever keeps the other end.
    pub statistics: Arc<Statistics>,
}

/// What a worker is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    /// Nothing new is accepted. Clients are told to go (`Connection: close`, GOAWAY) as their requests end; what is still open
    /// at the deadline is closed.
    Draining {
        deadline: Instant,
    },
}

/// What all tasks of a worker share.
pub(super) struct Shared {
    pub options: Arc<Options>,
    pub watches: Watches,
    pub draining: Cell<bool>,
    pub statistics: Arc<Statistics>,
    without_destination: KnownSeries,
    log: RefCell<String>,
    current: RefCell<Rc<Revision>>,
    clusters: RefCell<HashMap<ClusterName, Rc<Cluster>>>,
    chance: Cell<u64>,
}

/// A revision as one worker sees it: with the state of the clusters that it names.
pub(super) struct Revision {
    pub prepared: Arc<Prepared>,
    /// By the address of the destination's name in the snapshot, which lives as long as this.
    clusters: RefCell<HashMap<usize, Option<Rc<Cluster>>>>,
    /// By the address of a split in the snapshot. `None`: of no VirtualService.
    splits: RefCell<HashMap<usize, Option<Counters>>>,
}

/// Runs a worker until its phase is [`Phase::Draining`] and its last connection has ended, or the deadline is over. To be
/// awaited in a [`tokio::task::LocalSet`] on a runtime of one thread with I/O and time enabled.
///
/// # Errors
/// A socket that cannot be used without blocking.
pub async fn serve(worker: Worker) -> std::io::Result<()> {
    let Worker { sockets, mut prepared, mut phase, options, statistics } = worker;
    let first = prepared.borrow_and_update().clone();
    let shared = Rc::new(Shared::new(first, options, statistics));
    let mut accepting = Vec::with_capacity(sockets.len());
    for socket in sockets {
        socket.set_nonblocking(true)?;
        // Connections inherit it (tcp(7)); a system call less for each.
        socket2::SockRef::from(&socket).set_tcp_nodelay(true)?;
        let socket = TcpListener::from_std(socket)?;
        accepting.push(spawn_local(accept(shared.clone(), socket)));
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut deadline = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                shared.tick();
                if let Some(deadline) = deadline {
                    let is_over = Instant::now() >= deadline;
                    if is_over {
                        shared.watches.order_all(Order::Close);
                    }
                    if is_over || shared.watches.is_empty() {
                        shared.flush();
                        return Ok(());
                    }
                }
            }
            // When whoever fed this worker is gone, the last revision stays in force.
            Ok(()) = prepared.changed() => {
                let next = prepared.borrow_and_update().clone();
                shared.adopt(next);
            }
            Ok(()) = phase.changed() => {
                if let Phase::Draining { deadline: at } = *phase.borrow_and_update() {
                    deadline = Some(at);
                    accepting.drain(..).for_each(|task| task.abort());
                    shared.draining.set(true);
                    shared.watches.order_all(Order::Drain);
                    tick.reset_immediately();
                }
            }
        }
    }
}

/// Accepts for ever. Errors of one connection are nobody's; those of the process (descriptors, memory) are waited out.
async fn accept(shared: Rc<Shared>, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                if shared.watches.len() < shared.options.limits.connections {
                    client::begin(&shared, stream, peer);
                }
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; waiting 100 ms");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Shared {
    fn new(prepared: Arc<Prepared>, options: Arc<Options>, statistics: Arc<Statistics>) -> Shared {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), prepared.revision());
        Shared {
            options,
            watches: Watches::default(),
            draining: Cell::new(false),
            statistics,
            without_destination: KnownSeries::default(),
            log: RefCell::default(),
            current: RefCell::new(Rc::new(Revision::new(prepared))),
            clusters: RefCell::default(),
            chance: Cell::new(seed | 1),
        }
    }

    pub fn revision(&self) -> Rc<Revision> {
        self.current.borrow().clone()
    }

    /// A random number; xorshift64*, which needs no lock and no system call.
    pub fn draw(&self) -> Draw {
        let mut state = self.chance.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.chance.set(state);
        Draw(state.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// Puts a revision in force. Clusters that are as they were keep everything; of others those endpoints that stay.
    fn adopt(&self, prepared: Arc<Prepared>) {
        let router = prepared.router();
        self.statistics.splits.keep(router.snapshot());
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|name, cluster| match router.cluster(name) {
            None => false,
            Some(now) => {
                let origination = prepared.origination(name).cloned();
                if !cluster.is(now, &origination) {
                    *cluster = Rc::new(Cluster::after(cluster, now.clone(), origination));
                }
                true
            }
        });
        *self.current.borrow_mut() = Rc::new(Revision::new(prepared));
    }

    /// Series of requests that went nowhere.
    pub fn without_destination(&self) -> &KnownSeries {
        &self.without_destination
    }

    /// Adds lines to the access log.
    pub fn log(&self, write: impl FnOnce(&mut String)) {
        /// Bytes that are kept at most before they are handed on.
        const FULL: usize = 32 * 1_024;
        write(&mut self.log.borrow_mut());
        if self.log.borrow().len() >= FULL {
            self.flush();
        }
    }

    pub fn flush(&self) {
        let mut log = self.log.borrow_mut();
        if !log.is_empty() {
            (self.options.log_to.0)(&log);
            log.clear();
        }
    }

    fn tick(&self) {
        self.flush();
        self.watches.tick(&self.options.limits);
        for cluster in self.clusters.borrow().values() {
            cluster.tick();
        }
        let readings = self.clusters.borrow();
        let readings = readings.iter().map(|(name, cluster)| (name.clone(), cluster.reading()));
        self.statistics.publish(readings.filter(|(_, reading)| !reading.is_idle()).collect());
    }
}

impl Revision {
    fn new(prepared: Arc<Prepared>) -> Revision {
        Revision { prepared, clusters: RefCell::default(), splits: RefCell::default() }
    }

    /// Counts a draw of a split, which must be one of this revision's snapshot.
    pub fn count(&self, shared: &Shared, source: &RuleSource, split: &Split, at: usize) {
        let mut known = self.splits.borrow_mut();
        let find = || SplitName::of(source, split).map(|name| shared.statistics.splits.counters(name));
        let counters = known.entry(std::ptr::from_ref(split) as usize).or_insert_with(find);
        if let Some(one) = counters.as_ref().and_then(|counters| counters.get(at)) {
            one.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The state of the cluster that a name, which must be one of this revision's snapshot, stands for.
    pub fn cluster(&self, shared: &Shared, name: &ClusterName) -> Option<Rc<Cluster>> {
        let key = std::ptr::from_ref(name) as usize;
        if let Some(known) = self.clusters.borrow().get(&key) {
            return known.clone();
        }
        let found = self.prepared.router().cluster(name).map(|policy| {
            let mut all = shared.clusters.borrow_mut();
            let new = || {
                let origination = self.prepared.origination(name).cloned();
                Rc::new(Cluster::new(policy.clone(), origination, shared.options.clone()))
            };
            all.entry(name.clone()).or_insert_with(new).clone()
        });
        self.clusters.borrow_mut().insert(key, found.clone());
        found
    }
}
