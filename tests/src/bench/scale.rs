//! How long the agent's way from files to tables takes with many objects: the first time, and for one change among them. Runs
//! the agent's own functions; the tables are real kernel maps that nobody else sees.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::table::Forwarding;
use meltemi::compile::{self, Compiler, Host, ids::Ids};
use meltemi::dataplane::{self, limits::Limits};
use meltemi::image::Image;
use meltemi::model::{Identity, Model, Parser};
use meltemi::plan;
use meltemi::source::{
    file,
    watch::{Changed, Wait, Watch},
};
use meltemi::spec::Store;

use super::production::Production;
use super::report::{Report, Target, median};
use crate::agent;

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

    /// Replaces the first `from` after the beginning of a service's manifests, the way editors save. From when on it counts.
    fn change(&self, service: usize, from: &str, to: &str) -> Result<Instant> {
        let path = self.path(service / IN_A_FILE);
        let text = fs::read_to_string(&path)?;
        let start = text.find(&format!("# service {service}\n")).unwrap_or(0);
        let changed = format!("{}{}", &text[..start], text[start..].replacen(from, to, 1));
        ensure!(changed != text, "nothing to change");
        let fresh = self.directory.join(".new");
        fs::write(&fresh, changed)?;
        let began = Instant::now();
        fs::rename(fresh, path)?;
        Ok(began)
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
    model: Arc<Model>,
    host: Arc<Host>,
}

/// Measures one stage after the other.
struct Laps {
    last: Instant,
    stages: Vec<f64>,
}

impl Laps {
    fn since(began: Instant) -> Laps {
        Laps { last: began, stages: Vec::new() }
    }

    fn lap(&mut self) {
        let now = Instant::now();
        self.stages.push((now - self.last).as_secs_f64() * 1e3);
        self.last = now;
    }

    fn whole(&self) -> f64 {
        self.stages.iter().sum()
    }
}

impl Control {
    /// The image of the files as they are; notes reading, merging, parsing and compiling.
    fn read(&mut self, directory: &Path, changed: Option<&Changed>, laps: &mut Laps) -> Result<Image> {
        let loaded = match changed {
            Some(Changed::Files(files)) => self.reader.update(&[directory], files),
            Some(Changed::Anything) | None => self.reader.load(&[directory]),
        };
        laps.lap();
        self.store.merge(&loaded.files, &[]);
        laps.lap();
        let model = self.parser.parse(&self.store).model;
        laps.lap();
        ensure!(self.parser.findings().is_empty(), "unexpected: {}", self.parser.findings()[0]);
        self.look(&model);
        let image = self.compiler.compile(&model, &self.host, &mut self.ids);
        self.ids.settle();
        self.model = model;
        laps.lap();
        Ok(image)
    }

    /// Takes the ways to new endpoints in, as the agent does, which asks the kernel for them.
    fn look(&mut self, model: &Arc<Model>) {
        let path = compile::Path { source: [10, 0, 0, 1].into(), forwarding: Forwarding::Snat };
        let asked = compile::new_endpoints(&self.model, model);
        if asked.iter().all(|endpoint| self.host.paths.contains_key(endpoint)) {
            return;
        }
        let mut host = Host { addresses: [[10, 0, 0, 1].into()].into(), paths: self.host.paths.clone() };
        asked.into_iter().for_each(|endpoint| _ = host.paths.insert(endpoint, path));
        self.host = Arc::new(host);
    }
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
            model: Arc::default(),
            host: Arc::default(),
        };
        let watch = Watch::new(&[&files.directory])?;
        let mut laps = Laps::since(Instant::now());
        let image = control.read(&files.directory, None, &mut laps)?;
        let (row, whole) = (format!("{services} services, cold: files to image"), laps.whole());
        let shown = laps.stages.iter().map(|stage| format!("{stage:.1}")).collect::<Vec<_>>().join(" + ");
        report.judged(row, format!("{shown} = {whole:.0} ms"), (whole, "ms"), aim(services, 2_000.0));
        let peak = peak_memory()?;
        report.judged(
            format!("{services} services, cold: most memory so far"),
            format!("{peak:.0} MiB"),
            (peak, "MiB"),
            aim(services, 1_024.0),
        );
        ensure!(image.rules.len() == services, "{} rules", image.rules.len());
        changes(&mut report, &mut control, (&files, &watch), image)?;
    }
    examples(&mut report)?;
    report.print();
    Ok(())
}

/// `meltemi check` of each example's directory, from its start to its end.
fn examples(report: &mut Report) -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let mut slowest = (0.0, String::new());
    for entry in fs::read_dir(directory)? {
        let example = entry?.path();
        let run = || {
            let began = Instant::now();
            let output = Command::new(agent::program()?).arg("check").arg(&example).output()?;
            ensure!(matches!(output.status.code(), Some(0 | 1)), "check of {} failed", example.display());
            Ok(began.elapsed().as_secs_f64() * 1e3)
        };
        let times: Vec<f64> = (0..CHANGES).map(|_| run()).collect::<Result<_>>()?;
        let name = example.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if median(&times) > slowest.0 {
            slowest = (median(&times), name);
        }
    }
    let (time, name) = slowest;
    report.judged(
        format!("check of the slowest example, {name}"),
        format!("{time:.1} ms"),
        (time, "ms"),
        Some(Target::AtMost(30.0)),
    );
    Ok(())
}

/// The figures to reach are those of the largest size.
fn aim(services: usize, most: f64) -> Option<Target> {
    (services == 10_000).then_some(Target::AtMost(most))
}

/// Mebibytes that this process had at once.
fn peak_memory() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}

fn changes(
    report: &mut Report,
    control: &mut Control,
    (files, watch): (&Files, &Watch),
    mut image: Image,
) -> Result<()> {
    let services = image.rules.len();
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
        let mut times: Vec<Vec<f64>> = Vec::new();
        for change in 0..CHANGES.min(services) {
            while watch.wait(Duration::from_millis(20)) != Wait::Quiet {}
            let mut laps = Laps::since(files.change(change * 397 % services, from, to)?);
            let Wait::Changed(changed) = watch.wait(Duration::from_secs(5)) else { bail!("no change was seen") };
            laps.lap();
            let next = control.read(&files.directory, Some(&changed), &mut laps)?;
            let plan = plan::diff(&image, &next);
            laps.lap();
            dataplane::apply(&mut production.maps, &plan)?;
            laps.lap();
            ensure!(what != "weight" || plan.ops().len() == 1, "a weight change made {} writes", plan.ops().len());
            image = next;
            times.push(laps.stages);
        }
        let middle = |at: usize| median(&times.iter().map(|time| time[at]).collect::<Vec<_>>());
        let wholes: Vec<f64> = times.iter().map(|stages| stages.iter().sum()).collect();
        let shown = (0..times[0].len()).map(|at| format!("{:.1}", middle(at))).collect::<Vec<_>>().join(" + ");
        let whole = median(&wholes);
        report.judged(
            format!("{services} services, one {what}: file to kernel"),
            format!("{shown} = {whole:.1} ms"),
            (whole, "ms"),
            aim(services, 50.0),
        );
    }
    Ok(())
}
