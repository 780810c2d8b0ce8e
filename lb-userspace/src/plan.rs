//! The writes that lead from one image to the next, in an order in which every state between is legal: whatever a table
//! names is there, and no number changes its meaning while something may still hold it.

use crate::image::{
    Backend, BackendId, ClassId, Classes, Client, Image, RuleId, RuleTable, SubsetId, SubsetTable, Vip, VipRule,
};
use std::{fmt, net::IpAddr, sync::Arc};

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    PutBackend(BackendId, Backend),
    PutSubset(SubsetId, Arc<SubsetTable>),
    PutRule(RuleId, Arc<RuleTable>),
    PutVip(Vip, VipRule),
    PutClient(IpAddr, Client),
    DeleteClient(IpAddr),
    DeleteVip(Vip),
    DeleteRule(RuleId),
    DeleteSubset(SubsetId),
    DeleteBackend(BackendId, Backend),
}

impl Op {
    /// What `image` is once this is done.
    pub fn record(&self, image: &mut Image) {
        match self {
            Op::PutBackend(id, backend) => drop(image.backends.insert(*id, *backend)),
            Op::PutSubset(id, table) => drop(image.subsets.insert(*id, table.clone())),
            Op::PutRule(id, table) => drop(image.rules.insert(*id, table.clone())),
            Op::PutVip(vip, rule) => drop(image.vips.insert(*vip, *rule)),
            Op::PutClient(address, client) => drop(image.clients.insert(*address, *client)),
            Op::DeleteClient(address) => drop(image.clients.remove(address)),
            Op::DeleteVip(vip) => drop(image.vips.remove(vip)),
            Op::DeleteRule(id) => drop(image.rules.remove(id)),
            Op::DeleteSubset(id) => drop(image.subsets.remove(id)),
            Op::DeleteBackend(id, _) => drop(image.backends.remove(id)),
        }
    }
}

/// Ordered writes. Comes only from [`diff`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    ops: Vec<Op>,
}

impl Plan {
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Add before delete, from the inside out: backends, subsets, rules, VIPs; then back again.
///
/// What is said of classes is there before a client has one, and a VIP asks for classes only when clients have theirs: so no
/// client of a class is taken for one of all others.
pub fn diff(old: &Image, new: &Image) -> Plan {
    let backends = old.backends.changes(&new.backends, Backend::eq);
    let subsets = old.subsets.changes(&new.subsets, same);
    let rules = old.rules.changes(&new.rules, same);
    let clients = old.clients.changes(&new.clients, Client::eq);
    let vips = old.vips.changes(&new.vips, VipRule::eq);
    let is_any = |vip: &Vip| vip.class == ClassId::ANY;
    let asks = |image: &Image, vip: &Vip| image.vips.get(vip).is_some_and(|to| to.classes == Classes::Differ);
    let (for_all, for_some): (Vec<_>, Vec<_>) = vips.put.into_iter().partition(|(vip, _)| is_any(vip));
    let (begin_to_ask, as_before): (Vec<_>, Vec<_>) =
        for_all.into_iter().partition(|(vip, _)| asks(new, vip) && !asks(old, vip));
    let put = |(vip, to): (&Vip, &VipRule)| Op::PutVip(*vip, *to);
    let mut ops = Vec::new();
    ops.extend(backends.put.into_iter().map(|(id, backend)| Op::PutBackend(*id, *backend)));
    ops.extend(subsets.put.into_iter().map(|(id, table)| Op::PutSubset(*id, table.clone())));
    ops.extend(rules.put.into_iter().map(|(id, table)| Op::PutRule(*id, table.clone())));
    ops.extend(for_some.into_iter().chain(as_before).map(put));
    ops.extend(clients.put.into_iter().map(|(address, client)| Op::PutClient(*address, *client)));
    ops.extend(begin_to_ask.into_iter().map(put));
    let (for_all, for_some): (Vec<_>, Vec<_>) = vips.gone.into_iter().partition(|(vip, _)| is_any(vip));
    ops.extend(for_all.into_iter().map(|(vip, _)| Op::DeleteVip(*vip)));
    ops.extend(clients.gone.into_iter().map(|(address, _)| Op::DeleteClient(*address)));
    ops.extend(for_some.into_iter().map(|(vip, _)| Op::DeleteVip(*vip)));
    ops.extend(rules.gone.into_iter().map(|(id, _)| Op::DeleteRule(*id)));
    ops.extend(subsets.gone.into_iter().map(|(id, _)| Op::DeleteSubset(*id)));
    ops.extend(backends.gone.into_iter().map(|(id, backend)| Op::DeleteBackend(*id, *backend)));
    Plan { ops }
}

/// Tables that `compile` left as they were are shared, and need no comparing.
fn same<T: PartialEq>(old: &Arc<T>, new: &Arc<T>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
            match op {
                Op::PutBackend(id, backend) => writeln!(f, "put backend {} {}", id.0, backend.address)?,
                Op::PutSubset(id, table) => {
                    writeln!(f, "put subset {} {} ({} members)", id.0, table.name, table.members.len())?
                }
                Op::PutRule(id, table) => {
                    let weights: Vec<String> =
                        table.destinations.iter().map(|destination| destination.weight.to_string()).collect();
                    writeln!(f, "put rule {} {} weights {}", id.0, table.name, weights.join("/"))?;
                }
                Op::PutVip(vip, rule) => writeln!(f, "put vip {vip} {rule}")?,
                Op::PutClient(address, client) => writeln!(f, "put client {address} class {}", client.class.0)?,
                Op::DeleteClient(address) => writeln!(f, "delete client {address}")?,
                Op::DeleteVip(vip) => writeln!(f, "delete vip {vip}")?,
                Op::DeleteRule(id) => writeln!(f, "delete rule {}", id.0)?,
                Op::DeleteSubset(id) => writeln!(f, "delete subset {}", id.0)?,
                Op::DeleteBackend(id, backend) => writeln!(f, "delete backend {} {}", id.0, backend.address)?,
            }
        }
        Ok(())
    }
}
