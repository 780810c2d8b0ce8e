//! Whole requests over loopback, with hand-made snapshots and peers that are not hyper: raw sockets on threads of their own.

mod basics;
mod http2;
mod routes;
mod tcp;
mod tls;
pub(in crate::proxy) mod world;
