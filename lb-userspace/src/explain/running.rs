//! The tables of a running agent, read from the text its admin endpoint gives (`/config`: the revision, then
//! [`Image`]'s `Display`).

use crate::{
    compile::{Host, Path},
    image::{
        Backend, BackendId, ClassId, Classes, Client, Image, RuleDestination, RuleId, RuleTable, StatsId, SubsetId,
        SubsetMember, SubsetTable, Vip, VipRule,
    },
};
use lb_common::{flow::HashKey, table::Forwarding};
use std::{net::SocketAddr, num::NonZeroU16, sync::Arc};
use thiserror::Error;

/// What a running agent has in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    pub revision: u64,
    pub image: Image,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line} of the agent's tables is not understood: {text:?}; is it another version?")]
pub struct NotUnderstood {
    pub line: usize,
    pub text: String,
}

impl Running {
    pub fn parse(text: &str) -> Result<Running, NotUnderstood> {
        let mut running = Running::default();
        let mut last = Last::Nothing;
        for (at, line) in text.lines().enumerate() {
            running.line(line, &mut last).ok_or_else(|| NotUnderstood { line: at + 1, text: line.to_owned() })?;
        }
        Ok(running)
    }

    /// What of the host its tables tell.
    pub fn host(&self) -> Host {
        Host {
            addresses: self.image.vips.keys().map(|vip| vip.address).collect(),
            paths: self
                .image
                .backends
                .values()
                .map(|one| (one.address.ip(), Path { source: one.source, forwarding: one.forwarding }))
                .collect(),
        }
    }

    fn line(&mut self, line: &str, last: &mut Last) -> Option<()> {
        let image = &mut self.image;
        let words: Vec<&str> = line.splitn(9, ' ').collect();
        match words[..] {
            ["revision", number] => self.revision = number.parse().ok()?,
            ["vip", address, "class", class, ref target @ ..] => {
                let class = ClassId(class.parse().ok()?);
                image.vips.insert(Vip { class, ..vip(address)? }, vip_rule(target)?);
            }
            ["vip", address, ref target @ ..] => {
                image.vips.insert(vip(address)?, vip_rule(target)?);
            }
            ["client", address, "class", class, "name", name] => {
                let client = Client { class: ClassId(class.parse().ok()?), name: u64::from_str_radix(name, 16).ok()? };
                image.clients.insert(address.parse().ok()?, client);
            }
            ["rule", id, hash, ..] => {
                let id = RuleId(id.parse().ok()?);
                let hash = match hash {
                    "Flow" => HashKey::Flow,
                    "SourceIp" => HashKey::SourceIp,
                    _ => return None,
                };
                let name = line.splitn(4, ' ').nth(3)?.into();
                image.rules.insert(id, Arc::new(RuleTable { name, hash, destinations: Vec::new() }));
                *last = Last::Rule(id);
            }
            ["subset", id, ..] => {
                let id = SubsetId(id.parse().ok()?);
                let name = line.splitn(3, ' ').nth(2)?.into();
                image.subsets.insert(id, Arc::new(SubsetTable { name, members: Vec::new() }));
                *last = Last::Subset(id);
            }
            ["", "", "weight", weight, "broken", "stats", stats, name] => {
                last.destination(image, weight, None, stats, name)?;
            }
            ["", "", "weight", weight, "subset", id, "stats", stats, name] => {
                last.destination(image, weight, Some(SubsetId(id.parse().ok()?)), stats, name)?;
            }
            ["", "", "backend", id, "weight", weight, address] => {
                let Last::Subset(subset) = last else { return None };
                Arc::make_mut(image.subsets.get_mut(subset)?).members.push(SubsetMember {
                    backend: BackendId(id.parse().ok()?),
                    address: address.parse().ok()?,
                    weight: weight.parse().ok()?,
                });
            }
            ["backend", id, address, forwarding, "from", source, "stats", stats] => {
                let forwarding = match forwarding {
                    "Snat" => Forwarding::Snat,
                    "Dnat" => Forwarding::Dnat,
                    _ => return None,
                };
                let (address, source) = (address.parse().ok()?, source.parse().ok()?);
                let stats = StatsId(stats.parse().ok()?);
                image.backends.insert(BackendId(id.parse().ok()?), Backend { address, forwarding, source, stats });
            }
            _ => return None,
        }
        Some(())
    }
}

fn vip(text: &str) -> Option<Vip> {
    let address: SocketAddr = text.parse().ok()?;
    Some(Vip::any(address.ip(), NonZeroU16::new(address.port())?))
}

fn vip_rule(words: &[&str]) -> Option<VipRule> {
    let (words, classes) = match words {
        [words @ .., "or", "by", "class"] => (words, Classes::Differ),
        words => (words, Classes::Alike),
    };
    let rule = match words {
        ["rule", rule] => RuleId(rule.parse().ok()?),
        ["proxy"] => RuleId::PROXY,
        ["none"] => RuleId::NONE,
        _ => return None,
    };
    Some(VipRule { rule, classes })
}

/// Which table the indented lines belong to.
enum Last {
    Nothing,
    Rule(RuleId),
    Subset(SubsetId),
}

impl Last {
    fn destination(
        &self,
        image: &mut Image,
        weight: &str,
        subset: Option<SubsetId>,
        stats: &str,
        name: &str,
    ) -> Option<()> {
        let Last::Rule(rule) = self else { return None };
        let (weight, stats) = (weight.parse().ok()?, StatsId(stats.parse().ok()?));
        let table = Arc::make_mut(image.rules.get_mut(rule)?);
        table.destinations.push(RuleDestination { name: name.into(), weight, subset, stats });
        Some(())
    }
}
