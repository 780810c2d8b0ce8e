//! Any text to objects, model and tables: findings, never a panic, and each of them at a place that exists.
#![no_main]

use std::{net::IpAddr, sync::Arc};

use lb_common::table::Forwarding;
use libfuzzer_sys::fuzz_target;
use meltemi::{
    compile::{self, Host, compile, ids::Ids},
    image::Image,
    model::{self, Identity},
    plan::diff,
    router::Router,
    spec::{self, Store},
};

fuzz_target!(|text: &str| {
    let file = spec::read(&Arc::from("a.yaml"), text);
    let lines = u32::try_from(text.split('\n').count()).unwrap_or(u32::MAX);
    for finding in &file.findings {
        assert!((1..=lines).contains(&finding.line) && finding.column > 0, "{finding:?}");
        assert!(!finding.message.is_empty());
    }
    let mut store = Store::default();
    store.merge(&[file], &[]);
    let specs = store.specs();
    let (model, _) = model::parse(&specs, &Identity::default());
    model::analyze(&specs, &Identity::default());
    Router::new(Arc::new(compile::snapshot(&model, 1))).expect("the model lets nothing through that cannot be routed");
    let path = |endpoint: IpAddr| (endpoint, compile::Path { source: endpoint, forwarding: Forwarding::Snat });
    let paths = compile::endpoint_addresses(&model).into_iter().map(path).collect();
    let host = Host { addresses: ["10.0.0.1", "fd00::1"].map(|text| text.parse().unwrap()).into(), paths };
    let image = compile(&model, &host, &mut Ids::default());
    let _ = diff(&Image::default(), &image);
});
