//! The body of a response on its way to the client. When it ends, however it ends, the connection to the endpoint goes back to
//! the pool or is closed, and the request is over.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use super::{
    cluster::{Cluster, Counted},
    record::Record,
    reply::Flag,
    upstream::{Endpoint, Lease, Stream2},
};

pub(super) struct Download {
    content: Content,
    /// When it must be over.
    deadline: Option<Pin<Box<Sleep>>>,
    /// What ends with it.
    tail: Option<Box<Tail>>,
    /// Whether its end, or an error, has been seen.
    is_over: bool,
}

enum Content {
    Empty,
    Full(Bytes),
    Http1 { body: Incoming, lease: Option<Lease> },
    Http2 { body: Incoming, _stream: Stream2 },
}

/// Kept until the response is over.
pub(super) struct Tail {
    pub record: Record,
    pub upstream: Option<Under>,
}

/// A request under way to an endpoint.
pub(super) struct Under {
    pub cluster: Rc<Cluster>,
    pub endpoint: Rc<Endpoint>,
    pub _request: Counted,
}

impl Under {
    pub fn new(cluster: Rc<Cluster>, endpoint: Rc<Endpoint>, request: Counted) -> Under {
        endpoint.active.set(endpoint.active.get() + 1);
        Under { cluster, endpoint, _request: request }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        self.endpoint.active.set(self.endpoint.active.get() - 1);
    }
}

impl Download {
    pub fn empty() -> Download {
        Download { content: Content::Empty, deadline: None, tail: None, is_over: false }
    }

    pub fn full(bytes: Bytes) -> Download {
        Download { content: Content::Full(bytes), deadline: None, tail: None, is_over: false }
    }

    pub fn http1(body: Incoming, lease: Lease) -> Download {
        Download { content: Content::Http1 { body, lease: Some(lease) }, deadline: None, tail: None, is_over: false }
    }

    pub fn http2(body: Incoming, stream: Stream2) -> Download {
        Download { content: Content::Http2 { body, _stream: stream }, deadline: None, tail: None, is_over: false }
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Content::Http1 { body, lease: Some(lease) } => lease.h1.poll_body(body, cx),
            Content::Http1 { body, lease: None } | Content::Http2 { body, .. } => Pin::new(body).poll_frame(cx),
        }
    }

    fn passes(&mut self, frame: &Frame<Bytes>) {
        if let Some(tail) = &mut self.tail {
            match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => tail.record.sent += data.len() as u64,
                (None, Some(trailers)) => tail.record.trailed(trailers),
                (None, None) => {}
            }
        }
    }

    fn fails(&mut self, flag: Flag) {
        self.is_over = true;
        if let Some(tail) = &mut self.tail {
            tail.record.flag = flag;
        }
    }

    /// Ends it early or late; the connection goes back to where it came from.
    pub fn release(mut self, under: &Under) {
        self.give_back(under);
    }

    /// The connection that it came on, if that carries one request at a time.
    pub fn into_lease(mut self) -> Option<Lease> {
        match &mut self.content {
            Content::Http1 { lease, .. } => lease.take(),
            Content::Empty | Content::Full(_) | Content::Http2 { .. } => None,
        }
    }

    fn give_back(&mut self, under: &Under) {
        if let Content::Http1 { lease, .. } = &mut self.content
            && let Some(lease) = lease.take()
        {
            // A connection on which anything of this response or its request is left is not ready, and so closed.
            under.endpoint.give_back(lease, &under.cluster.policy().pool);
        }
    }

    pub fn until(mut self, deadline: Option<Instant>) -> Download {
        self.deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        self
    }

    pub fn with(mut self, tail: Tail) -> Download {
        self.tail = Some(Box::new(tail));
        self
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Body for Download {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = self.poll_content(cx);
        if let (Poll::Pending, Some(deadline)) = (&polled, &mut self.deadline)
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.fails(Flag::UpstreamRequestTimeout);
            return Poll::Ready(Some(Err("the route's timeout is over before the response is".into())));
        }
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.passes(frame),
            Poll::Ready(Some(Err(_))) => self.fails(Flag::UpstreamConnectionTermination),
            Poll::Ready(None) => self.is_over = true,
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Http1 { body, .. } | Content::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Http1 { body, .. } | Content::Http2 { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let Some(mut tail) = self.tail.take() else {
            return;
        };
        if let Some(under) = &tail.upstream {
            self.give_back(under);
        }
        if !self.is_over && !self.is_end_stream() && tail.record.flag == Flag::None {
            tail.record.flag = Flag::DownstreamConnectionTermination;
        }
        tail.record.end(tail.upstream.as_ref());
        tail.record.client.watch.request_ends();
    }
}
