//! Shadow copies of requests: sent beside the real one, their answers dropped, their failures nobody's.

use std::rc::Rc;

use http::{HeaderValue, header, request::Parts, uri::PathAndQuery};
use http_body_util::BodyExt;
use tokio::task::spawn_local;

use super::{
    attempt::{self, Failed},
    client::Client,
    cluster::{Cluster, Counted},
    download::Under,
    forward,
    upload::{Source, Upload},
    upstream::Protocol,
    worker::Revision,
};
use crate::{router, snapshot::Mirror};

pub(super) fn send(
    mirrors: &[Mirror],
    client: &Rc<Client>,
    revision: &Rc<Revision>,
    parts: &Parts,
    target: &PathAndQuery,
    authority: &HeaderValue,
    source: Option<&Rc<Source>>,
) {
    if mirrors.is_empty() {
        return;
    }
    let shadow = router::shadow(authority.to_str().unwrap_or_default());
    let Ok(shadow) = HeaderValue::from_str(&shadow) else {
        return;
    };
    for mirror in router::mirrors(mirrors, || client.shared.draw()) {
        if mirror.broken.is_some() {
            continue;
        }
        if let Some(cluster) = revision.cluster(&client.shared, &mirror.cluster) {
            let mut parts = parts.clone();
            parts.headers.remove(header::EXPECT);
            let body = source.map_or(Upload::Empty, Upload::copy_of);
            spawn_local(copy(client.clone(), cluster, parts, target.clone(), shadow.clone(), body));
        }
    }
}

async fn copy(
    client: Rc<Client>,
    cluster: Rc<Cluster>,
    parts: Parts,
    target: PathAndQuery,
    authority: HeaderValue,
    body: Upload,
) {
    let limit = cluster.policy().pool.max_requests;
    let Some(counted) = Counted::take(&cluster.load, |load| &load.requests, limit) else {
        return;
    };
    let Some(endpoint) = cluster.pick(None, || client.shared.draw(), &[], client.local) else {
        return;
    };
    let under = Under::new(cluster.clone(), endpoint.clone(), counted);
    let protocol = cluster.policy().protocol.toward(Protocol::Http1);
    let is_tls = cluster.policy().tls.is_some();
    let mut once = Some((parts, body));
    let make = |_| {
        let (parts, body) = once.take().ok_or(Failed::Gone)?;
        forward::request(parts, &target, &authority, protocol, is_tls, body)
    };
    let answer = attempt::run(&client, &cluster, &endpoint, protocol, &authority, false, make).await;
    if let Ok(response) = answer {
        // Read to its end, so that the connection can be used again.
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.frame().await {}
        body.release(&under);
    }
}
