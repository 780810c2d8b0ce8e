//! The writes that lead from one image to the next, in an order in which every state between is legal: whatever a table
//! names is there, and no number changes its meaning while something may still hold it.

use crate::image::{Backend, BackendId, Image, RuleId, RuleTable, SubsetId, SubsetTable, Vip};
use std::{fmt, net::SocketAddr};

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    PutBackend(BackendId, Backend),
    PutSubset(SubsetId, SubsetTable),
    PutRule(RuleId, RuleTable),
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
    let mut ops = Vec::new();
    ops.extend(
        new.backends
            .iter()
            .filter(|(id, backend)| old.backends.get(id) != Some(backend))
            .map(|(id, backend)| Op::PutBackend(*id, *backend)),
    );
    ops.extend(
        new.subsets
            .iter()
            .filter(|(id, table)| old.subsets.get(id) != Some(table))
            .map(|(id, table)| Op::PutSubset(*id, table.clone())),
    );
    let changed = |id: &RuleId, table: &RuleTable| !old.rules.get(id).is_some_and(|before| before.same_table(table));
    ops.extend(
        new.rules.iter().filter(|(id, table)| changed(id, table)).map(|(id, table)| Op::PutRule(*id, table.clone())),
    );
    ops.extend(
        new.vips
            .iter()
            .filter(|(vip, rule)| old.vips.get(vip) != Some(rule))
            .map(|(vip, rule)| Op::PutVip(*vip, *rule)),
    );
    ops.extend(old.vips.keys().filter(|vip| !new.vips.contains_key(vip)).map(|vip| Op::DeleteVip(*vip)));
    ops.extend(old.rules.keys().filter(|id| !new.rules.contains_key(id)).map(|id| Op::DeleteRule(*id)));
    ops.extend(old.subsets.keys().filter(|id| !new.subsets.contains_key(id)).map(|id| Op::DeleteSubset(*id)));
    ops.extend(
        old.backends
            .iter()
            .filter(|(id, _)| !new.backends.contains_key(id))
            .map(|(id, backend)| Op::DeleteBackend(*id, *backend)),
    );
    Plan { ops }
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
                Op::PutVip(vip, rule) => writeln!(f, "put vip {} rule {}", socket(vip), rule.0)?,
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
