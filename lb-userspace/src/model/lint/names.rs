//! What the user may have meant by a host that nobody has.

use crate::model::{host, parse::Context};

/// A service whose host is like the one written: its full host.
pub fn meant(context: &Context<'_>, written: &str, namespace: &str) -> Option<String> {
    let full = host::expand(written, namespace, &context.identity.cluster_domain);
    let first = full.split('.').next()?;
    if first.is_empty() || first == "*" {
        return None;
    }
    let hosts = || context.registry.all().iter().map(|service| &*service.host);
    // `reviews.prod` and `reviews.prod.svc` are taken as they are; as a Service's name and namespace they may exist.
    let domain = &context.identity.cluster_domain;
    let longer = [format!("{full}.svc.{domain}"), format!("{full}.{domain}")];
    // A name of the outside means what it says, whatever Services are called.
    let inside = full.ends_with(&**domain);
    let named_alike = |host: &&str| inside && host.split('.').next() == Some(first) && host.ends_with(&**domain);
    hosts()
        .find(|host| longer.iter().any(|longer| longer == host))
        .or_else(|| hosts().filter(named_alike).min())
        .map(str::to_owned)
}
