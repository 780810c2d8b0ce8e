//! HTTP servers and clients of a world, as processes inside its namespaces: just enough HTTP/1.1 to count who answered and what it
//! was sent. Deliberately not hyper, which is what the proxy is made of. HTTP/2 and odd requests come from curl.
//!
//! A server answers every request with JSON that tells its greeting, the request as it came, and what the services it calls
//! answered in their turn.

pub mod certificates;
pub mod client;
mod message;
pub mod server;
mod wire;
