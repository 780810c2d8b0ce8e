//! Who a flow comes from, as `explain --from` says it: an address and port, or a Pod's name.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::spec::Specs;

/// The client's port where only a Pod is named.
const PORT: u16 = 40_000;

/// A client, not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    Address(SocketAddr),
    Pod { namespace: String, name: String, port: u16 },
}

impl FromStr for From {
    type Err = Infallible;

    /// `ADDR:PORT`, else `[NAMESPACE/]POD[:PORT]`.
    fn from_str(text: &str) -> Result<From, Infallible> {
        if let Ok(address) = text.parse() {
            return Ok(From::Address(address));
        }
        let ported = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse().ok()?)));
        let (name, port) = ported.unwrap_or((text, PORT));
        let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
        Ok(From::Pod { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            From::Address(address) => address.fmt(f),
            From::Pod { namespace, name, .. } => write!(f, "{namespace}/{name}"),
        }
    }
}

impl From {
    /// The client's address of the family of `to`.
    pub fn resolve(&self, specs: &Specs, to: IpAddr) -> Result<SocketAddr, String> {
        let (namespace, name, port) = match self {
            From::Address(address) => return Ok(*address),
            From::Pod { namespace, name, port } => (namespace, name, *port),
        };
        let is_it = |pod: &str, of: &str| pod == name && of == namespace;
        let pod = specs.pods.iter().find(|pod| is_it(&pod.name().name, pod.namespace()));
        let pod = pod.ok_or_else(|| {
            format!("--from {self} is neither ADDR:PORT nor a Pod of these files; write NAMESPACE/POD for one outside of `default`")
        })?;
        let status = &pod.spec.status;
        let listed = status.pod_ips.iter().map(|ip| &ip.ip).chain(&status.pod_ip);
        let address = listed.filter_map(|ip| ip.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv4() == to.is_ipv4());
        address
            .map(|address| SocketAddr::new(address, port))
            .ok_or_else(|| format!("Pod {self} has no address of the family of {to}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Store, read};

    #[test]
    fn a_client_is_an_address_or_a_pod() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nstatus: {podIP: 10.1.0.5}\n";
        let mut store = Store::default();
        store.merge(&[read(&"a.yaml".into(), pod)], &[]);
        let resolve = |text: &str, to: &str| text.parse::<From>().unwrap().resolve(&store.specs(), to.parse().unwrap());
        assert_eq!(resolve("10.0.0.1:7", "10.0.0.2"), Ok("10.0.0.1:7".parse().unwrap()));
        assert_eq!(resolve("shop/web", "10.0.0.2"), Ok("10.1.0.5:40000".parse().unwrap()));
        assert_eq!(resolve("shop/web:9", "10.0.0.2"), Ok("10.1.0.5:9".parse().unwrap()));
        assert!(resolve("web", "10.0.0.2").is_err());
        assert_eq!(resolve("shop/web", "fd00::2"), Err("Pod shop/web has no address of the family of fd00::2".into()));
    }
}
