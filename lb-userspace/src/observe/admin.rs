//! The admin endpoint: GET only, nothing that changes state.

use super::{
    metrics,
    shared::{Shared, State},
};
use crate::proxy::Figures;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections served at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Flows listed in one answer.
const FLOWS: usize = 100_000;

/// Binds, then serves in the background for as long as the runtime lives.
pub async fn serve(address: SocketAddr, shared: Shared) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(accept(listener, shared));
    Ok(())
}

async fn accept(listener: TcpListener, shared: Shared) {
    let permits = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: there is nothing to do but to try again.
                tracing::warn!("admin endpoint: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!("admin endpoint: {error}");
            }
            drop(permit);
        });
    }
}

async fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let figures = match request.uri().path() {
        "/status" | "/metrics" => figures(shared).await,
        _ => None,
    };
    let state = lock(shared);
    match request.uri().path() {
        // Alive means that this answers.
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if !state.is_served() => plain(StatusCode::SERVICE_UNAVAILABLE, "the proxy does not run\n"),
        "/readyz" if state.ready => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "no revision is in force yet\n"),
        "/status" => json(state.status(figures.as_ref()).map_err(|error| error.to_string())),
        "/flows" => json(flows(&state)),
        "/config" => plain(StatusCode::OK, format!("revision {}\n{}", state.revision, state.image)),
        "/metrics" => match metrics::render(&state, figures.as_ref()) {
            Ok(text) => typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => plain(StatusCode::NOT_FOUND, "/healthz /readyz /metrics /status /flows /config\n"),
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the proxy has counted. The state is not locked while it is asked.
async fn figures(shared: &Shared) -> Option<Figures> {
    let reporter = lock(shared).proxy.clone()?;
    reporter.figures().await
}

fn flows(state: &State) -> Result<Vec<super::flows::Flow>, String> {
    let now = crate::dataplane::load::pinned_clock(&state.settled.pins).map_err(|error| error.to_string())?;
    state.flows(now, FLOWS).map_err(|error| error.to_string())
}

fn json<T: serde::Serialize>(value: Result<T, String>) -> Response<Full<Bytes>> {
    match value.and_then(|value| serde_json::to_string(&value).map_err(|error| error.to_string())) {
        Ok(text) => typed(StatusCode::OK, "application/json", text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text.into())
}

fn typed(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
