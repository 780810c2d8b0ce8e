//! HTTP on a client's connection: the version by ALPN or first bytes, hyper's limits, orders, and the end.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::Context,
    time::Instant,
};

use ::http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncReadExt, task::spawn_local};

use super::{
    client::Client,
    glitch::Glitches,
    io::{Downstream, Prefixed},
    request, tcp,
    upgrade::Upgraded,
    watch::{Doing, Order},
};

/// Tasks of HTTP/2 connections stay on their thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves requests until the connection ends.
pub(super) async fn serve(client: Rc<Client>, mut stream: Downstream) {
    let watch = client.watch.clone();
    let result = match version(&mut stream).await {
        Ok(Version::Http1) => {
            watch.begin(Doing::Idle);
            watch.received(stream.prefix.len() as u64, false);
            http1(client.clone(), stream).await
        }
        Ok(Version::Http2) => {
            stream.multiplexed = Some(Box::new(Glitches::new(Instant::now())));
            watch.begin(Doing::Idle);
            http2(client.clone(), stream).await
        }
        Err(error) => {
            tracing::debug!(peer = %client.peer, %error, "nothing came");
            return;
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %client.peer, %error, "HTTP ended");
    }
}

enum Version {
    Http1,
    Http2,
}

/// Told by the first bytes, as long as they could be HTTP/2's.
async fn version(stream: &mut Downstream) -> std::io::Result<Version> {
    let mut begin = Vec::with_capacity(2_048);
    loop {
        if stream.read_buf(&mut begin).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let known = begin.len().min(PREFACE.len());
        let version = match begin[..known] == PREFACE[..known] {
            true if known < PREFACE.len() => continue,
            true => Version::Http2,
            false => Version::Http1,
        };
        stream.prefix = begin.into();
        return Ok(version);
    }
}

async fn http1(client: Rc<Client>, stream: Downstream) -> Result<(), hyper::Error> {
    let limits = client.shared.options.limits;
    let watch = client.watch.clone();
    let of_requests = client.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let client = of_requests.clone();
        async move { Ok::<_, Infallible>(request::handle(client, request).await) }
    });
    let mut connection = http1::Builder::new()
        .max_headers(limits.headers)
        .max_header_size(limits.head_size)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if client.shared.draining.get() {
        Pin::new(&mut connection).graceful_shutdown();
    }
    let mut is_drained = false;
    std::future::poll_fn(|cx| {
        drain_once(&watch, cx, &mut is_drained, || Pin::new(&mut connection).graceful_shutdown());
        Pin::new(&mut connection).poll(cx)
    })
    .await?;
    let upgraded = client.upgraded.borrow_mut().take();
    if let Some(Upgraded { stream, under }) = upgraded {
        let parts = connection.into_parts();
        let inner = Box::new(parts.io.into_inner().stream);
        watch.begin(Doing::Raw);
        let client_side = Prefixed { prefix: parts.read_buf, inner };
        let idle = under.cluster.policy().pool.tcp_idle_timeout;
        if let Err(error) = tcp::relay(client_side, stream, idle, &tcp::Moved::default()).await {
            tracing::debug!(peer = %client.peer, %error, "an upgraded connection ended");
        }
    }
    Ok(())
}

async fn http2(client: Rc<Client>, stream: Downstream) -> Result<(), hyper::Error> {
    let limits = client.shared.options.limits;
    let watch = client.watch.clone();
    let shared = client.shared.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let client = client.clone();
        async move { Ok::<_, Infallible>(request::handle(client, request).await) }
    });
    let mut connection = pin!(
        http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.head_size as u32)
            .serve_connection(TokioIo::new(stream), service)
    );
    if shared.draining.get() {
        connection.as_mut().graceful_shutdown();
    }
    let mut is_drained = false;
    std::future::poll_fn(|cx| {
        drain_once(&watch, cx, &mut is_drained, || connection.as_mut().graceful_shutdown());
        connection.as_mut().poll(cx)
    })
    .await
}

fn drain_once(watch: &super::watch::Watch, cx: &Context<'_>, is_drained: &mut bool, shut_down: impl FnOnce()) {
    if !*is_drained && watch.order(cx) == Order::Drain {
        *is_drained = true;
        shut_down();
    }
}
