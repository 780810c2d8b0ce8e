//! How long the agent's way from files to tables takes with many objects: the first time, and for one change among them. Runs
//! the agent's own functions; the tables are real kernel maps that nobody else sees.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use lb_common::table::Forwarding;
use meltemi::compile::{self, Compiler, Host, ids::Ids};
use meltemi::dataplane::{self, limits::Limits};
use meltemi::image::Image;
use meltemi::model::{self, Identity, Parser};
use meltemi::plan;
use meltemi::source::file;
use meltemi::spec::Store;

use super::production::Production;
use super::report::{Report, Target, median};

/// Services in one file.
const IN_A_FILE: usize = 100;
const ENDPOINTS: usize = 10;
const CHANGES: usize = 11;

/// A directory of manifests: for each service a VirtualService, a DestinationRule and a ServiceEntry.
struct Files {
    directory: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Files {
    fn write(services: usize) -> Result<Files> {
        let directory = std::env::temp_dir().join(format!("meltemi-scale-{}-{services}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let files = Files { directory };
        for file in 0..services.div_ceil(IN_A_FILE) {
            let here = file * IN_A_FILE..((file + 1) * IN_A_FILE).min(services);
            let text = here.map(|service| manifests(service, 20)).collect::<Result<String>>()?;
            fs::write(files.path(file), text)?;
        }
        Ok(files)
    }

    fn path(&self, file: usize) -> PathBuf {
        self.directory.join(format!("{file:04}.yaml"))
    }

    /// Replaces the first `from` after the beginning of a service's manifests.
    fn change(&self, service: usize, from: &str, to: &str) -> Result<()> {
        let path = self.path(service / IN_A_FILE);
        let text = fs::read_to_string(&path)?;
        let start = text.find(&format!("# service {service}\n")).unwrap_or(0);
        let changed = format!("{}{}", &text[..start], text[start..].replacen(from, to, 1));
        ensure!(changed != text, "nothing to change");
        Ok(fs::write(path, changed)?)
    }
}

fn manifests(service: usize, weight: u32) -> Result<String> {
    let mut text = format!(
        "---
# service {service}
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: service-{service}, namespace: shop}}
spec:
  hosts: [service-{service}.example.com]
  tcp:
  - match:
    - port: 9000
    route:
    - destination: {{host: service-{service}.example.com, subset: v1, port: {{number: 9000}}}}
      weight: {weight}
    - destination: {{host: service-{service}.example.com, subset: v2, port: {{number: 9000}}}}
      weight: 80
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: service-{service}, namespace: shop}}
spec:
  host: service-{service}.example.com
  subsets:
  - name: v1
    labels: {{version: v1}}
  - name: v2
    labels: {{version: v2}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: service-{service}, namespace: shop}}
spec:
  hosts: [service-{service}.example.com]
  addresses: [10.{}.{}.{}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 9000, name: tcp, protocol: TCP}}
  endpoints:
",
        64 + (service >> 16),
        service >> 8 & 255,
        service & 255
    );
    for endpoint in 0..ENDPOINTS {
        let number = service * 16 + endpoint;
        writeln!(
            text,
            "  - address: 10.{}.{}.{}\n    labels: {{version: v{}}}",
            128 + (number >> 16),
            number >> 8 & 255,
            number & 255,
            1 + endpoint % 2
        )?;
    }
    Ok(text)
}

/// The agent's control side, without its kernel.
struct Control {
    reader: file::Reader,
    store: Store,
    parser: Parser,
    compiler: Compiler,
    ids: Ids,
    host: Arc<Host>,
}

impl Control {
    /// Milliseconds of reading, merging, parsing and compiling, and the image.
    fn read(&mut self, directory: &Path) -> Result<([f64; 4], Image)> {
        let began = Instant::now();
        let mut last = 0.0;
        let mut lap = || {
            let now = began.elapsed().as_secs_f64() * 1e3;
            let took = now - last;
            last = now;
            took
        };
        let loaded = self.reader.load(&[directory]);
        let read = lap();
        self.store.merge(&loaded.files, &[]);
        let merged = lap();
        let model = self.parser.parse(&self.store).model;
        let parsed = lap();
        ensure!(self.parser.findings().is_empty(), "unexpected: {}", self.parser.findings()[0]);
        let host = host(&model);
        if *self.host != host {
            self.host = Arc::new(host);
        }
        lap();
        let image = self.compiler.compile(&model, &self.host, &mut self.ids);
        Ok(([read, merged, parsed, lap()], image))
    }
}

fn host(model: &model::Model) -> Host {
    let path = compile::Path { source: [10, 0, 0, 1].into(), forwarding: Forwarding::Snat };
    let endpoints = compile::endpoint_addresses(model).into_iter();
    Host { addresses: [[10, 0, 0, 1].into()].into(), paths: endpoints.map(|address| (address, path)).collect() }
}

/// Measures and prints.
///
/// # Errors
/// When a table is full or the kernel refuses.
pub fn run(endpoints: &[usize]) -> Result<()> {
    let mut report = Report::new("Files to tables: a VirtualService, a DestinationRule and 10 endpoints each");
    for services in endpoints.iter().map(|endpoints| endpoints / ENDPOINTS) {
        let files = Files::write(services)?;
        let mut control = Control {
            reader: file::Reader::default(),
            store: Store::default(),
            parser: Parser::new(Identity::default()),
            compiler: Compiler::default(),
            ids: Ids::default(),
            host: Arc::default(),
        };
        let (stages, image) = control.read(&files.directory)?;
        let whole: f64 = stages.iter().sum();
        let row = format!("{services} services, cold: files to image");
        let shown = stages.map(|stage| format!("{stage:.1}")).join(" + ");
        report.judged(row, format!("{shown} = {whole:.0} ms"), (whole, "ms"), aim(services, 2_000.0));
        ensure!(image.rules.len() == services, "{} rules", image.rules.len());
        changes(&mut report, &mut control, &files, services, image)?;
    }
    report.print();
    Ok(())
}

/// The figures to reach are those of the largest size.
fn aim(services: usize, most: f64) -> Option<Target> {
    (services == 10_000).then_some(Target::AtMost(most))
}

fn changes(report: &mut Report, control: &mut Control, files: &Files, services: usize, mut image: Image) -> Result<()> {
    let limits = Limits { flows: 16_384, rules: 16_384, backends: 131_072, table_memory: 448 << 20 };
    let sizes: Vec<(&str, u32)> = limits.sizes().iter().map(|size| (size.map, size.entries)).collect();
    let mut production = Production::load(&sizes)?;
    let began = Instant::now();
    dataplane::apply(&mut production.maps, &plan::diff(&Image::default(), &image))?;
    report.plain(
        format!("{services} services, cold: image to kernel"),
        format!("{:.0} ms", began.elapsed().as_secs_f64() * 1e3),
    );
    for (what, from, to) in [("weight", "weight: ", "weight: 1"), ("endpoint", "- address: 10.1", "- address: 10.2")] {
        let mut times: Vec<[f64; 6]> = Vec::new();
        for change in 0..CHANGES.min(services) {
            files.change(change * 397 % services, from, to)?;
            let began = Instant::now();
            let (stages, next) = control.read(&files.directory)?;
            let start = Instant::now();
            let plan = plan::diff(&image, &next);
            dataplane::apply(&mut production.maps, &plan)?;
            let applied = start.elapsed().as_secs_f64() * 1e3;
            ensure!(what != "weight" || plan.ops().len() == 1, "a weight change made {} writes", plan.ops().len());
            image = next;
            let [read, merged, parsed, compiled] = stages;
            times.push([read, merged, parsed, compiled, applied, began.elapsed().as_secs_f64() * 1e3]);
        }
        let middle = |at: usize| median(&times.iter().map(|time| time[at]).collect::<Vec<_>>());
        let whole: f64 = (0..5).map(middle).sum();
        let shown = (0..5).map(|at| format!("{:.1}", middle(at))).collect::<Vec<_>>().join(" + ");
        report.judged(
            format!("{services} services, one {what}: file to kernel"),
            format!("{shown} = {whole:.1} ms"),
            (whole, "ms"),
            aim(services, 50.0),
        );
    }
    Ok(())
}
