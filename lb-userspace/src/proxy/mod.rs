//! The data path of the proxy: connections in, bytes read, requests carried to endpoints. It acts on what `router` decides over
//! a `snapshot`; it neither reads configuration nor starts processes. The only user of hyper's connections and of rustls.
//!
//! One [`Worker`] runs on one thread ([`serve`]) with listening sockets, pools and balancers of its own: no lock and no
//! wake-up of another core is on the way of a request. Workers share only the [`Prepared`] revision, which is immutable. What a
//! worker has counted is read from any thread through its [`Statistics`].
//!
//! The way of a connection: `worker` accepts, `client` reads its first bytes and finds its chain, then `http` or `tcp`. The
//! way of a request: `admit` refuses what no proxy may pass on, `request` asks the router, `forward` makes the tries, `upstream`
//! has the endpoints and their connections, `download` is the body on its way back and does the bookkeeping at its end.

mod admit;
mod affinity;
mod attempt;
mod balance;
mod client;
mod cluster;
mod dial;
mod download;
mod forward;
mod forwarded;
mod glitch;
mod h1;
mod heads;
mod hello;
mod http;
mod io;
mod locality;
mod material;
mod mirror;
mod options;
mod outlier;
mod prepared;
mod proxy_header;
mod record;
mod reply;
mod request;
mod retry;
mod splits;
mod statistics;
mod tcp;
mod tls;
mod upgrade;
mod upload;
mod upstream;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

pub use material::{Material, Pair};
pub use options::{AccessLog, Limits, LogTo, Options};
pub use prepared::Prepared;
pub use reply::Flag;
pub use splits::{PoolReading, SplitName};
pub use statistics::{BOUNDS, Figures, Labels, Protocol, Reading, Statistics};
pub use tls::{Instead, Refused};
pub use worker::{Phase, Worker, serve};
