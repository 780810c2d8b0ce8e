//! TLS at the door and towards endpoints: certificates and authorities made ready once a revision.

mod client;
mod credentials;
mod peer;
mod server;

pub(super) use client::{Inside, Origination, has_identity, server_name};
pub use credentials::{Credentials, Instead, Refused};
pub(super) use server::server;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// aws-lc-rs: it builds with a C compiler alone, and its handshakes cost a sixth less than ring's.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}
