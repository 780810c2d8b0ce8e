//! What is in force, as the agent's loop and the admin endpoint share it.

use super::flows::Sweep;
use crate::{
    dataplane::{MapsError, kernel::KernelMaps, load::Attachment, pins::Pins},
    finding::Finding,
    image::{Image, StatsId},
    model::Model,
};
use lb_common::conntrack::Timeouts;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

pub type Shared = Arc<Mutex<State>>;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settled {
    pub pins: Pins,
    pub attachments: Vec<Attachment>,
    pub timeouts: Timeouts,
    pub max_flows: u32,
    pub ticks_per_second: u32,
}

pub struct State {
    pub maps: KernelMaps,
    pub model: Arc<Model>,
    pub image: Image,
    pub revision: u64,
    pub ready: bool,
    /// Why the newest configuration is not in force.
    pub stale: Option<String>,
    pub settled: Settled,
    pub findings: Vec<Finding>,
    /// Flows of each destination at the moment its rule's weights last changed: shares are counted from there.
    pub baselines: BTreeMap<StatsId, u64>,
    /// What the last look at the flow table found.
    pub sweep: Sweep,
}

impl State {
    /// Tables as a former agent left them; nothing is configured yet.
    pub fn new(maps: KernelMaps, image: Image, revision: u64, settled: Settled) -> Self {
        Self {
            maps,
            model: Arc::default(),
            image,
            revision,
            ready: false,
            stale: None,
            settled,
            findings: Vec::new(),
            baselines: BTreeMap::new(),
            sweep: Sweep::default(),
        }
    }

    /// Records a revision that was just applied. Rules whose weights changed start counting anew.
    pub fn adopt(&mut self, model: Arc<Model>, image: Image) -> Result<(), MapsError> {
        for (id, rule) in &image.rules {
            let weights = |rule: &crate::image::RuleTable| {
                rule.destinations.iter().map(|one| (one.stats, one.weight)).collect::<Vec<_>>()
            };
            if self.image.rules.get(id).is_some_and(|before| weights(before) == weights(rule)) {
                continue;
            }
            for destination in &rule.destinations {
                let flows = self.maps.destination_flows(destination.stats.0)?;
                self.baselines.insert(destination.stats, flows);
            }
        }
        let known: std::collections::BTreeSet<StatsId> =
            image.rules.values().flat_map(|rule| rule.destinations.iter().map(|one| one.stats)).collect();
        self.baselines.retain(|stats, _| known.contains(stats));
        self.model = model;
        self.image = image;
        self.stale = None;
        Ok(())
    }
}
