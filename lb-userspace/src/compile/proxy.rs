//! Model to Snapshot: the listeners that the kernel does not serve, with the clusters behind them.

use crate::{
    model::{Action, Door, Listener, Model},
    snapshot::{self, Addresses, Snapshot},
};

/// What the proxy carries out of `model` as `revision`.
pub fn snapshot(model: &Model, revision: u64) -> Snapshot {
    Snapshot {
        revision,
        listeners: model.listeners.iter().filter_map(|one| listener(one)).collect(),
        clusters: model.upstreams.values().cloned().collect(),
        clients: model.clients.clone(),
    }
}

/// `None`: the kernel's own.
pub fn listener(listener: &Listener) -> Option<snapshot::Listener> {
    let Action::Proxy(chains) = &listener.action else {
        return None;
    };
    let (addresses, port, gateway) = match &listener.door {
        Door::Gateway { gateway, bind: None, port } => (Addresses::Own, *port, gateway.to_string()),
        Door::Gateway { gateway, bind: Some(address), port } => {
            (Addresses::Listed(vec![*address]), *port, gateway.to_string())
        }
        Door::Service { addresses, port, .. } => (Addresses::Listed(addresses.clone()), *port, "mesh".to_owned()),
    };
    Some(snapshot::Listener {
        name: listener.door.to_string().into(),
        addresses,
        port,
        gateway: gateway.into(),
        chains: chains.clone(),
        place: snapshot::Place { file: listener.origin.file.clone(), line: listener.origin.line },
    })
}
