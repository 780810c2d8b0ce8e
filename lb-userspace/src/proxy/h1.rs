//! A connection to an endpoint that speaks HTTP/1.1. It has no task of its own: whoever waits for the response, or reads its
//! body, drives it. So a request wakes nobody but itself.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use http::{Request, Response};
use hyper::{
    body::{Body, Bytes, Frame, Incoming},
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;

use super::{io::Stream, upload::Upload};

pub(super) struct H1 {
    sender: http1::SendRequest<Upload>,
    connection: http1::Connection<TokioIo<Stream>, Upload>,
    /// What the driver came to.
    ended: Option<Result<(), hyper::Error>>,
    pub opened: Instant,
    pub idle_since: Instant,
    pub requests: u32,
}

/// Why there is no response.
pub(super) enum Failure {
    /// Nothing was written; the request comes back.
    Unsent(Box<Request<Upload>>),
    Lost(hyper::Error),
    /// The connection ended, without an error of its own.
    Closed,
}

impl H1 {
    pub async fn new(stream: Stream) -> Result<H1, hyper::Error> {
        let (sender, connection) = http1::Builder::new().max_headers(200).handshake(TokioIo::new(stream)).await?;
        let now = Instant::now();
        Ok(H1 { sender, connection, ended: None, opened: now, idle_since: now, requests: 0 })
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.ended.is_none()
            && let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx)
        {
            self.ended = Some(result);
        }
    }

    /// Whether a request can be sent now: all of the last one is over, and the endpoint has neither closed nor said anything.
    pub fn is_ready(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.drive(&mut nobody);
        self.ended.is_none() && matches!(self.sender.poll_ready(&mut nobody), Poll::Ready(Ok(())))
    }

    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, Failure> {
        self.requests += 1;
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        let (connection, ended) = (&mut self.connection, &mut self.ended);
        std::future::poll_fn(move |cx| {
            if ended.is_none()
                && let Poll::Ready(result) = Pin::new(&mut *connection).poll(cx)
            {
                *ended = Some(result);
            }
            // Only the connection, polled just now, can have brought an answer: nobody else needs to be woken for it.
            match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(failure(error))),
                Poll::Pending if ended.is_some() => Poll::Ready(Err(Failure::Closed)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The next part of a response's body.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut nobody = Context::from_waker(Waker::noop());
        // What is there already, and the wish for more, which the connection waits for.
        if let Poll::Ready(ready) = Pin::new(&mut *body).poll_frame(&mut nobody) {
            return Poll::Ready(ready);
        }
        self.drive(cx);
        Pin::new(body).poll_frame(&mut nobody)
    }

    /// The stream and what was read of it too early, once the endpoint has agreed to another protocol. `None`: it has not.
    pub async fn into_raw(mut self) -> Option<(Stream, Bytes)> {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if self.ended.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        matches!(self.ended, Some(Ok(()))).then(|| {
            let parts = self.connection.into_parts();
            (parts.io.into_inner(), parts.read_buf)
        })
    }
}

fn failure(mut error: TrySendError<Request<Upload>>) -> Failure {
    match error.take_message() {
        Some(request) => Failure::Unsent(Box::new(request)),
        None => Failure::Lost(error.into_error()),
    }
}
