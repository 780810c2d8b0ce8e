//! The body of a request on its way to an endpoint: streamed, and kept as far as another try may need it.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

use super::watch::Watch;

/// One try's view of a body.
pub(super) enum Upload {
    Empty,
    Body {
        source: Rc<Source>,
        at: usize,
    },
    /// What a mirror gets, as the real one is read.
    Copy {
        parts: mpsc::Receiver<Copied>,
        size: SizeHint,
    },
}

/// A part of a copied body. One that ends without [`Copied::End`] is not whole.
pub(super) enum Copied {
    Data(Bytes),
    End,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Parts that a mirror may be behind the real request; one that is slower is given up.
const BEHIND: usize = 64;

/// A request's body, of which at most one try reads at a time.
pub(super) struct Source {
    incoming: RefCell<Incoming>,
    /// What has been read, as long as it may be read again.
    kept: RefCell<Kept>,
    /// Bytes read from the client.
    read: Rc<Cell<u64>>,
    is_ended: Cell<bool>,
    copies: RefCell<Vec<mpsc::Sender<Copied>>>,
    watch: Rc<Watch>,
}

struct Kept {
    data: Vec<Bytes>,
    /// Bytes that may still be kept; `None`: something was given up, and no other try is possible once one has read.
    room: Option<usize>,
}

impl Source {
    /// `room`: how many bytes are kept for other tries.
    pub fn new(incoming: Incoming, watch: Rc<Watch>, read: Rc<Cell<u64>>, room: usize) -> Rc<Source> {
        watch.upload_begins();
        let kept = RefCell::new(Kept { data: Vec::new(), room: Some(room).filter(|room| *room > 0) });
        let is_ended = Cell::new(false);
        let copies = RefCell::default();
        Rc::new(Source { incoming: RefCell::new(incoming), kept, read, is_ended, copies, watch })
    }

    /// Whether a try can have the whole body once more.
    pub fn is_whole(&self) -> bool {
        self.read.get() == 0 && !self.is_ended.get() || self.kept.borrow().room.is_some()
    }
}

impl Source {
    fn copy(&self, part: impl Fn() -> Copied) {
        if !self.copies.borrow().is_empty() {
            self.copies.borrow_mut().retain(|copy| copy.try_send(part()).is_ok());
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.watch.upload_ends();
    }
}

impl Upload {
    pub fn new(source: Option<&Rc<Source>>) -> Upload {
        source.map_or(Upload::Empty, |source| Upload::Body { source: source.clone(), at: 0 })
    }

    /// For a mirror; to be made before anything is read.
    pub fn copy_of(source: &Rc<Source>) -> Upload {
        let (sender, parts) = mpsc::channel(BEHIND);
        source.copies.borrow_mut().push(sender);
        Upload::Copy { parts, size: source.incoming.borrow().size_hint() }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let (source, at) = match &mut *self {
            Upload::Empty => return Poll::Ready(None),
            Upload::Body { source, at } => (source, at),
            Upload::Copy { parts, .. } => {
                return parts.poll_recv(cx).map(|part| match part {
                    Some(Copied::Data(data)) => Some(Ok(Frame::data(data))),
                    Some(Copied::End) => None,
                    None => Some(Err("the request that is copied did not end well".into())),
                });
            }
        };
        if let Some(data) = source.kept.borrow().data.get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if source.is_ended.get() {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut *source.incoming.borrow_mut()).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let mut kept = source.kept.borrow_mut();
                if let Some(data) = frame.data_ref() {
                    source.read.set(source.read.get() + data.len() as u64);
                    source.copy(|| Copied::Data(data.clone()));
                    kept.room = kept.room.and_then(|room| room.checked_sub(data.len()));
                    match kept.room {
                        Some(_) => {
                            kept.data.push(data.clone());
                            *at += 1;
                        }
                        None => kept.data.clear(),
                    }
                } else {
                    // Trailers are not kept.
                    kept.room = None;
                }
            }
            Poll::Ready(None) => {
                source.is_ended.set(true);
                source.copy(|| Copied::End);
            }
            Poll::Ready(Some(Err(_))) => source.kept.borrow_mut().room = None,
            Poll::Pending => {}
        }
        if let Poll::Ready(Some(Ok(_))) = &polled
            && source.incoming.borrow().is_end_stream()
        {
            // Nobody asks again for the end of a body whose length is known.
            source.is_ended.set(true);
            source.copy(|| Copied::End);
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Copy { .. } => false,
            Upload::Body { source, at } => {
                *at >= source.kept.borrow().data.len()
                    && (source.is_ended.get() || source.incoming.borrow().is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Copy { size, .. } => *size,
            // Of what is not kept; a try that begins anew has read nothing of its own.
            Upload::Body { source, at } => {
                let kept: u64 = source.kept.borrow().data.iter().skip(*at).map(|data| data.len() as u64).sum();
                let rest = source.incoming.borrow().size_hint();
                match rest.exact() {
                    Some(rest) => SizeHint::with_exact(rest + kept),
                    None => SizeHint::default(),
                }
            }
        }
    }
}
