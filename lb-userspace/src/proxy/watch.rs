//! Time-outs and orders of client connections, without a timer for each: a connection notes what it does and since when, and
//! the worker looks at all of them twice a second.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Instant,
};

use super::{Limits, heads::Heads};

/// All connections of one worker.
#[derive(Default)]
pub(super) struct Watches {
    all: RefCell<Vec<Rc<Watch>>>,
    live: Rc<Cell<usize>>,
}

/// What is known of one connection while it lives.
pub(super) struct Watch {
    doing: Cell<Doing>,
    since: Cell<Instant>,
    /// Bytes that came since then.
    received: Cell<u64>,
    /// Requests that have begun and whose responses have not ended.
    requests: Cell<u32>,
    /// Whether a body is being waited for: its client must not be too slow.
    uploading: Cell<u32>,
    order: Cell<Order>,
    waker: RefCell<Option<Waker>>,
    is_over: Cell<bool>,
    heads: RefCell<Heads>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Handshake, PROXY header or the head of a request: limited by `head_time`.
    Head,
    /// Between requests.
    Idle,
    Requests,
    /// Bytes that have limits of their own.
    Raw,
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    None,
    /// To end when its requests have.
    Drain,
    /// To end now.
    Close,
}

/// Keeps a connection among the watched ones.
pub(super) struct Watched {
    pub watch: Rc<Watch>,
    live: Rc<Cell<usize>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.is_over.set(true);
        self.live.set(self.live.get() - 1);
    }
}

impl Watches {
    pub fn add(&self) -> Watched {
        let watch = Rc::new(Watch {
            doing: Cell::new(Doing::Head),
            since: Cell::new(Instant::now()),
            received: Cell::new(0),
            requests: Cell::new(0),
            uploading: Cell::new(0),
            order: Cell::new(Order::None),
            waker: RefCell::new(None),
            is_over: Cell::new(false),
            heads: RefCell::default(),
        });
        self.all.borrow_mut().push(watch.clone());
        self.live.set(self.live.get() + 1);
        Watched { watch, live: self.live.clone() }
    }

    pub fn len(&self) -> usize {
        self.live.get()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn order_all(&self, order: Order) {
        self.all.borrow().iter().for_each(|watch| watch.give(order));
    }

    /// Forgets those that are over, and ends those that are too slow.
    pub fn tick(&self, limits: &Limits) {
        let mut all = self.all.borrow_mut();
        all.retain(|watch| !watch.is_over.get());
        let room = 1_024.max(all.len() * 2);
        all.shrink_to(room);
        let now = Instant::now();
        for watch in all.iter() {
            if watch.is_too_slow(now, limits) {
                watch.give(Order::Close);
            }
        }
    }
}

impl Watch {
    pub fn begin(&self, doing: Doing) {
        if self.doing.get() != doing {
            self.doing.set(doing);
            self.since.set(Instant::now());
            self.received.set(0);
        }
    }

    /// Bytes came from the client.
    pub fn received(&self, bytes: u64, is_multiplexed: bool) {
        self.received.set(self.received.get() + bytes);
        if self.doing.get() == Doing::Idle && !is_multiplexed && bytes > 0 {
            self.begin(Doing::Head);
        }
    }

    /// Bytes of HTTP/1.1 came, which are a head's where no request is under way.
    pub fn sees(&self, bytes: &[u8]) {
        if self.requests.get() == 0 {
            self.heads.borrow_mut().see(bytes);
        }
    }

    /// Whether the head of the request that begins names both a length and a transfer coding.
    pub fn names_both(&self) -> bool {
        self.heads.borrow_mut().names_both()
    }

    pub fn request_begins(&self) {
        self.requests.set(self.requests.get() + 1);
        self.begin(Doing::Requests);
    }

    pub fn request_ends(&self) {
        self.requests.set(self.requests.get() - 1);
        if self.requests.get() == 0 && self.doing.get() == Doing::Requests {
            self.begin(Doing::Idle);
        }
    }

    /// A body is being read, or no more.
    pub fn upload_begins(&self) {
        if self.uploading.get() == 0 {
            self.since.set(Instant::now());
            self.received.set(0);
        }
        self.uploading.set(self.uploading.get() + 1);
    }

    pub fn upload_ends(&self) {
        self.uploading.set(self.uploading.get() - 1);
    }

    /// The order in force; the task is woken when it changes.
    pub fn order(&self, context: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(known) => known.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        self.order.get()
    }

    pub fn give(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn is_too_slow(&self, now: Instant, limits: &Limits) -> bool {
        let elapsed = now.saturating_duration_since(self.since.get());
        match self.doing.get() {
            Doing::Head => elapsed >= limits.head_time,
            Doing::Idle => elapsed >= limits.idle_time,
            Doing::Raw => false,
            Doing::Requests => {
                if self.uploading.get() == 0 || elapsed < limits.head_time {
                    return false;
                }
                let is_slow = self.received.get() < limits.body_rate.saturating_mul(elapsed.as_secs());
                self.since.set(now);
                self.received.set(0);
                is_slow
            }
        }
    }
}
