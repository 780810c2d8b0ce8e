//! Files as `explain` and `plan` take them: read, parsed, and placed on a host that is told or assumed.

use crate::{
    compile::{self, Host, Path},
    finding::Finding,
    host::Choice,
    model::{self, Door, Identity, Model},
    source::file,
    spec::{Specs, Store},
};
use lb_common::table::Forwarding;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

/// A configuration from files.
pub struct Configuration {
    pub specs: Specs,
    pub model: Model,
    pub findings: Vec<Finding>,
}

impl Configuration {
    /// `Err`: the paths that cannot be read, one line each.
    pub fn load(paths: &[PathBuf], identity: &Identity) -> Result<Configuration, Vec<String>> {
        let loaded = file::load(paths);
        if !loaded.unreadable.is_empty() {
            return Err(loaded.unreadable.iter().map(ToString::to_string).collect());
        }
        let mut store = Store::default();
        let mut findings = store.merge(&loaded.files, &[]);
        let specs = store.specs();
        let (model, more) = model::parse(&specs, identity);
        findings.extend(more);
        Ok(Configuration { specs, model, findings })
    }

    /// A host with these addresses and a way to every endpoint. Without a kernel to ask, `Auto` means snat.
    pub fn host(&self, addresses: BTreeSet<IpAddr>, choice: Choice) -> Host {
        let forwarding = match choice {
            Choice::Auto => Forwarding::Snat,
            Choice::Always(forwarding) => forwarding,
        };
        let path = |endpoint: IpAddr| {
            let own = addresses.iter().copied().find(|own| own.is_ipv4() == endpoint.is_ipv4());
            (endpoint, Path { source: own.unwrap_or(unspecified(endpoint)), forwarding })
        };
        let paths = compile::endpoint_addresses(&self.model).into_iter().map(path).collect();
        Host { addresses, paths }
    }

    /// Whether some listener names an address itself.
    pub fn names(&self, address: IpAddr) -> bool {
        self.model.listeners.iter().any(|listener| match &listener.door {
            Door::Gateway { bind, .. } => *bind == Some(address),
            Door::Service { addresses, .. } => addresses.contains(&address),
        })
    }
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
