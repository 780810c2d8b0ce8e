//! Going on where a former agent stopped.

use crate::{
    compile::ids::{Backends, Ids, Pool},
    dataplane::kernel::Left,
    image::{ClassId, Image, RuleTable, Sorted, SubsetTable},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Continues the numbers that `left` holds. Its tables are described by name only, so that each is written anew once; the
/// same configuration makes the same table, and no flow notices.
pub fn adopt(left: &Left, next_backend: u32) -> (Ids, Image) {
    let ids = Ids {
        rules: Pool::recovered(left.rules.iter().map(|(name, id)| (*name, id.0))),
        subsets: Pool::recovered(left.subsets.iter().map(|(name, id)| (*name, id.0))),
        destination_stats: Pool::recovered(left.destination_stats.iter().copied()),
        backend_stats: Pool::recovered(
            left.backends
                .iter()
                .map(|(_, backend)| (crate::image::name_hash(&backend.address.to_string()), backend.stats.0)),
        ),
        classes: Pool::recovered(classes(left)),
        backends: Backends::recovered(left.backends.iter().map(|(id, backend)| (backend.address, id.0)), next_backend),
    };
    let unknown: Arc<str> = "".into();
    let rule = || RuleTable { name: unknown.clone(), hash: lb_common::flow::HashKey::Flow, destinations: Vec::new() };
    let image = Image {
        vips: left.vips.iter().copied().collect(),
        clients: left.clients.iter().copied().collect(),
        rules: left.rules.iter().map(|(_, id)| (*id, Arc::new(rule()))).collect(),
        subsets: left
            .subsets
            .iter()
            .map(|(_, id)| (*id, Arc::new(SubsetTable { name: unknown.clone(), members: Vec::new() })))
            .collect(),
        backends: left.backends.iter().copied().collect(),
        listeners: Sorted::default(),
    };
    (ids, image)
}

/// Names and numbers of classes of clients. Those of which no client is left have VIPs yet; their names are nobody's.
fn classes(left: &Left) -> BTreeSet<(u64, u32)> {
    let named = left.clients.iter().map(|(_, client)| (client.class, client.name));
    let mut classes: BTreeMap<ClassId, u64> = left
        .vips
        .iter()
        .map(|(vip, _)| (vip.class, crate::image::name_hash(&format!("class {}", vip.class.0))))
        .collect();
    classes.extend(named);
    classes.remove(&ClassId::ANY);
    classes.into_iter().map(|(class, name)| (name, u32::from(class.0) - 1)).collect()
}
