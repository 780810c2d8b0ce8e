//! What the configuration means and what `explain` says of it, for every kind and every field of an http rule, against
//! `tests/golden/explain`; `BLESS=1` writes it anew.
//!
//! A case is a file of objects, read beside `base.yml`; its lines `#? ARGUMENTS` ask. What is written down: all findings but those about
//! what is not carried out, the tables, the routes and clusters of the proxy, and the answers.

use std::{fmt::Write as _, fs, path::Path};

use clap::Parser;
use serde_json::{Map, Value};

use super::*;
use crate::{
    cli::check,
    compile::{self, ids::Ids},
    finding::code,
    model::Door,
    snapshot::{self, Chain, Cluster, Content, Listener, Pool},
    source::file,
};

const CASES: &str = "../tests/golden/explain";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Splits as a shell does, of which only `'...'` is known.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in line.split('\'').enumerate() {
        let pieces: Vec<&str> = if at % 2 == 1 { vec![part] } else { part.split(' ').collect() };
        for (at, piece) in pieces.into_iter().enumerate() {
            if at > 0 {
                words.push(String::new());
            }
            words.last_mut().unwrap().push_str(piece);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What is asked unless the line says something else.
fn arguments(paths: &[PathBuf], line: &str) -> Args {
    let mut all: Vec<String> = vec!["explain".into()];
    all.extend(paths.iter().map(|path| path.to_string_lossy().into_owned()));
    let mut more = words(line);
    // An empty word is dropped above; a client that sends no name is asked for so.
    more.iter_mut().filter(|word| *word == "NONE").for_each(String::clear);
    for (name, value) in [("--from", "192.0.2.1:40000"), ("--to", "10.0.0.1:80"), ("--interface-address", "10.0.0.1")] {
        if !more.iter().any(|word| word == name) {
            more.extend([name.to_owned(), value.to_owned()]);
        }
    }
    Line::try_parse_from(all.into_iter().chain(more)).unwrap_or_else(|error| panic!("{line}: {error}")).args
}

/// Without what is null, empty, or as in `standard`.
fn brief(value: Value, standard: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(key, value)| standard.get(key) != Some(value));
            let kept = kept.map(|(key, value)| {
                let inner = standard.get(&key).cloned().unwrap_or_default();
                (key, brief(value, &inner))
            });
            Value::Object(kept.filter(|(_, value)| !is_nothing(value)).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| brief(item, &Value::Null)).collect()),
        other => other,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn json(value: &impl Serialize) -> String {
    brief(serde_json::to_value(value).unwrap(), &Value::Null).to_string()
}

fn listener(listener: &Listener, out: &mut String) {
    let addresses = match &listener.addresses {
        snapshot::Addresses::Own => String::new(),
        snapshot::Addresses::Listed(all) => format!(" {all:?}"),
    };
    let _ = writeln!(out, "listener {} port {}{addresses} ({})", listener.name, listener.port, listener.place);
    for chain in &listener.chains {
        content(chain, out);
    }
}

fn content(chain: &Chain, out: &mut String) {
    let tls = chain.tls.as_ref().map(|tls| format!(" tls {}", json(&**tls))).unwrap_or_default();
    let _ = writeln!(out, "  chain {} of {} ({}){tls}", chain.names.join(" "), chain.gateway, chain.place);
    match &chain.content {
        Content::AutoPassthrough => out.push_str("    the server name is the cluster's\n"),
        Content::Tcp(route) => {
            let _ = writeln!(out, "    {}\n      {}", route.source, json(&route.split));
        }
        Content::Http(hosts) => {
            for host in hosts {
                let _ = writeln!(out, "    host {} ({}) redirect {:?}", host.name, host.place, host.https_redirect);
                for route in &host.routes {
                    let name = route.source.name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default();
                    let _ = writeln!(out, "      {}{name}", route.source);
                    let _ = writeln!(out, "        if {}", json(&route.condition));
                    let _ = writeln!(out, "        do {}", json(&*route.action));
                }
            }
        }
    }
}

fn cluster(cluster: &Cluster, out: &mut String) {
    let standard = serde_json::json!({"pool": serde_json::to_value(Pool::default()).unwrap()});
    let mut fields = brief(serde_json::to_value(cluster).unwrap(), &standard);
    if let Some(fields) = fields.as_object_mut() {
        fields.shift_remove("name");
    }
    let _ = writeln!(out, "cluster {}\n  {fields}", cluster.name);
}

/// What the objects mean: the kernel's tables, and what the proxy gets.
fn meaning(configuration: &Configuration, out: &mut String) {
    let host = configuration.host(["10.0.0.1".parse().unwrap()].into(), crate::host::Choice::Auto);
    let image = compile::compile(&configuration.model, &host, &mut Ids::default());
    let services = configuration.model.listeners.iter().filter(|one| matches!(one.door, Door::Service { .. })).count();
    let _ = writeln!(out, "== {} listeners, {services} of Services", configuration.model.listeners.len());
    out.push_str(&image.to_string());
    let snapshot = compile::snapshot(&configuration.model, 1);
    snapshot.listeners.iter().for_each(|one| listener(one, out));
    snapshot.clusters.iter().for_each(|one| cluster(one, out));
}

fn case(path: &Path) -> String {
    let paths = [Path::new(CASES).join("base.yml"), path.to_owned()];
    let identity = arguments(&paths, "").identity.identity(Services::OnlyRouted, Proxy::On);
    let configuration = Configuration::load(&paths, &identity).unwrap();
    let mut out = String::new();
    for finding in check::Report::new(&file::load(&paths), &identity).findings {
        if finding.code != code::UNSUPPORTED {
            let _ = writeln!(out, "{}", finding.to_string().lines().next().unwrap_or_default());
        }
    }
    meaning(&configuration, &mut out);
    for line in fs::read_to_string(path).unwrap().lines().filter_map(|line| line.strip_prefix("#? ")) {
        let report = report(&arguments(&paths, line)).unwrap_or_else(|(_, error)| panic!("{line}: {error}"));
        let _ = write!(out, "\n== {line}\n{}", text::text(&report, false));
    }
    out.replace(&format!("{CASES}/"), "")
}

#[test]
fn every_case_is_explained_as_written_down() {
    let mut cases: Vec<PathBuf> = fs::read_dir(CASES).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    assert!(cases.len() >= 20, "{cases:?}");
    let mut wrong = Vec::new();
    for path in cases {
        let (text, golden) = (case(&path), path.with_extension("txt"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &text).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != text {
            wrong.push(format!("{} is now:\n{text}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nIf this is wanted, run with BLESS=1.", wrong.join("\n"));
}
