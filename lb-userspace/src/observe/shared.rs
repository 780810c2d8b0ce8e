//! What is in force, as the agent's loop and the admin endpoint share it.

use super::flows::Sweep;
use crate::{
    dataplane::{kernel::KernelMaps, load::Attachment, pins::Pins},
    finding::Finding,
    image::Image,
    model::Model,
    process::Reporter,
    snapshot::Snapshot,
};
use lb_common::conntrack::Timeouts;
use std::sync::{Arc, Mutex};

pub type Shared = Arc<Mutex<State>>;

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settled {
    pub pins: Pins,
    pub attachments: Vec<Attachment>,
    pub timeouts: Timeouts,
    pub max_flows: u32,
    pub ticks_per_second: u32,
    /// The agent's own.
    pub namespace: Arc<str>,
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
    /// Where something needs the proxy.
    pub proxy: Option<Reporter>,
    /// What the proxy has in force.
    pub served: Arc<Snapshot>,
    pub findings: Vec<Finding>,
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
            proxy: None,
            served: Arc::default(),
            findings: Vec::new(),
            sweep: Sweep::default(),
        }
    }

    /// False while the proxy is needed and not there.
    pub fn is_served(&self) -> bool {
        self.proxy.as_ref().is_none_or(|proxy| proxy.report().pid.is_some())
    }

    /// Records a revision that was just applied.
    pub fn adopt(&mut self, model: Arc<Model>, image: Image) {
        self.model = model;
        self.image = image;
        self.stale = None;
    }
}
