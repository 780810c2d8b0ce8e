//! The writes that lead from one image to the next, in an order in which every state between is legal: whatever a table
//! names is there, and no number changes its meaning while something may still hold it.

use crate::image::{Backend, BackendId, Image, RuleId, RuleTable, SubsetId, SubsetTable, Vip};
use std::{fmt, net::SocketAddr, sync::Arc};

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    PutBackend(BackendId, Backend),
    PutSubset(SubsetId, Arc<SubsetTable>),
    PutRule(RuleId, Arc<RuleTable>),
    PutVip(Vip, RuleId),
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
pub fn diff(old: &Image, new: &Image) -> Plan {
    let backends = old.backends.changes(&new.backends, Backend::eq);
    let subsets = old.subsets.changes(&new.subsets, same);
    let rules = old.rules.changes(&new.rules, same);
    let vips = old.vips.changes(&new.vips, RuleId::eq);
    let mut ops = Vec::new();
    ops.extend(backends.put.into_iter().map(|(id, backend)| Op::PutBackend(*id, *backend)));
    ops.extend(subsets.put.into_iter().map(|(id, table)| Op::PutSubset(*id, table.clone())));
    ops.extend(rules.put.into_iter().map(|(id, table)| Op::PutRule(*id, table.clone())));
    ops.extend(vips.put.into_iter().map(|(vip, rule)| Op::PutVip(*vip, *rule)));
    ops.extend(vips.gone.into_iter().map(|(vip, _)| Op::DeleteVip(*vip)));
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
                Op::PutVip(vip, rule) => writeln!(f, "put vip {} {rule}", socket(vip))?,
                Op::DeleteVip(vip) => writeln!(f, "delete vip {}", socket(vip))?,
                Op::DeleteRule(id) => writeln!(f, "delete rule {}", id.0)?,
                Op::DeleteSubset(id) => writeln!(f, "delete subset {}", id.0)?,
                Op::DeleteBackend(id, backend) => writeln!(f, "delete backend {} {}", id.0, backend.address)?,
            }
        }
        Ok(())
    }
}

fn socket(vip: &Vip) -> SocketAddr {
    SocketAddr::new(vip.address, vip.port.get())
}
