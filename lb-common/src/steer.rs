//! Which of the proxy's sockets takes a new connection. Everything else the host's stack does by itself.

use crate::{
    flow::{Address, FlowHash, HashKey, Tuple},
    pick::proxied,
    table::{Tables, socket},
};

/// Position of the listening socket in the map of sockets; `None`: the proxy does not serve this destination. A client's
/// connections spread over all workers.
#[inline(always)]
pub fn listening<A: Address, T: Tables<A>>(tables: &T, flow: &Tuple<A>, workers: u32) -> Option<u32> {
    if workers == 0 || !proxied(tables, flow) {
        return None;
    }
    Some(socket::position(FlowHash::of(flow, HashKey::Flow).worker(workers), A::FAMILY))
}
